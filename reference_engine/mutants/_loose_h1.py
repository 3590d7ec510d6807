"""Doubles of the HTTP/1.1 codecs: h11, which enforces much by itself, keeps the state and sees no field as it came.

What the gate lets through is split by hand, and written as it is. A family puts one in the place of the real codec
through `parts.http_endpoints`; which check is then missing, the family says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11

from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    ResponseHead,
    members,
)
from reference_engine.http.gate import Gate
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Framing, Limits
from reference_engine.mutants.registry import Reached, swap
from reference_engine.parts import Parts

TE = b"transfer-encoding"


def crlf_lines(section: bytes) -> list[bytes]:
    """The lines of a head or section, without the empty one at its end."""
    return section.removesuffix(b"\r\n\r\n").split(b"\r\n")


def field(line: bytes) -> tuple[bytes, bytes]:
    """Name and value of a field line, whatever they hold; whitespace in front of the name or behind it stays."""
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")


def written(fields: Fields) -> bytes:
    """Field lines and the empty line, octet by octet."""
    return b"".join(b"%s: %s\r\n" % line for line in fields) + b"\r\n"


def canonical(fields: Fields, framing: Framing) -> list[tuple[str, str]]:
    """The least that h11 must know of a message: how it ends, and whether the connection does."""
    told = [("Host", "double")]
    if framing.kind == "length":
        told.append(("Content-Length", str(framing.length)))
    elif framing.kind == "chunked":
        told.append(("Transfer-Encoding", "chunked"))
    if b"close" in members(fields, b"connection"):
        told.append(("Connection", "close"))
    return told


class LooseServerCodec(H1ServerCodec):
    """Downstream. `parsed` may be overridden: from the raw head to what the engine takes it for."""

    _rules: HttpRules
    _gate: Gate

    def parsed(self, raw: bytes, version: bytes) -> RequestHead:
        """Split by CRLF, colon and the first and the last SP of the request line."""
        first, *lines = crlf_lines(raw)
        method, _, rest = first.partition(b" ")
        return RequestHead(method, rest.rpartition(b" ")[0], [field(line) for line in lines], version)

    def _parsed(self, raw: bytes, version: bytes) -> RequestHead:
        head = self.parsed(raw, version)
        told = canonical(head.fields, self._rules.request_framing(head.fields))
        lines = "".join(f"{name}: {value}\r\n" for name, value in told)
        self._h11.receive_data(b"%s / HTTP/%s\r\n%s\r\n" % (head.method, version, lines.encode()))
        assert isinstance(self._h11.next_event(), h11.Request), "h11 takes its own spelling"
        return head

    def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
        """Heads go out as they are; the rest as h11 writes it."""
        if isinstance(event, Data | End):
            return super().send(event)
        octets = super().send(type(event)(event.status, self._told(event), event.reason))
        line = octets[: octets.index(b"\r\n") + 2]
        added: Fields = []
        if isinstance(event, ResponseHead) and self._chunked:
            added.append((b"Transfer-Encoding", b"chunked"))
        if b"connection: close" in octets.lower() and b"close" not in members(event.fields, b"connection"):
            added.append((b"Connection", b"close"))
        return line + written([*event.fields, *added])

    def _told(self, event: InformationalHead | ResponseHead) -> Fields:
        if isinstance(event, InformationalHead):
            return [line for line in event.fields if line[0].lower() in (b"upgrade", b"connection")]
        framing = self._rules.response_framing(self._method, event.status, event.fields)
        told = canonical(event.fields, framing)[1:]
        return [(name.encode(), value.encode()) for name, value in told]


class LooseClientCodec(H1ClientCodec):
    """Upstream. `line` may be overridden: the request line as it goes out."""

    _rules: HttpRules
    _gate: Gate

    def line(self, event: RequestHead) -> bytes:
        """The request line without its end."""
        return b"%s %s HTTP/1.1" % (event.method, event.target)

    def send(self, event: RequestHead | Data | End) -> bytes:
        """A head goes out as it is; the rest as h11 writes it."""
        if not isinstance(event, RequestHead):
            return super().send(event)
        told = canonical(event.fields, self._rules.request_framing(event.fields))
        super().send(RequestHead(event.method, b"/", [(name.encode(), value.encode()) for name, value in told]))
        return self.line(event) + b"\r\n" + written(event.fields)

    def parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
        """Split by CRLF and colon."""
        first, *lines = crlf_lines(raw)
        status, fields = int(first[9:12]), [field(line) for line in lines]
        return (InformationalHead if status < 200 else ResponseHead)(status, fields, first[13:])

    def _parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
        head = self.parsed(raw)
        framing = self._rules.response_framing(self._method, head.status, head.fields)
        told = "".join(f"{name}: {value}\r\n" for name, value in canonical(head.fields, framing)[1:])
        self._h11.receive_data(b"HTTP/%s %d X\r\n%s\r\n" % (raw[5:8], head.status, told.encode()))
        self._h11.next_event()
        return head


class VerbatimGate(Gate):
    """Keeps the octets of chunked content as they came; `take` gives those that were vetted meanwhile."""

    def __init__(self, rules: HttpRules, limits: Limits, *, requests: bool) -> None:
        super().__init__(rules, limits, requests=requests)
        self._raw = b""

    def _chunks(self) -> bytes:
        before = self._rest
        out = super()._chunks()
        self._raw += before[: len(before) - len(self._rest)]
        return out

    def take(self) -> bytes:
        """The raw octets, once."""
        raw, self._raw = self._raw, b""
        return raw


class VerbatimServerCodec(H1ServerCodec):
    """Gives the octets of chunked content as they came, chunk lines included, the last one with the end."""

    gate: type[VerbatimGate] = VerbatimGate

    def __init__(self, rules: HttpRules, limits: Limits) -> None:
        super().__init__(rules, limits)
        self._gate: VerbatimGate = self.gate(rules, limits, requests=True)
        self._held: Event | None = None

    def next_event(self) -> Event | None:
        """See H1ServerCodec."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        event = super().next_event()
        if self.framing.kind == "chunked" and isinstance(event, Data):
            raw = self._gate.take()
            return Data(raw) if raw else self.next_event()
        if self.framing.kind == "chunked" and isinstance(event, End) and (raw := self._gate.take()):
            self._held = event
            return Data(raw)
        return event


