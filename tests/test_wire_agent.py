"""The agent protocol on the wire: frames, vectors, builders that break one thing, properties."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.agent import edgecase_agent_pb2 as pb
from harness.model.spec import TunnelSpec, http, private, tls
from harness.wire import agent as wire

STREAM = "aabbccddeeff001122334455"


def replies() -> dict[str, pb.Message]:
    ok, refused, denied = pb.Message(), pb.Message(), pb.Message()
    ok.proxy_rsp.SetInParent()
    refused.stream_rsp.error.code = 3000  # type: ignore[assignment]
    refused.stream_rsp.error.message.value = "tunnel not found"
    denied.open_control_channel_rsp.error.code = 1000  # type: ignore[assignment]
    denied.open_control_channel_rsp.error.message.value = "Unauthorized"
    return {"ok": ok, "refused": refused, "denied": denied}


class TestVectors:
    """Frames whose octets are known from the protocol's published vectors."""

    @pytest.mark.parametrize(
        ("message", "octets"),
        [
            (wire.heartbeat(), "000000027a00"),
            (wire.heartbeat(1), "000000047a020801"),
            (wire.heartbeat(0, 1), "000000047a021001"),
            (replies()["ok"], "000000026200"),
            (replies()["refused"], "0000001b7219121708b81712120a1074756e6e656c206e6f7420666f756e64"),
            (replies()["denied"], "000000171215121308e807120e0a0c556e617574686f72697a6564"),
            (wire.close_control_channel(), "000000021a00"),
            (wire.datagram_channel_close(STREAM), "0000001d8a011a0a18" + STREAM.encode().hex()),
            (wire.proxy_conn_rsp(STREAM), "0000001c521a0a18" + STREAM.encode().hex()),
        ],
    )
    def test_frame(self, message: pb.Message, octets: str) -> None:
        assert wire.encode(message).hex() == octets

    def test_what_an_agent_of_the_service_was_sent_reads_well(self) -> None:
        payload = (
            "4a450a18303132333435363738396162636465663031323334353637121861616262636364646565666630303131323233333434"
            "35351a080a067333637233742205" + "0d010200c0"
        )
        request = wire.decode(bytes.fromhex(payload)).proxy_conn_req
        assert (request.tunnel_id, request.stream_id) == ("0123456789abcdef01234567", STREAM)
        assert request.secret.value == "s3cr3t"
        assert wire.address_text(request.source_ip) == "192.0.2.1"


class TestFrames:
    """Cutting a stream into frames."""

    @given(st.lists(st.binary(max_size=300), max_size=6), st.binary(max_size=20), st.integers(1, 50))
    def test_any_split_gives_the_same_frames(self, payloads: list[bytes], rest: bytes, step: int) -> None:
        stream = b"".join(wire.frame(payload) for payload in payloads)
        reader, found = wire.FrameReader(), []
        for start in range(0, len(stream), step):
            reader.feed(stream[start : start + step])
            while (payload := reader.next()) is not None:
                found.append(payload)
        assert found == payloads
        reader.feed(rest)
        assert reader.partial == len(rest)
        assert reader.rest() == rest
        assert reader.partial == 0

    def test_the_limit_is_exact(self) -> None:
        reader = wire.FrameReader()
        reader.feed(wire.frame(bytes(wire.MAX_FRAME)))
        assert reader.next() == bytes(wire.MAX_FRAME)
        reader.feed((wire.MAX_FRAME + 1).to_bytes(4, "big"))
        with pytest.raises(wire.FrameError, match="65536 octets"):
            reader.next()

    @given(st.binary(max_size=200))
    def test_hostile_octets_are_a_message_or_a_frame_error(self, payload: bytes) -> None:
        try:
            message = wire.decode(payload)
        except wire.FrameError:
            return
        assert wire.kind(message)
        assert isinstance(wire.describe(message), str)
        wire.error_of(message)


