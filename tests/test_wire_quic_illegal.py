"""What a script may put into the words of a QUIC peer: illegal parameters, frames as they stand, changed datagrams."""

from __future__ import annotations

from typing import Any

import pytest

from harness.wire.quic import (
    ErrorCode,
    Level,
    ParameterId,
    Parameters,
    ProtocolViolation,
    QuicEnd,
    QuicUsageError,
)
from harness.wire.quic.frames import (
    ConnectionClose,
    NewConnectionId,
    Stream,
)
from tests.quic_support import Ours, Pair, every, frames, usual_client, usual_server


def double(parameters: Parameters) -> Parameters:
    return parameters.appending(*parameters.entries[0])


def tiny(parameters: Parameters) -> Parameters:
    return parameters.with_value(ParameterId.MAX_UDP_PAYLOAD_SIZE, 1000)


def broken(parameters: Parameters) -> Parameters:
    return parameters.with_value(ParameterId.INITIAL_MAX_DATA, b"\xff")


def other_source(parameters: Parameters) -> Parameters:
    return parameters.with_value(ParameterId.INITIAL_SOURCE_CONNECTION_ID, b"other")


def server_token(parameters: Parameters) -> Parameters:
    return parameters.appending(ParameterId.STATELESS_RESET_TOKEN, bytes(15))


@pytest.mark.parametrize("change", [double, tiny, broken, other_source, server_token])
@pytest.mark.parametrize("role", ["client", "server"])
def test_illegal_transport_parameters(role: str, change: Any) -> None:
    options = {"parameters": change}
    pair = Pair(usual_client(**options), usual_server()) if role == "client" else Pair(server=usual_server(**options))
    pair.run(lambda: pair.client.wire.end is not None and pair.server.wire.end is not None)
    assert {end.code for end in pair.ends} == {ErrorCode.TRANSPORT_PARAMETER_ERROR}
    judge = pair.server if role == "client" else pair.client
    assert every(judge.events, ProtocolViolation)


@pytest.mark.parametrize("role", ["client", "server"])
def test_no_transport_parameters(role: str) -> None:
    def without(message: Any) -> Any:
        return message.without_extension(0x39)

    step = {"client": "client_hello", "server": "encrypted_extensions"}[role]
    options = {"modify": {step: without}}
    pair = Pair(usual_client(**options)) if role == "client" else Pair(server=usual_server(**options))
    pair.run(lambda: pair.client.wire.end is not None and pair.server.wire.end is not None)
    assert {end.code for end in pair.ends} == {0x16D}


class TestSay:
    """Frames of the script, legal or not."""

    @pytest.mark.parametrize("loss", [0.0, 0.15])
    def test_said_frames_arrive_as_they_stand(self, loss: float) -> None:
        pair = Pair(server=usual_server(answer_violations=False), loss=loss, seed=8).connect()
        said = [Stream(0, 0, b"a", implicit_length=True), NewConnectionId(7, 9, b"1234", bytes(16))]
        pair.client.wire.say(*said)
        pair.run(lambda: len(broken_rules(pair.server)) == 1)
        pair.client.wire.say_raw(b"\x21\x22")
        pair.run(lambda: any(event.what.startswith("frame of unknown") for event in broken_rules(pair.server)), 60)
        pair.run(lambda: frames(pair.server, Stream) == [Stream(0, 0, b"a", implicit_length=True)], 60)
        assert any("retire_prior_to" in event.what for event in broken_rules(pair.server))

    def test_a_packet_without_frames(self) -> None:
        pair = Pair(server=usual_server(answer_violations=False)).connect()
        pair.client.wire.say_raw(b"")
        pair.run(lambda: bool(broken_rules(pair.server)))
        assert broken_rules(pair.server)[0].what == "packet without frames"

    def test_level(self) -> None:
        pair = Pair(server=usual_server(answer_violations=False))
        pair.client.wire.say(Stream(0, 0, b"too early"), level=Level.INITIAL)
        pair.run(lambda: bool(broken_rules(pair.server)))
        assert "level initial" in broken_rules(pair.server)[0].what
        pair.run(lambda: pair.client.wire.confirmed)
        with pytest.raises(QuicUsageError, match="no keys of level initial"):
            pair.client.wire.say(Stream(0), level=Level.INITIAL)

    def test_forged_close_in_an_initial(self) -> None:
        pair = Pair()
        pair.client.wire.say(ConnectionClose(ErrorCode.NO_ERROR, 0, b"never mind"), level=Level.INITIAL)
        pair.run(lambda: pair.server.wire.end is not None)
        assert pair.server.wire.end == QuicEnd("transport", 0, 0, "never mind")


def broken_rules(side: Ours) -> list[Any]:
    return every(side.events, ProtocolViolation)


def test_reserved_bits() -> None:
    pair = Pair(usual_client(reserved_bits=1))
    pair.run(lambda: pair.client.wire.end is not None)
    assert pair.client.wire.end.code == ErrorCode.PROTOCOL_VIOLATION


def test_tamper_sees_every_datagram() -> None:
    seen: list[int] = []

    def tamper(index: int, datagram: bytes) -> bytes | list[bytes] | None:
        seen.append(index)
        if index == 0:
            return None
        return [datagram, datagram] if index == 1 else datagram

    pair = Pair(usual_client(tamper_datagram=tamper)).connect()
    assert seen == list(range(len(seen)))
    assert pair.client.wire.recovery.pto_count == 0


def test_packet_hook() -> None:
    seen: list[tuple[str, Any]] = []
    pair = Pair(usual_client(on_packet=lambda way, info: seen.append((way, info)))).connect()
    assert seen == list(pair.client.wire.packets)
    assert {way for way, _ in seen} == {"sent", "received"}


def test_options_that_no_peer_has() -> None:
    with pytest.raises(QuicUsageError, match="colour: no option of a QUIC client"):
        usual_client(colour="red")
    with pytest.raises(QuicUsageError, match="id_length: 21"):
        usual_client(id_length=21)
    with pytest.raises(QuicUsageError, match="versions"):
        usual_server(versions=(7,))
