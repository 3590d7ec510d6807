"""WebSocket over HTTP/1.1: handshakes that are changed on their way, sessions that somebody in between looks into."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from reference_engine.http.errors import Fault
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    ResponseHead,
    members,
    values,
    without,
)
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Origin, Target
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.pool import UpstreamConnection
from reference_engine.http.server import H1Downstream
from reference_engine.mutants._http import use_client_codec, use_exchange, use_server_codec
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.relay.stream import ByteStream, StreamReset

RequestFields = Callable[[RequestHead, Origin], Fields]
ResponseFields = Callable[[ResponseHead, bytes], Fields]
SwitchingFields = Callable[[InformationalHead], Fields]

# The client's handshake: RFC 6455 sections 4.1 and 11.3


def _asking(parts: Parts, reached: Reached, rule: Callable[[Fields], Fields]) -> None:
    """Send what `rule` makes of the fields of a handshake."""

    def broken(original: RequestFields, head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if not origin.upgrade:
            return fields
        found = rule(fields)
        if found != fields:
            reached()
        return found

    swap(parts.http, "request_fields", broken)


def _answering(parts: Parts, reached: Reached, rule: Callable[[Fields], Fields]) -> None:
    """Pass on what `rule` makes of the fields of a 101."""

    def broken(original: SwitchingFields, head: InformationalHead) -> Fields:
        fields = original(head)
        found = rule(fields)
        if found != fields:
            reached()
        return found

    swap(parts.http, "switching_fields", broken)


def _one(fields: Fields, name: bytes, value: bytes) -> Fields:
    """One line `name` in the place of those that are there; none where there was none."""
    if not values(fields, name):
        return fields
    return [*without(fields, {name}), (name.title(), value)]


KEY = b"sec-websocket-key"
ACCEPT = b"sec-websocket-accept"
PROTOCOL = b"sec-websocket-protocol"
EXTENSIONS = b"sec-websocket-extensions"
VERSION = b"sec-websocket-version"


@mutant("ws-key-of-its-own", ("HTTP-WS-002",), "sends a key of its own and passes the Accept of it on to the client")
def _own_key(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: _one(fields, KEY, b"AAAAAAAAAAAAAAAAAAAAAA=="))


@mutant("ws-keys-joined", ("RFC6455-11.3.1-1",), "joins two keys with a comma")
def _keys_joined(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: _one(fields, KEY, b", ".join(values(fields, KEY))))


@mutant(
    "ws-upgrade-dropped",
    ("HTTP-WS-001", "HTTP-WS-002", "RFC6455-4.1-4"),
    "drops Upgrade of a handshake as a field of one hop",
)
def _upgrade_dropped(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], tuple[bytes, ...]], head: RequestHead) -> tuple[bytes, ...]:
        if original(head):
            reached()
        return ()

    swap(parts.http, "upgrade_offer", broken)


@mutant(
    "ws-upgrade-without-option", ("RFC9110-7.8-5", "RFC6455-4.1-4"), "sends Upgrade without naming it in Connection"
)
def _bare_upgrade(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: without(fields, {b"connection"}))


@mutant("ws-query-dropped", ("RFC6455-4.1-2",), "drops the query of a handshake")
def _query_dropped(parts: Parts, reached: Reached) -> None:
    class Cutting(H1ClientCodec):
        """Sends the path."""

        def send(self, event: RequestHead | Data | End) -> bytes:
            if isinstance(event, RequestHead) and values(event.fields, b"upgrade") and b"?" in event.target:
                reached()
                event.target = event.target.partition(b"?")[0]
            return super().send(event)

    use_client_codec(parts, Cutting)


@mutant("ws-version-dropped", ("RFC6455-4.1-6",), "drops Sec-WebSocket-Version")
def _version_dropped(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: without(fields, {VERSION}))


@mutant("ws-host-of-the-upstream", ("RFC6455-4.1-3",), "adds the upstream's host to that of a handshake")
def _second_host(parts: Parts, reached: Reached) -> None:
    class Doubling(H1ClientCodec):
        """A double of h11 that writes two Host lines."""

        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, RequestHead) and values(event.fields, b"upgrade"):
                reached()
                return octets[:-2] + b"Host: localhost\r\n\r\n"
            return octets

    use_client_codec(parts, Doubling)


@mutant("ws-subprotocols-cut", ("RFC6455-1.3-1", "HTTP-WS-009"), "forwards the first subprotocol alone")
def _subprotocols_cut(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: _one(fields, PROTOCOL, [*values(fields, PROTOCOL), b""][0]))


@mutant("ws-extensions-dropped", ("RFC6455-1.3-1", "HTTP-WS-009"), "drops the extensions of a handshake")
def _extensions_dropped(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: without(fields, {EXTENSIONS}))


@mutant("ws-origin-dropped", ("RFC6455-10.2-1", "HTTP-HDR-003"), "drops Origin of a handshake")
def _origin_dropped(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: without(fields, {b"origin"}))


@mutant("ws-deflate-offered", ("RFC6455-9.1-1",), "offers an extension that the client did not")
def _deflate_offered(parts: Parts, reached: Reached) -> None:
    def rule(fields: Fields) -> Fields:
        return fields if values(fields, EXTENSIONS) else [*fields, (b"Sec-WebSocket-Extensions", b"permessage-deflate")]

    _asking(parts, reached, rule)


@mutant("ws-upgrade-letter-case", ("RFC9110-7.8-7",), "knows `websocket` in lower case alone")
def _letter_case(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], tuple[bytes, ...]], head: RequestHead) -> tuple[bytes, ...]:
        offered = original(head)
        if any(name != name.lower() for name in offered):
            reached()
        return tuple(name for name in offered if name == name.lower())

    swap(parts.http, "upgrade_offer", broken)


@mutant("ws-upgrade-of-1-0", ("RFC9110-7.8-6",), "forwards Upgrade of an HTTP/1.0 client")
def _upgrade_of_1_0(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], tuple[bytes, ...]], head: RequestHead) -> tuple[bytes, ...]:
        if head.version == b"1.0" and members(head.fields, b"upgrade"):
            reached()
        return original(RequestHead(head.method, head.target, head.fields))

    swap(parts.http, "upgrade_offer", broken)


@mutant("ws-fragment-relayed", ("RFC6455-3-1",), "forwards the fragment of a handshake's target")
def _fragment(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes], Fault | None], line: bytes) -> Fault | None:
        fault = original(line)
        if fault is not None and b"#" in line:
            reached()
            return None
        return fault

    swap(parts.http, "request_line", broken)


@mutant(
    "ws-default-tunnel", ("RFC6455-4.2.2-3",), "serves names that it does not know by the tunnel that it served last"
)
def _default_tunnel(parts: Parts, reached: Reached) -> None:
    last: list[Any] = []

    def broken(original: Callable[[str, Any, str], Any], name: str, lookup: Any, domain: str) -> Any:
        found = original(name, lookup, domain)
        if not isinstance(found, Fault):
            last[:] = [found]
        elif last:
            reached()
            return last[0]
        return found

    swap(parts.http, "route", broken)


# The upstream's answer: RFC 6455 section 4.2.2, RFC 9110 section 7.8


@mutant(
    "ws-accept-dropped",
    ("RFC6455-4.2.2-1", "HTTP-WS-002", "RFC6455-11.3.3-1"),
    "drops Sec-WebSocket-Accept",
)
def _accept_dropped(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: without(fields, {ACCEPT}))


@mutant("ws-accept-doubled", ("RFC6455-11.3.3-1", "RFC6455-4.2.2-1"), "adds an Accept to the upstream's")
def _accept_doubled(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: [*fields, *[line for line in fields if line[0].lower() == ACCEPT]])


@mutant("ws-101-without-upgrade", ("RFC9110-7.8-1", "RFC6455-4.2.2-1", "RFC9110-15.2.2-1"), "drops Upgrade of a 101")
def _bare_101(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: without(fields, {b"upgrade"}))


@mutant("ws-101-without-option", ("RFC9110-7.6.1-6", "RFC6455-4.2.2-1"), "drops Connection of a 101")
def _101_without_option(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: without(fields, {b"connection"}))


@mutant("ws-choice-invented", ("RFC6455-4.2.2-2",), "tells the client of an extension that nobody chose")
def _choice_invented(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: [*fields, (b"Sec-WebSocket-Extensions", b"permessage-deflate")])


@mutant("ws-choice-filtered", ("RFC6455-4.1-9", "RFC6455-1.3-1", "HTTP-WS-009"), "drops the upstream's subprotocol")
def _choice_filtered(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: without(fields, {PROTOCOL}))


@mutant("ws-choice-doubled", ("RFC6455-11.3.2-1", "RFC6455-11.3.4-1"), "repeats the upstream's choices")
def _choice_doubled(parts: Parts, reached: Reached) -> None:
    def rule(fields: Fields) -> Fields:
        return [*fields, *[line for line in fields if line[0].lower() in (PROTOCOL, EXTENSIONS)]]

    _answering(parts, reached, rule)


@mutant(
    "ws-any-101",
    ("RFC6455-4.1-8", "RFC9110-7.8-2", "RFC9110-15.2.2-1"),
    "takes any 101 for the answer to a handshake",
)
def _any_101(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[[tuple[bytes, ...], InformationalHead], bool],
        offer: tuple[bytes, ...],
        head: InformationalHead,
    ) -> bool:
        if not original(offer, head):
            reached()
        return True

    swap(parts.http, "upgrade_accepted", broken)


@mutant(
    "ws-101-too-early",
    ("RFC6455-4.1-11", "HTTP-WS-010", "RFC9110-7.8-3", "RFC6455-4.2.1-1", "HTTP-WS-002"),
    "answers 101 itself before the upstream does",
)
def _early_101(parts: Parts, reached: Reached) -> None:
    class Eager(Exchange):
        """Switches with the request."""

        async def _send_head(self, up: UpstreamConnection, target: Target) -> None:
            await super()._send_head(up, target)
            if self._origin.upgrade and isinstance(self._down, H1Downstream):
                reached()
                await self._down._connection.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )

    use_exchange(parts, Eager)


@mutant("ws-refusal-is-502", ("RFC6455-4.1-11", "HTTP-WS-010"), "answers 502 where an upstream refuses a handshake")
def _refusal_502(parts: Parts, reached: Reached) -> None:
    class Proud(Exchange):
        """Wants 101."""

        async def _relay_head(self, up: UpstreamConnection, target: Target, event: Event) -> tuple[bool, Reset | None]:
            if isinstance(event, ResponseHead) and self._origin.upgrade:
                reached()
                return True, Reset("upstream-switch")
            return await super()._relay_head(up, target, event)

    use_exchange(parts, Proud)


@mutant(
    "ws-refusal-without-fields", ("RFC6455-4.1-11", "HTTP-WS-010"), "drops the challenge and the target of a refusal"
)
def _refusal_bare(parts: Parts, reached: Reached) -> None:
    def broken(original: ResponseFields, head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        kept = without(fields, {b"www-authenticate", b"location", b"retry-after"})
        if kept != fields:
            reached()
        return kept

    swap(parts.http, "response_fields", broken)


@mutant("ws-versions-dropped", ("RFC6455-4.2.2-4", "RFC6455-4.4-1"), "drops the versions that a 426 names")
def _versions_dropped(parts: Parts, reached: Reached) -> None:
    def broken(original: ResponseFields, head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if values(fields, VERSION):
            reached()
        return without(fields, {VERSION})

    swap(parts.http, "response_fields", broken)


@mutant("ws-refused-goes-on-raw", ("RFC9110-7.8-3",), "relays what comes behind a refused handshake as raw octets")
def _raw_behind_refusal(parts: Parts, reached: Reached) -> None:
    class Open(Exchange):
        """Switches with any answer."""

        async def _finish(self, up: UpstreamConnection) -> None:
            await super()._finish(up)
            if self._origin.upgrade:
                reached()
                await self._switch(up)

    use_exchange(parts, Open)


@mutant("ws-refused-loses-the-rest", ("RFC9110-7.8-3",), "forgets a request that came behind a refused handshake")
def _lost_behind_refusal(parts: Parts, reached: Reached) -> None:
    class Losing(H1ServerCodec):
        """Empties its buffer behind an upgrade."""

        def next_cycle(self) -> None:
            upgraded = self.request is not None and bool(values(self.request.fields, b"upgrade"))
            super().next_cycle()
            if upgraded and self._gate.drain():
                reached()

    use_server_codec(parts, Losing)


@mutant("ws-early-frames", ("RFC6455-4.1-10",), "relays what a client sends behind its handshake before the 101")
def _early_frames(parts: Parts, reached: Reached) -> None:
    class Eager(Exchange):
        """Does not wait."""

        async def _send_head(self, up: UpstreamConnection, target: Target) -> None:
            await super()._send_head(up, target)
            if self._origin.upgrade and isinstance(self._down, H1Downstream):
                early = self._down._codec.leftover()
                if early:
                    reached()
                    await up.stream.write(early)

    use_exchange(parts, Eager)


@mutant("ws-glued-lost", ("HTTP-WS-016",), "loses what came in one segment with the 101")
def _glued_lost(parts: Parts, reached: Reached) -> None:
    class Losing(H1ClientCodec):
        """Starts the session with an empty buffer."""

        def leftover(self) -> bytes:
            if super().leftover():
                reached()
            return b""

    use_client_codec(parts, Losing)


# The session: RFC 6455 sections 5 to 7

PING, PONG, CLOSE = 0x9, 0xA, 0x8


def _passing(parts: Parts, reached: Reached, rule: Callable[[bytes], bytes]) -> None:
    """Relay what `rule` makes of each chunk, which it takes for the beginning of a frame."""

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        found = rule(data) if len(data) > 1 else data
        if found != data:
            reached()
        if found:
            await original(sink, found)

    swap(parts.relay, "pass_data", broken)


def _header(data: bytes) -> tuple[int, int]:
    """Octets of a frame's header with its mask, and of its payload."""
    short = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(short, 0)
    size = int.from_bytes(data[2 : 2 + extra], "big") if extra else short
    return 2 + extra + (4 if data[1] & 0x80 else 0), size


