"""QUIC between client and edge: what is carried, the protocols that are agreed on, and the hellos that are refused."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable, Sequence

from conformance.edge._helpers import trust
from conformance.quic._steps import (
    LIST,
    PLAIN,
    TRIES,
    Refusal,
    echo,
    joined,
    judge_refused,
    listed,
    nothing_carried,
    nothing_reached,
    over,
    refused,
)
from harness.errors import EngineDeparted
from harness.judge import Departed
from harness.link.stream import LinkReset
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, quic
from harness.peer.quic import QuicEnd, QuicPeer, QuicPeerStream
from harness.scene import Scene
from harness.wire.quic import Level
from harness.wire.quic.frames import Crypto, Stream
from harness.wire.tls import ClientHello
from harness.wire.tls import extensions as ext
from harness.wire.tls.extensions import Extension
from harness.wire.tls.messages import CertificateRequest, EncryptedExtensions, Message, NewSessionTicket, decode_message
from harness.wire.tls.numbers import ExtensionType

NO_APPLICATION_PROTOCOL = 0x178
PROTOCOL_VERSION = 0x146
GREASE = b"\x0a\x0a"
ODD = "".join(chr(0x20 + index % 95) for index in range(255))
"""The longest protocol name there is, of all that is printable in ASCII (RFC 7301 section 3.1)."""
CONTROL = bytes((0x00, 0x04, 0x00))
"""What begins the control stream of HTTP/3: its type, and SETTINGS without any (RFC 9114 sections 6.2.1 and 7.2.4)."""
HEADERS = bytes((0x01, 0x08)) + b"\xff" * 8
"""A HEADERS frame of HTTP/3 that holds no field section (RFC 9204 section 4.5.1)."""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
RANDOM_OCTETS = 32 * 1024
MALFORMED = {
    "empty list": b"\0\0",
    "empty name": b"\0\1\0",
    "empty name behind a listed one": b"\0\3\1a\0",
    "name beyond the list": b"\0\2\5a",
    "list beyond the extension": b"\0\x20\1a",
    "octets behind the list": b"\0\2\1a\1b",
}


def _messages(peer: QuicPeer, level: Level) -> list[Message]:
    """The handshake messages that came at `level`, from its CRYPTO frames."""
    parts: dict[int, bytes] = {}
    for seen in peer.frames:
        if seen.level == level and isinstance(seen.frame, Crypto):
            parts[seen.frame.offset] = max(parts.get(seen.frame.offset, b""), seen.frame.data, key=len)
    octets = b""
    for offset in sorted(parts):
        if offset <= len(octets):
            octets += parts[offset][len(octets) - offset :]
    found = []
    while len(octets) >= 4 and len(octets) >= (end := 4 + int.from_bytes(octets[1:4], "big")):
        found.append(decode_message(octets[0], octets[4:end], tls13=True))
        octets = octets[end:]
    return found


def _answer(client: QuicPeer) -> list[bytes]:
    """The names in the ALPN extension of EncryptedExtensions; empty without one."""
    for message in _messages(client, Level.HANDSHAKE):
        if isinstance(message, EncryptedExtensions):
            data = message.extension(ExtensionType.ALPN)
            return [] if data is None else list(ext.parse_alpn(data))
    return []


# What is carried


@case(
    "quic-raw-01",
    checks=["QUIC-002", "EDGE-004"],
    publish=lambda variant: quic(tls_alpns=(variant["alpn"],)),
    over={"alpn": ["foo", "h3"]},
)
async def test_a_quic_tunnel_knows_no_http(scene: Scene) -> None:
    """A QUIC tunnel carries what looks like HTTP/3 and HTTP/1.1 as it is, and says nothing of its own, h3 or not.

    The client sends the beginning of an HTTP/3 control stream on a unidirectional stream (where the engine allows one),
    and a HEADERS frame without sense and an HTTP/1.1 request on a bidirectional one. The upstream reads identical
    octets, its answer arrives unchanged, and behind a round trip on the connection (B2) neither side has seen a stream
    that the other one did not open.
    """
    rows, token = ("QUIC-002", "EDGE-004"), scene.nonce()
    client, server = await joined(scene)
    parameters = client.remote_parameters
    with scene.judging(*rows, ends=True):
        if parameters is not None and parameters.initial_max_streams_uni:
            await _carried(scene, rows, client, server, CONTROL + token, bidirectional=False)
        up = HEADERS + token + REQUEST
        stream, there = await _carried(scene, rows, client, server, up, bidirectional=True)
        await there.send(CONTROL + token[::-1], fin=True)
        back, _ = await stream.receive_until_end()
        _same(scene, rows, back, CONTROL + token[::-1], "the upstream's answer at the client")
    await echo(scene, client, server, *rows)
    opened = sorted({seen.frame.stream_id for seen in client.frames if isinstance(seen.frame, Stream)})
    own = [number for number in opened if number & 1]
    for row in rows:
        scene.expect(row, not own, expected="no stream of the edge's own at the client", actual=f"streams {own}")
        extra = [stream.id for stream in server.waiting_streams()]
        scene.expect(row, not extra, expected="only the client's streams at the upstream", actual=f"streams {extra}")


async def _carried(
    scene: Scene, rows: Sequence[str], client: QuicPeer, server: QuicPeer, data: bytes, *, bidirectional: bool
) -> tuple[QuicPeerStream, QuicPeerStream]:
    """`data` on a stream of the client, which it ends; the stream at both sides."""
    stream = await client.open_stream(bidirectional=bidirectional)
    await stream.send(data, fin=True)
    there = await server.accept_stream()
    got, _ = await there.receive_until_end()
    _same(scene, rows, got, data, "the client's octets at the upstream")
    return stream, there


def _same(scene: Scene, rows: Sequence[str], got: bytes, sent: bytes, what: str) -> None:
    """Judged for all rows before the first that binds ends the script."""
    departed: Departed | None = None
    for row in rows:
        try:
            scene.expect(row, got == sent, expected=f"{what}: {_told(sent)}", actual=_told(got))
        except Departed as end:
            departed = end
    if departed is not None:
        raise departed


def _told(data: bytes) -> str:
    return f"{len(data)} octets, {data[:48].hex()}"


@case("quic-raw-02", checks=["APP-002", "EDGE-004"], publish=quic())
async def test_random_octets_pass_unchanged(scene: Scene) -> None:
    """What an application sends on several streams at once arrives octet for octet, both ways.

    Three bidirectional streams at once, 32 KiB of random octets up and as many others down on each. A round trip on the
    connection follows (B2).
    """
    rows = ("APP-002", "EDGE-004")
    client, server = await joined(scene)
    seed = int.from_bytes(scene.nonce(), "big")
    scene.transcript.note("random octets", f"seed {seed}")
    with scene.judging(*rows, ends=True):
        await asyncio.gather(*(_random(scene, rows, client, server, random.Random(seed + one)) for one in range(3)))
    await echo(scene, client, server, *rows)


async def _random(scene: Scene, rows: Sequence[str], client: QuicPeer, server: QuicPeer, source: random.Random) -> None:
    up, down = source.randbytes(RANDOM_OCTETS), source.randbytes(RANDOM_OCTETS)
    stream = await client.open_stream()
    await stream.send(up, fin=True)
    there = await server.accept_stream_with(up[:16])
    got, _ = await there.receive_until_end()
    _same(scene, rows, got, up, "the client's octets at the upstream")
    await there.send(down, fin=True)
    back, _ = await stream.receive_until_end()
    _same(scene, rows, back, down, "the upstream's octets at the client")


# Protocols


@case(
    "quic-alpn-01",
    checks=["QUIC-004", "RFC9001-8.1-1", "ALPN-001", "RFC7301-3.1-2", "RFC7301-3.1-3"],
    publish=listed(),
)
async def test_a_listed_protocol_is_agreed_on_with_both_sides(scene: Scene) -> None:
    """On a tunnel with a list its protocol is negotiated with the client, and is all that the upstream is offered.

    The list is [a, b]. A client that offers [b], one that offers [x, b] and one with a GREASE value in front all get b;
    the answer holds exactly one name; the ClientHello at the upstream offers [b] alone. A round trip follows (B2).
    """
    rows = ("QUIC-004", "RFC9001-8.1-1", "ALPN-001", "RFC7301-3.1-2", "RFC7301-3.1-3")
    for offer in (["b"], ["x", "b"], [GREASE, "b"]):
        with scene.judging(*rows, ends=True):
            client, server = await joined(scene, alpn=offer)
        chosen, names, offered = client.alpn, _answer(client), server.client_hello.alpn
        scene.expect("RFC7301-3.1-2", len(names) == 1, expected="one name in the answer", actual=str(names))
        at_client = chosen == "b" and names == [b"b"]
        branch = "tunnels with a list"
        scene.expect("ALPN-001", at_client, expected="b of the list at the client", actual=f"{chosen}")
        scene.expect("RFC7301-3.1-3", at_client, expected="b of the list", actual=f"{chosen}", branch=branch)
        both = at_client and offered == ("b",)
        told = f"{chosen} at the client, {offered} at the upstream"
        for row in ("QUIC-004", "RFC9001-8.1-1"):
            scene.expect(row, both, expected="b at the client, and [b] offered to the upstream", actual=told)
        await client.shut()


@case(
    "quic-alpn-02",
    checks=["QUIC-005", "RFC7301-3.1-4", "QUIC-008"],
    publish=quic(),
    over={"offer": ["one", "several", "odd"]},
)
async def test_without_a_list_the_clients_protocol_is_kept(scene: Scene) -> None:
    """Without a list what the client asks for is spoken on both legs, whatever its name is.

    A client that offers one name gets it, and the upstream is offered that name alone: foo, or a name of 255 octets.
    One that offers [foo, bar] gets either, the same as at the upstream, or is refused (recorded); the upstream speaks
    bar alone. What matters is that both legs agree, shown by a round trip (B2).
    """
    if scene.variant["offer"] == "several":
        await _several(scene)
        return
    name = "foo" if scene.variant["offer"] == "one" else ODD
    with scene.judging("QUIC-005", "QUIC-008", "RFC7301-3.1-4", ends=True):
        client, server = await joined(scene, alpn=[name])
        offered = server.client_hello.alpn
        agreed = client.alpn == server.alpn == name
        told = f"{client.alpn} at the client, {server.alpn} at the upstream"
        scene.expect("QUIC-005", agreed, expected=f"{name} on both legs", actual=told, branch="C [foo]: foo on both")
        scene.expect("QUIC-008", agreed, expected=f"{name} on both legs", actual=told)
        scene.expect(
            "RFC7301-3.1-4", offered == (name,), expected=f"[{name}] alone", actual=f"{offered}", branch="[foo] alone"
        )


async def _several(scene: Scene) -> None:
    rows = ("QUIC-005", "QUIC-008", "RFC7301-3.1-4")
    offer, side = ("foo", "bar"), scene.quic_upstream()
    client = await scene.quic_client(handshake=False, alpn=offer)
    serving = asyncio.ensure_future(side.accept(alpn=("bar",), alpn_required=False))
    try:
        with scene.judging(*rows, ends=True):
            result = await client.try_handshake()
            ended = result if isinstance(result, QuicEnd) else None
            if ended is None and client.alpn == "foo":
                # The upstream speaks bar alone: what the client was told in advance cannot hold (QUIC-008).
                ended = await over(client)
            if ended is not None:
                scene.expect("QUIC-008", True, expected="an end", actual=str(ended))
                scene.allow("QUIC-005", "C [foo,bar]: refused")
                scene.not_run("RFC7301-3.1-4", f"a client that offers two names is refused: {ended}")
                return
            server = await serving
            told = f"{client.alpn} at the client, {server.alpn} at the upstream"
            agreed = client.alpn == server.alpn and client.alpn in offer
            scene.expect("QUIC-008", agreed, expected="the same protocol on both legs", actual=told)
            scene.expect(
                "QUIC-005", agreed, expected="foo or bar, the same on both", actual=told, branch="C [foo,bar]: either"
            )
            names = server.client_hello.alpn or ()
            inside = bool(names) and set(names) <= set(offer)
            scene.expect("RFC7301-3.1-4", inside, expected="only names that the client offered", actual=f"{names}")
            await echo(scene, client, server)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


SPOKEN = (*LIST, PLAIN, "h3")
"""What the upstream speaks in the cases of clients without a protocol."""
NO_NAME = {
    "QUIC-006": ("CONNECTION_CLOSE 0x178", "another or generic code", "no answer"),
    "RFC9001-8.1-2": ("CONNECTION_CLOSE 0x178", "any other", "no answer"),
    "RFC9000-7-1": ("CONNECTION_CLOSE 0x178", "any other", "no answer"),
}
"""Row, with its items for the code that is named, another code, and silence."""


def _with_or_without(variant: Variant) -> TunnelSpec:
    return listed() if variant["list"] == "with" else quic()


@case(
    "quic-alpn-03",
    checks=["QUIC-006", "QUIC-009", "RFC9001-8.1-2", "RFC9000-7-1"],
    publish=_with_or_without,
    over={"list": ["with", "without"]},
)
async def test_a_client_without_a_protocol_is_refused(scene: Scene) -> None:
    """A client that offers no protocol gets no connection, on tunnels with and without a list, and nothing that it says
    comes to the upstream.

    The list is no fallback here as it is on TLS tunnels (ALPN-005). The upstream speaks what an engine may offer it of
    its own; that it does so before it refuses the client is no departure. The code of the refusal is 0x178 or another
    one; silence is recorded. Barrier B1.
    """
    async with scene.quic_upstream().serving(alpn=SPOKEN):
        got = await refused(scene, alpn=())
    for row, items in NO_NAME.items():
        _judge(scene, row, got, items)
    scene.expect("QUIC-009", not got.accepted, expected="no connection without a protocol", actual=got.said)
    await nothing_carried(scene, "QUIC-006", "QUIC-009", "RFC9001-8.1-2", "RFC9000-7-1")


def _judge(scene: Scene, row: str, got: Refusal, items: tuple[str, str, str]) -> None:
    first, other, silent = items
    judge_refused(scene, row, got, named=NO_APPLICATION_PROTOCOL, first=first, other=other, silent=silent)


NOT_LISTED = {
    "ALPN-008": ("QUIC: CONNECTION_CLOSE 0x178 or a generic code", "QUIC: CONNECTION_CLOSE 0x178", "no answer"),
    "RFC7301-3.2-2": ("QUIC: CONNECTION_CLOSE 0x178 or a generic code", "QUIC: CONNECTION_CLOSE 0x178", "no answer"),
    "QUIC-007": ("CONNECTION_CLOSE 0x178", "another or generic code", "no answer"),
    "RFC9001-8.1-2": ("CONNECTION_CLOSE 0x178", "any other", "no answer"),
}
OFFERS = {"unknown": ["zzz"], "prefix": ["a/1"], "case": ["A"]}


@case(
    "quic-alpn-04",
    checks=["QUIC-007", "RFC9001-8.1-2", "RFC7301-3.2-2", "ALPN-008"],
    publish=quic(tls_alpns=("a",)),
    over={"offer": tuple(OFFERS)},
)
async def test_nothing_in_common_is_refused(scene: Scene) -> None:
    """A client that offers nothing of the tunnel's list gets no connection, and the upstream sees none.

    The list is [a]; the offers are an unknown name, one that a begins, and A: names are compared octet by octet. The
    code is 0x178 or another one; silence is recorded. Barrier B1.
    """
    got = await refused(scene, alpn=OFFERS[scene.variant["offer"]])
    for row, items in NOT_LISTED.items():
        _judge(scene, row, got, items)
    await nothing_reached(scene, *NOT_LISTED)


@case("quic-alpn-05", checks=["RFC7301-3.1-1"], publish=listed())
async def test_a_malformed_offer_selects_nothing(scene: Scene) -> None:
    """A malformed ALPN list leads to no protocol: no connection, and nothing at the upstream.

    Empty names, an empty list, names and lists with lengths that do not fit, each holding a listed name where there is
    room for one. Any close passes, silence is recorded. Barrier B1, whose well-formed clients get through.
    """
    row, item = "RFC7301-3.1-1", "QUIC: CONNECTION_CLOSE 0x132"
    for what, data in MALFORMED.items():
        broken = Extension(ExtensionType.ALPN, data)
        scene.transcript.note("malformed offer", what)
        got = await refused(scene, hello=lambda hello, broken=broken: hello.with_extension(broken))
        judge_refused(scene, row, got, named=0x132, first=item, other=item, silent="no answer")
    await nothing_reached(scene, row)


# Hellos


@case("quic-tls-01", checks=["RFC9001-4.2-1"], publish=listed(), over={"versions": ["1.2", "absent"]})
async def test_an_older_tls_is_refused(scene: Scene) -> None:
    """A ClientHello over QUIC that does not offer TLS 1.3 leads to no connection, and nothing is at the upstream.

    supported_versions holds TLS 1.2 alone, or is left out, which means the same (RFC 8446 section 4.2.1). The code is
    0x146 or another one; silence is recorded. Barrier B1.
    """
    row = "RFC9001-4.2-1"

    def older(hello: ClientHello) -> ClientHello:
        if scene.variant["versions"] == "1.2":
            return hello.with_extension(ext.supported_versions([0x0303]))
        return hello.without_extension(ExtensionType.SUPPORTED_VERSIONS)

    got = await refused(scene, hello=older)
    judge_refused(
        scene, row, got, named=PROTOCOL_VERSION, first="CONNECTION_CLOSE 0x146", other="any other", silent="no answer"
    )
    await nothing_reached(scene, row)


MAX_EARLY_DATA = 0xFFFFFFFF
CCM_8, AES_128_GCM = 0x1305, 0x1301
FLIGHT = 4
"""Packets of the long ClientHello."""
LONG_HELLO = 4000
"""Octets of it; an endpoint keeps 4096 of what comes out of order (RFC 9000 section 7.5)."""
PADDING = 21
"""The extension that fills a ClientHello (RFC 7685)."""


@case("quic-tls-02", checks=["RFC9001-5.3-1"], publish=listed())
async def test_unknown_suites_are_passed_over(scene: Scene) -> None:
    """A ClientHello that offers suites which QUIC does not use is no reason to refuse: the one that it does use is
    taken.

    The client offers TLS_AES_128_CCM_8_SHA256, a GREASE value and TLS_AES_128_GCM_SHA256, in this order; the handshake
    completes with the last one, and a round trip follows (B2).
    """
    row = "RFC9001-5.3-1"

    def offered(hello: ClientHello) -> ClientHello:
        return dataclasses.replace(hello, cipher_suites=(CCM_8, 0x0A0A, AES_128_GCM))

    with scene.judging(row, ends=True):
        client, _ = await joined(scene, suites=(AES_128_GCM,), hello=offered)
        assert client.done is not None
        suite = client.done.suite
        scene.expect(row, suite == AES_128_GCM, expected="TLS_AES_128_GCM_SHA256", actual=f"0x{suite:04x}")


@case("quic-tls-05", checks=["RFC9000-7.5-1"], publish=listed())
async def test_a_hello_that_comes_in_reverse_order(scene: Scene) -> None:
    """A ClientHello of 4000 octets whose CRYPTO frames come in reverse order is put together.

    The four Initials of the hello leave the client last to first. An engine may drop what it cannot place yet; one of
    three tries must complete, and a round trip follows (B2).
    """
    row = "RFC9000-7.5-1"

    def longer(hello: ClientHello) -> ClientHello:
        missing = LONG_HELLO - len(hello.body()) - 4
        return hello.with_extension(Extension(PADDING, bytes(missing)))

    told = ""
    for _ in range(TRIES):
        try:
            client, server = await _in_reverse(scene, longer)
        except (LinkReset, EngineDeparted) as refusal:
            told = str(refusal)
            continue
        await echo(scene, client, server, row)
        scene.expect(row, True, expected="a handshake", actual="it completes")
        return
    scene.depart(row, expected=f"one of {TRIES} handshakes to complete", actual=told)


async def _in_reverse(scene: Scene, hello: Callable[[ClientHello], ClientHello]) -> tuple[QuicPeer, QuicPeer]:
    held: list[bytes] = []

    def reverse(index: int, datagram: bytes) -> Sequence[bytes] | bytes | None:
        if len(held) >= FLIGHT:
            return datagram
        held.append(datagram)
        return held[::-1] if len(held) == FLIGHT else None

    return await scene.quic_pair(hello=hello, tamper_datagram=reverse)


@case(
    "quic-tls-06",
    checks=["RFC9001-4.1.2-1", "RFC9001-4.6.1-1", "RFC9001-4.4-3", "RFC9000-17.2.2-1"],
    publish=listed(),
)
async def test_what_a_server_says_around_its_handshake(scene: Scene) -> None:
    """What the edge says around a handshake is what a server of QUIC may say.

    A client and an upstream are joined, and no application octet is said. HANDSHAKE_DONE comes; behind a PING and its
    ACK no NewSessionTicket had an early_data limit other than 0xffffffff, no CertificateRequest came, and the token of
    every Initial of the edge was empty.
    """
    rows = ("RFC9000-17.2.2-1", "RFC9001-4.6.1-1", "RFC9001-4.4-3")
    client = await scene.quic_client(handshake=False)
    client.strict = False
    with scene.judging(*rows, "RFC9001-4.1.2-1", ends=True):
        await scene.both(client.handshake(), scene.quic_upstream().accept())
    tokens = [packet.token.hex() for way, packet in client.wire.packets if way == "received" and packet.token]
    scene.expect(rows[0], not tokens, expected="no token in an Initial of the edge", actual=f"{tokens}")
    with scene.judging("RFC9001-4.1.2-1"):
        await client.confirmed()
        scene.expect("RFC9001-4.1.2-1", True, expected="HANDSHAKE_DONE", actual="it came")
        await client.ping()
    said = _messages(client, Level.APPLICATION)
    limits = [
        int.from_bytes(data, "big")
        for message in said
        if isinstance(message, NewSessionTicket) and (data := message.extension(ExtensionType.EARLY_DATA)) is not None
    ]
    wrong = [limit for limit in limits if limit != MAX_EARLY_DATA]
    scene.expect(rows[1], not wrong, expected="0xffffffff, or no early_data", actual=f"{wrong or limits}")
    asked = [message for message in said if isinstance(message, CertificateRequest)]
    scene.expect(rows[2], not asked, expected="no CertificateRequest behind the handshake", actual=f"{len(asked)}")


@case("quic-cert-01", checks=["QUIC-017"], publish=listed())
async def test_the_certificate_of_the_tunnels_name(scene: Scene) -> None:
    """The edge shows a certificate that the client trusts, for the name of the tunnel.

    The client verifies the chain against the engine's roots, and the name. A round trip follows (B2).
    """
    with scene.judging("QUIC-017", ends=True):
        client, _ = await joined(scene, trust=trust(scene))
        trouble = client.peer_verified
        scene.expect(
            "QUIC-017", trouble is None, expected=f"a chain for {scene.endpoint().host}", actual=trouble or "verified"
        )
