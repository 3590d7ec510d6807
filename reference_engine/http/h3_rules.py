"""Rules of HTTP/3 connections: what is announced, what a peer may do on its control stream, what is too much, and which
code says so (RFC 9114, RFC 9204). What a message must look like is in `messages`.

Pure functions without state.
"""

from __future__ import annotations

from aioquic.h3.connection import ErrorCode, Setting

from reference_engine.http.events import Fields, RequestHead
from reference_engine.http.messages import LINE_OVERHEAD

LONGEST_STRING = 65_535
"""Octets of the longest name or value that can be encoded."""
IDLE_FOR_EACH = 10
"""Frames without meaning that come free with one that has some."""


class H3Rules:
    """What an HTTP/3 connection of the engine does, whichever end it is."""

    # -- settings --------------------------------------------------------------------------------------------------

    def h3_settings(self, capacity: int, blocked: int, section: int) -> dict[int, int]:
        """SETTINGS of both legs: what the engine does on this hop, nothing more (RFC9114-3.2-2, -9-2)."""
        return {
            Setting.QPACK_MAX_TABLE_CAPACITY: capacity,
            Setting.QPACK_BLOCKED_STREAMS: blocked,
            Setting.MAX_FIELD_SECTION_SIZE: section,
        }

    def encoder_table(self, capacity: int, blocked: int) -> tuple[int, int]:
        """The dynamic table that our encoder uses of what the peer offers, and the streams that it may block: none.

        So no peer decides how much we keep, no section waits for another stream, and values of different requests do
        not meet in one table (RFC9204-2.1.2-1, -3.2.3-1, RFC 9204 section 7.1).
        """
        del capacity, blocked
        return 0, 0

    def asterisk_lines(self, head: RequestHead, lines: Fields) -> Fields:
        """The lines of a request, in which Host stands for :authority where an HTTP/1.1 request for * is translated
        (RFC9114-4.3.1-3)."""
        if head.target != b"*" or head.version not in (b"1.0", b"1.1"):
            return lines
        return [*(line for line in lines if line[0] != b":authority"), (b"host", head.authority)]

    def section_fits(self, lines: Fields, largest: int | None) -> bool:
        """Whether a section goes to a peer that takes sections of `largest` octets (RFC9114-4.2.2-2); the encoder
        knows no longer names and values than LONGEST_STRING."""
        size = 0
        for name, value in lines:
            if len(name) > LONGEST_STRING or len(value) > LONGEST_STRING:
                return False
            size += len(name) + len(value) + LINE_OVERHEAD
        return largest is None or size <= largest

    # -- the peer's control stream ---------------------------------------------------------------------------------

    def goaway_fits(self, number: int, before: int | None, *, from_server: bool) -> bool:
        """Ids in GOAWAY never rise, and a server's is a client's bidirectional stream (RFC9114-5.2-5, -7.2.6-1)."""
        return (before is None or number <= before) and not (from_server and number % 4)

    def goaway_spares(self, stream_id: int, number: int) -> bool:
        """Whether a request is below the id of a GOAWAY, and so perhaps looked at (RFC9114-5.2-1, -5.2-2)."""
        return stream_id < number

    def upstream_room(self, allowed: int, active: int) -> bool:
        """Whether a connection on which the upstream allows so many further streams takes another request
        (RFC9114-3.3-1)."""
        del active
        return allowed > 0

    def push_known(self, number: int) -> bool:
        """Whether CANCEL_PUSH names a push that was promised; none ever is (RFC9114-7.2.3-1)."""
        del number
        return False

    def keeps_unknown_stream(self, kind: int) -> bool:
        """Whether a unidirectional stream of an unknown type is read on: it is stopped (RFC9114-6.2-2)."""
        del kind
        return False

    def refuses_stream(self) -> int | None:
        """The error for a bidirectional stream that a server opens (RFC9114-6.1-2)."""
        return ErrorCode.H3_STREAM_CREATION_ERROR

    # -- limits ----------------------------------------------------------------------------------------------------

    def frame_fits(self, size: int, most: int) -> bool:
        """Whether a HEADERS frame of `size` octets is kept until it is whole (RFC9114-4.2.2-1, -10.5-1)."""
        return size <= most

    def lines_fit(self, count: int, most: int) -> bool:
        """Whether a section of so many lines is decoded: few octets may become many (RFC9114-10.5-1, RFC 9204 section
        7.4)."""
        return count <= most

    def too_idle(self, useless: int, useful: int, most: int) -> bool:
        """Whether a connection has brought too many frames that say nothing (RFC9114-10.5-1)."""
        return useless > most + IDLE_FOR_EACH * useful

    def too_fickle(self, *, allowed: bool) -> bool:
        """Whether the connection of a client ends that cancels one more request than its allowance has
        (RFC9114-10.5-1)."""
        return not allowed

    def takes_request(self, number: int, goaway: int | None) -> bool:
        """Whether a request on this stream is served: not behind our GOAWAY (RFC9114-5.2-3)."""
        return goaway is None or number < goaway

    def cancellation(self, instruction: bytes) -> bytes:
        """The Stream Cancellation for a stream whose sections are not read (RFC9204-2.2.2.2-1)."""
        return instruction

    # -- codes -----------------------------------------------------------------------------------------------------

    def malformed_code(self) -> int:
        """Of a stream with a malformed message (RFC9114-4.1.2-2)."""
        return ErrorCode.H3_MESSAGE_ERROR

    def incomplete_code(self) -> int:
        """Of a request stream that ended too early (RFC9114-4.1-8)."""
        return ErrorCode.H3_REQUEST_INCOMPLETE

    def unread_code(self) -> int:
        """Of STOP_SENDING behind an early response (RFC9114-4.1-10)."""
        return ErrorCode.H3_NO_ERROR

    def rejected_code(self) -> int:
        """Of a request that nobody has looked at (RFC9114-4.1.1-2)."""
        return ErrorCode.H3_REQUEST_REJECTED

    def truncated_code(self) -> int:
        """Of a response that cannot be completed (RFC9114-4.1.1-4)."""
        return ErrorCode.H3_INTERNAL_ERROR

    def cancelled_code(self) -> int:
        """Of a request or a response that nobody wants any more (RFC9114-4.1.1-1, -4.1.1-3)."""
        return ErrorCode.H3_REQUEST_CANCELLED

    def means_unprocessed(self, code: int) -> bool:
        """Whether a server's reset says that it has done nothing with the request (RFC9114-4.1.1-2, -5.2-2)."""
        return code == ErrorCode.H3_REQUEST_REJECTED

    def drained_code(self) -> int:
        """Of the end of a connection that nobody needs (RFC 9114 section 5.2)."""
        return ErrorCode.H3_NO_ERROR
