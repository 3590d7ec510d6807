"""What crosses the edge: fields of one hop that go on, fields that get lost or changed, forged identities, trailers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, RequestHead, ResponseHead, members, values, without
from reference_engine.http.forward import HOP_BY_HOP, Origin, Target
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

# Fields of one hop: RFC 9110 section 7.6.1


@mutant(
    "http-hop-nominated-goes-on",
    ("RFC9110-7.6.1-1", "RFC9110-7.6-1", "HTTP-HDR-006"),
    "forwards the fields that Connection names",
)
def _nominated_goes_on(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], set[bytes]], fields: Fields) -> set[bytes]:
        if original(fields) - HOP_BY_HOP:
            reached()
        return set()

    swap(parts.http, "nominated", broken)


@mutant("http-hop-case-counts", ("RFC9110-7.6.1-2",), "compares the names in Connection letter by letter")
def _case_counts(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], set[bytes]], fields: Fields) -> set[bytes]:
        raw = {part.strip(b" \t") for value in values(fields, b"connection") for part in value.split(b",")}
        found = original(fields) & raw
        if found != original(fields):
            reached()
        return found

    swap(parts.http, "nominated", broken)


@mutant("http-hop-first-line", ("RFC9110-7.6.1-2",), "reads the first Connection line alone")
def _first_line(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], set[bytes]], fields: Fields) -> set[bytes]:
        lines = [line for line in fields if line[0].lower() == b"connection"]
        if len(lines) > 1:
            reached()
        return original(lines[:1])

    swap(parts.http, "nominated", broken)


@mutant("http-hop-empty-member", ("RFC9110-5.6.1.2-1",), "stops at an empty member of a list")
def _empty_member(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], set[bytes]], fields: Fields) -> set[bytes]:
        found: set[bytes] = set()
        for value in values(fields, b"connection"):
            for part in value.split(b","):
                if not part.strip():
                    reached()
                    break
                found.add(part.strip().lower())
        return found & original(fields)

    swap(parts.http, "nominated", broken)


@mutant("http-hop-trailers", ("RFC9110-7.6.1-1",), "forwards trailer fields that Connection names")
def _trailers_nominated(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, Fields], Fields], trailers: Fields, fields: Fields) -> Fields:
        kept = original(trailers, [])
        if kept != original(trailers, fields):
            reached()
        return kept

    swap(parts.http, "trailers", broken)


def _hop_field_goes_on(name: bytes) -> None:
    shown = name.decode("ascii")

    @mutant(f"http-hop-{shown}", ("RFC9110-7.6.1-4", "HTTP-HDR-006"), f"forwards {shown} where Connection is silent")
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
            kept = [line for line in fields if line[0].lower() == name]
            if not kept or name in parts.http.nominated(fields):
                return original(fields)
            reached()
            return [*original(fields), *kept]

        swap(parts.http, "end_to_end", broken)


for _field in (b"keep-alive", b"proxy-connection", b"te", b"upgrade"):
    _hop_field_goes_on(_field)


@mutant(
    "http-hop-h2c",
    ("RFC9110-7.6.1-5", "RFC9110-7.6.1-1", "RFC9113-3.1-1"),
    "relays an upgrade to h2c with its settings",
)
def _h2c(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        if b"h2c" not in members(head.fields, b"upgrade"):
            return original(head, origin)
        reached()
        settings = [line for line in head.fields if line[0].lower() == b"http2-settings"]
        return [*original(head, replace(origin, upgrade=(b"h2c",))), *settings]

    swap(parts.http, "request_fields", broken)


@mutant("http-hop-host-emptied", ("RFC9110-7.6.1-3",), "lets a client take Host away by naming it in Connection")
def _host_emptied(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if b"host" not in members(head.fields, b"connection"):
            return fields
        reached()
        return [(b"Host", b""), *without(fields, {b"host"})]

    swap(parts.http, "request_fields", broken)


@mutant("http-hop-own-removed", ("RFC9110-7.6.1-3",), "removes what Connection names after it has added its own fields")
def _own_removed(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        kept = without(fields, parts.http.nominated(head.fields) - HOP_BY_HOP)
        if kept != fields:
            reached()
        return kept

    swap(parts.http, "request_fields", broken)


@mutant("http-hop-names-end-to-end", ("RFC9110-7.6.1-7",), "names an end-to-end field in its own Connection")
def _names_end_to_end(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if values(fields, b"cache-control"):
            reached()
            fields.append((b"Connection", b"cache-control"))
        return fields

    swap(parts.http, "response_fields", broken)


@mutant("http-via-empty-member", ("RFC9110-5.6.1.1-1",), "joins its Via to nothing, which leaves an empty member")
def _via_empty(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, bytes], Fields], fields: Fields, version: bytes) -> Fields:
        if values(fields, b"via"):
            return original(fields, version)
        reached()
        return [(name, b", " + value if name == b"Via" else value) for name, value in original(fields, version)]

    swap(parts.http, "via", broken)


# What belongs to both ends: RFC 9110 sections 5.3, 7.6 and 7.7


@mutant("http-fields-reversed", ("RFC9110-5.3-1",), "turns the order of field lines round")
def _reversed(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        names = [name.lower() for name, _ in fields]
        if len(set(names)) < len(names):
            reached()
        return original(fields)[::-1]

    swap(parts.http, "end_to_end", broken)


@mutant("http-fields-unknown-dropped", ("RFC9110-5.1-1", "HTTP-HDR-001"), "drops fields that it does not know")
def _unknown_dropped(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        kept = [line for line in original(fields) if not line[0].lower().startswith(b"x-")]
        if kept != original(fields):
            reached()
        return kept

    swap(parts.http, "end_to_end", broken)


@mutant("http-fields-cookies-joined", ("RFC9110-5.3-2", "HTTP-HDR-009"), "joins Set-Cookie lines with commas")
def _cookies_joined(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        cookies = values(fields, b"set-cookie")
        if len(cookies) < 2:
            return fields
        reached()
        return [*without(fields, {b"set-cookie"}), (b"Set-Cookie", b", ".join(cookies))]

    swap(parts.http, "response_fields", broken)


@mutant("http-date-doubled", ("RFC9110-5.3-3",), "adds a Date beside the one that is there")
def _date_doubled(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if not values(head.fields, b"date"):
            return fields
        reached()
        return [*fields, *[line for line in original(ResponseHead(200, []), method) if line[0] == b"Date"]]

    swap(parts.http, "response_fields", broken)


@mutant("http-date-missing", ("RFC9110-6.6.1-1",), "forwards a response without Date as it came")
def _date_missing(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if values(head.fields, b"date"):
            return fields
        reached()
        return without(fields, {b"date"})

    swap(parts.http, "response_fields", broken)


@mutant("http-target-decoded", ("RFC9110-7.7-1", "HTTP-HDR-001"), "decodes %2F in the target")
def _target_decoded(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes, bytes], Target], method: bytes, target: bytes) -> Target:
        found = original(method, target)
        if b"%2F" not in target:
            return found
        reached()
        return replace(found, upstream=found.upstream.replace(b"%2F", b"/"))

    swap(parts.http, "target", broken)


@mutant("http-target-without-query", ("RFC9110-7.7-1", "HTTP-HDR-001"), "drops an empty query, and empty segments")
def _target_cut(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes, bytes], Target], method: bytes, target: bytes) -> Target:
        found = original(method, target)
        if not target.endswith(b"?") and b"//" not in target:
            return found
        reached()
        return replace(found, upstream=found.upstream.removesuffix(b"?").replace(b"//", b"/"))

    swap(parts.http, "target", broken)


def _aiming(parts: Parts, reached: Reached, rule: Callable[[bytes], bytes]) -> None:
    """Send what `rule` makes of a target."""

    def broken(original: Callable[[bytes, bytes], Target | Fault], method: bytes, target: bytes) -> Target | Fault:
        found = original(method, target)
        if isinstance(found, Fault) or rule(found.upstream) == found.upstream:
            return found
        reached()
        return replace(found, upstream=rule(found.upstream))

    swap(parts.http, "target", broken)


@mutant("http-target-without-parameters", ("RFC9110-7.7-1", "HTTP-HDR-001"), "drops the parameters of path segments")
def _target_parameters(parts: Parts, reached: Reached) -> None:
    _aiming(parts, reached, lambda target: re.sub(rb";[^/?]*", b"", target))


@mutant("http-target-ends-at-nul", ("RFC9110-7.7-1", "HTTP-HDR-001"), "ends a target at an escaped NUL")
def _target_nul(parts: Parts, reached: Reached) -> None:
    _aiming(parts, reached, lambda target: target.partition(b"%00")[0])


@mutant("http-fields-utf-8", ("RFC9110-5.5-2",), "takes field values for ISO 8859-1 and sends them as UTF-8")
def _recoded(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields], Fields], fields: Fields) -> Fields:
        coded = [(name, value.decode("latin-1").encode()) for name, value in original(fields)]
        if coded != original(fields):
            reached()
        return coded

    swap(parts.http, "end_to_end", broken)


@mutant("http-etag-weakened", ("HTTP-HDR-020", "RFC9110-7.7-3", "RFC9110-7.7-4"), "makes a strong ETag a weak one")
def _etag_weakened(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if not values(fields, b"etag"):
            return fields
        reached()
        return [(name, b"W/" + value if name.lower() == b"etag" else value) for name, value in fields]

    swap(parts.http, "response_fields", broken)


@mutant("http-server-replaced", ("RFC9110-7.7-4",), "puts its own name into Server")
def _server_replaced(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        fields = original(head, method)
        if values(fields, b"server"):
            reached()
        return [*without(fields, {b"server"}), (b"Server", b"edge")]

    swap(parts.http, "response_fields", broken)


@mutant("http-range-dropped", ("RFC9110-7.7-4",), "drops Range and the conditions beside it")
def _range_dropped(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        kept = without(fields, {b"range", b"if-range"})
        if kept != fields:
            reached()
        return kept

    swap(parts.http, "request_fields", broken)


# Who the client is: RFC 9110 section 7.6.3, RFC 7239 section 7.4, HTTP-HDR-004 and -005


@mutant("http-forwarded-for-trusted", ("HTTP-HDR-005", "RFC7239-7.4-1"), "keeps the X-Forwarded-For that a client sent")
def _for_trusted(parts: Parts, reached: Reached) -> None:
    _keeps(parts, reached, b"x-forwarded-for", b"X-Forwarded-For")


@mutant("http-forwarded-proto-trusted", ("RFC7239-7.4-1",), "keeps the X-Forwarded-Proto that a client sent")
def _proto_trusted(parts: Parts, reached: Reached) -> None:
    _keeps(parts, reached, b"x-forwarded-proto", b"X-Forwarded-Proto")


@mutant("http-forwarded-host-trusted", ("RFC7239-7.4-1",), "keeps the X-Forwarded-Host that a client sent")
def _host_trusted(parts: Parts, reached: Reached) -> None:
    _keeps(parts, reached, b"x-forwarded-host", b"X-Forwarded-Host")


def _keeps(parts: Parts, reached: Reached, name: bytes, spelled: bytes) -> None:
    def broken(original: Callable[[Fields, Origin], Fields], fields: Fields, origin: Origin) -> Fields:
        said = values(fields, name)
        made = original(fields, origin)
        if not said:
            return made
        reached()
        return [*without(made, {name}), *[(spelled, value) for value in said]]

    swap(parts.http, "forwarded", broken)


@mutant("http-forwarded-for-first", ("HTTP-HDR-005", "RFC7239-7.4-1"), "puts the client's address before what came")
def _for_first(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, Origin], Fields], fields: Fields, origin: Origin) -> Fields:
        made = original(fields, origin)
        said = values(fields, b"x-forwarded-for")
        if not said:
            return made
        reached()
        chain = b", ".join([origin.client.encode("ascii"), *said])
        return [*without(made, {b"x-forwarded-for"}), (b"X-Forwarded-For", chain)]

    swap(parts.http, "forwarded", broken)


def _emits(parts: Parts, reached: Reached, element: Callable[[Fields, Origin], bytes], *, joined: bool = False) -> None:
    """Emit Forwarded with `element`: as a line of its own behind those that came, or `joined` to the last one."""

    def broken(original: Callable[[Fields, Origin], Fields], fields: Fields, origin: Origin) -> Fields:
        made = original(fields, origin)
        received = values(made, b"forwarded")
        reached()
        if not joined or not received:
            return [*made, (b"Forwarded", element(fields, origin))]
        last = received[-1] + b", " + element(fields, origin)
        return [*without(made, {b"forwarded"}), *[(b"Forwarded", value) for value in [*received[:-1], last]]]

    swap(parts.http, "forwarded", broken)


def _element(_: Fields, origin: Origin) -> bytes:
    return b"for=%s;host=%s;proto=https" % (origin.client.encode("ascii"), origin.authority)


@mutant(
    "http-forwarded-believes",
    ("RFC7239-5.2-1", "RFC7239-5.4-1"),
    "says in Forwarded what a client said of itself in X-Forwarded-For and -Proto",
)
def _believes(parts: Parts, reached: Reached) -> None:
    def element(fields: Fields, origin: Origin) -> bytes:
        client = values(fields, b"x-forwarded-for") or [origin.client.encode("ascii")]
        scheme = values(fields, b"x-forwarded-proto") or [b"https"]
        return b"for=%s;proto=%s" % (client[0], scheme[0])

    _emits(parts, reached, element)


@mutant("http-forwarded-believes-proto", ("RFC7239-5.4-1",), "says the upstream leg's scheme in Forwarded")
def _upstreams_scheme(parts: Parts, reached: Reached) -> None:
    _emits(parts, reached, lambda fields, origin: _element(fields, origin).replace(b"https", b"http"))


@mutant("http-forwarded-twice", ("RFC7239-4-3",), "names the client twice in one element of Forwarded")
def _twice(parts: Parts, reached: Reached) -> None:
    _emits(parts, reached, lambda fields, origin: b"for=unknown;" + _element(fields, origin))


@mutant("http-forwarded-bare-node", ("RFC7239-5.1-1",), "names itself in Forwarded by a word that is no node")
def _bare_node(parts: Parts, reached: Reached) -> None:
    _emits(parts, reached, lambda fields, origin: b"by=edge;" + _element(fields, origin))


@mutant("http-forwarded-own-host", ("RFC7239-5.3-1",), "says in Forwarded the host of the upstream")
def _own_host(parts: Parts, reached: Reached) -> None:
    _emits(parts, reached, lambda _, origin: b"for=%s;host=backend.internal" % origin.client.encode("ascii"))


@mutant("http-forwarded-swallowed", ("RFC7239-4-6",), "writes its element of Forwarded behind a quote that is open")
def _swallowed(parts: Parts, reached: Reached) -> None:
    _emits(parts, reached, _element, joined=True)


@mutant("http-forwarded-in-front", ("RFC7239-4-4", "RFC7239-4-5"), "writes its element of Forwarded in front")
def _in_front(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, Origin], Fields], fields: Fields, origin: Origin) -> Fields:
        reached()
        return [(b"Forwarded", _element(fields, origin)), *original(fields, origin)]

    swap(parts.http, "forwarded", broken)


@mutant("http-forwarded-to-the-client", ("RFC7239-4-2",), "tells clients the chain of proxies")
def _to_the_client(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[ResponseHead, bytes], Fields], head: ResponseHead, method: bytes) -> Fields:
        reached()
        return [*original(head, method), (b"Forwarded", b"for=192.0.2.7")]

    swap(parts.http, "response_fields", broken)


@mutant("http-via-own-version", ("RFC9110-7.6.3-1", "RFC9110-7.6.3-2"), "says the upstream leg's version in Via")
def _via_version(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, bytes], Fields], fields: Fields, version: bytes) -> Fields:
        if version != b"1.1":
            reached()
        return original(fields, b"1.1")

    swap(parts.http, "via", broken)


@mutant("http-via-first", ("RFC9110-7.6.3-2",), "puts its Via before those that are there")
def _via_first(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, bytes], Fields], fields: Fields, version: bytes) -> Fields:
        if values(fields, b"via"):
            reached()
        return [*original([], version), *fields]

    swap(parts.http, "via", broken)


@mutant("http-via-replaced", ("RFC9110-7.6.3-2", "RFC9110-7.6.3-4"), "makes one member of all Via members")
def _via_replaced(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, bytes], Fields], fields: Fields, version: bytes) -> Fields:
        if not values(fields, b"via"):
            return original(fields, version)
        reached()
        return original(without(fields, {b"via"}), version)

    swap(parts.http, "via", broken)


@mutant("http-via-address", ("RFC9110-7.6.3-3",), "names the private address of its agent in Via")
def _via_address(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[Fields, bytes], Fields], fields: Fields, version: bytes) -> Fields:
        reached()
        return [*fields, (b"Via", version + b" 127.0.0.1:8080")]

    swap(parts.http, "via", broken)


# TE, TRACE and Max-Forwards: RFC 9110 sections 7.6.2, 9.3.8 and 10.1.4


@mutant("http-te-without-option", ("RFC9110-10.1.4-1",), "sends TE upstream without naming it in Connection")
def _te_bare(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if not values(fields, b"te"):
            return fields
        reached()
        return without(fields, {b"connection"})

    swap(parts.http, "request_fields", broken)


@mutant("http-te-as-it-came", ("RFC9112-7.4-1",), "restates the client's TE word by word")
def _te_copied(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = original(head, origin)
        if not values(fields, b"te"):
            return fields
        reached()
        return [*without(fields, {b"te"}), (b"TE", b", ".join(values(head.fields, b"te")))]

    swap(parts.http, "request_fields", broken)


@mutant("http-trace-tells", ("RFC9110-9.3.8-2", "RFC7239-8.2-1"), "echoes every field of a TRACE, and those of its own")
def _trace_tells(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], bytes], head: RequestHead) -> bytes:
        reached()
        return original(head)[:-2] + b"".join(name + b": " + value + b"\r\n" for name, value in head.fields) + b"\r\n"

    swap(parts.http, "echo", broken)


@mutant("http-trace-content", ("RFC9110-9.3.8-1",), "forwards a TRACE with content")
def _trace_content(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[..., object], method: bytes, framing: object) -> object:
        fault = original(method, framing)
        if fault is not None and method == b"TRACE":
            reached()
            return None
        return fault

    swap(parts.http, "trace_content", broken)


@mutant("http-max-forwards-raised", ("RFC9110-7.6.2-2",), "counts Max-Forwards up")
def _max_forwards_raised(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], Fields], head: RequestHead) -> Fields:
        fields = original(head)
        if fields == head.fields:
            return fields
        reached()
        return [
            (name, b"%d" % (int(value) + 2)) if name.lower() == b"max-forwards" else (name, value)
            for name, value in fields
        ]

    swap(parts.http, "max_forwards", broken)


@mutant("http-max-forwards-made", ("RFC9110-9.3.7-1",), "gives every OPTIONS a Max-Forwards")
def _max_forwards_made(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead], Fields], head: RequestHead) -> Fields:
        fields = original(head)
        if head.method != b"OPTIONS" or values(fields, b"max-forwards"):
            return fields
        reached()
        return [*fields, (b"Max-Forwards", b"10")]

    swap(parts.http, "max_forwards", broken)