class TestBroken:
    """One keyword breaks one thing."""

    def test_a_length_can_lie(self) -> None:
        assert wire.encode(wire.heartbeat(), length=9).hex() == "000000097a00"

    def test_a_frame_can_be_cut(self) -> None:
        assert wire.encode(wire.heartbeat(1), keep=5).hex() == "000000047a"

    @pytest.mark.parametrize("size", [3, 9, 10, 130, 131, 132, 133, 16389, 65535, 65536])
    def test_padding_is_exact_and_unknown(self, size: int) -> None:
        data = wire.encode(pb.Message(), pad_to=size)
        assert int.from_bytes(data[:4], "big") == size == len(data) - 4
        assert wire.kind(wire.decode(data[4:])) == "empty"

    def test_a_padded_request_is_still_the_request(self) -> None:
        data = wire.encode(wire.close_tunnel("t"), pad_to=1000)
        assert wire.decode(data[4:]).close_tunnel_req.tunnel_id == "t"

    def test_an_unknown_field_is_skipped(self) -> None:
        data = wire.encode(wire.heartbeat(7), unknown_field=True)
        assert len(data) > len(wire.encode(wire.heartbeat(7)))
        assert wire.decode(data[4:]).heartbeat.sequence == 7

    def test_an_empty_message(self) -> None:
        assert wire.encode(pb.Message()) == bytes(4)


class TestMessages:
    """What builders say, and what they leave out."""

    def test_absent_is_not_empty(self) -> None:
        absent = wire.open_control_channel(version=None).open_control_channel_req.client_details
        empty = wire.open_control_channel(version="", token="").open_control_channel_req.client_details
        assert not absent.HasField("protocol_version")
        assert not absent.HasField("token")
        assert empty.HasField("protocol_version")
        assert empty.HasField("token")

    def test_zero_rtt_has_three_states(self) -> None:
        assert not wire.proxy_req(STREAM).proxy_req.HasField("zero_rtt")
        assert wire.proxy_req(STREAM, zero_rtt=False).proxy_req.HasField("zero_rtt")
        assert wire.stream_req("t", zero_rtt=True, datagram_channel=True).stream_req.zero_rtt.value

    def test_a_refusal_has_code_and_text(self) -> None:
        error = wire.error_of(wire.proxy_conn_rsp(STREAM, code=4711, text="no"))
        assert error is not None
        assert wire.describe_error(error) == "error 4711: no"
        assert wire.error_of(wire.proxy_conn_rsp(STREAM)) is None
        assert wire.error_of(pb.Message()) is None

    def test_the_transcript_never_sees_a_token(self) -> None:
        for message in (wire.open_control_channel(token="very-secret"), wire.stream_req("t", token="very-secret")):
            assert "very-secret" not in wire.describe(message)
            assert b"very-secret" not in wire.encode(wire.redacted(message))
            assert len(wire.encode(wire.redacted(message))) == len(wire.encode(message))
        assert 'token: "s"' in wire.describe(wire.proxy_req(STREAM, secret="s"))

    def test_a_long_message_is_told_in_short(self) -> None:
        assert len(wire.describe(wire.close_tunnel("x" * 10_000))) <= 400

    @pytest.mark.parametrize(
        ("address", "text"),
        [
            (pb.IpAddress(v4=0x7F000001), "127.0.0.1"),
            (pb.IpAddress(v6=bytes(15) + b"\x01"), "::1"),
            (pb.IpAddress(v6=b"short"), None),
            (pb.IpAddress(), None),
        ],
    )
    def test_addresses(self, address: pb.IpAddress, text: str | None) -> None:
        assert wire.address_text(address) == text


class TestProperties:
    """Specs and TunnelProperties say the same."""

    @pytest.mark.parametrize(
        "spec",
        [
            tls(tls_mode="passthrough", hostname="a.t.x"),
            tls(tls_alpns=("a/1", "b/1"), tls_min_version="tls1.3", upstream_tls=False),
            http(http_version="h2c", labels=(("a", "1"), ("b", "2")), port=0),
            private(trusted_ips=("192.0.2.0/24",), token_auth=True),
            TunnelSpec(),
        ],
    )
    def test_there_and_back(self, spec: TunnelSpec) -> None:
        assert wire.to_spec(wire.to_properties(spec)) == dataclasses.replace(spec, upstream="tcp")

    def test_false_is_said_and_absent_is_not(self) -> None:
        said = wire.to_properties(TunnelSpec(publish=False))
        assert said.HasField("publish")
        assert not said.HasField("token_auth")
        assert wire.from_properties(said) == {"publish": False}

    def test_what_the_engine_adds_is_read(self) -> None:
        properties = wire.to_properties(tls())
        properties.id.value = "t1"
        properties.creation_date.seconds = 0
        assert wire.from_properties(properties) == {
            "id": "t1",
            "creation_date": "1970-01-01T00:00:00+00:00",
            "protocol": "tls",
        }

    def test_a_date_that_is_none_does_no_harm(self) -> None:
        properties = pb.TunnelProperties()
        properties.creation_date.seconds = 1 << 60
        assert "no date" in wire.from_properties(properties)["creation_date"]
