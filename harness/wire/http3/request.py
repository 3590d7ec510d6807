"""One request stream as it arrives: the order of its frames and its message (RFC 9114 section 4.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from harness.wire.http3 import rules
from harness.wire.http3.frames import FrameReader, HeadersFrame, Piece
from harness.wire.http3.message import (
    Content,
    Event,
    Fields,
    Head,
    MessageEnd,
    Violation,
    connection_error,
    stream_error,
)
from harness.wire.http3.numbers import ErrorCode, FrameType, frame_name

_MESSAGE = ErrorCode.H3_MESSAGE_ERROR


class RequestStream:
    """The other side's half of a request stream. `method` is that of the request that it answers, or its own.

    `pieces` are parts of frames that wait because a section is blocked. Content is not kept here.
    """

    def __init__(self, stream_id: int, *, request: bool, method: bytes = b"") -> None:
        self.id = stream_id
        self.request = request
        self.method = method
        self.reader = FrameReader(stream_id)
        self.pieces: deque[Piece] = deque()
        self.blocked: HeadersFrame | None = None
        self.fin = False
        self.over = False
        self.sent_over = False
        self._phase = "head"
        self._tunnel = False
        self._length: int | None = None
        self._received = 0
        self._status = 0

    # Frames

    def begins(self, kind: int) -> Violation | None:
        """Whether a frame of type `kind` may stand here."""
        if kind not in (FrameType.DATA, FrameType.HEADERS):
            return None
        ordered = self._phase == "content" or (self._phase == "head" and kind == FrameType.HEADERS)
        if ordered and not (self._tunnel and kind == FrameType.HEADERS):
            return None
        section = "9114 section 4.4" if self._tunnel else "9114 section 4.1"
        places = {"head": "in front of the header section", "trailers": "behind the trailers"}
        what = f"{frame_name(kind)} {places.get(self._phase, 'in a tunnel')}"
        return connection_error(what, section, ErrorCode.H3_FRAME_UNEXPECTED, self.id)

    def content(self, data: bytes) -> Iterator[Event]:
        """Octets of a DATA frame."""
        before = self._received
        self._received += len(data)
        if self._length is not None and before <= self._length < self._received:
            yield self._malformed(f"more content than the {self._length} octets of content-length")
        if self._no_content and not before:
            yield self._malformed(f"content in a response {self._status} to {self.method.decode('latin-1')}")
        yield Content(self.id, data)

    @property
    def _no_content(self) -> bool:
        return not self.request and (self.method == b"HEAD" or self._status in (204, 304))

    def section(self, fields: Fields, octets: bytes) -> Iterator[Event]:
        """A field section that was read."""
        kind = self._kind_of(fields)
        head = Head(self.id, kind, fields, octets)
        yield head
        if kind == "trailers" and not self.request and head.pseudo(b":status") is not None:
            yield self._malformed("a second final response", "9114 section 4.1")
        for what, section in rules.broken(kind, fields):
            yield self._malformed(what, section)
        if kind == "trailers":
            self._phase = "trailers"
        elif kind != "informational":
            self._phase = "content"
            self._begin(head)

    def _kind_of(self, fields: Fields) -> str:
        if self._phase == "content":
            return "trailers"
        if self.request:
            return "request"
        status = next((value for name, value in fields if name == b":status"), b"")
        return "informational" if status.startswith(b"1") and status != b"101" else "response"

    def _begin(self, head: Head) -> None:
        self._status = head.status
        if self.request:
            self.method = head.pseudo(b":method") or b""
        connect = self.method == b"CONNECT"
        self._tunnel = connect and (self.request or head.status // 100 == 2)
        self._length = None if self._tunnel or self._no_content else rules.declared_length(head.fields)

    # The end

    def ends(self) -> Iterator[Event]:
        """The other side ended its half cleanly."""
        self.over = True
        if self.reader.inside:
            what = "the end of the stream within a frame"
            yield connection_error(what, "9114 section 7.1", ErrorCode.H3_FRAME_ERROR, self.id)
            yield MessageEnd(self.id, complete=False)
        elif self._phase == "head":
            yield self._nothing()
            yield MessageEnd(self.id, complete=False)
        else:
            short = self._length is not None and self._received < self._length
            if short:
                yield self._malformed(f"{self._received} octets of content, content-length says {self._length}")
            yield MessageEnd(self.id, complete=not short)

    def _nothing(self) -> Violation:
        if self.request:
            code = ErrorCode.H3_REQUEST_INCOMPLETE
            return stream_error("the end of the stream without a request", "9114 section 4.1", code, self.id)
        return self._malformed("the end of the stream without a response", "9114 section 4.1")

    def _malformed(self, what: str, section: str = "9114 section 4.1.2") -> Violation:
        return stream_error(what, section, _MESSAGE, self.id)
