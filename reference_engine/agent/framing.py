"""Frames of the agent protocol: a 4-octet big-endian length, then one protobuf `Message` (agent protocol section 3.1).

No I/O: octets are fed in, messages come out, and what stands behind the last message is handed back untouched, because
a handshake frame may be followed by stream bytes in the same read.
"""

from __future__ import annotations

import struct

from google.protobuf.message import DecodeError

from fixtures.agent import edgecase_agent_pb2 as pb

MAX_FRAME = 65_535
"""Most octets of one message, in both directions; a longer frame is a fatal error."""

_LENGTH = struct.Struct("!I")


class FrameError(Exception):
    """The octets are no frame: too long, or not a message. The connection cannot go on."""


def encode(message: pb.Message) -> bytes:
    """One whole frame. Raises FrameError when the message has more than MAX_FRAME octets."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME:
        raise FrameError(f"a message of {len(body)} octets does not fit a frame")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages. Ask `next` until it says None before feeding more: that bounds the buffer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    def next(self) -> pb.Message | None:
        """The next whole message, or None while it is incomplete. Raises FrameError."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME:
            raise FrameError(f"a frame of {length} octets is announced")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        try:
            return pb.Message.FromString(body)
        except DecodeError as problem:
            raise FrameError("a frame that is no message") from problem

    def rest(self) -> bytes:
        """Everything behind the last message; the reader is empty afterwards."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
