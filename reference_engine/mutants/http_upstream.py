"""Upstreams that are broken, silent or dishonest: their garbage that goes on, errors that are lost, requests that are
repeated."""

from __future__ import annotations

import asyncio
import re
from abc import ABC, abstractmethod
from collections.abc import Callable

from reference_engine.config import Settings
from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    Data,
    End,
    Event,
    InformationalHead,
    Reset,
    ResponseHead,
    without,
)
from reference_engine.http.exchange import Exchange
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_downstream import H1Downstream
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.leg import Upstream
from reference_engine.http.syntax import Framing
from reference_engine.http.upgrade import relay
from reference_engine.mutants._http import use_client_codec, use_exchange, use_server_codec
from reference_engine.mutants._loose_h1 import SwitchReader
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import TunnelProperties

# Malformed responses: RFC 9112 sections 2 to 7. h11 refuses most of them, so these are doubles that read differently.


class _Rewriting(H1ClientCodec, ABC):
    """Reads `rewritten(octets)` instead of the octets."""

    @abstractmethod
    def rewritten(self, data: bytes) -> bytes:
        """What is read instead."""

    def receive(self, data: bytes) -> None:
        super().receive(self.rewritten(data))


def _reading(parts: Parts, reached: Reached, rule: Callable[[bytes], bytes]) -> None:
    """Read what `rule` makes of each arrival."""

    class Reading(_Rewriting):
        """With `rule`."""

        def rewritten(self, data: bytes) -> bytes:
            found = rule(data)
            if found != data:
                reached()
            return found

    use_client_codec(parts, Reading)


@mutant("http-up-first-length", ("RFC9112-6.3-7",), "takes the first number in a response's Content-Length")
def _first_length(parts: Parts, reached: Reached) -> None:
    lines = re.compile(rb"(\r\nContent-Length: )\+?([0-9]+)[^\r\n]*(?:\r\nContent-Length: [^\r\n]*)*")

    def rule(data: bytes) -> bytes:
        return lines.sub(rb"\1\2", data)

    _reading(parts, reached, rule)


@mutant(
    "http-up-truncation-hidden",
    ("RFC9112-6.3-9", "RFC9112-8-1", "RFC9112-7.1-5", "HTTP-STREAM-006"),
    "ends a response cleanly that broke off",
)
def _truncation_hidden(parts: Parts, reached: Reached) -> None:
    class Forgetful(H1ClientCodec):
        """Re-frames every response, and takes the end of the connection for its end."""

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead) and self._method != b"HEAD":
                event.fields = without(event.fields, {b"content-length"})
            if isinstance(event, Reset) and self.answered:
                reached()
                return End()
            return event

    use_client_codec(parts, Forgetful)


@mutant(
    "http-up-truncation-kept-open",
    ("RFC9112-6.3-9", "RFC9112-8-1", "HTTP-STREAM-006"),
    "leaves a client waiting for the rest of a response that broke off",
)
def _truncation_kept_open(parts: Parts, reached: Reached) -> None:
    class Hopeful(Exchange):
        """Never ends what it began."""

        async def _fail(self, trouble: Reset) -> None:
            if self._begun:
                reached()
                await self._down.flush()
                await asyncio.get_running_loop().create_future()
            await super()._fail(trouble)

    use_exchange(parts, Hopeful)


@mutant(
    "http-up-break-hidden",
    ("RFC9112-8-1", "RFC9112-7.1-5", "HTTP-STREAM-006", "HTTP-ERR-006"),
    "writes the last chunk of a response whose stream broke",
)
def _break_hidden(parts: Parts, reached: Reached) -> None:
    class Tidy(Exchange):
        """Completes what it began."""

        async def _fail(self, trouble: Reset) -> None:
            if self._begun and isinstance(self._down, H1Downstream) and self._down._codec._chunked:
                reached()
                self._down.put(End())
                await self._down.flush()
                return
            await super()._fail(trouble)

    use_exchange(parts, Tidy)


