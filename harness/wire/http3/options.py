"""How a peer of HTTP/3 behaves: legal by default, one keyword breaks one thing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from harness.wire.http3.frames import SettingsFrame
from harness.wire.http3.numbers import SettingId, StreamType, reserved
from harness.wire.quic.codec import QuicUsageError


@dataclass(frozen=True, kw_only=True)
class Http3Options:
    """What both roles have.

    - `settings`: the pairs of our SETTINGS as they go out, in place of those that the other options make.
    - `max_field_section_size`: announced, None for no limit; what comes is read whatever its size.
    - `table_capacity`, `blocked_streams`: announced for our decoder; 0 is no dynamic table.
    - `encoder_capacity`: octets of the dynamic table that our encoder uses, as far as the other side permits.
    - `acknowledge_sections` False never writes on our decoder stream.
    - `connect_protocol`, `datagrams`: announced (RFC 9220, RFC 9297).
    - `max_push_id`: sent by a client in MAX_PUSH_ID; None grants no push.
    - `streams`: the unidirectional streams that we open at once, by type and in order; without the control stream
      there are no SETTINGS, and doubles are doubles.
    - `first_frames`: octets on the control stream in front of SETTINGS; `settings_frame`: octets in its place.
    - `grease` adds a reserved setting, and a reserved frame behind SETTINGS (RFC 9114 section 7.2.8).
    - `answer_violations` False keeps still where the RFC asks for a connection error.
    """

    settings: tuple[tuple[int, int], ...] | None = None
    max_field_section_size: int | None = None
    table_capacity: int = 0
    blocked_streams: int = 0
    encoder_capacity: int = 0
    acknowledge_sections: bool = True
    connect_protocol: bool = False
    datagrams: bool = False
    max_push_id: int | None = None
    streams: tuple[int, ...] = (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER)
    first_frames: bytes = b""
    settings_frame: bytes | None = None
    grease: bool = True
    answer_violations: bool = True

    @property
    def announced(self) -> SettingsFrame:
        """Our SETTINGS."""
        if self.settings is not None:
            return SettingsFrame(tuple(self.settings))
        chosen: list[tuple[int, int | None]] = [
            (SettingId.MAX_FIELD_SECTION_SIZE, self.max_field_section_size),
            (SettingId.QPACK_MAX_TABLE_CAPACITY, self.table_capacity or None),
            (SettingId.QPACK_BLOCKED_STREAMS, self.blocked_streams or None),
            (SettingId.ENABLE_CONNECT_PROTOCOL, 1 if self.connect_protocol else None),
            (SettingId.H3_DATAGRAM, 1 if self.datagrams else None),
            (reserved(7), 7 if self.grease else None),
        ]
        return SettingsFrame(tuple((int(number), value) for number, value in chosen if value is not None))

    @classmethod
    def split(cls, keywords: dict[str, Any]) -> tuple[Self, dict[str, Any]]:
        """Options from those of `keywords` that are known here, and the rest, for the QUIC peer below."""
        ours = {each.name for each in dataclasses.fields(cls)}
        mine = {name: value for name, value in keywords.items() if name in ours}
        return cls(**mine), {name: value for name, value in keywords.items() if name not in ours}

    def __post_init__(self) -> None:
        for name in ("table_capacity", "blocked_streams", "encoder_capacity"):
            value = getattr(self, name)
            if not 0 <= value < 1 << 30:
                raise QuicUsageError(f"{name}: {value}; allowed: 0 to {(1 << 30) - 1}")
