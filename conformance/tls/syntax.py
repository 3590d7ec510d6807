"""A ClientHello that cannot be read, or says what no ClientHello may say; and what every edge must be able to speak."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from conformance.tls._steps import ended, ending_12, ending_13, quiet, reached, refused, works
from harness.model.case import case
from harness.model.spec import tls
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, ClientHello, Extension
from harness.wire.tls.numbers import SECP256R1, TLS_AES_128_GCM_SHA256, ExtensionType

MANDATORY = (0x0401, 0x0804, 0x0403)
"""rsa_pkcs1_sha256 (for certificates), rsa_pss_rsae_sha256, ecdsa_secp256r1_sha256 (RFC 8446 section 9.1)."""
QUIC_TRANSPORT_PARAMETERS = 0x39
HEADER = 4
SESSION_ID = HEADER + 2 + 32
"""Where the length of the session id stands in an encoded ClientHello."""


def _put(data: bytes, number: int) -> Callable[[ClientHello], ClientHello]:
    """A ClientHello with this content in the extension `number`."""
    return lambda hello: hello.with_extension(Extension(number, data))


def _octet(at: int, value: int) -> Callable[[bytes], bytes]:
    return lambda raw: raw[:at] + bytes((value,)) + raw[at + 1 :]


def _cut(raw: bytes) -> bytes:
    """The message without its last two octets, its own length corrected: the last extension is cut off."""
    body = raw[HEADER:-2]
    return raw[:1] + len(body).to_bytes(3, "big") + body


SYNTAX: dict[str, dict[str, Any]] = {
    "session-id-overruns": {"tamper": {"client_hello": _octet(SESSION_ID, 255)}},
    "last-extension-cut": {"tamper": {"client_hello": _cut}},
    "groups-overrun": {"hello": _put(b"\x00\x08\x00\x1d", ExtensionType.SUPPORTED_GROUPS)},
    "groups-odd": {"hello": _put(b"\x00\x03\x00\x1d\x00", ExtensionType.SUPPORTED_GROUPS)},
    "schemes-odd": {"hello": _put(b"\x00\x03\x04\x03\x08", ExtensionType.SIGNATURE_ALGORITHMS)},
    "share-overruns": {"hello": _put(b"\x00\x24\x00\x1d\x00\xff" + b"\x09" * 32, ExtensionType.KEY_SHARE)},
    "share-list-too-long": {"hello": _put(b"\x00\xff\x00\x1d\x00\x20" + b"\x09" * 32, ExtensionType.KEY_SHARE)},
    "versions-odd": {"hello": _put(b"\x03\x03\x04\x03", ExtensionType.SUPPORTED_VERSIONS)},
}
MEANING: dict[str, dict[str, Any]] = {
    "compression-deflate": {"hello": lambda hello: dataclasses.replace(hello, compression_methods=b"\1")},
}


@case("tls-syntax-01", checks=["RFC8446-6-1"], publish=tls(), over={"form": (*SYNTAX, "compression-deflate")})
async def test_a_client_hello_that_cannot_be_read_is_refused(scene: Scene) -> None:
    """A TLS 1.3 ClientHello whose vectors overrun or are cut off cannot be decoded; a forbidden value is illegal.

    Lengths that do not fit in the message, in its extensions and in their lists lead to alert 50; the compression
    method 1 alone, which no ClientHello of TLS 1.3 may name, leads to alert 47. An end without an alert passes. Nothing
    is at the upstream, and a sound client gets through.
    """
    row, form = "RFC8446-6-1", scene.variant["form"]
    if form in SYNTAX:
        allowed, options = ending_13(50, item="syntax: fatal alert 50"), SYNTAX[form]
    else:
        allowed, options = ending_13(47, item="meaning: fatal alert 47"), MEANING[form]
    await refused(scene, row, allowed, versions=(TLS13,), **options)
    await quiet(scene, row)
    await works(scene, row, versions=(TLS13,))


@case("tls-syntax-02", checks=["RFC5246-7.4.1.2-2"], publish=tls(), features=["tls.1.2"])
async def test_octets_behind_the_extensions_are_refused(scene: Scene) -> None:
    """A TLS 1.2 ClientHello with octets behind its extensions is refused with alert 50, and nothing is at the upstream.

    One octet, and sixteen. Without them the client gets through.
    """
    row = "RFC5246-7.4.1.2-2"
    for count in (1, 16):
        await refused(
            scene,
            row,
            ending_12(50, item="fatal alert 50"),
            versions=(TLS12,),
            hello=lambda hello, count=count: dataclasses.replace(hello, trailing=b"\0" * count),
        )
    await quiet(scene, row)
    await works(scene, row, versions=(TLS12,))


@case("tls-syntax-03", checks=["RFC9001-8.2-2"], publish=tls())
async def test_quic_parameters_do_not_belong_to_tcp(scene: Scene) -> None:
    """A ClientHello over TCP with QUIC's transport parameters is refused with alert 110, or they are ignored.

    A stack that does not know the extension ignores it, which is noted: then the client gets through.
    """
    row = "RFC9001-8.2-2"
    extra = (Extension(QUIC_TRANSPORT_PARAMETERS, b"\x01\x02\x67\x10"),)
    with scene.judging(row):
        client = await scene.tls_client(handshake=False, versions=(TLS13,), extra_extensions=extra)
        end = await reached(scene, client)
        if end is None:
            scene.allow(row, "ignored by a stack that does not know the extension")
        else:
            await ended(scene, row, client, end, ending_13(110, item="fatal alert 110"))


@case("tls-syntax-04", checks=["RFC8446-9.1-1"], publish={"main": tls(), "near": tls(upstream_tls=True)})
async def test_what_every_endpoint_speaks(scene: Scene) -> None:
    """TLS_AES_128_GCM_SHA256 with secp256r1 and the mandatory signature schemes is enough for a terminated tunnel.

    The client offers nothing else: the handshake completes, with and without a share, and octets are relayed.
    """
    row = "RFC8446-9.1-1"
    offer: dict[str, Any] = {
        "versions": (TLS13,),
        "suites": (TLS_AES_128_GCM_SHA256,),
        "groups": (SECP256R1,),
        "signature_schemes": MANDATORY,
    }
    for name in ("main", "near"):
        for shares in ((SECP256R1,), ()):
            await works(scene, row, name=name, key_shares=shares, **offer)
