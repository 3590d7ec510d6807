"""Mutants of the messages of HTTP/2: what is malformed is mended instead of refused (RFC 9113 section 8).

Each mends one thing in front of the rules, in requests, responses and trailer sections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from h2.events import Event
from hpack.struct import Header

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, RequestHead
from reference_engine.http.floods import FloodRules, H2Limits
from reference_engine.http.h2_connection import Frames, _Stream
from reference_engine.http.messages import CONNECTION_SPECIFIC, NAME, PATH
from reference_engine.http.syntax import Framing
from reference_engine.mutants._http2 import HEADERS, Filtered, Flawed, RawFrame, h2_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Line = tuple[bytes, bytes]
Mend = Callable[[Sequence[Line]], Sequence[Line]]
SPLITTING = re.compile(rb"[\r\n\0]")
END_STREAM, END_HEADERS = 0x1, 0x4
KNOWN = frozenset({b":method", b":scheme", b":authority", b":path", b":status"})


def mend(parts: Parts, reached: Reached, mended: Mend, *, rules: Sequence[str] = ()) -> None:
    """Put `mended` in front of the rules on messages."""

    def broken(original: Callable[..., Any], lines: Sequence[Line], *given: Any) -> Any:
        better = mended(lines)
        if list(better) != list(lines):
            reached()
        return original(better, *given)

    for rule in rules or ("request_message", "response_message", "trailer_message"):
        swap(parts.http, rule, broken)


def dropped(wrong: Callable[[bytes, bytes], bool]) -> Mend:
    """Without the lines that are wrong."""
    return lambda lines: [line for line in lines if not wrong(*line)]


# Field lines: RFC 9113 sections 8.2.1 and 8.2.2


@mutant(
    "http2-bad-names-dropped",
    (
        "RFC9113-8.1.1-1",
        "RFC9113-8.1.1-2",
        "RFC9113-8.1.1-4",
        "RFC9113-8.2.1-1",
        "RFC9113-8.2.1-2",
        "HTTP-HDR-008",
    ),
    "leaves a field out whose name is not valid",
)
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, dropped(lambda name, _: name[:1] != b":" and NAME.fullmatch(name) is None))


@mutant(
    "http2-values-cleaned",
    ("RFC9113-8.2.1-3", "RFC9113-8.2.1-6", "RFC9113-10.3-1"),
    "puts spaces for CR, LF and NUL in values",
)
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, lambda lines: [(name, SPLITTING.sub(b" ", value)) for name, value in lines])


@mutant("http2-whitespace-stripped", ("RFC9113-8.2.1-4",), "strips whitespace around values")
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, lambda lines: [(name, value.strip(b" \t")) for name, value in lines])


@mutant("http2-malformed-500", ("RFC9113-8.2.1-5",), "answers a malformed request with 500")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Any], lines: Sequence[Line], version: bytes) -> RequestHead | Fault:
        found: RequestHead | Fault = original(lines, version)
        if isinstance(found, Fault) and found.status == 400:
            reached()
            return Fault(500, found.text)
        return found

    swap(parts.http, "request_message", broken)


@mutant("http2-hop-by-hop-dropped", ("RFC9113-8.2.2-1", "RFC9113-8.2.2-2"), "leaves out the fields of a connection")
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, dropped(lambda name, _: name in CONNECTION_SPECIFIC))


@mutant("http2-hop-by-hop-relayed", ("RFC9113-10.3-2",), "passes Keep-Alive and Proxy-Connection on")
def _(parts: Parts, reached: Reached) -> None:
    kept = (b"keep-alive", b"proxy-connection")

    def unchecked(original: Callable[..., Any], lines: Sequence[Line]) -> Fault | None:
        fault: Fault | None = original([line for line in lines if line[0] not in kept])
        return fault

    def relayed(original: Callable[..., Fields], fields: Fields) -> Fields:
        found = [line for line in fields if line[0] in kept]
        if found:
            reached()
        return [*original(fields), *found]

    swap(parts.http, "connection_specific", unchecked)
    swap(parts.http, "end_to_end", relayed)


@mutant("http2-te-dropped", ("RFC9113-8.2.2-5",), "leaves out a TE that is not trailers")
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, dropped(lambda name, value: name == b"te" and value != b"trailers"))


# Pseudo-header fields: RFC 9113 section 8.3


@mutant("http2-unknown-pseudo-dropped", ("RFC9113-8.3-1",), "leaves out pseudo-header fields that do not belong")
def _(parts: Parts, reached: Reached) -> None:
    def of(known: frozenset[bytes]) -> Mend:
        return dropped(lambda name, _: name[:1] == b":" and name not in known)

    mend(parts, reached, of(KNOWN - {b":status"}), rules=("request_message",))
    mend(parts, reached, of(frozenset({b":status"})), rules=("response_message",))


@mutant("http2-late-pseudo-taken", ("RFC9113-8.3-2",), "takes pseudo-header fields behind others")
def _(parts: Parts, reached: Reached) -> None:
    mend(
        parts,
        reached,
        lambda lines: sorted(lines, key=lambda line: line[0][:1] != b":"),
        rules=("request_message", "response_message"),
    )


@mutant("http2-last-pseudo-counts", ("RFC9113-8.3-3",), "takes the last of a pseudo-header field that comes twice")
def _(parts: Parts, reached: Reached) -> None:
    def last(lines: Sequence[Line]) -> Sequence[Line]:
        pseudo = {name: value for name, value in lines if name[:1] == b":"}
        return [*pseudo.items(), *(line for line in lines if line[0][:1] != b":")]

    mend(parts, reached, last, rules=("request_message", "response_message"))


@mutant("http2-connect-taken", ("RFC9113-8.1.1-1",), "takes CONNECT for GET")
def _(parts: Parts, reached: Reached) -> None:
    def plain(lines: Sequence[Line]) -> Sequence[Line]:
        if (b":method", b"CONNECT") not in [tuple(line) for line in lines]:
            return lines
        pseudo = {name: value for name, value in lines if name in KNOWN}
        pseudo.update({b":method": b"GET", b":path": b"/", b":scheme": b"https"})
        return [*pseudo.items(), *(line for line in lines if line[0][:1] != b":")]

    mend(parts, reached, plain, rules=("request_message",))


@mutant("http2-empty-path-taken", ("RFC9113-8.3.1-6",), "takes an empty path for /")
def _(parts: Parts, reached: Reached) -> None:
    def rooted(lines: Sequence[Line]) -> Sequence[Line]:
        return [(name, b"/" if name == b":path" and not value else value) for name, value in lines]

    mend(parts, reached, rooted, rules=("request_message",))


@mutant("http2-control-data-mended", ("RFC9113-8.3.1-7",), "puts GET, https and / where they are not valid")
def _(parts: Parts, reached: Reached) -> None:
    def mended(lines: Sequence[Line]) -> Sequence[Line]:
        pseudo = {name: value for name, value in lines if name[:1] == b":"}
        if not re.fullmatch(rb"[A-Z]+", pseudo.get(b":method", b"")):
            pseudo[b":method"] = b"GET"
        if pseudo.get(b":scheme") != b"https":
            pseudo[b":scheme"] = b"https"
        if PATH.fullmatch(pseudo.get(b":path", b"")) is None:
            pseudo[b":path"] = b"/"
        return [*pseudo.items(), *(line for line in lines if line[0][:1] != b":")]

    mend(parts, reached, mended, rules=("request_message",))


@mutant("http2-host-routes", ("RFC9113-8.3.1-1", "RFC9113-8.3.1-2"), "goes by Host where it is not :authority")
def _(parts: Parts, reached: Reached) -> None:
    def by_host(original: Callable[..., Any], authority: bytes | None, hosts: list[bytes]) -> bytes | Fault:
        if hosts and authority is not None and hosts[0] != authority:
            reached()
            authority = hosts[0]
        found: bytes | Fault = original(authority, hosts)
        return found

    swap(parts.http, "named_authority", by_host)


@mutant("http2-host-local", ("RFC9113-8.3.1-4",), "says localhost for the authority of a request in HTTP/2")
def _(parts: Parts, reached: Reached) -> None:
    def local(original: Callable[..., Fields], head: RequestHead, origin: Any) -> Fields:
        fields = original(head, origin)
        if head.version != b"2.0":
            return fields
        reached()
        return [(name, b"localhost" if name == b"Host" else value) for name, value in fields]

    swap(parts.http, "request_fields", local)


@mutant("http2-userinfo-relayed", ("RFC9113-8.3.1-5",), "passes the userinfo of an authority on in a field")
def _(parts: Parts, reached: Reached) -> None:
    def relayed(original: Callable[..., Any], lines: Sequence[Line], version: bytes) -> RequestHead | Fault:
        said = next((value for name, value in lines if name == b":authority"), b"")
        if b"@" not in said:
            plain: RequestHead | Fault = original(lines, version)
            return plain
        reached()
        bare = [(name, value.rpartition(b"@")[2] if name == b":authority" else value) for name, value in lines]
        found: RequestHead | Fault = original([*bare, (b"x-authority", said)], version)
        return found

    swap(parts.http, "request_message", relayed)


@mutant("http2-authority-local", ("RFC9113-8.3.1-3",), "says localhost for :authority upstream")
def _(parts: Parts, reached: Reached) -> None:
    def local(original: Callable[..., Fields], head: RequestHead) -> Fields:
        reached()
        return [(name, b"localhost" if name == b":authority" else value) for name, value in original(head)]

    swap(parts.http, "request_lines", local)


@mutant("http2-status-guessed", ("RFC9113-8.3.2-1",), "takes a status that is none for 200")
def _(parts: Parts, reached: Reached) -> None:
    def guessed(lines: Sequence[Line]) -> Sequence[Line]:
        status = next((value for name, value in lines if name == b":status"), b"")
        if re.fullmatch(rb"[1-5][0-9][0-9]", status):
            return lines
        return [(b":status", b"200"), *(line for line in lines if line[0] != b":status")]

    mend(parts, reached, guessed, rules=("response_message",))


# Sections and content: RFC 9113 sections 8.1 and 8.1.1


@mutant("http2-trailers-mended", ("RFC9113-8.1-2",), "leaves pseudo-header fields out of trailers")
def _(parts: Parts, reached: Reached) -> None:
    mend(parts, reached, dropped(lambda name, _: name[:1] == b":"), rules=("trailer_message",))


@h2_double("http2-second-section-ends", ("RFC9113-8.1-3",), "takes a second header section for trailers that end")
class _SecondEnds(Filtered):
    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        self._heads: dict[int, int] = {}

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if self.config.client_side or not frame.stream:
            return [frame]
        count = self._heads.get(frame.stream, 0)
        if frame.kind == HEADERS:
            self._heads[frame.stream] = count = count + 1
            if count == 2 and not frame.flags & END_STREAM:
                self.reached()
                return [frame._replace(flags=END_STREAM | END_HEADERS, payload=b"\x00\x05x-sum\x011")]
        return [] if frame.kind == 0 and count > 1 else [frame]


@h2_double("http2-second-response-skipped", ("RFC9113-8.1-3",), "passes over a second response", side="client")
class _SecondSkipped(Filtered):
    def __init__(self, rules: FloodRules, limits: H2Limits, *, client: bool) -> None:
        super().__init__(rules, limits, client=client)
        self._content: set[int] = set()

    def passed(self, frame: RawFrame) -> list[RawFrame]:
        if frame.kind == 0:
            self._content.add(frame.stream)
        if frame.kind == HEADERS and frame.stream in self._content and not frame.flags & END_STREAM:
            self.reached()
            return []
        return [frame]


class _Waiting(_Stream):
    """Takes an interim response that ends the stream for one that does not."""

    def receive_headers(
        self, headers: Any, end_stream: bool, header_encoding: bool | str | None
    ) -> tuple[Frames, list[Event]]:
        """See H2Stream."""
        listed: list[Header] = list(headers)
        interim = any(line[0] == b":status" and line[1][:1] == b"1" for line in listed)
        if interim and end_stream:
            self.waiting.reached()
        return super().receive_headers(listed, end_stream and not interim, header_encoding)

    waiting: Flawed


@h2_double(
    "http2-interim-goes-on", ("RFC9113-8.1-1",), "waits for more behind an interim response that ends", side="client"
)
class _InterimGoesOn(Flawed):
    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> Any:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _Waiting
        stream.waiting = self  # type: ignore[attr-defined]
        return stream


@mutant("http2-length-uncounted", ("RFC9113-8.1.1-3",), "takes content of any length for what was declared")
def _(parts: Parts, reached: Reached) -> None:
    def fits(original: Callable[..., Any], *given: Any, **named: Any) -> None:
        if original(*given, **named) is not None:
            reached()

    def chunked(original: Callable[..., Framing], declared: int | None, *, ended: bool) -> Framing:
        return original(None, ended=ended)

    def unsized(original: Callable[..., Fields], fields: Fields) -> Fields:
        return [line for line in original(fields) if line[0].lower() != b"content-length"]

    swap(parts.http, "content_fits", fits)
    swap(parts.http, "message_framing", chunked)
    swap(parts.http, "end_to_end", unsized)
