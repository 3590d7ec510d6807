"""Mutants that translate what HTTP/2 and HTTP/3 carry into HTTP/1.1 without looking: smuggling and splitting (RFC 9113
section 10.3, RFC 9114 section 10.3).

Each takes one check off the messages that come in. `LooseClientCodec` writes a request as it is, so that what comes in
unchecked becomes lines, requests and targets of the upstream's: both checks of an engine that has two are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, RequestHead, values, without
from reference_engine.http.forward import Origin
from reference_engine.mutants._loose_h1 import LooseClientCodec, use
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts

Line = tuple[bytes, bytes]
Judges = Callable[[Sequence[Line]], Fault | None]
Controls = Callable[[dict[bytes, bytes]], Fault | None]
Splits = Callable[[Sequence[Line], frozenset[bytes]], tuple[dict[bytes, bytes], Fields] | Fault]
TE, CL = b"transfer-encoding", b"content-length"
MESSAGES = "HTTP-HDR-008"
SPLITTING = (b"\r", b"\n", b"\x00")


def splits(octets: bytes) -> bool:
    """Whether the octets are more than one line in HTTP/1.1."""
    return any(one in octets for one in SPLITTING)


@mutant(
    "corpus-values-split",
    ("RFC9113-8.2.1-3", "RFC9114-10.3-2", "HTTP-HDR-010"),
    "writes CR, LF and NUL of a field value into a request of HTTP/1.1",
)
def _(parts: Parts, reached: Reached) -> None:
    def lines(original: Judges, given: Sequence[Line]) -> Fault | None:
        if any(splits(value) for _, value in given):
            reached()
        return original([(name, b"") for name, _ in given])

    swap(parts.http, "field_lines", lines)
    use(parts, client=LooseClientCodec)


@mutant(
    "corpus-names-split",
    ("RFC9113-8.2.1-1", "RFC9113-8.2.1-2", "RFC9114-10.3-1", MESSAGES),
    "writes any octets of a field name into a request of HTTP/1.1",
)
def _(parts: Parts, reached: Reached) -> None:
    def lines(original: Judges, given: Sequence[Line]) -> Fault | None:
        if any(original([(name, b"")]) for name, _ in given):
            reached()
        return original([(b"x", value) for _, value in given])

    swap(parts.http, "field_lines", lines)
    use(parts, client=LooseClientCodec)


@mutant(
    "corpus-names-lowered",
    ("RFC9113-8.2.1-1", "RFC9114-4.2-2", MESSAGES),
    "lowers the case of field names in place of refusing them",
)
def _(parts: Parts, reached: Reached) -> None:
    def message(original: Callable[..., Any], lines: Sequence[Line], *more: bytes) -> Any:
        if any(name != name.lower() for name, _ in lines):
            reached()
        return original([(name.lower(), value) for name, value in lines], *more)

    swap(parts.http, "request_message", message)
    swap(parts.http, "trailer_message", message)


@mutant(
    "corpus-coding-passed-on",
    ("RFC9113-8.2.2-1", "RFC9114-4.2-3", "RFC9114-4.1-5", MESSAGES),
    "passes the Transfer-Encoding of a client of HTTP/2 or HTTP/3 on, and writes its content as it is",
)
def _(parts: Parts, reached: Reached) -> None:
    def specific(original: Judges, lines: Sequence[Line]) -> Fault | None:
        if values(list(lines), TE):
            reached()
        return original(without(list(lines), {TE}))

    def fields(original: Callable[..., Fields], head: RequestHead, origin: Origin) -> Fields:
        sent = original(head, origin)
        coding = values(head.fields, TE)
        if head.version[:1] == b"1" or not coding:
            return sent
        return [*without(sent, {TE, CL}), (b"Transfer-Encoding", coding[0])]

    swap(parts.http, "connection_specific", specific)
    swap(parts.http, "request_fields", fields)


@mutant(
    "corpus-first-length",
    ("RFC9110-8.6-5", MESSAGES),
    "takes the first of several lengths of HTTP/2 and HTTP/3, and goes on with it alone",
)
def _(parts: Parts, reached: Reached) -> None:
    def message(original: Callable[..., Any], lines: Sequence[Line], *more: bytes) -> Any:
        lengths = [line for line in lines if line[0] == CL]
        if len(lengths) < 2 and b"," not in b"".join(values(list(lines), CL)):
            return original(lines, *more)
        reached()
        first = lengths[0][1].partition(b",")[0].strip()
        return original([*without(list(lines), {CL}), (CL, first)], *more)

    swap(parts.http, "request_message", message)
    swap(parts.http, "content_fits", _fits)


def _fits(_: Callable[..., Fault | None], *given: object, **more: object) -> None:
    """Content is always as long as it was said."""


@mutant(
    "corpus-target-split",
    ("RFC9113-8.3.1-7", "RFC9113-8.2.1-3", "RFC9114-4.3.1-5", "RFC9114-10.3-2", MESSAGES),
    "writes any :path into the request line of HTTP/1.1",
)
def _(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, b":path", b"/")


@mutant(
    "corpus-method-split",
    ("RFC9113-8.3.1-7", "RFC9113-8.2.1-3", "RFC9114-4.3.1-5", "RFC9114-10.3-2", MESSAGES),
    "writes any :method into the request line of HTTP/1.1",
)
def _(parts: Parts, reached: Reached) -> None:
    _unchecked(parts, reached, b":method", b"GET")


def _unchecked(parts: Parts, reached: Reached, name: bytes, legal: bytes) -> None:
    """Take whatever this pseudo-header field holds, and write it as it is."""

    def control(original: Controls, pseudo: dict[bytes, bytes]) -> Fault | None:
        if not pseudo.get(name) or original(pseudo) is None:
            return original(pseudo)
        reached()
        return original({**pseudo, name: legal})

    def target(original: Callable[[bytes, bytes], Any], method: bytes, said: bytes) -> Any:
        found = original(method, said)
        if not isinstance(found, Fault) or name != b":path":
            return found
        found = original(b"GET", b"/")
        return type(found)(found.form, said)

    swap(parts.http, "control_data", control)
    swap(parts.http, "target", target)
    use(parts, client=LooseClientCodec)


@mutant(
    "corpus-scheme-anything",
    ("RFC9113-8.3.1-7", "RFC9114-4.3.1-5", "EDGE-024"),
    "takes any :scheme for https",
)
def _(parts: Parts, reached: Reached) -> None:
    def control(original: Controls, pseudo: dict[bytes, bytes]) -> Fault | None:
        if pseudo.get(b":scheme") in (None, b"https", b"http"):
            return original(pseudo)
        reached()
        pseudo[b":scheme"] = b"https"
        return original(pseudo)

    swap(parts.http, "control_data", control)


@mutant(
    "corpus-last-pseudo",
    ("RFC9113-8.3-3", "RFC9114-4.3.1-5", "RFC9114-4.3-1", "EDGE-024", MESSAGES),
    "takes the last of several pseudo-header fields of a name",
)
def _(parts: Parts, reached: Reached) -> None:
    def split(
        original: Splits, lines: Sequence[Line], known: frozenset[bytes]
    ) -> tuple[dict[bytes, bytes], Fields] | Fault:
        last = {line[0]: line for line in lines if line[0][:1] == b":"}
        rest = [line for line in lines if line[0][:1] != b":" or last[line[0]] is line]
        if len(rest) < len(lines):
            reached()
        return original(rest, known)

    swap(parts.http, "split_pseudo", split)


@mutant(
    "corpus-pseudo-anywhere",
    ("RFC9113-8.3-2", "RFC9114-4.3-2", MESSAGES),
    "takes pseudo-header fields wherever they stand",
)
def _(parts: Parts, reached: Reached) -> None:
    def split(
        original: Splits, lines: Sequence[Line], known: frozenset[bytes]
    ) -> tuple[dict[bytes, bytes], Fields] | Fault:
        ordered = sorted(lines, key=lambda line: line[0][:1] != b":")
        if ordered != list(lines):
            reached()
        return original(list({line[0]: line for line in ordered[::-1]}.values())[::-1], known)

    swap(parts.http, "split_pseudo", split)


@mutant(
    "corpus-host-forwarded",
    ("RFC9113-8.3.1-2", "RFC9113-8.3.1-4", "RFC9114-4.3.1-6"),
    "goes by :authority, and forwards the Host that came beside it",
)
def _(parts: Parts, reached: Reached) -> None:
    def named(original: Callable[..., bytes | Fault], authority: bytes | None, hosts: list[bytes]) -> bytes | Fault:
        if authority is not None and hosts and hosts != [authority]:
            reached()
            return original(authority, [])
        return original(authority, hosts)

    def fields(original: Callable[..., Fields], head: RequestHead, origin: Origin) -> Fields:
        sent, hosts = original(head, origin), values(head.fields, b"host")
        return [(b"Host", hosts[-1]), *without(sent, {b"host"})] if hosts else sent

    swap(parts.http, "named_authority", named)
    swap(parts.http, "request_fields", fields)


@mutant(
    "corpus-trailers-unchecked",
    ("RFC9113-8.1-2", "RFC9113-8.2.1-3", "RFC9114-4.3-1", "RFC9114-10.3-2", "HTTP-HDR-010"),
    "takes a trailer section of any octets, and drops it",
)
def _(parts: Parts, reached: Reached) -> None:
    def trailers(original: Callable[[Sequence[Line]], Fields | Fault], lines: Sequence[Line]) -> Fields | Fault:
        found = original(lines)
        if not isinstance(found, Fault):
            return found
        reached()
        return []

    swap(parts.http, "trailer_message", trailers)
