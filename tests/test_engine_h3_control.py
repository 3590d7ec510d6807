"""The engine's HTTP/3 codec on unidirectional streams: control, push, unknown ones, and what they may never say."""

from __future__ import annotations

import pytest
from aioquic.h3.connection import ErrorCode

from tests.engine_h3_support import (
    CANCEL_PUSH,
    CONTROL,
    DATA,
    DECODER,
    ENCODER,
    GET,
    GOAWAY,
    MAX_PUSH_ID,
    PUSH,
    PUSH_PROMISE,
    SETTINGS,
    Codec,
    client,
    frame,
    headers,
    number,
    section,
    server,
    settings,
)

GREASE = 0x1F * 7 + 0x21


# -- control streams ---------------------------------------------------------------------------------------------------

ON_CONTROL = {
    "no settings": (frame(GOAWAY, b"\x00"), ErrorCode.H3_MISSING_SETTINGS),
    "unknown frame first": (frame(GREASE), ErrorCode.H3_MISSING_SETTINGS),
    "two settings": (settings() + settings(), ErrorCode.H3_FRAME_UNEXPECTED),
    "DATA": (settings() + frame(DATA, b"x"), ErrorCode.H3_FRAME_UNEXPECTED),
    "HEADERS": (settings() + headers(GET), ErrorCode.H3_FRAME_UNEXPECTED),
    "PUSH_PROMISE": (settings() + frame(PUSH_PROMISE, b"\x00"), ErrorCode.H3_FRAME_UNEXPECTED),
    **{f"HTTP/2 frame {kind}": (settings() + frame(kind), ErrorCode.H3_FRAME_UNEXPECTED) for kind in (2, 6, 8, 9)},
    **{f"HTTP/2 setting {one}": (settings({one: 1}), ErrorCode.H3_SETTINGS_ERROR) for one in (0, 2, 3, 4, 5)},
    "setting twice": (frame(SETTINGS, b"\x06\x01\x06\x01"), ErrorCode.H3_SETTINGS_ERROR),
    "half a setting": (frame(SETTINGS, b"\x06"), ErrorCode.H3_FRAME_ERROR),
    "long settings": (number(SETTINGS) + number(1 << 40), ErrorCode.H3_EXCESSIVE_LOAD),
    "long GOAWAY": (settings() + frame(GOAWAY, b"\x00\x00"), ErrorCode.H3_FRAME_ERROR),
    "empty GOAWAY": (settings() + frame(GOAWAY), ErrorCode.H3_FRAME_ERROR),
    "rising GOAWAY": (settings() + frame(GOAWAY, b"\x04") + frame(GOAWAY, b"\x08"), ErrorCode.H3_ID_ERROR),
    "CANCEL_PUSH": (settings() + frame(CANCEL_PUSH, b"\x07"), ErrorCode.H3_ID_ERROR),
    "empty CANCEL_PUSH": (settings() + frame(CANCEL_PUSH), ErrorCode.H3_FRAME_ERROR),
    "end": (settings(), ErrorCode.H3_CLOSED_CRITICAL_STREAM),
}


@pytest.mark.parametrize("name", ON_CONTROL)
@pytest.mark.parametrize("whole", [True, False])
def test_what_a_control_stream_must_not_say(name: str, whole: bool) -> None:
    octets, code = ON_CONTROL[name]
    codec = Codec()
    if whole:
        codec.take(2, CONTROL + octets)
    else:
        for at in range(len(octets) + 1):
            codec.take(2, (CONTROL + octets)[at : at + 1])
    if name == "end":
        codec.take(2, b"", True)
    assert codec.code == code


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(MAX_PUSH_ID, b"\x00"), ErrorCode.H3_FRAME_UNEXPECTED),
        (frame(GOAWAY, b"\x03"), ErrorCode.H3_ID_ERROR),
        (frame(CANCEL_PUSH, b"\x00"), ErrorCode.H3_ID_ERROR),
    ],
)
def test_what_a_server_must_not_say(octets: bytes, code: int) -> None:
    codec = Codec(client=True)
    codec.take(3, CONTROL + settings() + octets)
    assert codec.code == code


