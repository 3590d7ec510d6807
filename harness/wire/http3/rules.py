"""What field sections of HTTP/3 must look like (RFC 9114 sections 4.1.2 to 4.5 and 10.3), rule by rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from harness.wire.http3.message import Fields

Broken = Iterator[tuple[str, str]]
"""What is wrong, and the section that says so."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS = re.compile(rb"[0-9]+\Z")
_STATUS = re.compile(rb"[1-9][0-9][0-9]\Z")
MAX_LENGTH_DIGITS = 20

REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
RESPONSE_PSEUDO = frozenset((b":status",))
CONNECTION_FIELDS = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
"""Fields about one connection of HTTP/1.1 (RFC 9114 section 4.2)."""
NO_TRAILERS = frozenset((b"content-length", b"host", b"transfer-encoding", b"content-encoding", b"content-type", b"te"))
"""Fields that frame, route or describe content, and therefore are no trailers (RFC 9110 section 6.5.1)."""


def _shown(octets: bytes) -> str:
    return repr(octets[:60])[1:]


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for known, value in fields if known == name]


def names(kind: str, fields: Fields) -> Broken:
    """Field names (sections 4.2 and 10.3)."""
    for name, _ in fields:
        plain = name[1:] if name.startswith(b":") else name
        if not _TOKEN.match(plain):
            yield f"the field name {_shown(name)}", "9114 section 10.3"
        elif plain != plain.lower():
            yield f"upper case in the field name {_shown(name)}", "9114 section 4.2"


def values(kind: str, fields: Fields) -> Broken:
    """Field values (section 10.3)."""
    for name, value in fields:
        if _BAD_VALUE.search(value):
            yield f"the value {_shown(value)} of {_shown(name)}", "9114 section 10.3"
        elif value != value.strip(b" \t"):
            yield f"whitespace around the value of {_shown(name)}", "9110 section 5.5"


def connection_fields(kind: str, fields: Fields) -> Broken:
    """Fields that belong to one connection of HTTP/1.1 (section 4.2)."""
    for name, value in fields:
        if name in CONNECTION_FIELDS:
            section = "9114 section 4.1" if name == b"transfer-encoding" else "9114 section 4.2"
            yield f"the connection-specific field {_shown(name)}", section
        elif name == b"te" and (kind != "request" or value.strip().lower() != b"trailers"):
            yield f"TE with {_shown(value)}", "9114 section 4.2"


def pseudo_fields(kind: str, fields: Fields) -> Broken:
    """Which pseudo-header fields there are, and where they stand (section 4.3)."""
    allowed = {"request": REQUEST_PSEUDO, "response": RESPONSE_PSEUDO, "informational": RESPONSE_PSEUDO}.get(kind)
    regular = False
    seen: set[bytes] = set()
    for name, _ in fields:
        if not name.startswith(b":"):
            regular = True
            continue
        if allowed is None:
            yield f"{_shown(name)} in trailers", "9114 section 4.3"
        elif name not in allowed:
            yield f"{_shown(name)} in a {kind}", "9114 section 4.3"
        elif regular:
            yield f"{_shown(name)} behind a regular field", "9114 section 4.3"
        elif name in seen:
            yield f"{_shown(name)} twice", "9114 section 4.3.2" if name == b":status" else "9114 section 4.3.1"
        seen.add(name)


def request_line(kind: str, fields: Fields) -> Broken:
    """Method, scheme and path (sections 4.3.1 and 4.4)."""
    if kind != "request":
        return
    method = next(iter(_values(fields, b":method")), None)
    if method is None:
        yield "no :method", "9114 section 4.3.1"
    elif not _TOKEN.match(method):
        yield f"the method {_shown(method)}", "9114 section 4.3.1"
    plain_connect = method == b"CONNECT" and not _values(fields, b":protocol")
    if _values(fields, b":protocol") and method != b"CONNECT":
        yield ":protocol without CONNECT", "9220 section 3"
    for name in (b":scheme", b":path"):
        present = bool(_values(fields, name))
        if plain_connect and present:
            yield f"{_shown(name)} in CONNECT", "9114 section 4.4"
        elif not plain_connect and not present:
            yield f"no {name.decode()}", "9114 section 4.3.1"
    for path in _values(fields, b":path")[:1]:
        absolute = path.startswith(b"/") or (path == b"*" and method == b"OPTIONS")
        unclean = any(octet <= 0x20 or octet >= 0x7F for octet in path)
        if unclean or not (plain_connect or absolute):
            yield f"the path {_shown(path)}", "9114 section 4.3.1"