@mutant("http-up-garbage-relayed", ("RFC9110-15.6.3-1", "HTTP-ERR-004"), "takes octets without a head for HTTP/0.9")
def _garbage_relayed(parts: Parts, reached: Reached) -> None:
    class Ancient(H1ClientCodec):
        """Answers 200 with whatever came."""

        garbage: list[Event] | None = None

        def next_event(self) -> Event | None:
            if self.garbage is not None:
                return self.garbage.pop(0) if self.garbage else None
            before = self._gate._rest
            event = super().next_event()
            if isinstance(event, Reset) and not self.answered and before and not before.startswith(b"HTTP/"):
                reached()
                self.garbage = [Data(before), End()]
                return ResponseHead(200, [], b"OK")
            return event

    use_client_codec(parts, Ancient)


@mutant(
    "http-up-error-unsaid",
    ("HTTP-ERR-002", "HTTP-ERR-004", "RFC9110-15.6.3-1", "HTTP-ERR-011", "RFC9110-10.1.1-3"),
    "ends the client's connection without an answer where the upstream gave none",
)
def _error_unsaid(parts: Parts, reached: Reached) -> None:
    class Mute(Exchange):
        """Never answers for an upstream."""

        async def _fail(self, trouble: Reset) -> None:
            if not self._begun and isinstance(self._down, H1Downstream):
                reached()
                self._down.close_after()
                return
            await super()._fail(trouble)

    use_exchange(parts, Mute)


@mutant(
    "http-up-error-blames-the-client",
    ("HTTP-ERR-002", "HTTP-ERR-003", "HTTP-ERR-004", "HTTP-ERR-005", "RFC9110-15.6.3-1", "RFC9110-15.6.5-1"),
    "answers 404 where an upstream fails",
)
def _blames_the_client(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[str, Fault | None], Fault], reason: str, fault: Fault | None) -> Fault:
        if original(reason, fault).status < 500:
            return original(reason, fault)
        reached()
        return Fault(404, "not found")

    swap(parts.http, "failure", broken)


@mutant(
    "http-up-bare-cr",
    ("RFC9112-4-3", "RFC9110-5.5-4", "RFC9112-2.2-3", "RFC9110-2.2-1"),
    "takes a bare CR in a response for the end of a line",
)
def _bare_cr(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: re.sub(rb"\r(?!\n)", b"\r\n", data))


@mutant("http-up-nul-relayed", ("RFC9110-5.5-4",), "forwards NUL in the field of a response")
def _nul(parts: Parts, reached: Reached) -> None:
    class Writing(H1ServerCodec):
        """Writes NUL back where it was."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            return super().send(event).replace(b"%00%", b"\x00")

    use_server_codec(parts, Writing)
    _reading(parts, reached, lambda data: data.replace(b"\x00", b"%00%"))


@mutant("http-up-any-status", ("RFC9110-15-2",), "relays statuses above 599")
def _any_status(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes], Fault | None], line: bytes) -> Fault | None:
        fault = original(line)
        if fault is not None and fault.text == "the status is out of range":
            reached()
            return None
        return fault

    swap(parts.http, "status_line", broken)


@mutant("http-up-phrase-counts", ("RFC9112-4-2",), "goes by the reason phrase of a response")
def _phrase_counts(parts: Parts, reached: Reached) -> None:
    class Reading(H1ClientCodec):
        """Knows one phrase."""

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead) and event.reason == b"Not Found" and event.status != 404:
                reached()
                event.status = 404
            return event

    use_client_codec(parts, Reading)


@mutant("http-up-fold-dropped", ("RFC9112-5.2-3", "RFC9112-5.2-1"), "drops the second line of a folded response field")
def _fold_dropped(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: re.sub(rb"\r\n[ \t]+[^\r\n]*(?=\r\n)", b"", data))


@mutant("http-up-folded-field-dropped", ("RFC9112-5.2-3",), "drops a folded response field")
def _folded_field_dropped(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: re.sub(rb"\r\n[A-Za-z-]+:[^\r\n]*\r\n[ \t]+[^\r\n]*", b"", data))


@mutant("http-up-spaced-name-dropped", ("RFC9112-5.1-2",), "drops response fields with whitespace before the colon")
def _spaced_name(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: re.sub(rb"\r\n[A-Za-z-]+[ \t]+:[^\r\n]*", b"", data))


@mutant("http-up-length-wins", ("RFC9112-6.3-3",), "lets Content-Length win over Transfer-Encoding in a response")
def _length_wins(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        if b"\r\nContent-Length: " not in data:
            return data
        return data.replace(b"Transfer-Encoding: chunked\r\n", b"", 1)

    _reading(parts, reached, rule)


@mutant("http-up-both-lengths", ("RFC9112-6.2-1",), "passes Content-Length of a chunked response on")
def _both_lengths(parts: Parts, reached: Reached) -> None:
    class Writing(H1ServerCodec):
        """Writes the field back where it was."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            return super().send(event).replace(b"Edgecase-Length:", b"Content-Length:")

    def rule(data: bytes) -> bytes:
        if b"\r\nTransfer-Encoding: chunked\r\n" not in data:
            return data
        return data.replace(b"\r\nContent-Length:", b"\r\nEdgecase-Length:", 1)

    use_server_codec(parts, Writing)
    _reading(parts, reached, rule)


