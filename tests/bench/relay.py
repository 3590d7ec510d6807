"""The bare relay: what the engine's libraries can do at best when nobody asks for rules.

    relay.py MODE CHAIN KEY UPSTREAM_PORT

MODE is `tls` (TLS from the client, TLS to the upstream, octets between), `raw` (the client's octets as they are, TLS
to the upstream), `http` (as `tls`, with h11 on both sides) or `hold` (TLS from the client, nothing behind it).
pyOpenSSL on memory BIOs and asyncio, as in the engine: no agent protocol, no names, no limits, no clean answers. Prints
`{"port": number}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import h11
from OpenSSL import SSL

RECORD = 16_384
MOST = 1 << 19
HIGH_WATER = 1 << 18


class Leg(asyncio.Protocol):
    """One TCP connection, with TLS where `tls` is given. What arrives goes to `take`."""

    def __init__(self, tls: SSL.Connection | None) -> None:
        self.tls = tls
        self.ready = tls is None
        self.transport: asyncio.Transport | None = None
        self.other: Leg | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        if self.tls is not None:
            self.handshake()

    def handshake(self) -> None:
        assert self.tls is not None
        try:
            self.tls.do_handshake()
            self.ready = True
        except SSL.WantReadError:
            pass
        self.flush()
        if self.ready:
            self.opened()

    def opened(self) -> None:
        """The leg takes octets from here on."""
        waiting, self.waiting = self.waiting, []
        for data in waiting:
            self.send(data)
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.tls is None:
            self.take([data])
            return
        self.tls.bio_write(data)
        if not self.ready:
            self.handshake()
            if not self.ready:
                return
        pieces: list[bytes] = []
        try:
            while True:
                pieces.append(self.tls.recv(RECORD))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.take(pieces)
            self.ended()
            return
        if pieces:
            self.take(pieces)

    def eof_received(self) -> bool:
        if self.tls is None:
            self.ended()
        return True

    def take(self, pieces: list[bytes]) -> None:
        """Plain octets of this leg: the other one sends them."""
        if self.other is not None:
            for piece in pieces:
                self.other.put(piece)
            self.other.flush()

    def ended(self) -> None:
        """The other side of this leg has said its last."""
        if self.other is not None:
            self.other.end()
        else:
            self.end()

    def put(self, data: bytes) -> None:
        """Queue octets."""
        if not self.ready:
            self.waiting.append(data)
        elif self.tls is not None:
            self.tls.sendall(data)
        elif self.transport is not None:
            self.transport.write(data)

    def send(self, data: bytes) -> None:
        """Send octets."""
        self.put(data)
        self.flush()

    def flush(self) -> None:
        """What TLS has made leaves."""
        if self.tls is None or self.transport is None:
            return
        try:
            while True:
                self.transport.write(self.tls.bio_read(MOST))
        except SSL.WantReadError:
            return

    def end(self) -> None:
        """Say that nothing more comes."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.tls is not None:
            self.tls.shutdown()
            self.flush()
        self.transport.write_eof()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class HttpLeg(Leg):
    """A leg with h11 on it; events of one leg become octets of the other."""

    def __init__(self, tls: SSL.Connection | None, *, server: bool) -> None:
        super().__init__(tls)
        self.server = server
        self.h11 = h11.Connection(h11.SERVER if server else h11.CLIENT)

    def take(self, pieces: list[bytes]) -> None:
        other = cast("HttpLeg", self.other)
        for piece in pieces:
            self.h11.receive_data(piece)
            while True:
                event = self.h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    break
                if not isinstance(event, type):
                    other.put(other.h11.send(event) or b"")
                if isinstance(event, h11.EndOfMessage):
                    self.next_cycle(other)
        other.flush()

    def next_cycle(self, other: HttpLeg) -> None:
        for leg in (self, other):
            if leg.h11.our_state is not h11.DONE or leg.h11.their_state is not h11.DONE:
                return
        self.h11.start_next_cycle()
        other.h11.start_next_cycle()


class Relay:
    """Accepts, and connects each client to the upstream."""

    def __init__(self, mode: str, chain: str, key: str, upstream: int) -> None:
        self.mode = mode
        self.upstream = upstream
        self.server = context()
        self.server.use_certificate_chain_file(chain)
        self.server.use_privatekey_file(key)
        self.client = context()
        self.tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> Leg:
        tls = None
        if self.mode != "raw":
            tls = SSL.Connection(self.server)
            tls.set_accept_state()
        leg = HttpLeg(tls, server=True) if self.mode == "http" else Leg(tls)
        if self.mode != "hold":
            other = self.connect()
            leg.other, other.other = other, leg
            task = asyncio.ensure_future(self.dial(other))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return leg

    def connect(self) -> Leg:
        tls = SSL.Connection(self.client)
        tls.set_connect_state()
        return HttpLeg(tls, server=False) if self.mode == "http" else Leg(tls)

    async def dial(self, leg: Leg) -> None:
        await asyncio.get_running_loop().create_connection(lambda: leg, "127.0.0.1", self.upstream)

    async def run(self) -> None:
        server = await asyncio.get_running_loop().create_server(self.accept, "127.0.0.1", 0, backlog=1024)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await server.serve_forever()


def context() -> SSL.Context:
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_min_proto_version(SSL.TLS1_3_VERSION)
    made.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    made.set_options(SSL.OP_NO_TICKET)
    return made


if __name__ == "__main__":
    asyncio.run(Relay(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])).run())
