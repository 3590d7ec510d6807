"""Mutants of the grammar of heads: line ends, start lines, field lines, sizes (RFC 9112 sections 2 to 5)."""

from __future__ import annotations

import re
from collections.abc import Callable

from reference_engine.http.errors import Fault
from reference_engine.http.events import Data, End, Fields, InformationalHead, RequestHead, ResponseHead
from reference_engine.http.forward import Origin
from reference_engine.http.gate import Gate
from reference_engine.http.h1_client import H1ClientCodec
from reference_engine.http.h1_server import H1ServerCodec
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits
from reference_engine.mutants._loose_h1 import (
    LooseClientCodec,
    LooseServerCodec,
    consents,
    crlf_lines,
    field,
    use,
)
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Judges = Callable[[bytes], Fault | None]
BARE_CR = re.compile(rb"\r(?!\n)")


def use_gate(parts: Parts, gate: type[Gate]) -> None:
    """Put `gate` in front of h11 in both directions."""

    class Server(H1ServerCodec):
        def __init__(self, rules: HttpRules, limits: Limits) -> None:
            super().__init__(rules, limits)
            self._gate = gate(rules, limits, requests=True)

    class Client(H1ClientCodec):
        def __init__(self, rules: HttpRules, limits: Limits) -> None:
            super().__init__(rules, limits)
            self._gate = gate(rules, limits, requests=False)

    use(parts, Server, Client)


# Line ends: RFC 9112 section 2.2


@mutant(
    "syntax-lf-passed-on",
    ("RFC9112-2.2-2", "RFC9110-2.2-1"),
    "takes a bare LF for a line end, and sends the lines on with it",
)
def _(parts: Parts, reached: Reached) -> None:
    bare: set[bytes] = set()

    class Server(H1ServerCodec):
        def receive(self, data: bytes) -> None:
            if self.request is None and re.fullmatch(rb"[A-Z]+ [!-~]+ HTTP/1\.1\n[^\r]*\n\n", data):
                reached()
                bare.add(data.split(b" ", 2)[1])
                data = data.replace(b"\n", b"\r\n")
            super().receive(data)

    class Client(H1ClientCodec):
        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            ends_in_lf = isinstance(event, RequestHead) and event.target in bare
            return octets.replace(b"\r\n", b"\n") if ends_in_lf else octets

    use(parts, Server, Client)


@mutant(
    "syntax-cr-passed-on",
    ("RFC9112-2.2-3", "RFC9110-5.5-3", "RFC9110-5.5-4"),
    "passes a bare CR in a field value on, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, octets: bytes) -> Fault | None:
        if BARE_CR.search(octets):
            reached()
        return original(BARE_CR.sub(b" ", octets))

    swap(parts.http, "line_ends", broken)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "syntax-cr-ends-a-line",
    ("RFC9112-2.2-4", "RFC9112-4-3", "RFC9110-2.2-1", "RFC9110-5.5-4"),
    "takes a bare CR for the end of a line, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    class LineGate(Gate):
        def feed(self, data: bytes) -> None:
            head, end, rest = data.partition(b"\r\n\r\n")
            if end and BARE_CR.search(head):
                reached()
                head = BARE_CR.sub(b"\r\n", head)
            super().feed(head + end + rest)

    use_gate(parts, LineGate)


@mutant(
    "syntax-nul-passed-on",
    ("RFC9110-5.5-3", "RFC9110-5.5-4"),
    "passes a NUL in a field value on, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, octets: bytes) -> Fault | None:
        if b"\x00" in octets:
            reached()
        return original(octets.replace(b"\x00", b""))

    swap(parts.http, "line_ends", broken)
    swap(parts.http, "control_octets", broken)
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant("syntax-empty-line-refused", ("RFC9112-2.2-5",), "refuses a request that comes behind an empty line")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[int], Fault | None], count: int) -> Fault | None:
        reached()
        return Fault(400, "an empty line instead of a request")

    swap(parts.http, "empty_line", broken)


