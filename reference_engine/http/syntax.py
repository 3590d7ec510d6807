"""Rules on octets and framing of HTTP/1.1, asked before h11 sees the octets (RFC 9112 sections 2 to 7).

h11 is strict in most things; what it takes more lightly than we do stands here: bare LF as a line end, obs-fold,
control octets in values, whitespace before the colon of a response, the version digits, Content-Length beside
Transfer-Encoding, Transfer-Encoding in HTTP/1.0, chunk extensions, limits. Each rule is a pure function of octets:
`None` is consent, a `Fault` says why not, with the status that a client gets. For a response only the fact counts
(the client gets 502).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from reference_engine.http.errors import Fault
from reference_engine.http.events import Fields, values

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
STATUS_LINE = re.compile(rb"HTTP/([0-9])\.([0-9]) ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
CONTROL = bytes({*range(32), 127} - set(b"\t\r\n"))
BAD_NAME = re.compile(rb"\n(?!\r\n|\Z)(?!" + TOKEN + rb":)")
FRAMING = re.compile(rb"\n(host|content-length|transfer-encoding)[ \t]*:[ \t]*([^\r\n]*)", re.IGNORECASE)
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})((?:" + EXTENSION + rb")*)")
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})*+)(?::([0-9]*))?")
SKIPPED_LINES = 4
"""Empty lines that are skipped before a request line (RFC 9112 section 2.2 asks for one)."""
LONGEST_METHOD = 64
LONGEST_LENGTH = 19
"""Digits of a Content-Length; 10**19 octets never arrive, and below 2**63 nobody's counter overflows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one message may need before it is refused, in octets and fields."""

    header_bytes: int = 65_536
    header_count: int = 128
    trailer_bytes: int = 16_384
    chunk_extension_bytes: int = 4_096


@dataclass(frozen=True, slots=True)
class Framing:
    """How the content of a message is delimited: `none`, `length` (with `length`), `chunked` or `close`."""

    kind: str
    length: int = 0


NO_CONTENT = Framing("none")


def cut(section: bytes, names: frozenset[bytes]) -> bytes:
    """A head or a trailer section, its empty line included, without the lines of some fields (lower case)."""
    kept = [line for line in section[:-2].split(b"\r\n") if line.partition(b":")[0].rstrip(b" \t").lower() not in names]
    return b"\r\n".join(kept) + b"\r\n"


