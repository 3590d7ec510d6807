"""Frames that a client must not say: each ends the connection, where the edge can see that it was the client."""

from __future__ import annotations

from collections.abc import Sequence

from conformance.quic._steps import echo, ends, joined, listed, nothing_reached
from harness.errors import DeadlineExpired
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.model.spec import quic
from harness.peer.quic import QuicPeer
from harness.scene import Scene
from harness.wire.quic import Level
from harness.wire.quic.codec import varint
from harness.wire.quic.frames import (
    Ack,
    Crypto,
    Frame,
    HandshakeDone,
    MaxStreams,
    NewConnectionId,
    NewToken,
    Raw,
    ResetStream,
    RetireConnectionId,
    StopSending,
    Stream,
)
from harness.wire.quic.numbers import CRYPTO_ERROR, MAX_VARINT, ErrorCode, FrameType
from harness.wire.tls.numbers import AlertDescription

ACK_BELOW_ZERO = Raw(b"".join(map(varint, (FrameType.ACK, 1, 0, 0, 5))), elicits=False)
"""Largest acknowledged 1, no further ranges, and a first range of five below it."""
STREAM_WITH_OFFSET = 0x0E
KEY_UPDATE = bytes((24, 0, 0, 1, 0))
"""The handshake message KeyUpdate, which asks for nothing (RFC 8446 section 4.6.3)."""
TOKEN = bytes(range(16))
NEVER_ISSUED = 9999


async def _illegal(scene: Scene, row: str, *frames: Frame, named: int, first: str) -> None:
    """On a connection through the tunnel the client says these frames in 1-RTT: the connection ends, and nothing of
    them is at the upstream."""
    client, server = await joined(scene)
    await ends(scene, row, client, *frames, named=named, first=first)
    await nothing_reached(scene, row)
    _nothing_there(scene, row, server)


def _nothing_there(scene: Scene, row: str, server: QuicPeer) -> None:
    streams = [f"stream {stream.id}: {stream.peek(40).hex()}" for stream in server.waiting_streams()]
    told = ", ".join(streams) or "nothing"
    scene.expect(row, not streams, expected="nothing of the client's frames at the upstream", actual=told)


def _named(code: ErrorCode) -> str:
    return f"CONNECTION_CLOSE {code.name}"


@case("quic-frame-01", checks=["RFC9000-12.4-1"], publish=quic())
async def test_a_packet_without_frames(scene: Scene) -> None:
    """A 1-RTT packet without any frame ends the connection.

    Its payload is empty; it has the client's next packet number and is protected as it should be.
    """
    code = ErrorCode.PROTOCOL_VIOLATION
    await _illegal(scene, "RFC9000-12.4-1", Raw(b""), named=code, first=_named(code))


@case("quic-frame-02", checks=["RFC9000-12.4-2"], publish=listed(), over={"frame": ("new-token", "stream-in-initial")})
async def test_a_frame_in_a_packet_that_must_not_carry_it(scene: Scene) -> None:
    """A frame in a packet of a kind where it must not stand ends the connection, and has no effect.

    NEW_TOKEN of a client in 1-RTT; STREAM with a nonce in an Initial behind the client's first, which may be discarded
    instead. The nonce is not at the upstream.
    """
    row, code = "RFC9000-12.4-2", ErrorCode.PROTOCOL_VIOLATION
    if scene.variant["frame"] == "new-token":
        await _illegal(scene, row, NewToken(TOKEN), named=code, first=_named(code))
        return
    client = await scene.quic_client(handshake=False)
    client.strict = False
    await client.start()
    token = scene.nonce()
    client.say(Stream(0, data=token), level=Level.INITIAL)
    try:
        await client.confirmed()
    except (LinkReset, DeadlineExpired):
        end = client.ended
        if end is not None and end.kind == "transport" and end.by_peer:
            scene.allow(row, _named(code) if end.code == code else "any other")
        else:
            scene.allow(row, "STREAM in Initial")
        await scene.settle()
        found = [stray.describe() for stray in await scene.strays() if token in stray.data]
        scene.expect(row, not found, expected="nothing of the frame at the upstream", actual="; ".join(found))
        return
    scene.allow(row, "STREAM in Initial")
    server = await scene.quic_upstream().accept()
    await client.open_stream()  # Stream 0 is the one of the Initial.
    await echo(scene, client, server, row)
    _nothing_there(scene, row, server)