@mutant("http-up-version-ignored", ("RFC9112-6.1-10",), "takes every response for HTTP/1.1")
def _version_ignored(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: data.replace(b"HTTP/1.0 ", b"HTTP/1.1 ", 1))


@mutant("http-up-close-is-truncation", ("HTTP-STREAM-009",), "takes a response that the close delimits for broken off")
def _close_is_truncation(parts: Parts, reached: Reached) -> None:
    class Strict(H1ClientCodec):
        """Asks for a length."""

        until_close = False

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead):
                kind = self._rules.response_framing(self._method, event.status, event.fields).kind
                self.until_close = kind == "close"
            if isinstance(event, End) and self.until_close:
                reached()
                return Reset("upstream-truncated")
            return event

    use_client_codec(parts, Strict)


@mutant("http-up-close-passed-on", ("RFC9112-6.3-11",), "delimits a response without length by the close of both legs")
def _close_passed_on(parts: Parts, reached: Reached) -> None:
    class Plain(H1ServerCodec):
        """A double of h11 that never makes chunks."""

        plain = False

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead):
                self.plain = self._chunked
                if self.plain:
                    reached()
                    return octets.replace(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n")
            elif self.plain and isinstance(event, Data):
                return event.data
            elif self.plain and isinstance(event, End):
                return b""
            return octets

        @property
        def reusable(self) -> bool:
            return super().reusable and not self.plain

    use_server_codec(parts, Plain)


@mutant("http-up-coded-is-empty", ("RFC9112-6.3-5",), "takes a response whose last coding is not chunked for empty")
def _coded_is_empty(parts: Parts, reached: Reached) -> None:
    class Blind(H1ClientCodec):
        """Reads no content without chunks or a length."""

        coded = False

        def next_event(self) -> Event | None:
            event = super().next_event()
            if isinstance(event, ResponseHead):
                self.coded = bool(event.codings)
            while self.coded and isinstance(event, Data):
                reached()
                event = super().next_event()
            return event

    use_client_codec(parts, Blind)


@mutant("http-up-chunk-size-32", ("RFC9112-7.1-1",), "counts the octets of a chunk in 32 bits")
def _chunk_size(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes], int | Fault], line: bytes) -> int | Fault:
        size = original(line)
        if isinstance(size, Fault) or size < 1 << 32:
            return size
        reached()
        return size & 0xFFFFFFFF

    swap(parts.http, "chunk_line", broken)


@mutant("http-up-chunked-once", ("RFC9112-6.1-2",), "takes `chunked, chunked` in a response for one")
def _chunked_once(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: data.replace(b": chunked, chunked\r\n", b": chunked\r\n"))


@mutant("http-up-coding-parameter", ("RFC9112-7.1-2",), "takes `chunked;a=b` in a response for an unknown coding")
def _coding_parameter(parts: Parts, reached: Reached) -> None:
    _reading(parts, reached, lambda data: data.replace(b": chunked;a=b\r\n", b": x-other\r\n"))