@mutant("syntax-crlf-behind-a-request", ("RFC9112-2.2-9",), "sends a CRLF behind each request to the upstream")
def _(parts: Parts, reached: Reached) -> None:
    class Client(H1ClientCodec):
        def send(self, event: RequestHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, End):
                reached()
                octets += b"\r\n"
            return octets

    use(parts, client=Client)


@mutant("syntax-segment-is-a-head", ("RFC9110-5.3-4",), "takes the end of what has come for the end of the head")
def _(parts: Parts, reached: Reached) -> None:
    class EagerGate(Gate):
        def head(self) -> bytes | None:
            begun = self._requests and b"\r\nHost: " in self._rest and b"\r\n\r\n" not in self._rest
            if begun and self._rest.endswith(b"\r\n"):
                reached()
                self._rest += b"\r\n"
            return super().head()

    use_gate(parts, EagerGate)


# Start lines: RFC 9112 sections 3 and 4


@mutant(
    "syntax-request-line-passed-on",
    ("RFC9112-3-1", "RFC9110-2.2-1"),
    "splits the request line by whitespace of any kind, and sends the line on as it came",
)
def _(parts: Parts, reached: Reached) -> None:
    spelled: dict[bytes, bytes] = {}

    def broken(original: Judges, line: bytes) -> Fault | None:
        fault = original(b" ".join(line.split()))
        if fault is None and original(line) is not None:
            reached()
        return fault

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            first, *lines = crlf_lines(raw)
            method, target, _ = first.split()
            spelled[target] = first
            return RequestHead(method, target, [field(line) for line in lines], version)

    class Client(LooseClientCodec):
        def line(self, event: RequestHead) -> bytes:
            return spelled.get(event.target, super().line(event))

    swap(parts.http, "request_line", broken)
    swap(parts.http, "control_octets", lambda original, head: original(head[head.index(b"\r\n") :]))
    use(parts, Server, Client)


@mutant(
    "syntax-any-target",
    ("RFC9112-3.2-1",),
    "takes everything between the first and the last SP of the request line for the target, and sends it on",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, line: bytes) -> Fault | None:
        fault = original(line)
        if fault is not None and re.fullmatch(rb"[A-Z]+ /.* HTTP/1\.1", line):
            reached()
            return None
        return fault

    swap(parts.http, "request_line", broken)
    swap(parts.http, "control_octets", lambda original, head: original(head[head.index(b"\r\n") :]))
    use(parts, LooseServerCodec, LooseClientCodec)


@mutant(
    "syntax-target-repaired", ("RFC9112-3.2-2", "RFC9112-3.2-1"), "encodes the spaces in a target and goes on with it"
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        def receive(self, data: bytes) -> None:
            first, end, rest = data.partition(b"\r\n")
            if self.request is None and re.fullmatch(rb"[A-Z]+ /[!-~]* [ -~]* HTTP/1\.1", first):
                reached()
                method, _, more = first.partition(b" ")
                first = method + b" " + more.removesuffix(b" HTTP/1.1").replace(b" ", b"%20") + b" HTTP/1.1"
            super().receive(first + end + rest)

    use(parts, Server)


@mutant("syntax-http-0.9", ("RFC9112-2.2-8",), "takes a request line without a version for HTTP/0.9, and relays it")
def _(parts: Parts, reached: Reached) -> None:
    class Server(H1ServerCodec):
        def receive(self, data: bytes) -> None:
            if self.request is None and re.fullmatch(rb"GET /[!-~]*\r\n\r\n", data):
                reached()
                data = data[:-4] + b" HTTP/1.0\r\n\r\n"
            super().receive(data)

    use(parts, Server)


@mutant("syntax-garbage-is-our-fault", ("RFC9112-2.2-8",), "answers what is no HTTP with 500")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, line: bytes) -> Fault | None:
        fault = original(line)
        if fault is None or fault.status != 400:
            return fault
        reached()
        return Fault(500, "the parser failed")

    swap(parts.http, "request_line", broken)


