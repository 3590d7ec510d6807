"""How a double of HTTP/2 is made: the engine's protocol with one check taken away, in front of clients or upstreams."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from h2.events import Event

from reference_engine.config import Settings
from reference_engine.http.floods import FloodRules, H2Limits, h2_limits_of
from reference_engine.http.h2_client import H2ClientConnection
from reference_engine.http.h2_connection import H2Protocol
from reference_engine.http.h2_server import H2ServerConnection
from reference_engine.http.rules import HttpRules
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

PREFACE = 24
_HEADER = struct.Struct(">HBBBL")
HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 1, 3, 4, 9


class Flawed(H2Protocol):
    """A protocol that knows how to say that its flaw was used."""

    reached: Reached


class RawFrame(NamedTuple):
    """A frame before anybody has looked at it; `word` is the stream with the reserved bit."""

    kind: int
    flags: int
    word: int
    payload: bytes

    @property
    def stream(self) -> int:
        """The stream."""
        return self.word & 0x7FFFFFFF

    def octets(self) -> bytes:
        """As it goes over the wire."""
        size = len(self.payload)
        return _HEADER.pack(size >> 8, size & 0xFF, self.kind, self.flags, self.word) + self.payload


class Frames:
    """Cuts octets into frames."""

    def __init__(self) -> None:
        self._kept = b""

    def of(self, octets: bytes) -> Iterator[RawFrame]:
        """The frames that `octets` complete."""
        self._kept += octets
        while len(self._kept) >= _HEADER.size:
            high, low, kind, flags, word = _HEADER.unpack_from(self._kept)
            end = _HEADER.size + ((high << 8) | low)
            if len(self._kept) < end:
                return
            payload, self._kept = self._kept[_HEADER.size : end], self._kept[end:]
            yield RawFrame(kind, flags, word, payload)


class Filtered(Flawed):
    """A protocol that never sees some frames, or sees others in their place: what `passed` makes of each."""

    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        self._cut = Frames()
        self._greeting = 0 if client else PREFACE

    def feed(self, data: bytes, now: float) -> list[Event]:
        """See H2Protocol."""
        greeting, data = data[: self._greeting], data[self._greeting :]
        self._greeting -= len(greeting)
        seen = b"".join(frame.octets() for raw in self._cut.of(data) for frame in self.passed(raw))
        return super().feed(greeting + seen, now)

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        """What is seen of a frame."""
        return [frame]


def use_protocol(parts: Parts, flawed: type[Flawed], reached: Reached, *, side: str = "both") -> None:
    """Speak HTTP/2 by `flawed`: with clients (`side` server), with upstreams (`side` client), or both."""
    spoken = type(flawed.__name__, (flawed,), {"reached": reached})

    class Server(H2ServerConnection):
        def made_protocol(self, rules: HttpRules, settings: Settings) -> H2Protocol:
            made: H2Protocol = spoken(rules, h2_limits_of(settings), client=False)
            return made

    class Client(H2ClientConnection):
        def made_protocol(self, rules: HttpRules, settings: Settings) -> H2Protocol:
            made: H2Protocol = spoken(rules, h2_limits_of(settings), client=True)
            return made

    if side != "client":
        use_server(parts, Server)
    if side != "server":
        use_client(parts, Client)


def use_server(parts: Parts, broken: type[H2ServerConnection]) -> None:
    """Serve every HTTP/2 connection of a client by `broken`."""

    def made(_: Callable[..., H2ServerConnection], *given: Any) -> H2ServerConnection:
        return broken(*given)

    swap(parts.http_endpoints, "h2_server", made)


def use_client(parts: Parts, broken: type[H2ClientConnection]) -> None:
    """Speak to every HTTP/2 upstream by `broken`."""

    def made(_: Callable[..., H2ClientConnection], *given: Any) -> H2ClientConnection:
        return broken(*given)

    swap(parts.http_endpoints, "h2_client", made)


def h2_double(
    name: str, rows: tuple[str, ...], breaks: str, *, side: str = "both"
) -> Callable[[type[Flawed]], type[Flawed]]:
    """Register a double: the decorated protocol is spoken with clients, with upstreams, or with both."""

    def register(flawed: type[Flawed]) -> type[Flawed]:
        def apply(parts: Parts, reached: Reached) -> None:
            use_protocol(parts, flawed, reached, side=side)

        apply.__module__ = flawed.__module__
        mutant(name, rows, breaks)(apply)
        return flawed

    return register
