"""Frames of the agent protocol: the published vectors, every cut of them, and what is no frame."""

from __future__ import annotations

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.control import error
from reference_engine.agent.framing import MAX_FRAME, FrameError, FrameReader, encode
from reference_engine.tunnel.refusal import Refusal

STREAM = "aabbccddeeff001122334455"


def proxy_conn_req() -> pb.Message:
    request = pb.ProxyConnReq(tunnel_id="0123456789abcdef01234567", stream_id=STREAM)
    request.secret.value = "s3cr3t"
    request.source_ip.v4 = 0xC0000201
    return pb.Message(proxy_conn_req=request)


def channel_ok() -> pb.Message:
    message = pb.Message()
    ok = message.open_control_channel_rsp.ok
    ok.client_id = "cli1"
    ok.server_details.agent.value = "e"
    ok.liveness.heartbeat_interval_ms = 1000
    ok.liveness.heartbeat_timeout_ms = 3000
    return message


FRAMES = [
    ("000000027a00", pb.Message(heartbeat=pb.Heartbeat())),
    ("000000047a020801", pb.Message(heartbeat=pb.Heartbeat(sequence=1))),
    ("000000047a021001", pb.Message(heartbeat=pb.Heartbeat(acknowledgement=1))),
    ("000000026200", pb.Message(proxy_rsp=pb.ProxyRsp())),
    (
        "0000001c721a0a18616162626363646465656666303031313232333334343535",
        pb.Message(stream_rsp=pb.StreamRsp(stream_id=STREAM)),
    ),
    (
        "0000001b7219121708b81712120a1074756e6e656c206e6f7420666f756e64",
        pb.Message(stream_rsp=pb.StreamRsp(error=error(Refusal(3000, "", "tunnel not found")))),
    ),
    (
        "000000171215121308e807120e0a0c556e617574686f72697a6564",
        pb.Message(open_control_channel_rsp=pb.OpenControlChannelRsp(error=error(Refusal(1000, "", "Unauthorized")))),
    ),
    ("000000021a00", pb.Message(close_control_channel_req=pb.CloseControlChannelReq())),
    ("000000022200", pb.Message(close_control_channel_rsp=pb.CloseControlChannelRsp())),
    (
        "0000001d8a011a0a18616162626363646465656666303031313232333334343535",
        pb.Message(datagram_channel_close=pb.DatagramChannelClose(stream_id=STREAM)),
    ),
    ("000000078201040a026869", pb.Message(server_message=pb.ServerMessage(message="hi"))),
]
PAYLOADS = [
    ("12170a150a04636c693112050a030a01651a0608e80710b817", channel_ok()),
    (
        (
            "4a450a1830313233343536373839616263646566303132333435363712186161626263636464656566663030313132323333343435"
            "351a080a0673336372337422050d010200c0"
        ),
        proxy_conn_req(),
    ),
    (
        "521a0a18616162626363646465656666303031313232333334343535",
        pb.Message(proxy_conn_rsp=pb.ProxyConnRsp(stream_id=STREAM)),
    ),
    (
        "3a1a0a18303132333435363738396162636465663031323334353637",
        pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id="0123456789abcdef01234567")),
    ),
]
SDK_OPENING = (
    "0a540a4d0a180a167273747265616d2d707974686f6e2d72756e74696d6512050a0373646b1a070a05302e372e3022070a056c696e7578"
    "2a080a067838365f363432050a03746f6b3a070a05312e342e35120308e807"
)


@pytest.mark.parametrize(("octets", "message"), FRAMES, ids=[octets[:24] for octets, _ in FRAMES])
def test_frames(octets: str, message: pb.Message) -> None:
    assert encode(message).hex() == octets
    reader = FrameReader()
    reader.feed(bytes.fromhex(octets))
    assert reader.next() == message
    assert reader.next() is None


@pytest.mark.parametrize(("octets", "message"), PAYLOADS, ids=[octets[:24] for octets, _ in PAYLOADS])
def test_payloads(octets: str, message: pb.Message) -> None:
    assert message.SerializeToString().hex() == octets
    assert pb.Message.FromString(bytes.fromhex(octets)) == message


def test_the_sdks_opening_is_read() -> None:
    message = pb.Message.FromString(bytes.fromhex(SDK_OPENING))
    details = message.open_control_channel_req.client_details
    assert (details.token.value, details.protocol_version.value) == ("tok", "1.4.5")
    assert message.open_control_channel_req.liveness.heartbeat_interval_ms == 1000


def test_every_cut_gives_the_same_messages_and_the_same_rest() -> None:
    """Bytes behind the last frame are handed back as they are, wherever the reads were cut."""
    octets = b"".join(bytes.fromhex(frame) for frame, _ in FRAMES[:4])
    for cut in range(1, len(octets)):
        reader = FrameReader()
        got = []
        for piece in (octets[:cut], octets[cut:]):
            reader.feed(piece)
            while (message := reader.next()) is not None:
                got.append(message)
        assert got == [message for _, message in FRAMES[:4]]
        assert reader.rest() == b""
    reader = FrameReader()
    reader.feed(encode(FRAMES[3][1]) + b"\0\0raw")
    assert reader.next() == FRAMES[3][1]
    assert reader.rest() == b"\0\0raw"
    assert reader.rest() == b""


def test_an_empty_message_is_a_message() -> None:
    reader = FrameReader()
    reader.feed(bytes(4))
    message = reader.next()
    assert message is not None
    assert message.WhichOneof("payload") is None


@pytest.mark.parametrize("octets", ["00010000", "ffffffff", "47455420"], ids=["65536", "largest", "GET"])
def test_a_length_above_the_limit_is_refused_at_once(octets: str) -> None:
    reader = FrameReader()
    reader.feed(bytes.fromhex(octets))
    with pytest.raises(FrameError):
        reader.next()


@pytest.mark.parametrize("body", ["ff", "0aff", "7a0208", "3a030a01ff"], ids=["tag", "length", "cut", "utf-8"])
def test_a_body_that_is_no_message(body: str) -> None:
    octets = bytes.fromhex(body)
    reader = FrameReader()
    reader.feed(len(octets).to_bytes(4, "big") + octets)
    with pytest.raises(FrameError):
        reader.next()


def test_the_largest_frame_passes_both_ways_and_one_more_does_not() -> None:
    message = pb.Message(server_message=pb.ServerMessage(message=""))
    overhead = pb.Message(server_message=pb.ServerMessage(message="x" * 60_000)).ByteSize() - 60_000
    message.server_message.message = "x" * (MAX_FRAME - overhead)
    frame = encode(message)
    assert len(frame) == 4 + MAX_FRAME
    reader = FrameReader()
    reader.feed(frame)
    assert reader.next() == message
    message.server_message.message += "x"
    with pytest.raises(FrameError):
        encode(message)