@mutant("syntax-line-of-4-kib", ("RFC9110-4.1-1", "RFC9112-3-4"), "takes no request line of more than 4,096 octets")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, line: bytes) -> Fault | None:
        if len(line) > 4096:
            reached()
            return Fault(414, "the request line is too long")
        return original(line)

    swap(parts.http, "request_line", broken)


@mutant("syntax-long-target-is-our-fault", ("RFC9112-3-2",), "answers a target that is too long with 500")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[bytes, Limits], Fault | None], head: bytes, limits: Limits) -> Fault | None:
        fault = original(head, limits)
        if fault is None or fault.status != 414:
            return fault
        reached()
        return Fault(500, "no room for the request")

    swap(parts.http, "section_size", broken)


@mutant("syntax-status-line-passed-on", ("RFC9112-4-3", "RFC9110-2.2-1"), "passes a malformed status line on")
def _(parts: Parts, reached: Reached) -> None:
    tabs = b"HTTP/1.1\t200\tOK"

    class Client(LooseClientCodec):
        def receive(self, data: bytes) -> None:
            if data.startswith(tabs):
                data = b"HTTP/1.1 200 OK\r\nX-Tabs: 1" + data.removeprefix(tabs)
            super().receive(data)

    class Server(LooseServerCodec):
        def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
            octets = super().send(event)
            if isinstance(event, ResponseHead) and (b"X-Tabs", b"1") in event.fields:
                reached()
                octets = tabs + octets[octets.index(b"\r\n") :]
            return octets

    use(parts, Server, Client)


# Field lines: RFC 9112 section 5, RFC 9110 section 5


@mutant(
    "syntax-first-line-with-whitespace",
    ("RFC9112-2.2-6", "RFC9112-2.2-7"),
    "passes a line on that begins with whitespace and stands before the first field",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Judges, head: bytes) -> Fault | None:
        repaired = re.sub(rb"\A([^\r]*\r\n)[ \t]+", rb"\1", head)
        if repaired != head:
            reached()
        return original(repaired)

    class Client(LooseClientCodec):
        def send(self, event: RequestHead | Data | End) -> bytes:
            if isinstance(event, RequestHead):
                event.fields.sort(key=lambda line: not line[0].startswith((b" ", b"\t")))
            return super().send(event)

    swap(parts.http, "folding", broken)
    swap(parts.http, "field_names", broken)
    use(parts, LooseServerCodec, Client)


@mutant(
    "syntax-first-line-is-a-field",
    ("RFC9112-2.2-7",),
    "takes a line that begins with whitespace, before the first field, for a field",
)
def _(parts: Parts, reached: Reached) -> None:
    class StrippingGate(Gate):
        def feed(self, data: bytes) -> None:
            repaired = re.sub(rb"\A([A-Z]+ [^\r]*\r\n)[ \t]+", rb"\1", data)
            if repaired != data:
                reached()
            super().feed(repaired)

    def first_host(original: object, hosts: list[bytes], *, version: bytes) -> None:
        return None

    class Server(LooseServerCodec):
        def __init__(self, rules: HttpRules, limits: Limits) -> None:
            super().__init__(rules, limits)
            self._gate = StrippingGate(rules, limits, requests=True)

    swap(parts.http, "host", first_host)
    use(parts, Server)


@mutant(
    "syntax-space-before-colon",
    ("RFC9112-5.1-1", "RFC9112-5.1-2", "HTTP-HDR-016"),
    "takes whitespace between a field name and its colon away in requests, and passes it on in responses",
)
def _(parts: Parts, reached: Reached) -> None:
    spaced = re.compile(rb"(\r\n[^\r:]*?)[ \t]+:")

    def broken(original: Judges, head: bytes) -> Fault | None:
        if spaced.search(head):
            reached()
        return original(spaced.sub(rb"\1:", head))

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            return super().parsed(spaced.sub(rb"\1:", raw), version)

    swap(parts.http, "field_names", broken)
    consents(parts, "host")
    use(parts, Server, LooseClientCodec)


