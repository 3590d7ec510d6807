"""Mutants of HTTP/3: one rule of its messages, codes, limits or ends broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.h3.connection import ErrorCode

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, RequestHead
from reference_engine.http.h3_server import H3Downstream, H3ServerConnection
from reference_engine.mutants._http3 import FlawedH3, flawed_codec, h3_double
from reference_engine.mutants._quic import FlawedEndpoints
from reference_engine.mutants.quic_doubles_paths import Replayable
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import Choice, HelloContext
from reference_engine.quic.rules import HTTP3_ALPN, Offer

Lines = Sequence[tuple[bytes, bytes]]
MALFORMED = ("RFC9114-4.1.2-1", "RFC9114-4.1.2-4", "RFC9114-4.1.2-2", "HTTP-HDR-008")
"""What every malformed message breaks, beside its own rule."""


def _unchecked(parts: Parts, reached: Reached, rule: str, passes: Callable[..., bool]) -> None:
    """Take what `rule` refuses for good where `passes(*arguments)`."""

    def broken(original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        if isinstance(found, Fault) and passes(*arguments):
            reached()
            return None
        return found

    swap(parts.http, rule, broken)


# Messages


@mutant("http3-upper-case", ("RFC9114-4.2-2", *MALFORMED), "takes upper case in field names")
def _upper_case(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Lines], Fault | None], lines: Lines) -> Fault | None:
        lower = [(name.lower(), value) for name, value in lines]
        if lower != list(lines):
            reached()
        return original(lower)

    swap(parts.http, "field_lines", broken)


@mutant("http3-lines-unchecked", ("RFC9114-10.3-1", "RFC9114-10.3-2"), "takes any octets in names and values")
def _lines_unchecked(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, "field_lines", lambda lines: True)


@mutant("http3-bad-lines-dropped", ("RFC9114-10.3-1", "RFC9114-10.3-2"), "leaves out lines with bad octets")
def _bad_lines_dropped(parts: Parts, reached: Reached) -> None:
    class Dropping(FlawedH3):
        """Of both sides."""

        def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> list[tuple[bytes, bytes]]:
            lines = super()._decode_headers(stream_id, frame_data)
            kept = [line for line in lines if line[0][:1] == b":" or parts.http.field_lines([line]) is None]
            if len(kept) < len(lines):
                reached()
            return kept

    flawed_codec(parts, reached, Dropping)


@mutant(
    "http3-connection-fields", ("RFC9114-4.2-3", "RFC9114-4.1-5", *MALFORMED), "takes fields of an HTTP/1.1 connection"
)
def _connection_fields(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, "connection_specific", lambda lines: all(name != b"te" for name, _ in lines))


@mutant("http3-te-anything", ("RFC9114-4.2-5",), "takes any TE")
def _te_anything(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, "connection_specific", lambda lines: any(name == b"te" for name, _ in lines))


@mutant("http3-te-nothing", ("RFC9114-4.2-5",), "refuses every TE")
def _te_nothing(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Lines], Fault | None], lines: Lines) -> Fault | None:
        if any(name == b"te" for name, _ in lines):
            reached()
            return Fault(400, "TE")
        return original(lines)

    swap(parts.http, "connection_specific", broken)


@mutant("http3-length-unchecked", ("RFC9114-4.1.2-3", *MALFORMED), "takes content of another length than was said")
def _length_unchecked(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, "content_fits", lambda *_: True)


@mutant(
    "http3-pseudo-anything", ("RFC9114-4.3-1", *MALFORMED), "passes over pseudo-header fields that do not belong there"
)
def _pseudo_anything(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Any], lines: Lines, known: frozenset[bytes]) -> Any:
        kept = [line for line in lines if line[0][:1] != b":" or line[0] in known]
        if len(kept) < len(lines):
            reached()
        return original(kept, known)

    def trailers(original: Callable[[Lines], Any], lines: Lines) -> Any:
        kept = [line for line in lines if line[0][:1] != b":"]
        if len(kept) < len(lines):
            reached()
        return original(kept)

    swap(parts.http, "split_pseudo", broken)
    swap(parts.http, "trailer_message", trailers)


@mutant("http3-pseudo-anywhere", ("RFC9114-4.3-2",), "takes pseudo-header fields behind others")
def _pseudo_anywhere(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Any], lines: Lines, known: frozenset[bytes]) -> Any:
        ordered = sorted(lines, key=lambda line: line[0][:1] != b":")
        if ordered != list(lines):
            reached()
        return original(ordered, known)

    swap(parts.http, "split_pseudo", broken)


@mutant("http3-pseudo-twice", ("RFC9114-4.3.1-5", "RFC9114-4.3.2-1"), "takes the first of two pseudo-header fields")
def _pseudo_twice(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Any], lines: Lines, known: frozenset[bytes]) -> Any:
        seen: set[bytes] = set()
        kept = []
        for line in lines:
            if line[0][:1] == b":" and line[0] in seen:
                reached()
                continue
            seen.add(line[0])
            kept.append(line)
        return original(kept, known)

    swap(parts.http, "split_pseudo", broken)


def _control_data(parts: Parts, reached: Reached, change: Callable[[dict[bytes, bytes]], dict[bytes, bytes]]) -> None:
    def broken(original: Callable[..., Any], pseudo: dict[bytes, bytes]) -> Any:
        changed = change(pseudo)
        if changed != pseudo:
            reached()
            pseudo.update(changed)
        return original(pseudo)

    swap(parts.http, "control_data", broken)


@mutant("http3-pseudo-missing", ("RFC9114-4.3.1-5",), "makes up :method, :scheme and :path where they are missing")
def _pseudo_missing(parts: Parts, reached: Reached) -> None:
    usual = {b":method": b"GET", b":scheme": b"https", b":path": b"/"}
    _control_data(parts, reached, lambda pseudo: {**usual, **pseudo})


@mutant("http3-path-empty", ("RFC9114-4.3.1-4",), "takes an empty :path for /")
def _path_empty(parts: Parts, reached: Reached) -> None:
    _control_data(parts, reached, lambda pseudo: {**pseudo, b":path": b"/"} if pseudo.get(b":path") == b"" else pseudo)


@mutant("http3-nobody-asked", ("RFC9114-4.3.1-6",), "takes requests that name nobody for the last one named")
def _nobody_asked(parts: Parts, reached: Reached) -> None:
    named: list[bytes] = []

    def broken(original: Callable[..., Any], authority: bytes | None, hosts: list[bytes]) -> Any:
        if not authority and not any(hosts) and named:
            reached()
            return named[-1]
        found = original(authority, hosts)
        if isinstance(found, bytes):
            named.append(found)
        return found

    swap(parts.http, "named_authority", broken)


@mutant("http3-goes-by-host", ("RFC9114-4.3.1-6",), "goes by Host where it differs from :authority")
def _goes_by_host(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Any], authority: bytes | None, hosts: list[bytes]) -> Any:
        if authority and hosts and hosts[0] and hosts[0] != authority:
            reached()
            return original(None, hosts)
        return original(authority, hosts)

    swap(parts.http, "named_authority", broken)


@mutant("http3-userinfo-kept", ("RFC9114-4.3.1-1",), "relays userinfo")
def _userinfo_kept(parts: Parts, reached: Reached) -> None:
    kept: list[bytes] = []

    def broken(original: Callable[..., Any], authority: bytes | None, hosts: list[bytes]) -> Any:
        user, _, host = (authority or b"").rpartition(b"@")
        if user:
            reached()
            kept.append(user)
            return original(host, hosts)
        return original(authority, hosts)

    def fields(original: Callable[..., Fields], head: RequestHead, origin: Any) -> Fields:
        found = original(head, origin)
        return [*found, (b"x-userinfo", kept.pop())] if kept else found

    swap(parts.http, "named_authority", broken)
    swap(parts.http, "request_fields", fields)


@mutant("http3-session-held", ("RFC9114-7.2.4.2-1", "RFC9114-9-2"), "never answers an Extended CONNECT")
def _session_held(parts: Parts, reached: Reached) -> None:
    class Silent(FlawedH3):
        """Toward clients."""

        def _request_head(self, *arguments: Any) -> Any:
            found = super()._request_head(*arguments)
            if isinstance(found, RequestHead) and found.method == b"CONNECT":
                reached()
                arguments[0].over = True
            return found

    flawed_codec(parts, reached, Silent, "server")


# Codes


def _code(name: str, rows: tuple[str, ...], breaks: str, rule: str, code: ErrorCode) -> None:
    @mutant(name, rows, breaks)
    def apply(parts: Parts, reached: Reached) -> None:
        def broken(_: Callable[[], int]) -> int:
            reached()
            return int(code)

        swap(parts.http, rule, broken)


_code(
    "http3-cut-as-rejected", ("RFC9114-4.1.1-2", "RFC9114-4.1.1-4"), "resets a response that breaks off as rejected",
    "truncated_code", ErrorCode.H3_REQUEST_REJECTED,
)  # fmt: skip
_code(
    "http3-stop-as-error", ("RFC9114-4.1-10",), "stops a request that was answered early with an error",
    "unread_code", ErrorCode.H3_INTERNAL_ERROR,
)  # fmt: skip


# Limits


@mutant(
    "http3-cancel-ignored",
    ("RFC9114-4.1.1-1", "RFC9114-8-1", "RFC9114-10.5-1"),
    "does not notice that a client gives up a request",
)
def _cancel_ignored(parts: Parts, reached: Reached) -> None:
    class Unmoved(H3ServerConnection):
        """Brings every request to its end."""

        def begin(self, down: H3Downstream, fault: Fault | None) -> None:
            """See H3ServerConnection."""
            lost = down.lost

            def ignored(*_: object) -> None:
                reached()

            def gone(reason: str, code: int | None) -> None:
                if code is None:
                    lost(reason, code)
                reached()

            down.unheard = ignored  # type: ignore[assignment, method-assign]
            down.lost = gone  # type: ignore[method-assign]
            super().begin(down, fault)

    def made(_: Callable[..., H3ServerConnection], *arguments: Any) -> H3ServerConnection:
        return Unmoved(*arguments)

    swap(parts.http_endpoints, "h3_connection", made)


# Ends


@h3_double("http3-goaway-rises", ("RFC9114-5.2-4",), "says GOAWAY once more, with a larger id")
class GoawayRises(FlawedH3):
    """Toward both sides."""

    def goaway(self, number: int) -> None:
        """See EngineH3."""
        super().goaway(number)
        self.reached()
        self.sent_goaway = None
        super().goaway(number + 4)


@h3_double("http3-goaway-unsaid", ("RFC9114-5.2-3", "RFC9114-3.3-2"), "closes without GOAWAY", side="server")
class GoawayUnsaid(FlawedH3):
    """Toward clients."""

    def goaway(self, number: int) -> None:
        """See EngineH3."""
        self.reached()
        self.sent_goaway = number


# ALPN


@mutant("http3-alpn-anything", ("RFC9114-3.1-2", "HTTP-VER-008"), "takes any protocol for h3")
def _alpn_anything(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Offer], hello: Any, *, available: bool) -> Offer:
        if hello.alpns and HTTP3_ALPN not in hello.alpns:
            reached()
            return Offer(hello.alpns[0])
        return original(hello, available=available)

    swap(parts.quic, "http_offer", broken)


@mutant("http3-in-quic-tunnel", ("QUIC-023",), "takes h3 for the protocol of a QUIC tunnel")
def _in_quic_tunnel(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., Offer], hello: Any, configured: Any, *more: Any, **named: Any) -> Offer:
        if configured and HTTP3_ALPN in hello.alpns:
            reached()
            return Offer(HTTP3_ALPN, tuple(configured))
        return original(hello, configured, *more, **named)

    swap(parts.quic, "offer", broken)


# 0-RTT


class _EarlyContext(HelloContext):
    """A server's TLS that takes 0-RTT."""

    def go_on(self, choice: Choice, output_buf: dict[tls.Epoch, Buffer]) -> None:
        """As the engine's."""
        super().go_on(dataclasses.replace(choice, early_data=True), output_buf)


class _Early(Replayable):
    """Takes 0-RTT of clients of HTTP tunnels, too."""

    tls: Any
    tickets: ClassVar[dict[bytes, tls.SessionTicket]] = {}

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls.__class__ = _EarlyContext


@mutant("http3-early-replayed", ("RFC9114-10.9-1",), "serves 0-RTT as soon as it comes, each time that it comes")
def _early_replayed(parts: Parts, reached: Reached) -> None:
    parts.quic_endpoints = FlawedEndpoints(reached, server=_Early)


@mutant("http3-early-forgets", ("RFC9114-7.2.4.2-3",), "announces less each time")
def _early_forgets(parts: Parts, reached: Reached) -> None:
    parts.quic_endpoints = FlawedEndpoints(reached, server=_Early)
    known: list[int] = []

    def broken(original: Callable[..., dict[int, int]], capacity: int, blocked: int, section: int) -> dict[int, int]:
        known.append(capacity)
        reached()
        return original(capacity, blocked, section - len(known))

    swap(parts.http, "h3_settings", broken)
