"""The client of the load: one sample of one action against one target."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.bench import http2, http3, pairs, quic_client
from harness.bench.blocks import BLOCK, COMMAND, COUNT, MORE, READ, Receiver, WrongBytes, send_blocks
from harness.bench.pairs import SMALL
from harness.bench.streams import TIMEOUT, Target, close
from harness.bench.window import Sample, Window

CONNECTIONS = pairs.PARALLEL
"""Connections of the action `requests`; each has one request under way."""
THREADS = 4
"""Threads of the action `connections`: handshakes wait on each other's round trips."""
BULK_BLOCKS = 64
"""Blocks of one bulk request or response: 16 MiB."""
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


Action = Callable[[Target, str, float, Mapping[str, int]], Sample]
"""Target, name for Host, seconds, processes to watch."""


def down(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Octets from the upstream, in MB/s. Raises `OSError`, `WrongBytes`."""
    stream = target.connect(target.context())
    receiver = Receiver(stream)
    window = Window(pids)
    stream.sendall(COMMAND.pack(b"down", seconds))
    sample = window.end(receiver.blocks() / 1e6)
    close(stream)
    return sample


def up(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Octets to the upstream, in MB/s, until it has told how many it took. Raises `OSError`, `WrongBytes`."""
    stream = target.connect(target.context())
    window = Window(pids)
    stream.sendall(COMMAND.pack(b"up", seconds))
    sent = send_blocks(stream, seconds)
    took = Receiver(stream).exactly(COUNT.size)
    sample = window.end(sent / 1e6)
    if took != COUNT.pack(sent):
        raise WrongBytes(f"{sent} octets were sent, the upstream told of {int.from_bytes(took, 'big')}")
    close(stream)
    return sample


def connections(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Connections with a full handshake, twelve octets each way and a clean end, per second. Raises `OSError`,
    `WrongBytes`."""
    context = target.context()
    counts: list[int] = []
    problems: list[Exception] = []
    window = Window(pids)
    until = time.monotonic() + seconds

    def work() -> None:
        count = 0
        try:
            while not count or time.monotonic() < until:
                stream = target.connect(context)
                stream.sendall(COMMAND.pack(b"echo", count))
                if Receiver(stream).exactly(COMMAND.size) != COMMAND.pack(b"echo", count):
                    raise WrongBytes("the echo is not what was sent")
                close(stream)
                count += 1
        except (OSError, WrongBytes) as problem:
            problems.append(problem)
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return window.end(sum(counts))


class HttpClient:
    """One blocking HTTP/1.1 connection."""

    def __init__(self, target: Target, host: str) -> None:
        self._stream = target.connect(target.context())
        self._host = host.encode("ascii")
        self._view = memoryview(bytearray(READ))
        self.receiver = Receiver(self._stream)

    def send(self, method: bytes, path: bytes, fields: bytes = b"") -> None:
        """A request head."""
        self._stream.sendall(b"%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (method, path, self._host, fields))

    def write(self, data: bytes) -> None:
        """Content."""
        self._stream.sendall(data)

    def head(self) -> tuple[int, bytes]:
        """The Content-Length of a response with 200, and what came of its content. Raises `WrongBytes`."""
        data = b""
        while (end := data.find(b"\r\n\r\n") + 4) < 4:
            data += self._more()
        length = _LENGTH.search(data, 0, end)
        if not data.startswith(b"HTTP/1.1 200 ") or length is None:
            raise WrongBytes(f"a response that is no 200 with a length: {data[:80]!r}")
        return int(length[1]), data[end:]

    def response(self) -> bytes:
        """The content of a small response. Raises `WrongBytes`."""
        length, content = self.head()
        while len(content) < length:
            content += self._more()
        return content

    def _more(self) -> bytes:
        count = self._stream.recv_into(self._view)
        if count == 0:
            raise WrongBytes("the connection ended in a response")
        return bytes(self._view[:count])

    def close(self) -> None:
        """End the connection."""
        close(self._stream)


def requests(
    target: Target, host: str, seconds: float, pids: Mapping[str, int], *, parallel: int = CONNECTIONS
) -> Sample:
    """Small requests on kept connections, each with one under way, per second. Raises `OSError`, `WrongBytes`."""
    clients = [HttpClient(target, host) for _ in range(parallel)]
    for client in clients:
        client.send(b"GET", b"/small")
        _check_small(client)
    count = 0
    window = Window(pids)
    until = time.monotonic() + seconds
    for client in clients:
        client.send(b"GET", b"/small")
    while time.monotonic() < until:
        for client in clients:
            _check_small(client)
            client.send(b"GET", b"/small")
        count += len(clients)
    for client in clients:
        _check_small(client)
    sample = window.end(count + len(clients))
    for client in clients:
        client.close()
    return sample


def _check_small(client: HttpClient) -> None:
    if client.response() != SMALL:
        raise WrongBytes("the content of a response is not what was sent")


def http_down(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Responses of 16 MiB one after the other, in MB/s. Raises `OSError`, `WrongBytes`."""
    client = HttpClient(target, host)
    octets = 0
    window = Window(pids)
    until = time.monotonic() + seconds
    while not octets or time.monotonic() < until:
        client.send(b"GET", b"/bulk/%d" % BULK_BLOCKS)
        length, first = client.head()
        if length != BULK_BLOCKS * BLOCK:
            raise WrongBytes(f"{BULK_BLOCKS * BLOCK} octets were asked for, {length} announced")
        octets += client.receiver.blocks(first, count=BULK_BLOCKS)
    sample = window.end(octets / 1e6)
    client.close()
    return sample


def http_up(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Requests with 16 MiB of content one after the other, in MB/s. Raises `OSError`, `WrongBytes`."""
    client = HttpClient(target, host)
    octets = 0
    window = Window(pids)
    until = time.monotonic() + seconds
    while not octets or time.monotonic() < until:
        client.send(b"POST", b"/bulk", b"Content-Length: %d\r\n" % (BULK_BLOCKS * BLOCK))
        for _ in range(BULK_BLOCKS):
            client.write(MORE)
        if (told := client.response()) != b"%d" % (BULK_BLOCKS * BLOCK):
            raise WrongBytes(f"{BULK_BLOCKS * BLOCK} octets were sent, the upstream told of {told[:20]!r}")
        octets += BULK_BLOCKS * BLOCK
    sample = window.end(octets / 1e6)
    client.close()
    return sample


class Http1Echo:
    """One connection of HTTP/1.1 in the words of `pairs`, for content that comes back."""

    def __init__(self, target: Target, host: str) -> None:
        self._client = HttpClient(target, host)
        self._body = b""

    def ask(self, body: bytes = b"") -> None:
        """A request. Raises `OSError`."""
        self._body = body
        if body:
            self._client.send(b"POST", pairs.BULK_PATH.encode(), b"Content-Length: %d\r\n" % len(body))
            self._client.write(body)
        else:
            self._client.send(b"GET", pairs.SMALL_PATH.encode())

    def answered(self) -> int:
        """Wait for the response: 1. Raises `OSError`, `WrongBytes`."""
        if not self._body:
            _check_small(self._client)
            return 1
        length, first = self._client.head()
        if length != len(self._body):
            raise WrongBytes(f"{len(self._body)} octets were sent, {length} come back")
        self._client.receiver.blocks(first, count=pairs.BLOCKS)
        return 1

    def close(self) -> None:
        """End the connection."""
        self._client.close()


def h2load(target: Target, host: str, seconds: float, pids: Mapping[str, int]) -> Sample:
    """As `requests`, by a program of others: its client costs next to nothing, but compares no content and trusts
    anybody. Raises `OSError`, `WrongBytes`."""
    # In less than a second it may not get through its handshakes, and then it counts nothing.
    milliseconds = max(1000, round(seconds * 1000))
    command = ["h2load", "--h1", "-c", str(CONNECTIONS), "-D", f"{milliseconds}ms"]
    command += ["--connect-to", f"{target.address}:{target.port}", f"https://{host}/small"]
    window = Window(pids)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=milliseconds / 1000 + TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise WrongBytes("h2load did not end") from problem
    sample = window.end(0)
    return dataclasses.replace(sample, rate=read_h2load(done.stdout))


def read_h2load(text: str) -> float:
    """Requests per second from what h2load printed. Raises `WrongBytes` unless every request got a 2xx."""
    rate = re.search(r"^finished in [^,]+, ([\d.]+) req/s", text, re.MULTILINE)
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", text)
    if rate is None or counts is None or not int(counts[2]):
        raise WrongBytes(f"h2load counted no request: {text[-200:]!r}")
    if counts[1] != counts[2] or any(int(counts[number]) for number in (3, 4, 5)):
        raise WrongBytes(f"h2load counted {counts[0]}")
    return float(rate[1])


ACTIONS: dict[str, Action] = {
    "h2load": h2load,
    "down": down,
    "up": up,
    "connections": connections,
    "requests": requests,
    "round-trips": functools.partial(requests, parallel=1),
    "http-down": http_down,
    "http-up": http_up,
    "h1-bulk": lambda target, host, *rest: pairs.bulk(Http1Echo(target, host), *rest),
    "h2": lambda target, host, *rest: pairs.requests(http2.Client(target, host), *rest),
    "h2-bulk": lambda target, host, *rest: pairs.bulk(http2.Client(target, host), *rest),
    "h3": lambda target, host, *rest: pairs.requests(http3.Client(target, host), *rest),
    "h3-bulk": lambda target, host, *rest: pairs.bulk(http3.Client(target, host), *rest),
    "quic-down": quic_client.down,
    "quic-up": quic_client.up,
    "quic-datagrams": quic_client.datagrams,
    "quic-connections": quic_client.connections,
    "quic-handshake": quic_client.handshake,
}


def sample(job: Mapping[str, Any]) -> Sample:
    """The sample that a job asks for: `action`, `target`, `host`, `seconds`, `pids`. Raises `OSError`, `WrongBytes`."""
    return ACTIONS[job["action"]](Target(**job["target"]), job["host"], job["seconds"], job["pids"])
