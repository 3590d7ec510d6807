"""What clients and upstreams of every HTTP version say in the load: small requests, and content that comes back."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.bench.blocks import BLOCK, LAST, MORE, WrongBytes
from harness.bench.window import Sample, Window

PARALLEL = 8
"""Requests under way: on as many connections of HTTP/1.1, on as many streams of one connection of the others."""
BODY = MORE * 3 + LAST
"""Content of a bulk request, and of its response: 1 MiB."""
BLOCKS = len(BODY) // BLOCK
SMALL = b"x" * 64
"""The content of a small response."""
SMALL_PATH, BULK_PATH = "/small", "/echo"
DOWN = ("h1", "h2", "h3")
UP = ("h1", "h2c", "h3")
MODES = {"h1": "http", "h2": "h2c", "h2c": "h2c", "h3": "h3"}
"""The mode of the upstream that speaks a version."""
FEATURES: Mapping[str, tuple[str, ...]] = {"h2": ("http.downstream-h2",), "h3": ("http.downstream-h3",)}
"""What an engine must claim for a client's version."""


Fields = Sequence[tuple[str, str]]


def request_fields(host: str, body: bytes) -> Fields:
    """A request of HTTP/2 or HTTP/3."""
    fields = [(":method", "POST" if body else "GET"), (":scheme", "https"), (":authority", host)]
    fields.append((":path", BULK_PATH if body else SMALL_PATH))
    return [*fields, ("content-length", str(len(body)))] if body else fields


def response_fields(body: bytes) -> Fields:
    """The response to it."""
    return [(":status", "200"), ("content-type", "text/plain"), ("content-length", str(len(body)))]


class Body:
    """Content as it arrives, compared: `BODY` where `sent` is it, as a request or back again; `SMALL` as the response
    to a request without content. Raises `WrongBytes`."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self._expected = memoryview(sent or SMALL)
        self._at = 0

    def head(self, fields: Mapping[bytes, bytes]) -> None:
        """The head of a response."""
        if fields.get(b":status") != b"200":
            raise WrongBytes(f"a response that is no 200: {dict(fields)!r}"[:200])

    def feed(self, data: bytes) -> None:
        """The next octets."""
        end = self._at + len(data)
        if self._expected[self._at : end] != data:
            raise WrongBytes(f"the content behind {self._at} octets is not what was sent")
        self._at = end

    def end(self) -> None:
        """The end of a response."""
        if self._at != len(self._expected):
            raise WrongBytes(f"{self._at} of {len(self._expected)} octets of content")

    def answer(self) -> bytes:
        """The end of a request: what to answer."""
        if self._at != len(self._sent):
            raise WrongBytes(f"{self._at} of {len(self._sent)} octets of a request's content")
        return self._sent or SMALL


class Client(Protocol):
    """One client of any version, connected."""

    def ask(self, body: bytes = b"") -> None:
        """A request: a small one, or one whose content comes back."""

    def answered(self) -> int:
        """Send, wait for something, and give how many responses are whole. Raises `OSError`, `WrongBytes`."""

    def close(self) -> None:
        """End the connection."""


def requests(client: Client, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Small requests, `PARALLEL` under way, per second. Raises `OSError`, `WrongBytes`."""
    _one(client)
    count, under_way = 0, PARALLEL
    window = Window(pids)
    until = time.monotonic() + seconds
    for _ in range(PARALLEL):
        client.ask()
    while under_way:
        whole = client.answered()
        count += whole
        under_way -= whole
        if time.monotonic() < until:
            for _ in range(whole):
                client.ask()
            under_way += whole
    sample = window.end(count)
    client.close()
    return sample


def bulk(client: Client, seconds: float, pids: Mapping[str, int]) -> Sample:
    """Requests with 1 MiB of content, which comes back, one after the other: MB/s, both ways counted. Raises `OSError`,
    `WrongBytes`."""
    _one(client)
    octets = 0
    window = Window(pids)
    until = time.monotonic() + seconds
    while not octets or time.monotonic() < until:
        _one(client, BODY)
        octets += 2 * len(BODY)
    sample = window.end(octets / 1e6)
    client.close()
    return sample


def _one(client: Client, body: bytes = b"") -> None:
    client.ask(body)
    while not client.answered():
        pass
