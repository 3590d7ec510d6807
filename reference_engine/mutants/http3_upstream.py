"""Mutants and doubles of HTTP/3 toward upstreams: what the edge says there, when it goes on, what it sends again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from aioquic.h3.connection import ErrorCode, FrameType
from aioquic.h3.events import Headers

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields
from reference_engine.http.h3_connection import Heard, Malformed
from reference_engine.mutants._http3 import FlawedH3, h3_double
from reference_engine.mutants._quic import Flawed, quic_double
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.connection import Windows

LATE_SECONDS = 60.0


# The connection


class FewStreams(Flawed):
    """Allows fewer streams; `allowed` are the fields of `Windows` that it changes."""

    allowed: dict[str, int]

    def _open_windows(self, windows: Windows) -> None:
        self.reached()
        super()._open_windows(dataclasses.replace(windows, **self.allowed))


@quic_double("http3-few-requests", ("RFC9114-6.1-1",), "allows fifty requests at once")
class FewRequests(FewStreams):
    """Toward clients."""

    allowed = {"streams_bidi": 50}  # noqa: RUF012 - never changed


@quic_double("http3-few-unidirectional", ("RFC9114-6.2-1",), "allows two unidirectional streams", side="both")
class FewUnidirectional(FewStreams):
    """Toward both sides."""

    allowed = {"streams_uni": 2}  # noqa: RUF012 - never changed


@quic_double("http3-more-protocols", ("HTTP-VER-004",), "offers an upstream more than h3", side="client")
class MoreProtocols(Flawed):
    """Toward upstreams."""

    def __init__(self, **options: Any) -> None:
        configuration = options["configuration"]
        offered = configuration.alpn_protocols or []
        options["configuration"] = dataclasses.replace(configuration, alpn_protocols=[*offered, "hq-interop"])
        super().__init__(**options)
        self.reached()


@quic_double("http3-idle-unnoticed", ("RFC9114-5.1-1",), "misses when an upstream lets a connection go", side="client")
class IdleUnnoticed(Flawed):
    """Toward upstreams."""

    def _idle_timeout(self) -> float:
        self.reached()
        return LATE_SECONDS


@mutant("http3-name-with-dot", ("RFC9114-3.2-1",), "names an upstream with a dot at the end, which no server name has")
def _name_with_dot(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[str], str], hostname: str) -> str:
        reached()
        return f"{original(hostname)}."

    swap(parts.quic, "upstream_name", broken)


@mutant("http3-connection-each", ("RFC9114-3.3-1",), "opens a connection for every request")
def _connection_each(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int, int], bool], allowed: int, active: int) -> bool:
        del original, allowed, active
        reached()
        return False

    swap(parts.http, "upstream_room", broken)


# Requests


@h3_double("http3-head-twice", ("RFC9114-4.1-1",), "says the head of a POST twice", side="client")
class HeadTwice(FlawedH3):
    """Toward upstreams."""

    def send_request(self, stream_id: int, lines: Fields, method: bytes) -> None:
        """See EngineH3."""
        super().send_request(stream_id, lines, method)
        if method == b"POST":
            self.reached()
            self.outlet.send_stream_data(stream_id, b"\x01" + self._framed(stream_id, lines))

    def _framed(self, stream_id: int, lines: Headers) -> bytes:
        section = self._encode_headers(stream_id, lines)
        return bytes([0x40 | len(section) >> 8, len(section) & 0xFF]) + section


@h3_double("http3-end-waits", ("RFC9114-4.1-7",), "does not end the stream of a request", side="client")
class EndWaits(FlawedH3):
    """Toward upstreams."""

    def send_end(self, stream_id: int, trailers: Fields) -> None:
        """See EngineH3."""
        self.reached()


@h3_double("http3-stop-ends-all", ("RFC9114-4.1-9",), "drops the answer of who reads no more", side="client")
class StopEndsAll(FlawedH3):
    """Toward upstreams."""

    def stream_stopped(self, stream_id: int) -> list[tuple[int, Heard]]:
        """See EngineH3."""
        self.reached()
        return [*super().stream_stopped(stream_id), (stream_id, Malformed(Fault(502, "stopped")))]

    def receive(self, stream_id: int, data: bytes, fin: bool) -> list[tuple[int, Heard]]:
        """See EngineH3."""
        heard = super().receive(stream_id, data, fin)
        request = self._stream.get(stream_id)
        if fin and request is not None and not request.sending_ended:
            self.reached()
            return [(stream_id, Malformed(Fault(502, "answered early")))]
        return heard


@mutant("http3-cancelled-as-rejected", ("RFC9114-4.1.1-3",), "gives requests up as rejected")
def _cancelled_as_rejected(parts: Parts, reached: Reached) -> None:
    def broken(_: Callable[[], int]) -> int:
        reached()
        return int(ErrorCode.H3_REQUEST_REJECTED)

    swap(parts.http, "cancelled_code", broken)


@mutant("http3-reset-sent-again", ("RFC9114-4.1.1-5", "HTTP-ERR-008"), "sends again what an upstream has reset")
def _reset_sent_again(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int], bool], code: int) -> bool:
        if not original(code):
            reached()
        return True

    def repeats(original: Callable[..., bool], framing: Any, attempts: int) -> bool:
        del original, framing
        return attempts < 2

    swap(parts.http, "means_unprocessed", broken)
    swap(parts.http, "repeats_unprocessed", repeats)


@mutant("http3-lost-sent-again", ("RFC9114-5.4-1", "RFC9114-5.2-2"), "sends again what was lost with its connection")
def _lost_sent_again(parts: Parts, reached: Reached) -> None:
    sent: list[bool] = []

    def broken(original: Callable[..., bool], *arguments: Any, **named: Any) -> bool:
        if original(*arguments, **named):
            return True
        reached()
        sent.append(True)
        return len(sent) < 2

    swap(parts.http, "repeats", broken)


@mutant("http3-wide-for-narrow", ("RFC9114-4.2.2-2",), "sends sections that the upstream does not take")
def _wide_for_narrow(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, int | None], bool], lines: Fields, largest: int | None) -> bool:
        if not original(lines, largest):
            reached()
        return True

    swap(parts.http, "section_fits", broken)


# What an upstream may not do


@h3_double("http3-push-anyhow", ("RFC9114-4.6-1",), "takes pushes that nobody asked for", side="client")
class PushAnyhow(FlawedH3):
    """Of upstreams."""

    def _check_push_id(self, push_id: int) -> None:
        del push_id
        self.reached()


@mutant("http3-streams-of-servers", ("RFC9114-6.1-2",), "passes over bidirectional streams of an upstream")
def _streams_of_servers(parts: Parts, reached: Reached) -> None:
    def broken(_: Callable[[], int | None]) -> int | None:
        reached()
        return None

    swap(parts.http, "refuses_stream", broken)


@mutant("http3-goaway-anyhow", ("RFC9114-5.2-5", "RFC9114-7.2.6-1"), "takes any GOAWAY")
def _goaway_anyhow(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., bool], *arguments: Any, **named: Any) -> bool:
        if not original(*arguments, **named):
            reached()
        return True

    swap(parts.http, "goaway_fits", broken)


@h3_double("http3-goaway-ignored", ("RFC9114-5.2-1",), "passes over GOAWAY of an upstream", side="client")
class GoawayIgnored(FlawedH3):
    """Of upstreams."""

    def _control_frame(self, kind: int, payload: bytes) -> None:
        if kind == FrameType.GOAWAY:
            self.reached()
            return
        super()._control_frame(kind, payload)


@mutant("http3-goaway-spares-nobody", ("RFC9114-5.2-2", "RFC9114-5.2-1"), "takes a GOAWAY for one of every request")
def _goaway_spares_nobody(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int, int], bool], stream_id: int, number: int) -> bool:
        if original(stream_id, number):
            reached()
        return False

    swap(parts.http, "goaway_spares", broken)


# Lines that must never be indexed


@h3_double("http3-secrets-indexed", ("RFC9204-4.5.4-1", "RFC9204-7.1.3-1"), "forgets which lines are never indexed")
class SecretsIndexed(FlawedH3):
    """From clients."""

    def _decode_headers(self, stream_id: int, frame_data: bytes | None) -> Headers:
        lines = super()._decode_headers(stream_id, frame_data)
        plain = [(bytes(name), bytes(value)) for name, value in lines]
        if any(type(line) is not tuple for line in lines):
            self.reached()
        return plain
