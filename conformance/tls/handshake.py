"""Handshakes that break the protocol's order or its proofs: none completes, and nothing of them is at the upstream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.tls._steps import (
    Ending,
    cut_off,
    echo,
    ended,
    ending_13,
    ending_any,
    offer,
    quiet,
    refused,
    works,
)
from harness.model.case import case
from harness.model.spec import tls
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13

HANDSHAKE, DATA, CCS = 22, 23, 20
EARLY = b"early data" * 4


@case("tls-handshake-01", checks=["RFC8446-4.4.4-1"], publish=tls())
async def test_a_wrong_finished_is_refused(scene: Scene) -> None:
    """In TLS 1.3 a Finished with wrong verify_data, properly encrypted, ends the handshake.

    The client sends application data behind it, none of which is at the upstream; a right Finished gets through.
    """
    row = "RFC8446-4.4.4-1"
    allowed = ending_13(51, item="fatal alert 51")
    await refused(scene, row, allowed, versions=(TLS13,), wrong_finished=True, glue_after_finished=EARLY)
    await quiet(scene, row)
    await works(scene, row, versions=(TLS13,))


@case("tls-handshake-02", checks=["RFC5246-7.4.9-1"], publish=tls(), features=["tls.1.2"])
async def test_a_wrong_finished_is_refused_in_tls_12(scene: Scene) -> None:
    """In TLS 1.2 a Finished with wrong verify_data, properly encrypted, ends the handshake.

    The client sends application data behind it, none of which is at the upstream; a right Finished gets through.
    """
    row = "RFC5246-7.4.9-1"
    allowed = Ending(
        dict.fromkeys((51, 40, 20), "fatal alert 51, 40 or 20"),
        alert="another fatal alert",
        reset="close or reset",
        fin="close or reset",
    )
    await refused(scene, row, allowed, versions=(TLS12,), wrong_finished=True, glue_after_finished=EARLY)
    await quiet(scene, row)
    await works(scene, row, versions=(TLS12,))


def _record(kind: int, payload: bytes, *, encrypted: bool = True) -> Callable[[Any], bytes]:
    return lambda end: bytes(end.build_record(kind, payload, encrypted=encrypted))


FINISHED = b"\x14\0\0\x0c" + bytes(12)


def _hello_again(end: Any) -> bytes:
    return bytes(end.build_record(HANDSHAKE, end.hello.encode()))


ORDERS: dict[str, dict[str, Any]] = {
    "no-client-key-exchange": {"tamper": {"client_key_exchange": None}},
    "no-change-cipher-spec": {"tamper": {"change_cipher_spec": None}},
    "early-change-cipher-spec": {"insert": {"client_key_exchange": _record(CCS, b"\x01", encrypted=False)}},
    "early-finished": {"insert": {"client_key_exchange": _record(HANDSHAKE, FINISHED)}},
    "unasked-certificate": {"insert": {"client_key_exchange": _record(HANDSHAKE, b"\x0b\0\0\3\0\0\0")}},
    "second-hello": {"insert": {"client_key_exchange": _hello_again}},
}


@case(
    "tls-handshake-03",
    checks=["RFC5246-7.4-1"],
    publish=tls(),
    over={"order": tuple(ORDERS)},
    features=["tls.1.2"],
)
async def test_messages_out_of_order_are_refused(scene: Scene) -> None:
    """In TLS 1.2 handshake messages that are missing or out of order end the handshake.

    ClientKeyExchange or change_cipher_spec is left out; change_cipher_spec, Finished, a Certificate that nobody asked
    for or another ClientHello come in front of ClientKeyExchange. Application data follows each time, and none of it is
    at the upstream.
    """
    row = "RFC5246-7.4-1"
    allowed = ending_any("any fatal alert", "close or reset")
    order = ORDERS[scene.variant["order"]]
    await refused(scene, row, allowed, versions=(TLS12,), glue_after_finished=EARLY, **order)
    await quiet(scene, row)
    await works(scene, row, versions=(TLS12,))


@case(
    "tls-handshake-04",
    checks=["RFC5246-7.3-1"],
    publish=tls(),
    over={"form": ("plain", "protected", "first")},
    features=["tls.1.2"],
)
async def test_application_data_before_finished_is_refused(scene: Scene) -> None:
    """In TLS 1.2 application data in front of the client's Finished ends the handshake, and is not at the upstream.

    It comes unprotected in front of ClientKeyExchange, under the new keys between change_cipher_spec and Finished, or
    unprotected in front of the ClientHello. A handshake without it gets through.
    """
    row, form = "RFC5246-7.3-1", scene.variant["form"]
    allowed = ending_any("fatal alert (10 usual)", "close or reset")
    if form == "first":
        with scene.judging(row):
            client = await scene.tls_client(handshake=False, versions=(TLS12,))
            await client.send_octets(b"\x17\x03\x03" + len(EARLY).to_bytes(2, "big") + EARLY)
            await ended(scene, row, client, await client.end(), allowed)
    else:
        step = "client_key_exchange" if form == "plain" else "client_finished"
        early = {"insert": {step: _record(DATA, EARLY, encrypted=form == "protected")}}
        await refused(scene, row, allowed, versions=(TLS12,), **early)  # type: ignore[arg-type]
    await quiet(scene, row)
    await works(scene, row, versions=(TLS12,))


@case("tls-handshake-05", checks=["RFC8446-4.1.2-1"], publish=tls())
async def test_a_client_hello_after_the_handshake_ends_it(scene: Scene) -> None:
    """A ClientHello inside a TLS 1.3 connection ends it; nothing that is sent behind it is at the upstream."""
    row = "RFC8446-4.1.2-1"
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(TLS13,))
        await echo(scene, client, upstream, row)
        await client.send_handshake(client.client_hello)
        await offer(client, b"behind the ClientHello")
        await cut_off(scene, row, client, upstream, ending_13(10, item="fatal alert 10"))