@case("quic-frame-03", checks=["RFC9000-12.4-3"], publish=quic())
async def test_a_frame_of_an_unknown_type(scene: Scene) -> None:
    """A frame of type 0x3f, which no extension has negotiated, ends the connection."""
    code = ErrorCode.FRAME_ENCODING_ERROR
    await _illegal(scene, "RFC9000-12.4-3", Raw(varint(0x3F)), named=code, first=_named(code))


@case("quic-frame-04", checks=["RFC9000-19.3.1-1"], publish=quic(), over={"ack": ("below-zero", "unsent")})
async def test_an_ack_of_packets_that_cannot_be(scene: Scene) -> None:
    """An ACK whose ranges go below packet number 0 ends the connection; one of packets that were never sent may."""
    row, code = "RFC9000-19.3.1-1", ErrorCode.FRAME_ENCODING_ERROR
    if scene.variant["ack"] == "below-zero":
        await _illegal(scene, row, ACK_BELOW_ZERO, named=code, first=_named(code))
        return
    client, _ = await joined(scene)
    client.strict = False
    client.say(Ack(((1 << 20, 1 << 20),)))
    await nothing_reached(scene, row)
    scene.allow(row, "unsent packets")


@case("quic-frame-05", checks=["RFC9000-19.4-1"], publish=quic())
async def test_reset_of_a_stream_that_only_the_edge_sends_on(scene: Scene) -> None:
    """RESET_STREAM of a client for the first unidirectional stream of the server ends the connection."""
    code = ErrorCode.STREAM_STATE_ERROR
    await _illegal(scene, "RFC9000-19.4-1", ResetStream(3, 0, 0), named=code, first=_named(code))


@case("quic-frame-06", checks=["RFC9000-19.5-1"], publish=quic(), over={"stream": ("client-uni", "unopened")})
async def test_stop_of_a_stream_that_nobody_sends_on(scene: Scene) -> None:
    """STOP_SENDING for a stream on which the edge never sends, or that it has not opened, ends the connection.

    The client's own unidirectional stream 2; the server's bidirectional stream 1, which nobody has opened.
    """
    code = ErrorCode.STREAM_STATE_ERROR
    stream = 2 if scene.variant["stream"] == "client-uni" else 1
    await _illegal(scene, "RFC9000-19.5-1", StopSending(stream, 0), named=code, first=_named(code))


@case("quic-frame-07", checks=["RFC9000-19.7-1"], publish=quic())
async def test_a_token_of_a_client(scene: Scene) -> None:
    """NEW_TOKEN of a client ends the connection."""
    code = ErrorCode.PROTOCOL_VIOLATION
    await _illegal(scene, "RFC9000-19.7-1", NewToken(TOKEN), named=code, first=_named(code))


@case("quic-frame-08", checks=["RFC9000-19.8-1"], publish=quic(), over={"stream": ("unopened", "receive-only", "end")})
async def test_data_of_a_stream_that_cannot_be(scene: Scene) -> None:
    """STREAM for a stream of the server ends the connection, and nothing of it is at the upstream.

    Its bidirectional stream 1, which nobody has opened; its unidirectional stream 3; and on a stream of the client an
    octet at offset 2^62-1, behind which no octet can be counted.
    """
    row, kind, token = "RFC9000-19.8-1", scene.variant["stream"], scene.nonce()
    if kind == "end":
        head = b"".join(map(varint, (STREAM_WITH_OFFSET, 400, MAX_VARINT, 1)))
        await _illegal(scene, row, Raw(head + b"x"), named=ErrorCode.FRAME_ENCODING_ERROR, first="offsets over 2^62-1")
        return
    code = ErrorCode.STREAM_STATE_ERROR
    stream = Stream(1 if kind == "unopened" else 3, data=token)
    await _illegal(scene, row, stream, named=code, first=_named(code))