def authority(kind: str, fields: Fields) -> Broken:
    """:authority and Host (sections 4.3.1 and 4.4)."""
    if kind != "request":
        return
    named, hosts = _values(fields, b":authority"), _values(fields, b"host")
    if len(hosts) > 1:
        yield "more than one host", "9110 section 7.2"
    if _values(fields, b":method")[:1] == [b"CONNECT"] and not _values(fields, b":protocol"):
        if not named or not re.search(rb":[0-9]+\Z", named[0]):
            yield "CONNECT without host and port in :authority", "9114 section 4.4"
        return
    for value in (*named, *hosts):
        if b"@" in value:
            yield f"userinfo in {_shown(value)}", "9114 section 4.3.1"
        elif not value:
            yield "an empty :authority or host", "9114 section 4.3.1"
    if not named and not hosts:
        yield "neither :authority nor host", "9114 section 4.3.1"
    elif named and hosts and named[0].lower() != hosts[0].lower():
        yield f":authority {_shown(named[0])} and host {_shown(hosts[0])}", "9114 section 4.3.1"


def status(kind: str, fields: Fields) -> Broken:
    """The status code (sections 4.3.2 and 4.5)."""
    if kind not in ("response", "informational"):
        return
    found = _values(fields, b":status")
    if not found:
        yield "no :status", "9114 section 4.3.2"
    elif not _STATUS.match(found[0]):
        yield f"the status {_shown(found[0])}", "9114 section 4.3.2"
    elif found[0] == b"101":
        yield "the status 101", "9114 section 4.5"


def content_length(kind: str, fields: Fields) -> Broken:
    """One Content-Length that counts, and none where no content can be (RFC 9110 section 8.6)."""
    found = _values(fields, b"content-length")
    if not found:
        return
    if len(found) > 1:
        yield "more than one content-length", "9110 section 8.6"
    if not _DIGITS.match(found[0]) or len(found[0]) > MAX_LENGTH_DIGITS:
        yield f"the content-length {_shown(found[0])}", "9114 section 4.1.2"
    if kind == "informational" or b"204" in _values(fields, b":status")[:1]:
        yield "content-length where no content can be", "9110 section 8.6"


def trailer_names(kind: str, fields: Fields) -> Broken:
    """Fields that are no trailers (RFC 9110 section 6.5.1)."""
    if kind != "trailers":
        return
    for name, _ in fields:
        if name in NO_TRAILERS:
            yield f"{_shown(name)} in trailers", "9110 section 6.5.1"


RULES: tuple[Callable[[str, Fields], Broken], ...] = (
    names, values, connection_fields, pseudo_fields, request_line, authority, status, content_length, trailer_names,
)  # fmt: skip
"""Every rule about one section. Each is given its kind (see `Head`) and its fields."""


def broken(kind: str, fields: Fields) -> list[tuple[str, str]]:
    """What is wrong with a section, each with the section of the RFC."""
    return [found for rule in RULES for found in rule(kind, fields)]


def declared_length(fields: Fields) -> int | None:
    """What Content-Length says, where it says one thing."""
    found = set(_values(fields, b"content-length"))
    if len(found) != 1:
        return None
    value = found.pop()
    return int(value) if _DIGITS.match(value) and len(value) <= MAX_LENGTH_DIGITS else None


def section_size(fields: Fields) -> int:
    """The size that SETTINGS_MAX_FIELD_SECTION_SIZE limits (section 4.2.2)."""
    return sum(len(name) + len(value) + 32 for name, value in fields)
