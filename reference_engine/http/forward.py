"""Rules on what crosses the edge: targets, routing, fields, trailers, interim responses, upgrades (RFC 9110 section 7).

Pure functions from what one side sent to what the other side gets. Versions do not matter here; the codecs write them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import TypeVar

from reference_engine.http.errors import Fault, fault_of
from reference_engine.http.events import Fields, InformationalHead, RequestHead, ResponseHead, members, values, without
from reference_engine.http.syntax import HOST, Framing

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
NEVER_NOMINATED = frozenset({b"host", b"content-length"})
"""Fields without which the message would be another one: naming them in Connection removes nothing."""
REPLACED = frozenset({b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
NOT_IN_TRAILERS = frozenset(
    {b"content-length", b"host", b"trailer", b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"}
    | {b"content-encoding", b"content-type", b"content-range", b"cache-control", b"expect", b"max-forwards", b"range"}
)
NOT_ECHOED = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"forwarded"})
ABSOLUTE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^#]*)")
NOT_RELAYED = re.compile(rb"(h2c?|http|tls)(/.*)?")
"""Upgrade protocols of the hop itself: the edge speaks its own on each side (RFC9110-7.6.1-5)."""
PSEUDONYM = b"edgecase"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """A request target: its `form` (origin, absolute, authority, asterisk), what goes upstream, the authority or
    None."""

    form: str
    upstream: bytes
    authority: bytes | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What the edge knows of a request beyond its head: the client's address, the authority asked for, the framing."""

    client: str
    authority: bytes
    framing: Framing
    upgrade: tuple[bytes, ...] = ()


_date: tuple[int, bytes] = (0, b"")


def date() -> bytes:
    """Now as an IMF-fixdate, made once a second (RFC 9110 section 6.6.1)."""
    global _date  # noqa: PLW0603 - a cache of one value
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True).encode("ascii"))
    return _date[1]


def host_name(authority: bytes) -> str:
    """The host of `host[:port]`, in lower case."""
    match = HOST.fullmatch(authority)
    return match[1].decode("ascii").lower() if match else ""