@mutant(
    "ws-unmasks",
    ("HTTP-WS-008", "RFC6455-5.1-1", "RFC6455-5.2-1"),
    "takes the mask off the frames of a client",
)
def _unmasks(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        at, size = _header(data)
        if not data[1] & 0x80 or len(data) < at + size:
            return data
        mask, payload = data[at - 4 : at], data[at : at + size]
        plain = bytes(octet ^ mask[index % 4] for index, octet in enumerate(payload))
        return data[:1] + bytes([data[1] & 0x7F]) + data[2 : at - 4] + plain + data[at + size :]

    _passing(parts, reached, rule)


@mutant(
    "ws-reserved-bits-cleared",
    ("RFC6455-5.2-1", "RFC6455-5.4-3", "HTTP-WS-008"),
    "clears the reserved bits of frames",
)
def _reserved_cleared(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: bytes([data[0] & 0x8F]) + data[1:])


@mutant("ws-fragments-joined", ("RFC6455-5.4-1", "RFC6455-5.4-3", "HTTP-WS-008"), "makes a whole message of a fragment")
def _fragments_joined(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: bytes([data[0] | 0x80]) + data[1:] if 0 < data[0] & 0xF < 3 else data)


@mutant("ws-pings-swallowed", ("RFC6455-5.4-2", "RFC6455-5.5-1", "HTTP-WS-008"), "swallows pings")
def _pings_swallowed(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        if data[0] & 0xF != PING:
            return data
        return data[sum(_header(data)) :]

    _passing(parts, reached, rule)


@mutant("ws-pings-answered", ("RFC6455-5.5-1",), "answers a client's pings, too")
def _pings_answered(parts: Parts, reached: Reached) -> None:
    class Answering(Exchange):
        """Looks into what the client sends."""

        async def _switch(self, up: UpstreamConnection) -> None:
            raw = self._down.raw

            def watched() -> ByteStream:
                stream = raw()
                read = stream.read

                async def reading() -> bytes:
                    data = await read()
                    if data and data[0] & 0xF == PING:
                        reached()
                        await stream.write(bytes([0x80 | PONG, 0]))
                    return data

                stream.read = reading  # type: ignore[method-assign]
                return stream

            self._down.raw = watched  # type: ignore[method-assign]
            await super()._switch(up)

    use_exchange(parts, Answering)


@mutant("ws-pong-injected", ("RFC6455-5.5-1", "HTTP-WS-008"), "sends a pong to keep a session alive")
def _pong_injected(parts: Parts, reached: Reached) -> None:
    async def broken(
        original: Callable[..., Coroutine[Any, Any, object]], a: ByteStream, b: ByteStream, **options: bool
    ) -> object:
        reached()
        await a.write(bytes([0x80 | PONG, 0]))
        return await original(a, b, **options)

    swap(parts.relay, "run", broken)


@mutant("ws-close-code-normal", ("RFC6455-5.5.1-1", "HTTP-WS-008", "HTTP-WS-001"), "makes every close code 1000")
def _normal_code(parts: Parts, reached: Reached) -> None:
    def rule(data: bytes) -> bytes:
        at, size = _header(data)
        if data[0] & 0xF != CLOSE or data[1] & 0x80 or size < 2:
            return data
        return data[:at] + (1000).to_bytes(2, "big") + data[at + 2 :]

    _passing(parts, reached, rule)


@mutant("ws-text-repaired", ("HTTP-WS-008", "RFC6455-5.2-1", "HTTP-WS-001"), "repairs what is not valid UTF-8")
def _text_repaired(parts: Parts, reached: Reached) -> None:
    _passing(parts, reached, lambda data: data.replace(b"\xff\xfe", b"??"))


@mutant("ws-message-of-1-mebibyte", ("HTTP-WS-001", "RFC6455-10.6-1"), "drops what is beyond 512 KiB of one direction")
def _message_limit(parts: Parts, reached: Reached) -> None:
    passed: dict[int, int] = {}

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        passed[id(sink)] = passed.get(id(sink), 0) + len(data)
        if passed[id(sink)] > 1 << 19:
            reached()
            return
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


@mutant(
    "ws-segments-lost",
    ("RFC6455-5.4-2", "HTTP-WS-008"),
    "drops segments that are shorter than the header of a frame",
)
def _segments_lost(parts: Parts, reached: Reached) -> None:
    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        if len(data) < 2:
            reached()
            return
        await original(sink, data)

    swap(parts.relay, "pass_data", broken)


@mutant(
    "ws-end-kept",
    ("RFC6455-5.5.1-2", "RFC6455-7.1.1-1", "HTTP-WS-012", "RFC6455-6.1-1"),
    "keeps the end of one direction to itself",
)
def _end_kept(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream], Coroutine[Any, Any, None]], sink: ByteStream) -> None:
        reached()
        await asyncio.get_running_loop().create_future()

    swap(parts.relay, "pass_end", broken)


