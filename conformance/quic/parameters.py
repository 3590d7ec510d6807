"""Transport parameters of clients that are illegal, missing, doubled or unknown (RFC 9000 sections 7.3, 7.4, 18.2)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from conformance.quic._steps import echo, joined, judge_refused, listed, nothing_reached, refused
from harness.errors import EngineDeparted
from harness.link.stream import LinkReset
from harness.model.case import case
from harness.scene import Scene
from harness.wire.quic import ErrorCode, ParameterId, Parameters
from harness.wire.quic.numbers import CRYPTO_ERROR
from harness.wire.quic.parameters import EXTENSION
from harness.wire.tls.numbers import AlertDescription

Change = Callable[[Parameters], Parameters]
UNKNOWN = (27, 27 + 31, 27 + 31 * 1000, 0x2F2F, (1 << 62) - 5)
"""Ids that stand for nothing: some of those reserved for that purpose (RFC 9000 section 18.1), and others."""


def _set(number: int, value: int | bytes) -> Change:
    return lambda parameters: parameters.with_value(number, value)


INVALID: dict[str, Change] = {
    "ack-delay-exponent": _set(ParameterId.ACK_DELAY_EXPONENT, 21),
    "udp-payload-size": _set(ParameterId.MAX_UDP_PAYLOAD_SIZE, 1199),
    "ack-delay": _set(ParameterId.MAX_ACK_DELAY, 1 << 14),
    "id-limit": _set(ParameterId.ACTIVE_CONNECTION_ID_LIMIT, 1),
    "cut": _set(ParameterId.MAX_IDLE_TIMEOUT, b"\x80\0"),
    "double": lambda parameters: parameters.appending(ParameterId.MAX_IDLE_TIMEOUT, 20_000),
}
TOO_MANY: dict[str, Change] = {
    "bidi": _set(ParameterId.INITIAL_MAX_STREAMS_BIDI, (1 << 60) + 1),
    "uni": _set(ParameterId.INITIAL_MAX_STREAMS_UNI, (1 << 60) + 1),
}
OF_SERVERS: dict[str, Change] = {
    "stateless-reset-token": _set(ParameterId.STATELESS_RESET_TOKEN, bytes(range(16))),
    "original-destination": _set(ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID, bytes(8)),
    "retry-source": _set(ParameterId.RETRY_SOURCE_CONNECTION_ID, bytes(8)),
    "preferred-address": _set(
        ParameterId.PREFERRED_ADDRESS,
        bytes((127, 0, 0, 1, 4, 1)) + bytes(15) + b"\1\4\1" + b"\x08" + bytes(8) + bytes(range(16)),
    ),
}
SOURCE: dict[str, Change] = {
    "missing": lambda parameters: parameters.without(ParameterId.INITIAL_SOURCE_CONNECTION_ID),
    "another": _set(ParameterId.INITIAL_SOURCE_CONNECTION_ID, b"\xff" * 8),
}


async def _illegal(scene: Scene, row: str, change: Change, first: str) -> None:
    """A client with these parameters gets no connection, and the upstream sees none."""
    got = await refused(scene, parameters=change)
    named = ErrorCode.TRANSPORT_PARAMETER_ERROR
    judge_refused(scene, row, got, named=named, first=first, other="any other", silent="no answer")
    await nothing_reached(scene, row)


@case("quic-parameters-01", checks=["RFC9000-7.4-1"], publish=listed(), over={"fault": tuple(INVALID)})
async def test_an_invalid_parameter_ends_the_handshake(scene: Scene) -> None:
    """A transport parameter with a value that it must not have ends the handshake.

    ack_delay_exponent 21, max_udp_payload_size 1199, max_ack_delay 2^14, active_connection_id_limit 1, an integer whose
    octets are cut short; and one parameter twice, which may be accepted. Otherwise: no connection, and nothing at the
    upstream.
    """
    row, fault = "RFC9000-7.4-1", scene.variant["fault"]
    if fault == "double":
        with contextlib.suppress(EngineDeparted, LinkReset):
            await joined(scene, parameters=INVALID[fault])
            scene.allow(row, "duplicate parameter accepted")
            return
    await _illegal(scene, row, INVALID[fault], "CONNECTION_CLOSE TRANSPORT_PARAMETER_ERROR")


@case("quic-parameters-02", checks=["RFC9000-4.6-1"], publish=listed(), over={"kind": tuple(TOO_MANY)})
async def test_a_stream_limit_beyond_2_60_ends_the_handshake(scene: Scene) -> None:
    """initial_max_streams of 2^60+1, which no stream id can express, ends the handshake.

    No connection, and nothing at the upstream. The frame with this number is quic-frame-13's.
    """
    await _illegal(scene, "RFC9000-4.6-1", TOO_MANY[scene.variant["kind"]], "transport parameter")


@case("quic-parameters-03", checks=["RFC9000-18.2-1"], publish=listed(), over={"parameter": tuple(OF_SERVERS)})
async def test_a_parameter_of_servers_ends_the_handshake(scene: Scene) -> None:
    """A transport parameter that only servers send ends the handshake of a client.

    stateless_reset_token, original_destination_connection_id, retry_source_connection_id, preferred_address: no
    connection, and nothing at the upstream.
    """
    first = "CONNECTION_CLOSE TRANSPORT_PARAMETER_ERROR"
    await _illegal(scene, "RFC9000-18.2-1", OF_SERVERS[scene.variant["parameter"]], first)


@case("quic-parameters-04", checks=["RFC9000-7.3-1"], publish=listed(), over={"source": tuple(SOURCE)})
async def test_the_client_confirms_its_connection_id(scene: Scene) -> None:
    """initial_source_connection_id has to be there, and to be what the client's Initial said.

    Without it, or with another value: no connection, and nothing at the upstream.
    """
    first = "CONNECTION_CLOSE TRANSPORT_PARAMETER_ERROR"
    await _illegal(scene, "RFC9000-7.3-1", SOURCE[scene.variant["source"]], first)


@case("quic-parameters-05", checks=["RFC9001-8.2-1"], publish=listed())
async def test_a_hello_without_parameters_ends_the_handshake(scene: Scene) -> None:
    """A ClientHello without the extension quic_transport_parameters ends the handshake.

    No connection (alert missing_extension, 0x016d, or another code), and nothing at the upstream.
    """
    row = "RFC9001-8.2-1"
    got = await refused(scene, hello=lambda hello: hello.without_extension(EXTENSION))
    named = CRYPTO_ERROR + AlertDescription.MISSING_EXTENSION
    judge_refused(scene, row, got, named=named, first="CONNECTION_CLOSE 0x016d", other="any other", silent="no answer")
    await nothing_reached(scene, row)


@case("quic-parameters-06", checks=["RFC9000-7.4.2-1"], publish=listed())
async def test_unknown_parameters_are_ignored(scene: Scene) -> None:
    """Transport parameters that nobody knows change nothing.

    Parameters with reserved ids (31 * N + 27) and others, empty ones and one of 200 octets: the handshake completes and
    the tunnel works (B2).
    """
    row = "RFC9000-7.4.2-1"

    def unknown(parameters: Parameters) -> Parameters:
        for index, number in enumerate(UNKNOWN):
            parameters = parameters.appending(number, bytes(50 * index))
        return parameters

    with scene.judging(row, ends=True):
        client, server = await joined(scene, parameters=unknown)
    await echo(scene, client, server, row)
    known = server.alpn == client.alpn
    scene.expect(row, known, expected="one protocol on both legs", actual=f"{client.alpn} and {server.alpn}")
