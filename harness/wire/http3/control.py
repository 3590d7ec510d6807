"""The rules of frames and of unidirectional streams (RFC 9114 sections 4.6, 5.2, 6.2 and 7.2), as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.wire.http3.frames import CancelPushFrame, Frame, GoawayFrame, MaxPushIdFrame, SettingsFrame
from harness.wire.http3.message import Violation, connection_error
from harness.wire.http3.numbers import (
    BOOLEAN_SETTINGS,
    HTTP2_FRAMES,
    HTTP2_SETTINGS,
    ErrorCode,
    FrameType,
    StreamType,
    frame_name,
    setting_name,
    stream_name,
)

_UNEXPECTED = ErrorCode.H3_FRAME_UNEXPECTED
_ID = ErrorCode.H3_ID_ERROR

NOT_ON_CONTROL = {
    FrameType.DATA: "9114 section 7.2.1",
    FrameType.HEADERS: "9114 section 7.2.2",
    FrameType.PUSH_PROMISE: "9114 section 7.2.5",
}
"""Frames that have no place on a control stream."""
NOT_ON_REQUEST = {
    FrameType.CANCEL_PUSH: "9114 section 7.2.3",
    FrameType.SETTINGS: "9114 section 7.2.4",
    FrameType.GOAWAY: "9114 section 7.2.6",
    FrameType.MAX_PUSH_ID: "9114 section 7.2.7",
    FrameType.PRIORITY_UPDATE_REQUEST: "9218 section 7.2",
    FrameType.PRIORITY_UPDATE_PUSH: "9218 section 7.2",
}
"""Frames that have no place on a request or push stream."""
NOT_FROM_CLIENT = {FrameType.PUSH_PROMISE: "9114 section 7.2.5"}
NOT_FROM_SERVER = {
    FrameType.MAX_PUSH_ID: "9114 section 7.2.7",
    FrameType.PRIORITY_UPDATE_REQUEST: "9218 section 7.2",
    FrameType.PRIORITY_UPDATE_PUSH: "9218 section 7.2",
}
CRITICAL = {
    StreamType.CONTROL: "9114 section 6.2.1",
    StreamType.QPACK_ENCODER: "9204 section 4.2",
    StreamType.QPACK_DECODER: "9204 section 4.2",
}
"""Streams of which each side has one, that lives as long as the connection."""


def misplaced(kind: int, *, control: bool, from_client: bool) -> Violation | None:
    """Whether a frame of type `kind` may stand on such a stream at all."""
    table = NOT_ON_CONTROL if control else NOT_ON_REQUEST
    sender = NOT_FROM_CLIENT if from_client else NOT_FROM_SERVER
    where = "a control stream" if control else "a request stream"
    if kind in HTTP2_FRAMES:
        return connection_error(f"the HTTP/2 frame {frame_name(kind)}", "9114 section 7.2.8", _UNEXPECTED)
    found = table.get(FrameType(kind)) if kind in FrameType.__members__.values() else None
    if found is not None:
        return connection_error(f"{frame_name(kind)} on {where}", found, _UNEXPECTED)
    found = sender.get(FrameType(kind)) if kind in FrameType.__members__.values() else None
    if found is not None:
        who = "client" if from_client else "server"
        return connection_error(f"{frame_name(kind)} from a {who}", found, _UNEXPECTED)
    return None


def settings_broken(frame: SettingsFrame) -> Iterator[Violation]:
    """What is wrong with the settings."""
    code = ErrorCode.H3_SETTINGS_ERROR
    seen: set[int] = set()
    for number, value in frame.settings:
        if number in HTTP2_SETTINGS:
            yield connection_error(f"the HTTP/2 setting 0x{number:x}", "9114 section 7.2.4.1", code)
        if number in seen:
            yield connection_error(f"{setting_name(number)} twice", "9114 section 7.2.4", code)
        for known, section in BOOLEAN_SETTINGS.items():
            if number == known and value > 1:
                yield connection_error(f"{setting_name(number)}={value}", section, code)
        seen.add(number)


@dataclass(slots=True)
class ControlState:
    """What the other side said on its control stream, and what it may say next. `granted` is the highest push id that
    we allowed; -1 for none."""

    from_client: bool
    granted: int = -1
    settings: SettingsFrame | None = None
    goaway: int | None = None
    max_push_id: int | None = None

    def begins(self, kind: int) -> Violation | None:
        """A frame of type `kind` begins."""
        if self.settings is None and kind != FrameType.SETTINGS:
            what = f"{frame_name(kind)} in front of SETTINGS"
            return connection_error(what, "9114 section 6.2.1", ErrorCode.H3_MISSING_SETTINGS)
        if self.settings is not None and kind == FrameType.SETTINGS:
            return connection_error("a second SETTINGS", "9114 section 7.2.4", _UNEXPECTED)
        return misplaced(kind, control=True, from_client=self.from_client)

    def take(self, frame: Frame) -> list[Violation]:
        """A whole frame: what is wrong with it."""
        match frame:
            case SettingsFrame():
                self.settings = self.settings or frame
                return list(settings_broken(frame))
            case GoawayFrame(number=number):
                return list(self._goaway(number))
            case MaxPushIdFrame(number=number):
                return list(self._max_push_id(number))
            case CancelPushFrame(number=number) if number > self._known_pushes():
                return [connection_error(f"CANCEL_PUSH {number}, an id not in use", "9114 section 7.2.3", _ID)]
            case _:
                return []

    def _known_pushes(self) -> int:
        """The highest push id that a CANCEL_PUSH of the other side's may name: this peer never promises one."""
        return -1 if self.from_client else self.granted

    def _goaway(self, number: int) -> Iterator[Violation]:
        if not self.from_client and number % 4:
            yield connection_error(f"GOAWAY {number}, no request stream", "9114 section 7.2.6", _ID)
        if self.goaway is not None and number > self.goaway:
            yield connection_error(f"GOAWAY {number} behind {self.goaway}", "9114 section 5.2", _ID)
        self.goaway = number

    def _max_push_id(self, number: int) -> Iterator[Violation]:
        if self.max_push_id is not None and number < self.max_push_id:
            yield connection_error(f"MAX_PUSH_ID {number} behind {self.max_push_id}", "9114 section 7.2.7", _ID)
        self.max_push_id = number


def stream_broken(kind: int, *, known: bool, from_client: bool, granted: int) -> Violation | None:
    """Whether the other side may open a unidirectional stream of type `kind`; `known` says that it has one already."""
    creation = ErrorCode.H3_STREAM_CREATION_ERROR
    if kind in CRITICAL and known:
        section = CRITICAL[StreamType(kind)]
        return connection_error(f"a second {stream_name(kind)} stream", section, creation)
    if kind == StreamType.PUSH and from_client:
        return connection_error("a push stream from a client", "9114 section 6.2.2", creation)
    if kind == StreamType.PUSH and granted < 0:
        return connection_error("a push stream that nobody asked for", "9114 section 4.6", _ID)
    return None


def closed(kind: int, how: str) -> Violation | None:
    """Whether a stream of that type may end."""
    if kind not in CRITICAL:
        return None
    what, section = f"{how} of the {stream_name(kind)} stream", CRITICAL[StreamType(kind)]
    return connection_error(what, section, ErrorCode.H3_CLOSED_CRITICAL_STREAM)
