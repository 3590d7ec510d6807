"""What the field sections of HTTP/2 must keep to (RFC 9113 sections 8.1 to 8.3): functions that name what is broken.

Each gives (what, section) for every rule that a section breaks, in the order of the rules; an empty list is sound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Field(NamedTuple):
    """A field as it was decoded; `never_indexed` is what its representation asked for (RFC 7541 section 6.2.3)."""

    name: bytes
    value: bytes
    never_indexed: bool = False


Found = tuple[str, str]
_BAD_NAME = re.compile(rb"[\x00-\x20A-Z\x7f-\xff]")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+\Z")
_METHOD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_TARGET = re.compile(rb"[\x21-\x7e]+\Z")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*\Z")
_STATUS = re.compile(rb"[1-5][0-9][0-9]\Z")
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
CONNECTION_SPECIFIC = frozenset({b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"})
REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
RESPONSE_PSEUDO = frozenset({b":status"})


def request_problems(fields: Sequence[Field], *, extended_connect: bool) -> list[Found]:
    """A request's header section. `extended_connect`: whether `:protocol` was allowed (RFC 8441 section 3)."""
    found = [*_pseudo_problems(fields, REQUEST_PSEUDO), *_line_problems(fields)]
    said = {field.name: field.value for field in fields if field.name in REQUEST_PSEUDO}
    if b":protocol" in said and not extended_connect:
        found.append((":protocol, which was not allowed", "8441 section 3"))
    method = said.get(b":method")
    if method is None:
        found.append(("no :method", "9113 section 8.3.1"))
    elif not _METHOD.match(method):
        found.append((f":method {method[:40]!r} is no token", "9113 section 8.3.1"))
    if method == b"CONNECT" and b":protocol" not in said:
        found += _connect_problems(said)
    else:
        found += _target_problems(said)
    found += _authority_problems(fields, said)
    found += [
        (f"te: {field.value[:40]!r}", "9113 section 8.2.2")
        for field in fields
        if field.name == b"te" and field.value.strip().lower() != b"trailers"
    ]
    return found


def response_problems(fields: Sequence[Field]) -> list[Found]:
    """A response's header section."""
    found = [*_pseudo_problems(fields, RESPONSE_PSEUDO), *_line_problems(fields)]
    statuses = [field.value for field in fields if field.name == b":status"]
    if not statuses:
        found.append(("no :status", "9113 section 8.3.2"))
    found += [(f":status {value[:20]!r}", "9113 section 8.3.2") for value in statuses if not _STATUS.match(value)]
    if b"101" in statuses:
        found.append((":status 101", "9113 section 8.6"))
    return found


def trailer_problems(fields: Sequence[Field]) -> list[Found]:
    """A trailer section of either direction."""
    found = [(f"{field.name[:40]!r} in trailers", "9113 section 8.1") for field in fields if field.name[:1] == b":"]
    return [*found, *_line_problems([field for field in fields if field.name[:1] != b":"])]


def _pseudo_problems(fields: Sequence[Field], known: frozenset[bytes]) -> list[Found]:
    found: list[Found] = []
    seen: set[bytes] = set()
    regular = False
    for field in fields:
        if field.name[:1] != b":":
            regular = True
            continue
        shown = field.name[:40].decode("latin-1")
        if regular:
            found.append((f"{shown} after a regular field", "9113 section 8.3"))
        if field.name not in known:
            found.append((f"the pseudo-header field {shown!r}", "9113 section 8.3"))
        elif field.name in seen:
            found.append((f"{shown} twice", "9113 section 8.3"))
        seen.add(field.name)
    return found


def _line_problems(fields: Iterable[Field]) -> list[Found]:
    """RFC 9113 sections 8.2.1 and 8.2.2, for pseudo-header fields the values only."""
    found: list[Found] = []
    for field in fields:
        shown = repr(field.name[:40].decode("latin-1"))
        if field.name[:1] != b":":
            found += _name_problems(field.name, shown)
        if any(octet in field.value for octet in b"\x00\r\n"):
            found.append((f"NUL, CR or LF in the value of {shown}", "9113 section 8.2.1"))
        elif _CONTROL.search(field.value):
            found.append((f"a control character in the value of {shown}", "9110 section 5.5"))
        if field.value[:1] in (b" ", b"\t") or field.value[-1:] in (b" ", b"\t"):
            found.append((f"whitespace around the value of {shown}", "9113 section 8.2.1"))
    return found


def _name_problems(name: bytes, shown: str) -> list[Found]:
    if name in CONNECTION_SPECIFIC:
        return [(f"the connection-specific field {shown}", "9113 section 8.2.2")]
    if _BAD_NAME.search(name):
        return [(f"the field name {shown}", "9113 section 8.2.1")]
    if b":" in name:
        return [(f"a colon in the field name {shown}", "9113 section 8.2.1")]
    return [] if _TOKEN.match(name) else [(f"the field name {shown} is no token", "9110 section 5.1")]


def _connect_problems(said: dict[bytes, bytes]) -> list[Found]:
    found = [(f"{name.decode()} in a CONNECT", "9113 section 8.5") for name in (b":scheme", b":path") if name in said]
    if b":authority" not in said:
        found.append(("a CONNECT without :authority", "9113 section 8.5"))
    return found


def _target_problems(said: dict[bytes, bytes]) -> list[Found]:
    found = [
        (f"no {name.decode()}", "9113 section 8.3.1") for name in (b":scheme", b":path") if name not in said
    ]  # fmt: skip
    scheme, path = said.get(b":scheme"), said.get(b":path")
    if scheme is not None and not _SCHEME.match(scheme):
        found.append((f":scheme {scheme[:40]!r}", "9113 section 8.3.1"))
    if path is None or scheme not in (b"http", b"https"):
        return found
    if not path:
        found.append(("an empty :path", "9113 section 8.3.1"))
    elif path == b"*" and said.get(b":method") == b"OPTIONS":
        return found
    elif path[:1] != b"/" or not _TARGET.match(path):
        found.append((f":path {path[:40]!r}", "9113 section 8.3.1"))
    return found


def _authority_problems(fields: Sequence[Field], said: dict[bytes, bytes]) -> list[Found]:
    found: list[Found] = []
    authority = said.get(b":authority")
    hosts = [field.value for field in fields if field.name == b"host"]
    if authority is not None and b"@" in authority:
        found.append(("userinfo in :authority", "9113 section 8.3.1"))
    if len(hosts) > 1:
        found.append(("more than one host field", "9110 section 7.2"))
    if authority is None and not hosts and said.get(b":scheme") in (b"http", b"https"):
        found.append(("neither :authority nor host", "9113 section 8.3.1"))
    if authority is not None and any(host.lower() != authority.lower() for host in hosts):
        found.append((f"host {hosts[0][:60]!r} beside :authority {authority[:60]!r}", "9113 section 8.3.1"))
    return found
