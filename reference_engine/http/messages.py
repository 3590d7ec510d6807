"""Rules on the messages of HTTP/2 and HTTP/3: field lines, pseudo-header fields, control data (RFC 9113 section 8, RFC
9114 section 4).

Both versions have one syntax of messages: a list of (name, value) lines, the pseudo-header fields first. A `Fault` of
400 is a malformed message; of a request it is told as 400 and by an error of the stream (RFC 9113 section 8.1.1, RFC
9114 section 4.1.2), of a response only the fact counts. Lines keep their objects where nothing changes: HPACK marks the
ones that must never be indexed by their type (RFC 7541 section 6.2.3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from hpack import NeverIndexedHeaderTuple

from reference_engine.http.errors import Fault, ProtocolFault
from reference_engine.http.events import Fields, InformationalHead, RequestHead, ResponseHead, members, without
from reference_engine.http.syntax import CONTROL, HOST, LONGEST_LENGTH, LONGEST_METHOD, TOKEN, Framing, Limits

Line = tuple[bytes, bytes]
T = TypeVar("T")

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
METHOD = re.compile(TOKEN)
SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*")
PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*|\*")
STATUS = re.compile(rb"[1-5][0-9][0-9]")
SPLITTING = CONTROL + b"\r\n"
CONNECTION_SPECIFIC = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
RESPONSE_PSEUDO = frozenset({b":status"})
LINE_OVERHEAD = 32
"""What a field line counts beside its octets (RFC 9113 section 6.5.2, RFC 9114 section 4.2.2)."""
MALFORMED = "the message is malformed: "


def malformed(what: str) -> Fault:
    """What makes a message malformed."""
    return Fault(400, MALFORMED + what)


class MessageRules:
    """Messages of HTTP/2 and HTTP/3, in and out."""

    # -- in -----------------------------------------------------------------------------------------------------------

    def section_limit(self, lines: Sequence[Line], limits: Limits, *, trailers: bool = False) -> Fault | None:
        """The size of a field section: what is too large is refused, never cut short (RFC9113-10.5.1-1,
        RFC9114-4.2.2-1, RFC9110-5.4-1)."""
        size = sum([len(name) + len(value) for name, value in lines]) + LINE_OVERHEAD * len(lines)
        if size > (limits.trailer_bytes if trailers else limits.header_bytes):
            return Fault(431, "the fields are too large")
        return Fault(431, "there are too many fields") if len(lines) > limits.header_count else None

    def field_lines(self, lines: Sequence[Line]) -> Fault | None:
        """Names are lower-case tokens, values hold no control octet and no whitespace at their ends (RFC9113-8.2.1-1
        to -6, -10.3-1, RFC9114-4.2-2, -10.3-1, -10.3-2)."""
        for name, value in lines:
            if NAME.fullmatch(name) is None:
                return malformed("a field name is not valid")
            if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
                return malformed("whitespace around a field value")
        octets = b"".join([value for _, value in lines])
        if len(octets.translate(None, SPLITTING)) < len(octets):
            return malformed("a control octet in a field value")
        return None

    def connection_specific(self, lines: Sequence[Line]) -> Fault | None:
        """No field of an HTTP/1.1 connection; TE says trailers or nothing (RFC9113-8.2.2-1, -8.2.2-2, -8.2.2-5,
        RFC9114-4.1-5, -4.2-3, -4.2-5)."""
        for name, value in lines:
            if name in CONNECTION_SPECIFIC and name != b"http2-settings":
                return malformed("a field of an HTTP/1.1 connection")
            if name == b"te" and value.lower() != b"trailers":
                return malformed("TE is not trailers")
        return None

    def split_pseudo(self, lines: Sequence[Line], known: frozenset[bytes]) -> tuple[dict[bytes, bytes], Fields] | Fault:
        """The pseudo-header fields, and the others: each one known, once, in front (RFC9113-8.3-1 to -3, RFC9114-4.3-1,
        -4.3-2)."""
        pseudo: dict[bytes, bytes] = {}
        for count, (name, value) in enumerate(lines):
            if name[:1] != b":":
                fields = list(lines[count:])
                if any(name[:1] == b":" for name, _ in fields):
                    return malformed("a pseudo-header field behind a field")
                return pseudo, fields
            if name not in known:
                return malformed("a pseudo-header field that is not defined here")
            if name in pseudo:
                return malformed("a pseudo-header field twice")
            pseudo[name] = value
        return pseudo, []

    def request_message(self, lines: Sequence[Line], version: bytes) -> RequestHead | Fault:
        """The head of a request. The fields keep their Host if there is one; Cookie is one line."""
        found = self.split_pseudo(lines, REQUEST_PSEUDO)
        if isinstance(found, Fault):
            return found
        pseudo, fields = found
        fault = self.field_lines(fields) or self.connection_specific(fields) or self.control_data(pseudo)
        if fault is not None:
            return fault
        authority = self.named_authority(pseudo.get(b":authority"), [v for n, v in fields if n == b"host"])
        if isinstance(authority, Fault):
            return authority
        scheme, target = pseudo.get(b":scheme", b"https"), pseudo.get(b":path", authority)
        fields = self.one_length(self.joined_cookies(fields))
        return RequestHead(pseudo[b":method"], target, fields, version, authority, scheme)

    def control_data(self, pseudo: dict[bytes, bytes]) -> Fault | None:
        """:method, :scheme and :path, each valid; CONNECT has :authority alone (RFC9113-8.3.1-6, -8.3.1-7, -8.5-1,
        RFC9114-4.3.1-4, -4.3.1-5, -4.4-1)."""
        method, scheme, path = pseudo.get(b":method"), pseudo.get(b":scheme"), pseudo.get(b":path")
        if method is None or METHOD.fullmatch(method) is None:
            return malformed(":method is missing or not valid")
        if len(method) > LONGEST_METHOD:
            return Fault(501, "the method is longer than any known one")
        if b":protocol" in pseudo and method != b"CONNECT":
            return malformed(":protocol without CONNECT")
        if method == b"CONNECT" and b":protocol" not in pseudo:
            port = HOST.fullmatch(pseudo.get(b":authority", b""))
            if scheme is not None or path is not None or port is None or not port[1] or not port[2]:
                return malformed("CONNECT has host and port in :authority, and nothing else")
            return None
        if scheme is None or SCHEME.fullmatch(scheme) is None:
            return malformed(":scheme is missing or not valid")
        if path is None or PATH.fullmatch(path) is None or (path == b"*" and method != b"OPTIONS"):
            return malformed(":path is missing or not valid")
        return None

    def named_authority(self, authority: bytes | None, hosts: list[bytes]) -> bytes | Fault:
        """Whom a request is for: :authority, which a Host may repeat and not contradict; Host where there is no
        :authority (RFC9113-8.3.1-1, -8.3.1-2, -8.3.1-5, RFC9114-4.3.1-1, -4.3.1-6)."""
        if len(hosts) > 1:
            return malformed("more than one Host")
        if authority is None and not hosts:
            return malformed("neither :authority nor Host")
        named = hosts[0] if authority is None else authority
        if authority is not None and hosts and hosts[0] != authority and canonical(hosts[0]) != canonical(authority):
            return malformed("Host is not :authority")
        match = HOST.fullmatch(named)
        if match is None or not match[1] or (match[2] and (len(match[2]) > 5 or int(match[2]) > 65535)):
            return malformed("the authority is not valid")
        return named

    def joined_cookies(self, fields: Fields) -> Fields:
        """One Cookie line: crumbs are for compression on the hop alone (RFC9113-8.2.3-1, RFC9114-4.2.1-1)."""
        crumbs = [line for line in fields if line[0] == b"cookie"]
        if len(crumbs) < 2:
            return fields
        joined = b"; ".join([value for _, value in crumbs])
        secret = any(isinstance(line, NeverIndexedHeaderTuple) for line in crumbs)
        line = NeverIndexedHeaderTuple(b"cookie", joined) if secret else (b"cookie", joined)
        return [*without(fields, {b"cookie"}), line]

    def one_length(self, fields: Fields) -> Fields:
        """A Content-Length that says the same several times goes on once (RFC9110-8.6-5)."""
        given = [line for line in fields if line[0] == b"content-length"]
        if not given or (len(given) == 1 and b"," not in given[0][1]):
            return fields
        length = self.declared_length(given)
        if isinstance(length, Fault):
            return fields
        return [*without(fields, {b"content-length"}), (b"content-length", b"%d" % (length or 0))]

    def response_message(self, lines: Sequence[Line]) -> InformationalHead | ResponseHead | Fault:
        """The head of a response; 101 does not exist here (RFC9113-8.3.2-1, -8.6-1, RFC9114-4.3.2-1, -4.5-1)."""
        found = self.split_pseudo(lines, RESPONSE_PSEUDO)
        if isinstance(found, Fault):
            return found
        pseudo, fields = found
        status = pseudo.get(b":status", b"")
        if STATUS.fullmatch(status) is None or status == b"101":
            return malformed(":status is missing or not valid")
        fault = self.field_lines(fields) or self.connection_specific(fields)
        if fault is not None:
            return fault
        number, fields = int(status), self.one_length(fields)
        if number < 200:
            return InformationalHead(number, fields)
        return ResponseHead(number, fields)

    def trailer_message(self, lines: Sequence[Line]) -> Fields | Fault:
        """A trailer section: no pseudo-header field; else as the fields of a head (RFC9113-8.1-2, RFC9114-4.3-1)."""
        fields = list(lines)
        fault = self.field_lines(fields) or self.connection_specific(fields)
        return fields if fault is None else fault

    def declared_length(self, fields: Fields) -> int | Fault | None:
        """What Content-Length says, None where it is absent (RFC9113-8.1.1-3, RFC9114-4.1.2-3, RFC9110-8.6-3)."""
        given = [value for name, value in fields if name == b"content-length"]
        lengths = {member.strip(b" \t") for value in given for member in value.split(b",")}
        if not lengths:
            return None
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > LONGEST_LENGTH:
            return malformed("Content-Length is not valid")
        return int(length)

    def message_framing(self, declared: int | None, *, ended: bool) -> Framing:
        """How the content of a request is delimited, for the other side; `ended`: the head was the end."""
        if ended:
            return Framing("none")
        return Framing("chunked") if declared is None else Framing("length", declared)

    def content_fits(self, declared: int | None, received: int, *, ended: bool) -> Fault | None:
        """Content is as long as its Content-Length says (RFC9113-8.1.1-3, RFC9114-4.1.2-3)."""
        if declared is not None and (received > declared or (ended and received != declared)):
            return malformed("the content is not as long as Content-Length says")
        return None

    # -- out ----------------------------------------------------------------------------------------------------------

    def multiplexed_fields(self, fields: Iterable[Line]) -> Fields:
        """Fields as HTTP/2 and HTTP/3 write them: lower case, without Host and without what belongs to an HTTP/1.1
        connection; TE: trailers stays (RFC9113-8.2-1, -8.2.2-3, -8.2.2-4, -8.3.1-3, RFC9114-4.2-1, -4.2-4, -4.2-6)."""
        written: Fields = []
        for line in fields:
            name = line[0].lower()
            if name in CONNECTION_SPECIFIC or name == b"host":
                continue
            if name == b"te" and b"trailers" not in members([line], b"te"):
                continue
            written.append(line if name == line[0] else (name, line[1]))
        return written

    def request_lines(self, head: RequestHead) -> Fields:
        """A request as it goes upstream: control data of the edge's own making, then the fields (RFC9113-8.3.1-3,
        -8.3.1-8, RFC9114-4.3.1-5)."""
        pseudo = [(b":method", head.method), (b":scheme", head.scheme), (b":path", head.target)]
        return [*pseudo, (b":authority", head.authority), *self.multiplexed_fields(head.fields)]

    def response_lines(self, head: InformationalHead | ResponseHead) -> Fields:
        """A response as it goes to a client (RFC9113-8.3.2-1, RFC9114-4.3.2-1)."""
        return [(b":status", b"%d" % head.status), *self.multiplexed_fields(head.fields)]


def known(found: T | Fault) -> T:
    """What a rule found. Raises ProtocolFault for a fault."""
    if isinstance(found, Fault):
        raise ProtocolFault(found)
    return found


def canonical(authority: bytes) -> bytes:
    """An authority of https for comparison: lower case, without the default port (RFC 9110 section 4.2.3)."""
    return authority.lower().removesuffix(b":443").removesuffix(b":")