class ForwardRules:
    """What is routed where, and what a message looks like on the other side."""

    def target(self, method: bytes, target: bytes) -> Target | Fault:
        """The form of the target and whether this method may use it (RFC9112-3.2.1-1 to -3.2.4-2, RFC9110-7.1-1)."""
        if method == b"CONNECT":
            return self.connect_target(target)
        if target.startswith(b"/"):
            return Target("origin", target)
        if target == b"*":
            return Target("asterisk", target) if method == b"OPTIONS" else Fault(400, "only OPTIONS takes *")
        match = ABSOLUTE.fullmatch(target)
        if match is None:
            return Fault(400, "the request target is not valid")
        return self.absolute_target(method, match[1].lower(), match[2], match[3])

    def scheme(self, head: RequestHead) -> Fault | None:
        """A request that says its scheme apart from its target says https (RFC9110-7.4-1)."""
        if head.scheme == b"https" or head.scheme.lower() == b"https":
            return None
        return fault_of("misdirected") if head.scheme.lower() == b"http" else Fault(400, "the scheme is not https")

    def absolute_target(self, method: bytes, scheme: bytes, authority: bytes, rest: bytes) -> Target | Fault:
        """Absolute-form becomes origin-form, and its authority counts (RFC9112-3.2.2-1 to -3, RFC9110-4.2.1-1,
        -4.2.4-1)."""
        host = HOST.fullmatch(authority)
        if host is None or not host[1] or (host[2] and int(host[2][:6]) > 65535):
            return Fault(400, "the authority of the request target is not valid")
        if scheme != b"https":
            return fault_of("misdirected") if scheme == b"http" else Fault(400, "the scheme is not https")
        if rest.startswith(b"/"):
            return Target("absolute", rest, authority)
        return Target("absolute", b"*" if method == b"OPTIONS" and not rest else b"/" + rest, authority)

    def connect_target(self, target: bytes) -> Target | Fault:
        """CONNECT takes `host:port` and nothing else (RFC9110-9.3.6-1, RFC9112-3.2.3-1, HTTP-CONNECT-019)."""
        match = HOST.fullmatch(target)
        if match is None or not match[1] or not match[2] or len(match[2]) > 5 or int(match[2]) > 65535:
            return Fault(400, "CONNECT needs host:port")
        return Target("authority", target, target)

    def route(self, name: str, lookup: Callable[[str], T | None], domain: str) -> T | Fault:
        """The tunnel that a request names, if the certificate of this connection covers the name.

        Every request goes by its own authority (EDGE-021, -024, RFC9110-7.4-1); an unknown name is 404 (EDGE-016).
        """
        if not self.covered(name, domain):
            return fault_of("misdirected")
        found = lookup(name)
        if found is not None:
            return found
        return fault_of("unknown-host" if name.endswith(f".t.{domain}") else "misdirected")

    def covered(self, name: str, domain: str) -> bool:
        """Whether the edge's certificate (`domain`, `*.domain`, `*.t.domain`) is valid for `name` (RFC 9110 section
        4.3.4)."""
        label, _, parent = name.partition(".")
        return name == domain or (bool(label) and parent in (domain, f"t.{domain}"))

    def mixing(self, carried: str | None, method: bytes) -> Fault | None:
        """A connection that `carried` "reverse" or "egress" traffic keeps to it (HTTP-421-001, -002, -009)."""
        mode = "egress" if method == b"CONNECT" else "reverse"
        return fault_of("mixed") if carried is not None and carried != mode else None

    def trace_content(self, method: bytes, framing: Framing) -> Fault | None:
        """TRACE has no content (RFC9110-9.3.8-1); CONNECT neither, so none is made of what follows
        (RFC9110-9.3.6-9)."""
        if method in (b"TRACE", b"CONNECT") and framing.kind != "none":
            return Fault(400, f"{method.decode('ascii')} takes no content")
        return None

    def is_last_hop(self, head: RequestHead) -> bool:
        """Whether Max-Forwards makes the edge the final recipient (RFC9110-7.6.2-1)."""
        return head.method in (b"TRACE", b"OPTIONS") and values(head.fields, b"max-forwards") == [b"0"]

    def max_forwards(self, head: RequestHead) -> Fields:
        """The fields with Max-Forwards of TRACE and OPTIONS one lower (RFC9110-7.6.2-2, -9.3.7-1)."""
        if head.method not in (b"TRACE", b"OPTIONS"):
            return head.fields
        return [
            (name, b"%d" % (int(value[:9]) - 1))
            if name.lower() == b"max-forwards" and value.isdigit() and int(value[:9])
            else (name, value)
            for name, value in head.fields
        ]

    def echo(self, head: RequestHead) -> bytes:
        """What the edge echoes as the final recipient of TRACE: the request without what is secret
        (RFC9110-9.3.8-2)."""
        lines = [head.method + b" " + head.target + b" HTTP/1.1"]
        lines += [
            name + b": " + value
            for name, value in without(head.fields, NOT_ECHOED)
            if not name.lower().startswith(b"x-forwarded-")
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def end_to_end(self, fields: Fields) -> Fields:
        """Without hop-by-hop fields and what Connection names (RFC9110-7.6-1, -7.6.1-1, -7.6.1-2, -7.6.1-4,
        HTTP-HDR-006)."""
        nominated = self.nominated(fields)
        return without(fields, HOP_BY_HOP | nominated if nominated else HOP_BY_HOP)

    def nominated(self, fields: Fields) -> set[bytes]:
        """The names in Connection, in lower case (RFC9110-7.6.1-1, -5.6.1.2-1)."""
        return set(members(fields, b"connection")) - NEVER_NOMINATED

    def request_fields(self, head: RequestHead, origin: Origin) -> Fields:
        """The header section that goes upstream."""
        fields = self.end_to_end(self.max_forwards(head))
        if head.version == b"1.0":
            fields = without(fields, {b"expect"})  # RFC9110-10.1.1-4
        fields = self.forwarded(self.via(fields, head.version), origin)
        options = []
        if origin.upgrade:
            fields.append((b"Upgrade", b", ".join(origin.upgrade)))
            options.append(b"Upgrade")  # RFC9110-7.8-5, -7.6.1-6
        if self.accepts_trailers(head):
            fields.append((b"TE", b"trailers"))
            options.append(b"TE")  # RFC9110-10.1.4-1
        if options:
            fields.append((b"Connection", b", ".join(options)))
        if origin.framing.kind == "chunked":
            fields.append((b"Transfer-Encoding", b"chunked"))  # RFC9112-6.3-14
        return fields

    def accepts_trailers(self, head: RequestHead) -> bool:
        """Whether the client's TE says trailers, which the edge restates for its own hop (RFC9110-7.6.1-4,
        RFC9112-7.4-1)."""
        return b"trailers" in members(head.fields, b"te")

    def via(self, fields: Fields, version: bytes) -> Fields:
        """One member more, behind those that are there, with the version that was received (RFC9110-7.6.3-1 to -3)."""
        return [*fields, (b"Via", version + b" " + PSEUDONYM)]

    def forwarded(self, fields: Fields, origin: Origin) -> Fields:
        """One Host for the target, and what the edge vouches for (RFC9112-3.2-6, HTTP-HDR-002, -004, -005,
        RFC9110-7.6.1-3).

        The client's X-Forwarded-For stays in front of the address that the edge saw; -Proto and -Host are the edge's
        alone.
        """
        chain = [*values(fields, b"x-forwarded-for"), origin.client.encode("ascii")]
        return [
            (b"Host", origin.authority),
            *without(fields, REPLACED),
            (b"X-Forwarded-For", b", ".join(part for part in chain if part)),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", origin.authority),
        ]

    def connect_fields(self, head: RequestHead, target: Target) -> Fields:
        """The header section of a CONNECT: proxy credentials stay (HTTP-CONNECT-012, -014), Host is the target."""
        fields = without(self.end_to_end(head.fields), {b"host", b"content-length"})
        return [(b"Host", target.upstream), *self.via(fields, head.version)]

    def response_fields(self, head: ResponseHead, method: bytes) -> Fields:
        """The header section that goes to the client (RFC9110-7.6-1, -8.6-1, -8.6-2, -9.3.6-7, -6.6.1-1,
        HTTP-HDR-015)."""
        fields = self.end_to_end(head.fields)
        if head.status == 204 or (method == b"CONNECT" and head.status < 300):
            fields = without(fields, {b"content-length"})
        if head.status == 426:
            upgrade = values(head.fields, b"upgrade")  # what 426 is about (RFC9110-15.5.22-1)
            fields += [(b"Upgrade", value) for value in upgrade] + [(b"Connection", b"Upgrade")] * bool(upgrade)
        if not (method == b"CONNECT" and head.status < 300) and not values(fields, b"date"):
            fields.append((b"Date", date()))
        return fields

    def alternative(self, fields: Fields, version: bytes, port: int | None, seconds: int) -> Fields:
        """Alt-Svc of the edge in the place of the upstream's, which names what the edge does not serve: HTTP/3 on its
        UDP port, told to clients that came another way (HTTP-VER-014, RFC 7838 section 3). `port`: None where HTTP/3 is
        not served."""
        fields = without(fields, {b"alt-svc"})
        if port is not None and seconds and version != b"3.0":
            fields.append((b"Alt-Svc", b'h3=":%d"; ma=%d' % (port, seconds)))
        return fields

    def informational(self, head: InformationalHead, version: bytes) -> InformationalHead | None:
        """The interim response as the client gets it; none in HTTP/1.0 (RFC9110-15.2-1, -15.2-3, RFC9112-6.1-4)."""
        if version == b"1.0":
            return None
        fields = without(self.end_to_end(head.fields), {b"content-length"})
        return InformationalHead(head.status, fields, head.reason)

    def trailers(self, trailers: Fields, fields: Fields) -> Fields:
        """The trailer section without hop-by-hop, framing, routing and authentication fields, and without what
        Connection of the header section `fields` names (RFC9110-6.5.1-1, -6.5.1-2, -7.6.1-1, RFC9112-7.1.2-2,
        -7.1.2-3)."""
        return without(trailers, HOP_BY_HOP | NOT_IN_TRAILERS | self.nominated(fields)) if trailers else trailers

    def upgrade_offer(self, head: RequestHead) -> tuple[bytes, ...]:
        """The protocols to offer upstream (HTTP-WS-002, -017, RFC9110-7.6.1-5, -7.8-6, -7.8-7).

        Only in HTTP/1.1, only when Connection says so; WebSocket only with GET (RFC 6455 section 4.1).
        """
        if head.version != b"1.1" or b"upgrade" not in members(head.fields, b"connection"):
            return ()
        offered = [part.strip(b" \t") for value in values(head.fields, b"upgrade") for part in value.split(b",")]
        return tuple(
            name
            for name in offered
            if name
            and NOT_RELAYED.fullmatch(name.lower()) is None
            and (head.method == b"GET" or name.lower() != b"websocket")
        )

    def upgrade_accepted(self, offer: tuple[bytes, ...], head: InformationalHead) -> bool:
        """Whether a 101 switches to something that was offered (RFC9110-7.8-2, -7.8-4, -15.2.2-1, RFC6455-4.1-8)."""
        chosen = list(members(head.fields, b"upgrade"))
        return bool(chosen) and set(chosen) <= {name.lower() for name in offer}

    def switching_fields(self, head: InformationalHead) -> Fields:
        """The fields of a 101 that is passed on (RFC9110-7.8-1, -7.6.1-6)."""
        fields = without(self.end_to_end(head.fields), {b"content-length"})
        upgrade = b", ".join(values(head.fields, b"upgrade"))
        return [*fields, (b"Upgrade", upgrade), (b"Connection", b"Upgrade")]

    def connect_opens(self, status: int) -> bool:
        """Any 2xx to CONNECT opens the tunnel, nothing else does (HTTP-CONNECT-003, -004, RFC9110-9.3.6-3)."""
        return 200 <= status < 300
