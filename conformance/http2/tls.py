"""TLS below HTTP/2: versions, names, compression, renegotiation, suites (RFC 9113 section 9.2)."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from hyperframe.frame import GoAwayFrame

from conformance.http2._steps import H2, works
from conformance.tls._steps import messages
from harness.link.stream import End
from harness.model.case import case
from harness.model.spec import http
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.http2 import ErrorCode, frames
from harness.wire.http2.frames import FrameReader
from harness.wire.http2.numbers import PREFACE, FrameType
from harness.wire.tls import TLS12, TLS13, TlsClient
from harness.wire.tls import events as seen
from harness.wire.tls.extensions import Extension
from harness.wire.tls.messages import ClientHello, ServerHello
from harness.wire.tls.numbers import ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM, SUITES, TLS10, TLS11

OLD_SUITES = (0xC009, 0xC00A, 0xC013, 0xC014, 0x002F, 0x0035)
RSA_AES_128_CBC_SHA = 0x002F
POST_HANDSHAKE_AUTH = 49


@case("h2-tls-01", checks=["RFC9113-9.2.1-2"], publish=http(), features=["tls.1.2", *H2])
async def test_renegotiation_of_http2(scene: Scene) -> None:
    """A ClientHello inside an HTTP/2 connection of TLS 1.2 is refused: there is no second handshake.

    With the right renegotiation_info. The edge answers no_renegotiation and goes on, or ends the connection, with or
    without GOAWAY; nothing of it is at the upstream (RFC 9113 section 9.2.1).
    """
    row = "RFC9113-9.2.1-2"
    client = await scene.tls_client(versions=(TLS12,), alpn=("h2",))
    with scene.judging(row, ends=True):
        scene.expect(row, client.alpn == "h2", expected="h2", actual=f"{client.alpn}")
        await client.send(PREFACE + frames.settings())
        await client.send_octets(cast("TlsClient", client.tls).renegotiate())
        answer = await _answer(client)
        branch = {
            "warning": "alert no_renegotiation, connection goes on",
            "goaway": "GOAWAY, any code, and close",
            "ended": "fatal alert or close",
        }.get(answer)
        scene.expect(row, branch is not None, expected="a refusal", actual=answer, branch=branch)
    await scene.settle()
    await scene.untouched(row)


async def _answer(client: TlsPeer) -> str:
    """What came first of a warning, GOAWAY, an end, and a ServerHello (`accepted`)."""
    reader = FrameReader()
    while True:
        event = await client.read_event()
        match event:
            case End():
                return "ended"
            case seen.Alert(fatal=False, description=100):
                return "warning"
            case seen.Unsupported():
                return "accepted"
            case seen.Data(data=data):
                if any(frame.kind == FrameType.GOAWAY for frame in reader.feed(data)):
                    return "goaway"
            case _:
                pass


@case("h2-tls-02", checks=["RFC9113-9.2-1"], publish=http(), features=H2)
async def test_http2_below_tls_12(scene: Scene) -> None:
    """A client that offers h2 with TLS 1.0 or 1.1 alone is refused, or gets no h2 (RFC 9113 section 9.2)."""
    row = "RFC9113-9.2-1"
    for version in (TLS10, TLS11):
        with scene.judging(row, ends=True):
            client = await scene.tls_client(
                handshake=False, versions=(version,), alpn=("h2",), suites=(*SUITES, *OLD_SUITES)
            )
            await client.start()
            event = await client.read_event()
            while not isinstance(event, End | seen.Unsupported | seen.HandshakeDone):
                event = await client.read_event()
            told = str(event) if isinstance(event, End) else "a ServerHello"
            scene.expect(row, isinstance(event, End), expected="a refusal", actual=told)


@case("h2-tls-03", checks=["RFC9113-9.2-2"], publish={"main": http(), "other": http()}, features=H2)
async def test_the_server_name_of_http2(scene: Scene) -> None:
    """Each of two server names is answered with a certificate for it, and by its own upstream (RFC 9113 section
    9.2)."""
    row = "RFC9113-9.2-2"
    for name in ("main", "other"):
        with scene.judging(row, ends=True):
            client = await scene.http_client(name, version="h2")
            await works(scene, client, scene.http_upstream(name))
            verified = cast("TlsPeer", client.link).done
            told = verified.peer_verified if verified is not None else "no handshake"
            scene.expect(row, not told, expected="a certificate for the name", actual=f"{told}")


def _with_methods(hello: ClientHello) -> ClientHello:
    return dataclasses.replace(hello, compression_methods=b"\1\0")


@case("h2-tls-04", checks=["RFC9113-9.2.1-1"], publish=http(), features=["tls.1.2", *H2])
async def test_compression_below_http2(scene: Scene) -> None:
    """A client of TLS 1.2 that offers h2 and DEFLATE before null gets null (RFC 9113 section 9.2.1)."""
    row = "RFC9113-9.2.1-1"
    client = await scene.tls_client(handshake=False, versions=(TLS12,), alpn=("h2",), hello=_with_methods)
    with scene.judging(row, ends=True):
        await client.start()
        event = await client.read_event()
        while not isinstance(event, End | seen.HandshakeMessage):
            event = await client.read_event()
        method: Any = "none: it ends"
        if isinstance(event, seen.HandshakeMessage):
            method = cast("ServerHello", event.message).compression_method
        scene.expect(row, method in (0, "none: it ends"), expected="compression method 0", actual=f"{method}")


@case("h2-tls-05", checks=["RFC9113-9.2.2-1", "RFC9113-9.2.2-2"], publish=http(), features=["tls.1.2", *H2])
async def test_the_suites_of_http2(scene: Scene) -> None:
    """A prohibited suite of TLS 1.2 may be refused with h2; one that is not prohibited must not be.

    TLS_RSA_WITH_AES_128_CBC_SHA alone; then ECDHE with AES_128_GCM alone: requests work, and INADEQUATE_SECURITY does
    not come (RFC 9113 section 9.2.2).
    """
    with scene.judging("RFC9113-9.2.2-1"):
        client = await scene.tls_client(handshake=False, versions=(TLS12,), alpn=("h2",), suites=(RSA_AES_128_CBC_SHA,))
        await client.start()
        event = await client.read_event()
        while not isinstance(event, End | seen.Unsupported | seen.HandshakeDone):
            event = await client.read_event()
        branch = "handshake failure" if isinstance(event, End) else "h2 served: recorded"
        scene.allow("RFC9113-9.2.2-1", branch)
    row, upstream = "RFC9113-9.2.2-2", scene.http_upstream()
    with scene.judging(row, ends=True):
        good = await scene.http_client(
            version="h2", versions=(TLS12,), suites=(ECDHE_ECDSA_AES_128_GCM, ECDHE_RSA_AES_128_GCM)
        )
        await works(scene, good, upstream)
        await good.ping()
    codes = [frame.error_code for frame in good.frames if isinstance(frame, GoAwayFrame)]
    fine = ErrorCode.INADEQUATE_SECURITY not in codes
    scene.expect(row, fine, expected="no INADEQUATE_SECURITY", actual=f"GOAWAY {codes}")


@case("h2-tls-06", checks=["RFC9113-9.2.3-1"], publish=http(), features=H2)
async def test_no_certificate_is_asked_for_behind_the_handshake(scene: Scene) -> None:
    """A client of TLS 1.3 that offers post_handshake_auth with h2 is asked for no certificate behind the handshake (RFC
    9113 section 9.2.3)."""
    row, upstream = "RFC9113-9.2.3-1", scene.http_upstream()

    def willing(hello: ClientHello) -> ClientHello:
        return hello.with_extension(Extension(POST_HANDSHAKE_AUTH, b""))

    client = await scene.http_client(version="h2", versions=(TLS13,), hello=willing)
    with scene.judging(row, ends=True):
        await works(scene, client, upstream)
        await client.ping()
    asked = len(messages(cast("TlsPeer", client.link), "CertificateRequest"))
    scene.expect(row, asked == 0, expected="no CertificateRequest", actual=f"{asked}")