class VerbatimClientCodec(H1ClientCodec):
    """Writes chunked content as it was given."""

    _chunked = False

    def send(self, event: RequestHead | Data | End) -> bytes:
        """See H1ClientCodec."""
        octets = super().send(event)
        if isinstance(event, RequestHead):
            self._chunked = b"chunked" in members(event.fields, TE)
        elif self._chunked:
            return event.data if isinstance(event, Data) else b""
        return octets


def consents(parts: Parts, rule: str, reached: Reached | None = None) -> None:
    """Let the rule of this name find nothing wrong, ever."""

    def broken(original: Callable[..., Fault | None], *arguments: Any, **options: Any) -> None:
        if original(*arguments, **options) is not None and reached is not None:
            reached()

    swap(parts.http, rule, broken)


def use(parts: Parts, server: type[H1ServerCodec] | None = None, client: type[H1ClientCodec] | None = None) -> None:
    """Put doubles in the place of the codecs."""
    if server is not None:
        parts.http_endpoints.server_codec = server  # type: ignore[method-assign]
    if client is not None:
        parts.http_endpoints.client_codec = client  # type: ignore[method-assign]


class SwitchReader(H1ClientCodec):
    """A double of h11 that reads a 101 whatever was asked for."""

    def next_event(self) -> Event | None:
        """The 101 without its fields; everything else as it is."""
        if not self.answered and self._gate.starts_with(b"HTTP/1.1 101") and self._gate.head():
            return InformationalHead(101, [], b"Switching Protocols")
        return super().next_event()
