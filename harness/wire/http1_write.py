"""HTTP/1.1 messages as octets: legal by default, every octet can be replaced (RFC 9112).

Nothing here checks anything: a script must be able to say what no correct peer says. A field is a pair of name and
value, or a whole line as `bytes` (without its line end) that goes out as it is. `str` is written as Latin-1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus

CRLF = b"\r\n"
Text = str | bytes
Field = tuple[Text, Text] | bytes

BODILESS = frozenset({204, 304})
"""Final statuses that never have a body; every 1xx has none either (RFC 9112 section 6.3)."""


def octets(text: Text) -> bytes:
    """`text` as octets; `str` as Latin-1."""
    return text if isinstance(text, bytes) else text.encode("latin-1")


def field_line(field: Field, *, colon: bytes = b": ") -> bytes:
    """One field line without its line end."""
    if isinstance(field, bytes):
        return field
    name, value = field
    return octets(name) + colon + octets(value)


def field_block(fields: Iterable[Field], *, line_end: bytes = CRLF, colon: bytes = b": ") -> bytes:
    """Field lines, each with its line end; the empty line is not part of it."""
    return b"".join(field_line(field, colon=colon) + line_end for field in fields)


def names(fields: Iterable[Field]) -> frozenset[str]:
    """The field names in lower case; of a raw line what stands before its colon."""
    found = (octets(field.partition(b":")[0] if isinstance(field, bytes) else field[0]) for field in fields)
    return frozenset(name.decode("latin-1").strip().lower() for name in found)


def head(start_line: bytes, fields: Iterable[Field] = (), *, line_end: bytes = CRLF, colon: bytes = b": ") -> bytes:
    """A whole header section: start line, field lines, empty line."""
    return start_line + line_end + field_block(fields, line_end=line_end, colon=colon) + line_end


def request_head(
    method: Text,
    target: Text,
    fields: Iterable[Field] = (),
    *,
    version: Text = "HTTP/1.1",
    start_line: bytes | None = None,
    line_end: bytes = CRLF,
    colon: bytes = b": ",
) -> bytes:
    """The header section of a request; `start_line` replaces the request line (RFC 9112 section 3)."""
    line = b" ".join((octets(method), octets(target), octets(version))) if start_line is None else start_line
    return head(line, fields, line_end=line_end, colon=colon)


def response_head(
    status: int | Text,
    fields: Iterable[Field] = (),
    *,
    reason: Text | None = None,
    version: Text = "HTTP/1.1",
    start_line: bytes | None = None,
    line_end: bytes = CRLF,
    colon: bytes = b": ",
) -> bytes:
    """The header section of a response; `start_line` replaces the status line (RFC 9112 section 4)."""
    code = str(status) if isinstance(status, int) else status
    said = phrase(status) if reason is None else reason
    line = b" ".join((octets(version), octets(code), octets(said))) if start_line is None else start_line
    return head(line, fields, line_end=line_end, colon=colon)


def phrase(status: int | Text) -> str:
    """The usual reason phrase of `status`, empty when there is none."""
    try:
        return HTTPStatus(int(status)).phrase
    except ValueError:
        return ""


def chunk(
    data: bytes, *, size: Text | None = None, extension: Text = "", line_end: bytes = CRLF, data_end: bytes = CRLF
) -> bytes:
    """One chunk; `size` replaces its size as written (`"0x5"`), `extension` follows it as it is (RFC 9112 section
    7.1)."""
    return octets(f"{len(data):x}" if size is None else size) + octets(extension) + line_end + data + data_end


def last_chunk(
    trailers: Iterable[Field] = (), *, size: Text = "0", extension: Text = "", line_end: bytes = CRLF, end: bytes = CRLF
) -> bytes:
    """The last chunk, the trailer section and the final empty line `end`."""
    return octets(size) + octets(extension) + line_end + field_block(trailers, line_end=line_end) + end


def _framed(
    fields: Sequence[Field],
    body: bytes | None,
    framing: str,
    length: int | Text | None,
    chunks: Sequence[bytes] | None,
    trailers: Sequence[Field],
) -> tuple[list[Field], bytes]:
    """The fields with the framing field that `framing` asks for, and the body as it goes on the wire."""
    said = list(fields)
    content = b"" if body is None else body
    if framing == "chunked":
        if "transfer-encoding" not in names(said):
            said.append(("Transfer-Encoding", "chunked"))
        parts = chunks if chunks is not None else ([content] if content else [])
        return said, b"".join(chunk(part) for part in parts) + last_chunk(trailers)
    if framing == "length" and "content-length" not in names(said):
        said.append(("Content-Length", str(len(content)) if length is None else _number(length)))
    return said, content


def _number(length: int | Text) -> Text:
    return str(length) if isinstance(length, int) else length


def request(
    method: Text,
    target: Text,
    fields: Sequence[Field] = (),
    body: bytes | None = None,
    *,
    host: Text | None = None,
    framing: str = "auto",
    length: int | Text | None = None,
    chunks: Sequence[bytes] | None = None,
    trailers: Sequence[Field] = (),
    version: Text = "HTTP/1.1",
    start_line: bytes | None = None,
    line_end: bytes = CRLF,
    colon: bytes = b": ",
) -> bytes:
    """A whole request.

    `host` puts a Host line first unless `fields` has one. `framing` is `length`, `chunked`, `none` (the body goes out
    as it is) or `auto`: chunked for `chunks` or `trailers`, none for `body=None` or where `fields` frames already,
    else length. `length` replaces the Content-Length as written; `chunks` are the chunks of a chunked body.
    """
    said = list(fields)
    if host is not None and "host" not in names(said):
        said.insert(0, ("Host", host))
    if framing == "auto":
        framing = _auto(said, body is None and length is None, bool(chunks) or bool(trailers))
    said, content = _framed(said, body, framing, length, chunks, trailers)
    return request_head(
        method, target, said, version=version, start_line=start_line, line_end=line_end, colon=colon
    ) + (content)


def response(
    status: int | Text,
    fields: Sequence[Field] = (),
    body: bytes = b"",
    *,
    reason: Text | None = None,
    framing: str = "auto",
    length: int | Text | None = None,
    chunks: Sequence[bytes] | None = None,
    trailers: Sequence[Field] = (),
    version: Text = "HTTP/1.1",
    start_line: bytes | None = None,
    line_end: bytes = CRLF,
    colon: bytes = b": ",
) -> bytes:
    """A whole response; arguments as for `request`.

    `auto` is none for 1xx, 204 and 304, chunked for `chunks` or `trailers`, else length. `none` is also how a body
    goes out that the close of the connection ends.
    """
    if framing == "auto":
        code = int(status) if isinstance(status, int) or status.isdigit() else 0
        framing = _auto(fields, code // 100 == 1 or code in BODILESS, bool(chunks) or bool(trailers))
    said, content = _framed(fields, body, framing, length, chunks, trailers)
    return (
        response_head(
            status, said, reason=reason, version=version, start_line=start_line, line_end=line_end, colon=colon
        )
        + content
    )


def _auto(fields: Iterable[Field], bodiless: bool, chunked: bool) -> str:
    if chunked:
        return "chunked"
    if bodiless or names(fields) & {"content-length", "transfer-encoding"}:
        return "none"
    return "length"