class SyntaxRules:
    """Grammar and framing of one message head, of a chunk line, of a trailer section."""

    def line_ends(self, octets: bytes) -> Fault | None:
        """Lines end in CRLF; a bare CR, a bare LF or a NUL is nowhere (RFC9112-2.2-2, -2.2-4, RFC9110-5.5-3,
        -5.5-4)."""
        # Counted rather than searched for: this looks at every octet of every head.
        pairs = octets.count(b"\r\n")
        if octets.count(b"\r") == pairs and octets.count(b"\n") == pairs and b"\x00" not in octets:
            return None
        return Fault(400, "a bare CR, a bare LF or a NUL octet")

    def empty_line(self, count: int) -> Fault | None:
        """The first few empty lines before a request line mean nothing (RFC9112-2.2-5)."""
        return Fault(400, "empty lines instead of a request") if count > SKIPPED_LINES else None

    def request_line(self, line: bytes) -> Fault | None:
        """`method SP request-target SP HTTP-version`, nothing else (RFC9112-3-1, -3.2-1, -3.2-2, -3-3,
        RFC9110-15.6.6-1)."""
        match = REQUEST_LINE.fullmatch(line)
        if match is None:
            return Fault(400, "the request line is not valid")
        if match[3] != b"1":
            return Fault(505, "only HTTP/1.x is spoken on this connection")
        if len(match[1]) > LONGEST_METHOD:
            return Fault(501, "the method is longer than any known one")
        return Fault(400, "the request target has a fragment") if b"#" in match[2] else None

    def status_line(self, line: bytes) -> Fault | None:
        """`HTTP-version SP status-code SP [reason]` with a status from 100 to 599 (RFC9112-4-3, RFC9110-15-2)."""
        match = STATUS_LINE.fullmatch(line)
        if match is None or match[1] != b"1":
            return Fault(502, "the status line is not valid")
        return None if b"100" <= match[3] <= b"599" else Fault(502, "the status is out of range")

    def own_version(self, head: bytes, line: bytes, *, request: bool) -> bytes:
        """The head with a minor version above 1 read as 1.1, the highest we know (RFC9110-6.2-2, RFC9112-2.3-1)."""
        at = len(line) - 1 if request else len(b"HTTP/1.")
        return head if line[at : at + 1] in (b"0", b"1") else head[:at] + b"1" + head[at + 1 :]

    def folding(self, head: bytes) -> Fault | None:
        """No line of a section begins with whitespace: obs-fold, or a line before the first field (RFC9112-5.2-2,
        -5.2-3, -2.2-7)."""
        return Fault(400, "a folded field line") if b"\n " in head or b"\n\t" in head else None

    def field_names(self, head: bytes) -> Fault | None:
        """Every field line is `token:`, without whitespace before the colon (RFC9112-5.1-1, -5.1-2)."""
        return Fault(400, "a field name is not valid") if BAD_NAME.search(head) else None

    def control_octets(self, head: bytes) -> Fault | None:
        """No control octet but HTAB in a field value (RFC9110-5.5-3)."""
        return Fault(400, "a control octet in a field") if len(head.translate(None, CONTROL)) < len(head) else None

    def section_size(self, head: bytes, limits: Limits) -> Fault | None:
        """Too large is said, never cut short: 414 for the request line, 431 for the fields (RFC9110-5.4-1,
        RFC9112-3-2)."""
        if len(head) > limits.header_bytes:
            if head.find(b"\r\n", 0, limits.header_bytes) < 0:
                return Fault(414, "the request line is too long")
            return Fault(431, "the header section is too large")
        if head.count(b"\n") - 2 > limits.header_count:
            return Fault(431, "the header section has too many fields")
        return None

    def content_length(self, lengths: list[bytes]) -> Fault | None:
        """1*DIGIT, once, or the same value repeated (RFC9112-6.3-6, -6.3-7, RFC9110-8.6-3, -8.6-5)."""
        if not lengths:
            return None
        found = {member.strip(b" \t") for value in lengths for member in value.split(b",")}
        if len(found) > 1 or any(not member.isdigit() for member in found):
            return Fault(400, "Content-Length is not valid")
        if any(len(member) > LONGEST_LENGTH for member in found):
            return Fault(413, "Content-Length is larger than anything that can arrive")
        return None

    def transfer_encoding(self, codings: list[bytes], *, version: bytes, has_length: bool) -> Fault | None:
        """Chunked, once, alone, in HTTP/1.1, without Content-Length (RFC9112-6.1-2, -6.1-6, -6.1-8, -6.1-9, -6.3-3,
        -6.3-4)."""
        if not codings:
            return None
        if version == b"1.0":
            return Fault(400, "Transfer-Encoding in HTTP/1.0")
        if has_length:
            return Fault(400, "both Content-Length and Transfer-Encoding")
        names = [name.strip(b" \t").lower() for value in codings for name in value.split(b",")]
        if names[-1] != b"chunked" or names.count(b"chunked") > 1 or len(codings) > 1:
            return Fault(400, "Transfer-Encoding does not end in one chunked")
        return None if names == [b"chunked"] else Fault(501, "a transfer coding other than chunked")

    def until_close(self, codings: list[bytes], *, version: bytes, has_length: bool) -> bool:
        """Whether a response's transfer coding leaves the connection's end as the only delimiter (RFC9112-6.3-5)."""
        if not codings:
            return False
        names = [name.strip(b" \t").lower() for value in codings for name in value.split(b",")]
        plain = all(re.fullmatch(TOKEN, name) for name in names)
        return plain and version == b"1.1" and not has_length and b"chunked" not in names

    def host(self, hosts: list[bytes], *, version: bytes) -> Fault | None:
        """Exactly one valid Host in HTTP/1.1, at most one in HTTP/1.0 (RFC9112-3.2-3, -3.2-4, -3.2-5, EDGE-025)."""
        if not hosts:
            return None if version == b"1.0" else Fault(400, "no Host field")
        if len(hosts) > 1:
            return Fault(400, "more than one Host field")
        return self.authority(hosts[0])

    def authority(self, value: bytes) -> Fault | None:
        """`host [":" port]` with a host, without userinfo (RFC9110-4.2.2-1, -4.2.4-2, RFC9112-3.2-5)."""
        match = HOST.fullmatch(value)
        if match is None or not match[1]:
            return Fault(400, "the host is not valid")
        if match[2] and (len(match[2]) > 5 or int(match[2]) > 65535):
            return Fault(400, "the port is not valid")
        return None

    def chunk_line(self, line: bytes) -> int | Fault:
        """The size in `1*HEXDIG [chunk-ext]` (RFC9112-7.1-1, -7.1-3, -7.1.1-1, -7.1.1-3)."""
        match = CHUNK_LINE.fullmatch(line)
        return Fault(400, "a chunk line is not valid") if match is None else int(match[1], 16)

    def chunk_end(self, octets: bytes) -> Fault | None:
        """The two octets behind chunk data are CRLF (RFC9112-7.1-4)."""
        return None if octets == b"\r\n" else Fault(400, "chunk data does not end where its size says")

    def chunk_extensions(self, total: int, limits: Limits) -> Fault | None:
        """The extensions of one message together stay below a limit (RFC9112-7.1.1-2)."""
        return Fault(413, "too many chunk extensions") if total > limits.chunk_extension_bytes else None

    def trailer_size(self, section: bytes, limits: Limits) -> Fault | None:
        """A trailer section has limits of its own (RFC9110-5.4-1)."""
        if len(section) > limits.trailer_bytes or section.count(b"\n") - 1 > limits.header_count:
            return Fault(431, "the trailer section is too large")
        return None

    def trailer_section(self, section: bytes) -> bytes:
        """Framing fields mean nothing in a trailer section and go no further (RFC9110-6.5.1-1, -6.5.1-2)."""
        return cut(section, frozenset({b"content-length", b"transfer-encoding"}))

    def request_framing(self, fields: Fields) -> Framing:
        """Where the content of a request ends, whatever its method (RFC9112-6-1, -6.3-3, -6.3-10)."""
        if values(fields, b"transfer-encoding"):
            return Framing("chunked")
        lengths = values(fields, b"content-length")
        return Framing("length", int(lengths[0])) if lengths and int(lengths[0]) else NO_CONTENT

    def response_framing(self, method: bytes, status: int, fields: Fields) -> Framing:
        """Where the content of a response ends (RFC9112-6.3-1, -6.3-2, -6.3-5, RFC9110-9.3.6-8)."""
        if method == b"HEAD" or status < 200 or status in (204, 304) or (method == b"CONNECT" and status < 300):
            return NO_CONTENT
        if values(fields, b"transfer-encoding"):
            return Framing("chunked")
        lengths = values(fields, b"content-length")
        if lengths:
            return Framing("length", int(lengths[0])) if int(lengths[0]) else NO_CONTENT
        return Framing("close")
