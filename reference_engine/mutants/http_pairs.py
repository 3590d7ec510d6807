"""What crosses from one version to another, broken: versions, field lines, authority, content, routing by authority."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from reference_engine.http.errors import Fault, fault_of
from reference_engine.http.events import (
    Data,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    without,
)
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import HOP_BY_HOP, Origin, Target
from reference_engine.http.leg import Upstream
from reference_engine.mutants._http import use_client_codec, use_exchange
from reference_engine.mutants._loose_h1 import SwitchReader
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import TunnelProperties

# Which version is spoken


@mutant(
    "pair-upstream-always-http1",
    ("HTTP-VER-001", "HTTP-VER-003", "HTTP-VER-004", "HTTP-VER-006"),
    "speaks HTTP/1.1 with every upstream, whatever its tunnel says",
)
def _upstream_always_http1(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[TunnelProperties], str], properties: TunnelProperties) -> str:
        if original(properties) in ("h2c", "h3"):
            reached()
            return "http/1.1"
        return original(properties)

    swap(parts.http, "upstream_version", broken)


@mutant("pair-upstream-tls-http1", ("HTTP-VER-010",), "offers http/1.1 alone to an upstream in TLS")
def _upstream_tls_http1(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[[TunnelProperties], tuple[str, ...]], properties: TunnelProperties
    ) -> tuple[str, ...]:
        if "h2" in original(properties):
            reached()
        return ("http/1.1",)

    swap(parts.http, "upstream_alpns", broken)


@mutant("pair-alpn-http1", ("HTTP-VER-007",), "takes http/1.1 alone on HTTP tunnels")
def _alpn_http1(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., tuple[str, ...]], *given: Any, **named: Any) -> tuple[str, ...]:
        chosen = original(*given, **named)
        if "h2" in chosen:
            reached()
        return tuple(alpn for alpn in chosen if alpn != "h2")

    swap(parts.edge, "alpns", broken)


@mutant("pair-http3-to-http3", ("HTTP-VER-006", "HTTP-VER-011"), "serves clients of HTTP/3 on h3 tunnels alone")
def _http3_to_http3(parts: Parts, reached: Reached) -> None:
    class Narrow(Exchange):
        """Knows one upstream version for each downstream version."""

        def _admit(self) -> Target | Fault:
            if self._head.version == b"3.0" and self._own.properties.http_version != "h3":
                reached()
                return fault_of("misdirected")
            return super()._admit()

    use_exchange(parts, Narrow)


@mutant("pair-content-cut", ("HTTP-VER-006", "HTTP-HDR-001"), "loses the last octet of content")
def _content_cut(parts: Parts, reached: Reached) -> None:
    class Cutting(Exchange):
        """Miscounts."""

        async def _relay_response(self, up: Upstream, target: Target) -> Reset | None:
            put = self._down.put

            def cut(event: Any) -> None:
                if isinstance(event, Data) and len(event.data) > 1024:
                    reached()
                    event = Data(event.data[:-1])
                put(event)

            self._down.put = cut  # type: ignore[method-assign]
            return await super()._relay_response(up, target)

    use_exchange(parts, Cutting)


# Field lines: RFC 9113 section 8.2, RFC 9114 section 4.2

Lines = Callable[[Iterable[tuple[bytes, bytes]]], Fields]


@mutant("pair-names-kept", ("RFC9113-8.2-1", "RFC9114-4.2-1"), "writes field names to HTTP/2 and HTTP/3 as they came")
def _names_kept(parts: Parts, reached: Reached) -> None:
    def broken(original: Lines, fields: Iterable[tuple[bytes, bytes]]) -> Fields:
        lines = list(fields)
        kept = {name.lower(): name for name, _ in lines}
        written = original(lines)
        if any(kept[name] != name for name, _ in written):
            reached()
        return [(kept[name], value) for name, value in written]

    swap(parts.http, "multiplexed_fields", broken)


@mutant(
    "pair-hop-goes-on",
    ("HTTP-HDR-007", "RFC9113-8.2.2-3", "RFC9113-8.2.2-4", "RFC9114-4.1-5", "RFC9114-4.2-4", "RFC9114-4.2-6"),
    "relays the fields of an HTTP/1.1 connection to HTTP/2 and HTTP/3",
)
def _hop_goes_on(parts: Parts, reached: Reached) -> None:
    def end_to_end(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        if len(original(fields)) < len(fields):
            reached()
        return list(fields)

    def multiplexed(original: Lines, fields: Iterable[tuple[bytes, bytes]]) -> Fields:
        del original
        return [(name.lower(), value) for name, value in fields if name.lower() != b"host"]

    swap(parts.http, "end_to_end", end_to_end)
    swap(parts.http, "multiplexed_fields", multiplexed)


@mutant(
    "pair-crumbs-kept",
    ("RFC9113-8.2.3-1", "RFC9114-4.2.1-1", "HTTP-HDR-009"),
    "passes Cookie on in as many lines as it came",
)
def _crumbs_kept(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        if len(original(fields)) < len(fields):
            reached()
        return fields

    swap(parts.http, "joined_cookies", broken)


@mutant("pair-te-lost", ("HTTP-HDR-012",), "says nothing of trailers to the upstream")
def _te_lost(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], bool], head: RequestHead) -> bool:
        if original(head):
            reached()
        return False

    swap(parts.http, "accepts_trailers", broken)


@mutant("pair-trailers-dropped", ("HTTP-HDR-011",), "drops trailers, also where both sides can carry them")
def _trailers_dropped(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, Fields], Fields], trailers: Fields, fields: Fields) -> Fields:
        if original(trailers, fields):
            reached()
        return []

    swap(parts.http, "trailers", broken)


@mutant(
    "pair-length-uncounted",
    ("RFC9110-8.6-4", "RFC9113-8.1.1-3", "RFC9114-4.1.2-3", "HTTP-HDR-008"),
    "does not compare content of HTTP/2 and HTTP/3 with its Content-Length",
)
def _length_uncounted(parts: Parts, reached: Reached) -> None:
    def broken(
        original: Callable[..., Fault | None], declared: int | None, received: int, *, ended: bool
    ) -> Fault | None:
        if original(declared, received, ended=ended) is not None:
            reached()
        return None

    swap(parts.http, "content_fits", broken)


# Authority: RFC 9113 section 8.3.1, RFC 9114 section 4.3.1


@mutant(
    "pair-authority-local",
    ("RFC9113-8.3.1-3", "HTTP-HDR-002"),
    "names the address of the upstream in :authority",
)
def _authority_local(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], Fields], head: RequestHead) -> Fields:
        reached()
        return [(name, b"127.0.0.1" if name == b":authority" else value) for name, value in original(head)]

    swap(parts.http, "request_lines", broken)


@mutant(
    "pair-host-local",
    ("RFC9113-8.3.1-4", "RFC9114-4.3.1-2"),
    "names the address of the upstream in the Host that it makes of :authority",
)
def _host_local(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if head.version in (b"1.0", b"1.1"):
            return fields
        reached()
        return [(b"Host", b"127.0.0.1"), *without(fields, {b"host"})]

    swap(parts.http, "request_fields", broken)


@mutant("pair-asterisk-authority", ("RFC9114-4.3.1-3",), "sends :authority with an `OPTIONS *` that came in HTTP/1.1")
def _asterisk_authority(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Fields], Fields], head: RequestHead, lines: Fields) -> Fields:
        if original(head, lines) != lines:
            reached()
        return lines

    swap(parts.http, "asterisk_lines", broken)


# 101 exists in HTTP/1.1 alone


@mutant("pair-101-relayed", ("RFC9113-8.6-1", "RFC9114-4.5-1"), "relays a 101 to a plain request, whatever the version")
def _switch_relayed(parts: Parts, reached: Reached) -> None:
    class Relaying(Exchange):
        """Takes 101 for any other interim response."""

        async def _interim(self, up: Upstream, head: InformationalHead) -> tuple[bool, Reset | None]:
            if head.status != 101:
                return await super()._interim(up, head)
            reached()
            self._down.put(InformationalHead(101, without(head.fields, HOP_BY_HOP), head.reason))
            await self._down.flush()
            return True, Reset("upstream-switch")

    use_exchange(parts, Relaying)
    use_client_codec(parts, SwitchReader)


# Connections that serve several tunnels


@mutant("pair-closed-falls-back", ("EDGE-022",), "serves the name of a closed tunnel by another tunnel that is there")
def _closed_falls_back(parts: Parts, reached: Reached) -> None:
    class Obliging(Exchange):
        """Would rather answer something."""

        def _admit(self) -> Target | Fault:
            found = super()._admit()
            if isinstance(found, Fault) and found.status == 404:
                engine = self._edge._engine
                for tunnel in engine.registry.tunnels():
                    if tunnel.open and tunnel.properties.hostname and tunnel.properties.protocol == "http":
                        reached()
                        self._head.authority = tunnel.properties.hostname.encode("ascii")
                        return super()._admit()
            return found

    use_exchange(parts, Obliging)


@mutant("pair-closed-ends-all", ("EDGE-022",), "refuses every request of a connection whose own tunnel has closed")
def _closed_ends_all(parts: Parts, reached: Reached) -> None:
    class Bound(Exchange):
        """Takes a connection for its tunnel's."""

        def _admit(self) -> Target | Fault:
            if not self._own.open:
                reached()
                return fault_of("unknown-host")
            return super()._admit()

    use_exchange(parts, Bound)
