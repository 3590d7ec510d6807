"""Mutants of targets, Host and routing: whose request it is (RFC 9112 section 3.2, RFC 9110 sections 4.2 and 7)."""

from __future__ import annotations

from collections.abc import Callable

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, RequestHead, values, without
from reference_engine.http.exchange import Exchange
from reference_engine.http.forward import Origin, Target, host_name
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.leg import Downstream
from reference_engine.http.server import HttpTunnels
from reference_engine.mutants._loose_h1 import LooseClientCodec, LooseServerCodec, consents, use
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import Tunnel

Targets = Callable[[bytes, bytes], Target | Fault]
Absolutes = Callable[[bytes, bytes, bytes, bytes], Target | Fault]
Forwarded = Callable[[Fields, Origin], Fields]
HOST = b"host"


def use_host(parts: Parts, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Take any Host, and go on with what `change` makes of the values."""

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super().parsed(raw, version)
            kept = [(b"Host", value) for value in change(values(head.fields, HOST))]
            head.fields = [*kept, *without(head.fields, {HOST})]
            head.authority = kept[0][1] if kept else b""
            return head

    consents(parts, "host")
    use(parts, Server)


# Host: RFC 9112 section 3.2


@mutant("authority-no-host", ("RFC9112-3.2-3", "EDGE-025"), "takes a request without Host for one to its tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def same(hosts: list[bytes]) -> list[bytes]:
        if not hosts:
            reached()
        return hosts

    use_host(parts, same)


@mutant("authority-first-host", ("RFC9112-3.2-4", "EDGE-025"), "takes the first of several Host lines")
def _(parts: Parts, reached: Reached) -> None:
    def first(hosts: list[bytes]) -> list[bytes]:
        if len(hosts) > 1:
            reached()
        return hosts[:1]

    use_host(parts, first)


@mutant("authority-host-cut", ("RFC9112-3.2-5", "EDGE-025"), "cuts off what does not belong to the name in a Host")
def _(parts: Parts, reached: Reached) -> None:
    def cut(hosts: list[bytes]) -> list[bytes]:
        names = [host.rpartition(b"@")[2].split(b"/")[0].split(b" ")[0].split(b":")[0] for host in hosts]
        if names != [host.partition(b":")[0] for host in hosts]:
            reached()
        return names

    use_host(parts, cut)


@mutant(
    "authority-default-host", ("RFC9112-3.2-5", "EDGE-025"), "gives a request with an empty Host the name localhost"
)
def _(parts: Parts, reached: Reached) -> None:
    def present(hosts: list[bytes]) -> list[bytes]:
        return [host for host in hosts if host]

    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        sent = original(fields, origin)
        if not values(fields, HOST):
            reached()
            sent[0] = (b"Host", b"localhost")
        return sent

    swap(parts.http, "forwarded", forwarded)
    use_host(parts, present)


@mutant("authority-host-added", ("RFC9112-3.2-6",), "sends its own Host beside the client's")
def _(parts: Parts, reached: Reached) -> None:
    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        reached()
        return [*[line for line in fields if line[0].lower() == HOST], *original(fields, origin)]

    swap(parts.http, "forwarded", forwarded)
    use(parts, client=LooseClientCodec)


@mutant("authority-host-dropped", ("RFC9110-7.2-1", "RFC9112-3.2-6"), "sends no Host to the upstream")
def _(parts: Parts, reached: Reached) -> None:
    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        reached()
        return without(original(fields, origin), {HOST})

    swap(parts.http, "forwarded", forwarded)
    use(parts, client=LooseClientCodec)


@mutant("authority-upstream-host", ("HTTP-HDR-002",), "sends the name of the upstream's address as Host")
def _(parts: Parts, reached: Reached) -> None:
    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        reached()
        return [(b"Host", b"127.0.0.1"), *without(original(fields, origin), {HOST})]

    swap(parts.http, "forwarded", forwarded)


# Request targets: RFC 9112 section 3.2, RFC 9110 sections 4.2 and 7.1


@mutant("authority-absolute-passed-on", ("RFC9112-3.2.1-1",), "sends absolute-form on to the upstream")
def _(parts: Parts, reached: Reached) -> None:
    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        found = original(method, scheme, authority, rest)
        if isinstance(found, Target):
            reached()
            found = Target("absolute", scheme + b"://" + authority + rest, authority)
        return found

    swap(parts.http, "absolute_target", absolute)


@mutant("authority-absolute-refused", ("RFC9112-3.2.2-1",), "takes absolute-form for the business of proxies")
def _(parts: Parts, reached: Reached) -> None:
    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Fault:
        reached()
        return Fault(400, "absolute-form is for proxies")

    swap(parts.http, "absolute_target", absolute)


@mutant("authority-empty-path", ("RFC9112-3.2.1-2",), "sends the empty path of an absolute-form as it is")
def _(parts: Parts, reached: Reached) -> None:
    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        found = original(method, scheme, authority, rest)
        if isinstance(found, Target) and rest.startswith(b"?"):
            reached()
            found = Target("absolute", rest, authority)
        return found

    swap(parts.http, "absolute_target", absolute)


@mutant(
    "authority-host-before-target",
    ("RFC9112-3.2.2-2", "RFC9112-3.2.2-3", "HTTP-HDR-018"),
    "goes by Host where the target names another host",
)
def _(parts: Parts, reached: Reached) -> None:
    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        found = original(method, scheme, authority, rest)
        if isinstance(found, Target):
            reached()
            found = Target("origin", found.upstream)
        return found

    swap(parts.http, "absolute_target", absolute)


@mutant(
    "authority-host-kept",
    ("RFC9112-3.2.2-3",),
    "goes by the target, and sends the Host that the client sent",
)
def _(parts: Parts, reached: Reached) -> None:
    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        hosts = values(fields, HOST)
        if hosts != [origin.authority]:
            reached()
        return [(b"Host", hosts[0] if hosts else b""), *without(original(fields, origin), {HOST})]

    swap(parts.http, "forwarded", forwarded)


@mutant("authority-any-form", ("RFC9110-7.1-1",), "takes `*` and host:port with every method, and sends them on")
def _(parts: Parts, reached: Reached) -> None:
    def target(original: Targets, method: bytes, said: bytes) -> Target | Fault:
        found = original(method, said)
        if isinstance(found, Fault) and method != b"CONNECT" and (said == b"*" or b"/" not in said):
            reached()
            found = Target("asterisk", said)
        return found

    swap(parts.http, "target", target)


@mutant("authority-target-without-host", ("RFC9110-4.2.2-1",), "takes Host where an https target names no host")
def _(parts: Parts, reached: Reached) -> None:
    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        if not authority:
            reached()
            return Target("origin", rest)
        return original(method, scheme, authority, rest)

    swap(parts.http, "absolute_target", absolute)


@mutant(
    "authority-userinfo-passed-on",
    ("RFC9110-4.2.4-1", "RFC9110-4.2.4-2"),
    "takes userinfo in the authority of a target and in Host, and sends it on in Host",
)
def _(parts: Parts, reached: Reached) -> None:
    said: dict[bytes, bytes] = {}

    def absolute(original: Absolutes, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        host = authority.rpartition(b"@")[2]
        said[host] = authority
        return original(method, scheme, host, rest)

    def forwarded(original: Forwarded, fields: Fields, origin: Origin) -> Fields:
        authority = said.get(origin.authority, origin.authority)
        if b"@" in authority:
            reached()
        return [(b"Host", authority), *without(original(fields, origin), {HOST})]

    def cut(hosts: list[bytes]) -> list[bytes]:
        for host in hosts:
            said.setdefault(host.rpartition(b"@")[2], host)
        return [host.rpartition(b"@")[2] for host in hosts]

    swap(parts.http, "absolute_target", absolute)
    swap(parts.http, "forwarded", forwarded)
    use_host(parts, cut)


@mutant(
    "authority-asterisk-is-root",
    ("RFC9112-3.2.4-1", "HTTP-HDR-018", "RFC9113-8.3.1-8"),
    "sends `OPTIONS *` on as `OPTIONS /`",
)
def _(parts: Parts, reached: Reached) -> None:
    def target(original: Targets, method: bytes, said: bytes) -> Target | Fault:
        found = original(method, said)
        if isinstance(found, Target) and found.form == "asterisk":
            reached()
            found = Target("origin", b"/")
        return found

    swap(parts.http, "target", target)


# Routing: RFC 9110 section 7.4


@mutant(
    "authority-tunnel-of-the-connection",
    ("RFC9110-7.4-1", "EDGE-024", "EDGE-021"),
    "sends every request to the tunnel that the connection was made for, whatever the request names",
)
def _(parts: Parts, reached: Reached) -> None:
    def exchange(
        original: Callable[..., Exchange], edge: HttpTunnels, down: Downstream, own: Tunnel, carried: str | None
    ) -> Exchange:
        name = (own.properties.hostname or "").encode("ascii")
        if [host_name(host) for host in values(down.head.fields, HOST)] != [name.decode()]:
            reached()
        down.head.fields = [(b"Host", name), *without(down.head.fields, {HOST})]
        down.head.authority = name
        return original(edge, down, own, carried)

    swap(parts.http_endpoints, "exchange", exchange)


@mutant(
    "authority-first-request-decides",
    ("RFC9110-7.4-1", "EDGE-024"),
    "sends all requests of a connection to the tunnel that the first one names",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        _first: bytes = b""

        def _parsed(self, raw: bytes, version: bytes) -> RequestHead:
            head = super()._parsed(raw, version)
            hosts = values(head.fields, HOST)
            self._first = self._first or (hosts[0] if hosts else b"")
            if hosts != [self._first]:
                reached()
            head.fields = [(b"Host", self._first), *without(head.fields, {HOST})]
            head.authority = self._first
            return head

    use(parts, Server)


@mutant(
    "authority-unknown-is-ours",
    ("RFC9110-7.4-1", "EDGE-024"),
    "takes a name that the certificate does not cover for the tunnel of the connection",
)
def _(parts: Parts, reached: Reached) -> None:
    def exchange(
        original: Callable[..., Exchange], edge: HttpTunnels, down: Downstream, own: Tunnel, carried: str | None
    ) -> Exchange:
        hosts = values(down.head.fields, HOST)
        if hosts and not edge.rules.covered(host_name(hosts[0]), edge.domain):
            reached()
            name = (own.properties.hostname or "").encode("ascii")
            down.head.fields = [(b"Host", name), *without(down.head.fields, {HOST})]
            down.head.authority = name
        return original(edge, down, own, carried)

    swap(parts.http_endpoints, "exchange", exchange)