@mutant(
    "ws-end-is-a-reset",
    ("RFC6455-7.1.1-1", "HTTP-WS-012", "RFC6455-6.1-1"),
    "resets the far end when one direction ends",
)
def _end_is_reset(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream], Coroutine[Any, Any, None]], sink: ByteStream) -> None:
        reached()
        sink.abort("the other end is gone")

    swap(parts.relay, "pass_end", broken)


@mutant(
    "ws-reset-is-a-close",
    ("RFC6455-7.1.7-1", "RFC6455-7.4.1-1"),
    "makes a Close with 1006 of a connection that broke",
)
def _reset_is_close(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream, str], Coroutine[Any, Any, None]], sink: ByteStream, reason: str) -> None:
        reached()
        try:
            await sink.write(bytes([0x80 | CLOSE, 2]) + (1006).to_bytes(2, "big"))
            await sink.close()
        except StreamReset:
            sink.abort(reason)

    swap(parts.relay, "pass_reset", broken)


@mutant("ws-reset-kept", ("RFC6455-7.1.7-1",), "leaves one end alone when the other broke")
def _reset_kept(parts: Parts, reached: Reached) -> None:
    async def broken(_: Callable[[ByteStream, str], Coroutine[Any, Any, None]], sink: ByteStream, reason: str) -> None:
        reached()
        await asyncio.get_running_loop().create_future()

    swap(parts.relay, "pass_reset", broken)


@mutant("ws-no-pressure", ("RFC6455-10.4-1",), "takes a frame as fast as it comes, into memory")
def _no_pressure(parts: Parts, reached: Reached) -> None:
    tasks: set[asyncio.Task[None]] = set()

    async def broken(
        original: Callable[[ByteStream, bytes], Coroutine[Any, Any, None]], sink: ByteStream, data: bytes
    ) -> None:
        if tasks:
            reached()
        task = asyncio.get_running_loop().create_task(original(sink, data))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    swap(parts.relay, "pass_data", broken)


@mutant("ws-quiet-cut", ("HTTP-WS-013",), "cuts a session after the time for a response")
def _quiet_cut(parts: Parts, reached: Reached) -> None:
    class Hasty(Exchange):
        """Keeps its timer."""

        async def _switch(self, up: UpstreamConnection) -> None:
            timer = asyncio.get_running_loop().call_later(self._edge.response_timeout, self._over, up)
            try:
                await super()._switch(up)
            finally:
                timer.cancel()

        def _over(self, up: UpstreamConnection) -> None:
            reached()
            up.stream.abort("the response took too long")

    use_exchange(parts, Hasty)