def test_max_push_id_never_falls() -> None:
    codec = server()
    codec.take(2, frame(MAX_PUSH_ID, b"\x08"))
    assert codec.close is None
    codec.take(2, frame(MAX_PUSH_ID, b"\x04"))
    assert codec.code == ErrorCode.H3_ID_ERROR


def test_what_is_unknown_on_a_control_stream_is_passed_over() -> None:
    codec = Codec()
    octets = settings({0x21: 5, 0x40: 1, 6: 100}) + number(GREASE) + number(100_000)
    codec.take(2, CONTROL + octets)
    for _ in range(10):
        codec.take(2, bytes(10_000))
    codec.take(2, frame(GOAWAY, b"\x08") + frame(0xF0700, b"\x00") + frame(GOAWAY, b"\x04"))
    assert codec.close is None
    assert (codec.h3.settled, codec.h3.largest_section, codec.h3.peer_goaway) == (True, 100, 4)


@pytest.mark.parametrize("kind", [CONTROL, ENCODER, DECODER])
def test_critical_streams_come_once_and_never_end(kind: bytes) -> None:
    codec = server()
    codec.take(14, kind)
    assert codec.code == ErrorCode.H3_STREAM_CREATION_ERROR
    for reset in (False, True):
        codec = server()
        stream = codec.theirs[kind[0] and kind[0] - 1]
        if reset:
            codec.h3.stream_reset(stream)
            codec.said += codec.h3.commands
        else:
            codec.take(stream, b"", True)
        assert codec.code == ErrorCode.H3_CLOSED_CRITICAL_STREAM


def test_our_critical_streams_may_not_be_stopped() -> None:
    for stream in (3, 7, 11):
        codec = server()
        assert stream in codec.h3.critical_streams
        codec.h3.stream_stopped(stream)
        codec.said += codec.h3.commands
        assert codec.code == ErrorCode.H3_CLOSED_CRITICAL_STREAM


def test_pushes() -> None:
    codec = server()
    codec.take(14, PUSH + b"\x00")
    assert codec.code == ErrorCode.H3_STREAM_CREATION_ERROR
    codec = client()
    codec.take(15, PUSH + b"\x00")
    assert codec.code == ErrorCode.H3_ID_ERROR
    codec = client()
    codec.take(0, frame(PUSH_PROMISE, b"\x00" + section(GET)))
    assert codec.code == ErrorCode.H3_ID_ERROR


@pytest.mark.parametrize("octets", [number(0x21), number(0x40) + b"abc", number(0x54) + b"\x00", number((1 << 62) - 1)])
def test_unknown_streams_are_not_read(octets: bytes) -> None:
    codec = server()
    for octet in octets:
        codec.take(14, bytes([octet]))
        if not codec.wanted:
            break
    assert (codec.wanted, codec.close) == (False, None)


def test_streams_without_meaning_are_forgotten_and_bounded() -> None:
    codec = server()
    for count in range(1_100):
        stream = 14 + 4 * count
        codec.take(stream, number(0x21)[: 1 + count % 2], count % 3 == 0)
        codec.h3.stream_reset(stream)
        codec.said += codec.h3.commands
        if codec.close is not None:
            break
        assert set(codec.h3._unidirectional) == {2, 6, 10}
    assert codec.code == ErrorCode.H3_EXCESSIVE_LOAD


def test_streams_that_end_before_their_type_mean_nothing() -> None:
    codec = server()
    codec.take(14, b"", True)
    codec.take(18, b"\x40", True)
    codec.h3.stream_reset(22)
    codec.said += codec.h3.commands
    assert codec.close is None


def test_frames_that_say_nothing_are_bounded() -> None:
    codec = server()
    codec.take(0, headers(GET))
    codec.take(0, frame(GREASE) * 900)
    assert codec.close is None
    codec.take(0, frame(DATA) * 200)
    assert codec.code == ErrorCode.H3_EXCESSIVE_LOAD