@mutant(
    "http-up-101-unasked",
    ("RFC9110-7.8-4",),
    "switches to raw octets at a 101 that nobody asked for",
)
def _unasked_101(parts: Parts, reached: Reached) -> None:
    class Switching(Exchange):
        """Follows every 101."""

        async def _interim(self, up: Upstream, head: InformationalHead) -> tuple[bool, Reset | None]:
            if head.status != 101 or self._origin.upgrade or not isinstance(self._down, H1Downstream):
                return await super()._interim(up, head)
            reached()
            await self._down._connection.write(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            await relay(self._edge.relay, self._down.raw(), up.raw(), client_half_open=True, upstream_half_open=True)
            return True, None

    use_exchange(parts, Switching)
    use_client_codec(parts, SwitchReader)


# Repeats: RFC 9110 section 9.2.2


@mutant(
    "http-up-post-repeated",
    ("RFC9110-9.2.2-1", "HTTP-ERR-008", "RFC9114-4.1.1-5"),
    "keeps the content of a POST, and sends it again when the connection broke",
)
def _post_repeated(parts: Parts, reached: Reached) -> None:
    class Repeating(Exchange):
        """Once."""

        kept: tuple[Data | End | Reset, ...] = ()
        repeated = False

        async def _relay_content(self, up: Upstream) -> None:
            if self.repeated:
                await up.send(*[event for event in self.kept if not isinstance(event, Reset)])
                up.arm(self._edge.response_timeout)
                return
            receive = self._down.receive

            async def keeping() -> list[Data | End | Reset]:
                events = await receive()
                self.kept += tuple(events)
                return events

            self._down.receive = keeping  # type: ignore[method-assign]
            await super()._relay_content(up)

        def _repeats(self) -> bool:
            if self._head.method != b"POST" or self.repeated or self._gone or not self.kept:
                return super()._repeats()
            reached()
            self.repeated = True
            return True

    use_exchange(parts, Repeating)


@mutant("http-up-repeated-thrice", ("RFC9110-9.2.2-2",), "sends a GET up to three times more")
def _repeated_thrice(parts: Parts, reached: Reached) -> None:
    left = [3]

    def broken(original: Callable[..., bool], method: bytes, framing: Framing, *, fresh: bool, heard: bool) -> bool:
        if method != b"GET" or heard or not left[0]:
            return original(method, framing, fresh=fresh, heard=heard)
        left[0] -= 1
        if fresh:
            reached()
        return True

    swap(parts.http, "repeats", broken)


# Answers of the edge's own: HTTP-ERR-002, -003, -011, -013


@mutant("http-own-error-tells", ("HTTP-ERR-013",), "tells addresses and a stack in its own error")
def _error_tells(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., tuple[ResponseHead, bytes]], fault: Fault, *, close: bool) -> object:
        reached()
        return original(Fault(fault.status, f'{fault.text} File "pool.py", 127.0.0.1:8080'), close=close)

    swap(parts.http, "answer", broken)


@mutant("http-own-error-body-for-head", ("HTTP-ERR-013",), "sends the text of its own error for HEAD, too")
def _error_body_for_head(parts: Parts, reached: Reached) -> None:
    class Talking(H1ServerCodec):
        """A double of h11 that forgets HEAD."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and event.status >= 500 and self.is_head:
                reached()
                return octets + b"502 the upstream broke\n"
            return octets

    use_server_codec(parts, Talking)


@mutant("http-up-response-untimed", ("HTTP-ERR-003", "RFC9110-15.6.5-1"), "waits for a response for ever")
def _untimed(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Settings], float], settings: Settings) -> float:
        reached()
        return original(settings) + 3600

    swap(parts.http, "response_time", broken)


@mutant("http-up-plain", ("HTTP-ERR-011",), "speaks plain HTTP with an upstream that is to be reached in TLS")
def _plain(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[TunnelProperties], bool], properties: TunnelProperties) -> bool:
        if original(properties):
            reached()
        return False

    swap(parts.http, "encrypts_upstream", broken)


@mutant("http-up-silent-after-100", ("RFC9110-10.1.1-3",), "says nothing more behind a 100 when the upstream is gone")
def _silent_after_100(parts: Parts, reached: Reached) -> None:
    class Silent(Exchange):
        """Thinks that it has answered."""

        async def _fail(self, trouble: Reset) -> None:
            if self._continued and not self._begun:
                reached()
                await asyncio.get_running_loop().create_future()
            await super()._fail(trouble)

    use_exchange(parts, Silent)