@case("quic-frame-09", checks=["RFC9000-19.15-1"], publish=quic(), over={"fault": ("empty", "long", "retire")})
async def test_a_connection_id_that_cannot_be(scene: Scene) -> None:
    """NEW_CONNECTION_ID with an id of no octets or of 21, or that retires itself, ends the connection.

    The last one has the sequence number 4 and says Retire Prior To 5.
    """
    code = ErrorCode.FRAME_ENCODING_ERROR
    frame = {
        "empty": NewConnectionId(4, 0, b"", TOKEN),
        "long": NewConnectionId(4, 0, bytes(21), TOKEN),
        "retire": NewConnectionId(4, 5, bytes(8), TOKEN),
    }[scene.variant["fault"]]
    await _illegal(scene, "RFC9000-19.15-1", frame, named=code, first=_named(code))


@case("quic-frame-10", checks=["RFC9000-19.16-1"], publish=quic())
async def test_retirement_of_an_id_that_was_never_issued(scene: Scene) -> None:
    """RETIRE_CONNECTION_ID with the sequence number 9999 ends the connection."""
    code = ErrorCode.PROTOCOL_VIOLATION
    await _illegal(scene, "RFC9000-19.16-1", RetireConnectionId(NEVER_ISSUED), named=code, first=_named(code))


@case("quic-frame-11", checks=["RFC9000-19.20-1"], publish=quic())
async def test_handshake_done_of_a_client(scene: Scene) -> None:
    """HANDSHAKE_DONE of a client ends the connection."""
    code = ErrorCode.PROTOCOL_VIOLATION
    await _illegal(scene, "RFC9000-19.20-1", HandshakeDone(), named=code, first=_named(code))


@case("quic-frame-12", checks=["RFC9001-6-1"], publish=quic())
async def test_key_update_of_tls(scene: Scene) -> None:
    """The handshake message KeyUpdate in CRYPTO frames of 1-RTT ends the connection: QUIC has its own."""
    code = CRYPTO_ERROR + AlertDescription.UNEXPECTED_MESSAGE
    await _illegal(scene, "RFC9001-6-1", Crypto(0, KEY_UPDATE), named=code, first="CONNECTION_CLOSE 0x010a")


@case("quic-frame-13", checks=["RFC9000-4.6-1"], publish=quic(), over={"kind": ("bidi", "uni")})
async def test_more_streams_than_can_be_counted(scene: Scene) -> None:
    """MAX_STREAMS of 2^60+1, which no stream id can express, ends the connection.

    The transport parameter with this number is quic-parameters-02's.
    """
    frame = MaxStreams((1 << 60) + 1, bidirectional=scene.variant["kind"] == "bidi")
    await _illegal(scene, "RFC9000-4.6-1", frame, named=ErrorCode.FRAME_ENCODING_ERROR, first="frame: CONNECTION_CLOSE")


@case(
    "quic-frame-14", checks=["RFC9000-11.1-1"], publish=quic(), over={"fault": ("frame-type", "stream-state", "token")}
)
async def test_the_end_for_a_fault_is_said(scene: Scene) -> None:
    """An end for a fault in authenticated packets is said: CONNECTION_CLOSE comes where the fault is repeated.

    A frame of an unknown type, STREAM on a stream of the server, and NEW_TOKEN, in 1-RTT.
    """
    row = "RFC9000-11.1-1"
    frames: dict[str, Sequence[Frame]] = {
        "frame-type": (Raw(varint(0x3F)),),
        "stream-state": (Stream(3, data=TOKEN),),
        "token": (NewToken(TOKEN),),
    }
    client, _ = await joined(scene)
    said, code = frames[scene.variant["fault"]], ErrorCode.PROTOCOL_VIOLATION
    await ends(scene, row, client, *said, named=code, first="CONNECTION_CLOSE", other="CONNECTION_CLOSE")
