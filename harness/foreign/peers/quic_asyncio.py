"""A QUIC peer made of a library with aioquic's API: `quic_asyncio.py LIBRARY client|server ..`.

It runs in the environment of that library (aiopquic, qh3; aioquic itself serves as the double in tests), so nothing of
this project is imported. A client opens streams and sends datagrams and looks whether they come back; a server answers
with what it got. With `--turn` the client hands over: the server opens its own streams, and closes when they are back.
Each event is one line of JSON on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

TURN = b"your turn"
"""The words of the stream with which a client hands over."""
DONE = 0
"""The application code of an orderly end."""


def payload(number: int, octets: int) -> bytes:
    """What the stream or datagram `number` carries: different for each, and for each place in it."""
    return bytes((31 * place + 7 * number + (place >> 8)) & 0xFF for place in range(octets))


def say(event: str, **values: Any) -> None:
    """One line for whoever started us."""
    print(json.dumps({"event": event, **values}), flush=True)


class Exchange:
    """What one side of a connection sends and expects. `quic` is the library's, `flush` sends what is due."""

    def __init__(self, quic: Any, flush: Callable[[], None], arguments: argparse.Namespace) -> None:
        self._quic = quic
        self._flush = flush
        self._arguments = arguments
        self._client: bool = arguments.role == "client"
        self._mine: dict[int, bytes] = {}
        self._unis: list[bytes] = []
        self._datagrams: set[bytes] = set()
        self._got: dict[int, bytearray] = {}
        self.alpn = ""
        self.back = {"streams": 0, "unis": 0, "datagrams": 0}
        self.answered = 0
        self.started = False
        self.finished = asyncio.Event()
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Send everything that is ours to send."""
        self.started = True
        wanted = self._arguments
        for number in range(wanted.streams):
            self._open(payload(number, wanted.octets))
        if self._client:
            for number in range(wanted.unis):
                words = payload(100 + number, wanted.octets)
                self._unis.append(words)
                self._quic.send_stream_data(self._quic.get_next_available_stream_id(True), words, True)
            for number in range(wanted.datagrams):
                words = payload(200 + number, 100 + number)
                self._datagrams.add(words)
                self._quic.send_datagram_frame(words)
        self._flush()
        self._look()

    def hand_over(self) -> None:
        """Give the server its turn."""
        self._open(TURN)
        self._flush()

    def _open(self, words: bytes) -> None:
        stream = self._quic.get_next_available_stream_id()
        self._mine[stream] = words
        self._quic.send_stream_data(stream, words, True)

    def close(self) -> None:
        """End the connection in order."""
        self._quic.close(error_code=DONE)
        self._flush()

    def take(self, event: Any) -> None:
        """An event of the library: all of its family have the same names."""
        kind = type(event).__name__
        if kind == "HandshakeCompleted":
            self.alpn = event.alpn_protocol or ""
        elif kind == "StreamDataReceived":
            self._data(event.stream_id, bytes(event.data), event.end_stream)
        elif kind == "DatagramFrameReceived":
            self._datagram(bytes(event.data))
        elif kind == "ConnectionTerminated" and not self.closed.done():
            self.closed.set_result(event.error_code)

    def _data(self, stream: int, data: bytes, end: bool) -> None:
        whole = self._got.setdefault(stream, bytearray())
        whole += data
        ours = (stream & 1 == 0) == self._client
        if not ours and stream & 2 == 0:
            self._quic.send_stream_data(stream, data, end)
        if end:
            self._ended(stream, bytes(whole), ours)
        self._flush()

    def _ended(self, stream: int, whole: bytes, ours: bool) -> None:
        if ours:
            if self._mine[stream] == whole:
                self.back["streams"] += whole != TURN
            else:
                say("error", message=f"stream {stream} came back otherwise: {len(whole)} octets")
        elif stream & 2 == 0:
            self.answered += 1
            if whole == TURN and not self._client:
                self.start()
        elif self._client:
            self.back["unis"] += whole in self._unis
        else:
            self.answered += 1
            self._quic.send_stream_data(self._quic.get_next_available_stream_id(True), whole, True)
        self._look()

    def _datagram(self, data: bytes) -> None:
        if self._client:
            self.back["datagrams"] += data in self._datagrams
            self._datagrams.discard(data)
            self._look()
        else:
            self._quic.send_datagram_frame(data)
            self._flush()

    def missing(self) -> dict[str, int]:
        """How much of each kind has not come back."""
        wanted = self._arguments
        due = {"streams": wanted.streams}
        if self._client:
            due |= {"unis": wanted.unis, "datagrams": wanted.datagrams}
        return {kind: count - self.back[kind] for kind, count in due.items() if count > self.back[kind]}

    def _look(self) -> None:
        if self.started and not self.missing():
            self.finished.set()


async def be_client(library: str, arguments: argparse.Namespace) -> int:
    """Connect, exchange, close. 0 when everything came back."""
    made: list[Exchange] = []
    try:
        async with asyncio.timeout(arguments.seconds):
            return await _connected(library, arguments, made)
    except TimeoutError:
        state = f"did not come back: {made[0].missing()}" if made and made[0].started else "no connection"
        say("error", message=f"not done within {arguments.seconds:g} s; {state}")
        return 1
    except ConnectionError as error:
        ended = f" (the peer closed with {made[0].closed.result():#x})" if made and made[0].closed.done() else ""
        say("error", message=f"no connection: {error}{ended}")
        return 1


async def _connected(library: str, arguments: argparse.Namespace, made: list[Exchange]) -> int:
    base = importlib.import_module(f"{library}.asyncio.protocol").QuicConnectionProtocol
    connect = importlib.import_module(f"{library}.asyncio.client").connect
    host, _, port = arguments.address.rpartition(":")
    async with connect(host, int(port), configuration=_configured(library, arguments), create_protocol=_protocol(
        base, arguments, made.append
    )):  # fmt: skip
        (exchange,) = made
        say("connected", alpn=exchange.alpn)
        exchange.start()
        await _first(exchange.finished.wait(), exchange.closed)
        code: int | None = None
        if not exchange.missing() and arguments.turn:
            exchange.hand_over()
            code = await exchange.closed
        else:
            exchange.close()
        say("done", alpn=exchange.alpn, **exchange.back, answered=exchange.answered, code=code)
        return _verdict(exchange, code)


def _verdict(exchange: Exchange, code: int | None) -> int:
    if exchange.missing():
        ended = f"; the peer closed with {exchange.closed.result():#x}" if exchange.closed.done() else ""
        say("error", message=f"did not come back: {exchange.missing()}{ended}")
    return 1 if exchange.missing() or code not in (None, DONE) else 0


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    _, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        if task not in waits:
            task.cancel()


async def be_server(library: str, arguments: argparse.Namespace) -> int:
    """Answer until stdin ends."""
    base = importlib.import_module(f"{library}.asyncio.protocol").QuicConnectionProtocol
    serve = importlib.import_module(f"{library}.asyncio.server").serve
    watchers: set[asyncio.Task[None]] = set()

    def watch(exchange: Exchange) -> None:
        task = asyncio.create_task(_watch(exchange))
        watchers.add(task)
        task.add_done_callback(watchers.discard)

    host, _, port = arguments.address.rpartition(":")
    protocol = _protocol(base, arguments, watch)
    server = await serve(host, int(port), configuration=_configured(library, arguments), create_protocol=protocol)
    say("listening", port=await _own_port(arguments.seconds))
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    return 0


async def _watch(exchange: Exchange) -> None:
    await _first(exchange.finished.wait(), exchange.closed)
    code = DONE
    if exchange.finished.is_set():
        exchange.close()
    else:
        code = exchange.closed.result()
    say("closed", alpn=exchange.alpn, streams=exchange.back["streams"], answered=exchange.answered, code=code)


def _protocol(base: Any, arguments: argparse.Namespace, tell: Callable[[Exchange], None]) -> Any:
    class Protocol(base):  # type: ignore[misc]
        """The library's protocol, whose events go to an exchange."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            # picoquic sends by itself; the others want to be told.
            flush = getattr(self, "transmit", None) or (lambda: None)
            self._exchange = Exchange(self._quic, flush, arguments)
            tell(self._exchange)

        def quic_event_received(self, event: Any) -> None:
            self._exchange.take(event)

    return Protocol