@mutant(
    "syntax-fold-passed-on",
    ("RFC9112-5.2-1", "RFC9112-5.2-2", "RFC9112-5.2-3"),
    "passes a folded field line on as it came, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    folded = re.compile(rb"\r\n[ \t]")

    def broken(original: Judges, head: bytes) -> Fault | None:
        if folded.search(head):
            reached()
        return original(folded.sub(b"  ", head))

    def unfolding_field(lines: list[bytes]) -> Fields:
        joined = b"\r\n".join(lines)
        return [field(line) for line in re.split(rb"\r\n(?![ \t])", joined)]

    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            first, *lines = crlf_lines(raw)
            method, target, _ = first.split(b" ")
            return RequestHead(method, target, unfolding_field(lines), version)

    class Client(LooseClientCodec):
        def parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
            head = super().parsed(raw)
            head.fields = unfolding_field(crlf_lines(raw)[1:])
            return head

    swap(parts.http, "folding", broken)
    swap(parts.http, "field_names", broken)
    use(parts, Server, Client)


@mutant(
    "syntax-fold-dropped",
    ("RFC9112-5.2-2", "RFC9112-5.2-3", "HTTP-HDR-016"),
    "drops a folded field as a whole, in both directions",
)
def _(parts: Parts, reached: Reached) -> None:
    folded = re.compile(rb"\r\n[^\r]*(?:\r\n[ \t][^\r]*)+")

    class DroppingGate(Gate):
        def feed(self, data: bytes) -> None:
            head, end, rest = data.partition(b"\r\n\r\n")
            if end and folded.search(head):
                reached()
                head = folded.sub(b"", head)
            super().feed(head + end + rest)

    use_gate(parts, DroppingGate)


@mutant(
    "syntax-lines-of-a-string",
    ("RFC9112-2.2-1", "HTTP-HDR-010"),
    "splits the head like text, so that NEL ends a line",
)
def _(parts: Parts, reached: Reached) -> None:
    class Server(LooseServerCodec):
        def parsed(self, raw: bytes, version: bytes) -> RequestHead:
            first, *lines = raw.decode("latin-1").splitlines()
            if len(lines) > raw.count(b"\r\n") - 1:
                reached()
            method, target, _ = first.encode("latin-1").split(b" ")
            fields = [field(line.encode("latin-1")) for line in lines if ":" in line]
            return RequestHead(method, target, fields, version)

    use(parts, Server, LooseClientCodec)


@mutant(
    "syntax-values-are-text",
    ("RFC9110-5.5-2", "HTTP-HDR-010", "RFC9112-2.2-1"),
    "decodes field values as UTF-8 and drops what is none",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        fields = [(name, value.decode("utf-8", "ignore").encode()) for name, value in original(head, origin)]
        if fields != original(head, origin):
            reached()
        return fields

    swap(parts.http, "request_fields", broken)


@mutant("syntax-forty-fields", ("RFC9110-5.4-1",), "keeps the first forty field lines of a request and drops the rest")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Callable[[RequestHead, Origin], Fields], head: RequestHead, origin: Origin) -> Fields:
        if len(head.fields) > 40:
            reached()
            head.fields = head.fields[:40]
        return original(head, origin)

    swap(parts.http, "request_fields", broken)


@mutant("syntax-large-head-is-cut", ("RFC9110-5.4-1",), "cuts a head that is too large, and goes on with what is left")
def _(parts: Parts, reached: Reached) -> None:
    class CuttingGate(Gate):
        def head(self) -> bytes | None:
            end = self._rest.find(b"\r\n\r\n")
            if self._requests and end > self._limits.header_bytes:
                reached()
                kept = self._rest.rfind(b"\r\n", 0, self._limits.header_bytes)
                self._rest = self._rest[:kept] + self._rest[end:]
            return super().head() if end >= 0 or not self._requests else None

    use_gate(parts, CuttingGate)
