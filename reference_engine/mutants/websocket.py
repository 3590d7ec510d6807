"""WebSocket over HTTP/1.1: handshakes that are changed on their way, sessions that somebody in between looks into."""

from __future__ import annotations

from collections.abc import Callable
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
from reference_engine.http.h1_downstream import H1Downstream
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import use_client_codec, use_exchange, use_server_codec
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

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


@mutant("ws-key-short", ("RFC6455-4.1-5",), "sends a key of its own that is too short")
def _short_key(parts: Parts, reached: Reached) -> None:
    _asking(parts, reached, lambda fields: _one(fields, KEY, b"c2hvcnQ="))


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


@mutant(
    "ws-101-without-option",
    ("RFC9110-7.6.1-6", "RFC6455-4.2.2-1", "RFC6455-4.1-8"),
    "drops Connection of a 101",
)
def _101_without_option(parts: Parts, reached: Reached) -> None:
    _answering(parts, reached, lambda fields: without(fields, {b"connection"}))


@mutant("ws-101-is-200", ("HTTP-WS-007", "RFC6455-4.2.2-1"), "answers 200 where the upstream switched")
def _101_is_200(parts: Parts, reached: Reached) -> None:
    class Uniform(H1ServerCodec):
        """Knows one success."""

        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, InformationalHead) and event.status == 101:
                reached()
                return octets.replace(b"HTTP/1.1 101 ", b"HTTP/1.1 200 ", 1)
            return octets

    use_server_codec(parts, Uniform)


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

        async def _send_head(self, up: Upstream, target: Target) -> None:
            await super()._send_head(up, target)
            if self._origin.upgrade and isinstance(self._down, H1Downstream):
                reached()
                await self._down._connection.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )

    use_exchange(parts, Eager)


@mutant("ws-101-for-anything", ("RFC6455-4.2.1-1",), "answers 101 itself to whatever says Upgrade: websocket")
def _101_for_anything(parts: Parts, reached: Reached) -> None:
    class Eager(Exchange):
        """Reads one field of a handshake."""

        async def _send_head(self, up: Upstream, target: Target) -> None:
            await super()._send_head(up, target)
            asked = b"websocket" in members(self._head.fields, b"upgrade")
            if asked and isinstance(self._down, H1Downstream):
                reached()
                await self._down._connection.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )

    use_exchange(parts, Eager)


@mutant("ws-refusal-is-502", ("RFC6455-4.1-11", "HTTP-WS-010"), "answers 502 where an upstream refuses a handshake")
def _refusal_502(parts: Parts, reached: Reached) -> None:
    class Proud(Exchange):
        """Wants 101."""

        async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
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

        async def _finish(self, up: Upstream) -> None:
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

        async def _send_head(self, up: Upstream, target: Target) -> None:
            await super()._send_head(up, target)
            if self._origin.upgrade and isinstance(self._down, H1Downstream):
                early = self._down._codec.leftover()
                if early and up.carrier is not None:
                    reached()
                    await up.carrier.write(early)

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