def _configured(library: str, arguments: argparse.Namespace) -> Any:
    configuration = importlib.import_module(f"{library}.quic.configuration").QuicConfiguration(
        is_client=arguments.role == "client", alpn_protocols=arguments.alpn, max_datagram_frame_size=65535,
        idle_timeout=arguments.seconds,
    )  # fmt: skip
    if arguments.role == "client":
        configuration.server_name = arguments.server_name
        configuration.load_verify_locations(cafile=arguments.ca)
    else:
        configuration.load_cert_chain(arguments.certificate, arguments.key)
    return configuration


async def _own_port(seconds: float) -> int:
    """The UDP port of this process (Linux): not every library tells which one the system picked, and one of them binds
    it in a thread of its own, later."""
    async with asyncio.timeout(seconds):
        while True:
            if (port := _bound_port()) is not None:
                return port
            await asyncio.sleep(0.01)


def _bound_port() -> int | None:
    own = _own_sockets()
    for table in ("udp", "udp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[9] in own:
                return int(words[1].rpartition(":")[2], 16)
    return None


def _own_sockets() -> set[str]:
    """The inodes of this process's sockets."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(entry.readlink()).removeprefix("socket:[").rstrip("]"))
    return found


def parse(words: list[str]) -> argparse.Namespace:
    """The command line; docs/foreign.md has it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("library")
    parser.add_argument("role", choices=("client", "server"))
    parser.add_argument("--address", required=True)
    parser.add_argument("--alpn", action="append", required=True)
    parser.add_argument("--server-name", default="")
    parser.add_argument("--ca", default="")
    parser.add_argument("--certificate", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--unis", type=int, default=0)
    parser.add_argument("--datagrams", type=int, default=0)
    parser.add_argument("--octets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--turn", action="store_true")
    return parser.parse_args(words)


async def run(arguments: argparse.Namespace) -> int:
    """Be the peer; a client has `--seconds` for all of it."""
    if arguments.role == "server":
        return await be_server(arguments.library, arguments)
    try:
        return await be_client(arguments.library, arguments)
    except (OSError, RuntimeError) as error:
        say("error", message=f"{type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(run(parse(sys.argv[1:]))))
