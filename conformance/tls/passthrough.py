"""TLS tunnels in passthrough: routed by the ClientHello, relayed octet for octet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from conformance.tls._steps import refusal, works
from harness.engine import driver
from harness.errors import PeerMismatch
from harness.link.stream import End, EndKind
from harness.model.case import case
from harness.model.spec import tls
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.peer.tls_pki import UPSTREAM_ROOT, authority, edge_identity, identity, upstream_identity
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, ClientOptions, Extension, TicketStore, TlsClient, with_grease
from harness.wire.tls.events import HandshakeDone, Refused, Session, TicketReceived

THROUGH = tls(tls_mode="passthrough")
PADDING = 21
PART = 100


def _hello(scene: Scene, *, size: int = 0, record_size: int = 1 << 14) -> bytes:
    """The records of a ClientHello for the tunnel, with unknown values everywhere; `size` octets of padding."""
    host = scene.endpoint().host
    extra = (Extension(PADDING, bytes(size)),) if size else ()
    options = ClientOptions(
        server_name=host, alpn=("x", "y"), hello=with_grease, extra_extensions=extra, record_size=record_size
    )
    return TlsClient(options).start()


async def _in_parts(client: RawPeer, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        await client.send(data[at : at + size])


@asynccontextmanager
async def _relaying(source: RawPeer, data: bytes, *, size: int = 1 << 20) -> AsyncIterator[None]:
    sending = asyncio.ensure_future(_in_parts(source, data, size))
    try:
        yield
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _same(scene: Scene, requirement: str, peer: RawPeer, sent: bytes, where: str) -> bool:
    got = await peer.receive_exactly(len(sent))
    first = next((at for at, (one, two) in enumerate(zip(got, sent, strict=True)) if one != two), None)
    return scene.expect(
        requirement,
        first is None,
        expected=f"the {len(sent)} octets that were sent, at the {where}",
        actual="these" if first is None else f"others from octet {first} on",
    )


@case("tls-through-01", checks=["TLS-010", "TLS-011"], publish=THROUGH)
async def test_the_handshake_is_with_the_upstream(scene: Scene) -> None:
    """In passthrough the client's handshake is with the upstream, whose certificate must satisfy it.

    The upstream must receive the very ClientHello that the client sent. The chain that the client gets verifies
    against the upstream's root under the upstream's own name; against another root the client refuses it, and the
    engine has no certificate to offer instead.
    """
    root = authority(UPSTREAM_ROOT).certificate
    own = identity(scene.endpoint().host, ca=UPSTREAM_ROOT)
    shown: dict[str, Any] = {"chain": own.chain, "key": own.key}
    with scene.judging("TLS-010"):
        client, upstream = await scene.pair(upstream=shown, trust=[root])
        sent, got = client.client_hello.encode(), upstream.client_hello_raw
        scene.expect("TLS-010", got == sent, expected="the client's ClientHello, octet for octet", actual=got.hex())
    scene.expect("TLS-011", client.peer_verified is None, expected="a valid chain", actual=str(client.peer_verified))
    other = edge_identity("edge.example").chain[-1]
    for trust, chain in (([other], shown), ([root], {})):
        client, _ = await scene.pair(upstream=chain, trust=trust)
        problem = client.peer_verified
        shows = client.peer_certificates[0] in (own.chain[0], upstream_identity().chain[0])
        scene.expect(
            "TLS-011",
            shows and problem is not None,
            expected="the upstream's certificate, for the client to refuse",
            actual=f"{client.peer_certificates[0].subject.rfc4514_string()}: {problem or 'valid'}",
        )


@case(
    "tls-through-02",
    checks=["RFC8446-9.3-5", "TLS-015", "RFC8446-9.3-3"],
    publish=THROUGH,
    over={"form": ("whole", "segments", "octets", "records", "one-octet-records", "20-kib")},
)
async def test_a_client_hello_in_any_form_routes(scene: Scene) -> None:
    """A passthrough tunnel is found by a ClientHello of any size and split, which arrives unmodified.

    A ClientHello with unknown suites, groups, versions and extensions of about 4 KiB is sent whole, in segments of 100
    octets, octet by octet, over records of 100 octets, and (recorded) in records of one octet and with 20 KiB. What
    arrives must be the same octets. Then 64 KiB go each way.
    """
    form = scene.variant["form"]
    record = {"records": PART, "one-octet-records": 1}.get(form, 1 << 14)
    size = {"20-kib": 20_000, "one-octet-records": 0}.get(form, 4000)
    hello = _hello(scene, size=size, record_size=record)
    client = await scene.tcp()
    up, down = hello + scene.nonce() * 4096, scene.nonce() * 4096
    parts = {"segments": PART, "octets": 1}.get(form, 1 << 20)
    recorded = form in ("one-octet-records", "20-kib")
    async with _relaying(client, hello, size=parts):
        taking = asyncio.ensure_future(scene.upstream().accept())
        ending = asyncio.ensure_future(client.end())
        await asyncio.wait((taking, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
    if not taking.done():
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        _not_routed(scene, form, recorded=recorded)
        return
    with scene.judging("RFC8446-9.3-5", "TLS-015"):
        upstream = taking.result()
    with scene.judging("RFC8446-9.3-3"):
        async with _relaying(client, up[len(hello) :]):
            await _same(scene, "RFC8446-9.3-3", upstream, up, "upstream")
        async with _relaying(upstream, down):
            await _same(scene, "RFC8446-9.3-3", client, down, "client")
    scene.allow("RFC8446-9.3-5", "routed")
    scene.allow("TLS-015", "routed")


def _not_routed(scene: Scene, form: str, *, recorded: bool) -> None:
    """The client's connection ended without a stream at the upstream."""
    actual = "the connection ended without a stream"
    scene.not_run("RFC8446-9.3-3", "not routed")
    if form == "20-kib":
        scene.allow("RFC8446-9.3-5", "a ClientHello above 16 KiB refused")
        scene.allow("TLS-015", "above 16 KiB refused")
    elif form in ("records", "one-octet-records"):
        scene.allow("RFC8446-9.3-5", "split over TLS records but not routed")
        if recorded:
            scene.record("TLS-015", "records of one octet are not routed")
        else:
            scene.depart("TLS-015", expected="the tunnel's upstream", actual=actual)
    else:
        scene.depart("RFC8446-9.3-5", expected="the tunnel's upstream", actual=actual)


@case("tls-through-03", checks=["RFC8446-9.3-4", "RFC8446-9.3-3"], publish=THROUGH)
async def test_nothing_behind_the_client_hello_is_read(scene: Scene) -> None:
    """Behind the ClientHello everything passes as it is, whether it is TLS or not.

    Behind a valid ClientHello the client sends alerts, a close_notify, a change_cipher_spec, a second ClientHello,
    records of unknown type, an oversize record and garbage; the upstream answers with a fatal alert and garbage. All
    of it must arrive, in order, and both connections stay open.
    """
    hello, client = _hello(scene), await scene.tcp()
    up = (
        b"".join(bytes(record) for record in ((21, 3, 3, 0, 2, 2, 40), (21, 3, 3, 0, 2, 1, 0), (20, 3, 3, 0, 1, 1)))
        + _hello(scene)
        + bytes((99, 3, 3, 0, 4))
        + b"what"
        + b"\x17\x03\x03\xff\xff"
        + scene.nonce() * 4000
        + b"\x00" * 100
    )
    down = b"\x15\x03\x03\x00\x02\x02\x28" + b"\x16\x03\x01" + scene.nonce() * 4000
    with scene.judging("RFC8446-9.3-4", "RFC8446-9.3-3"):
        await client.send(hello)
        upstream = await scene.upstream().accept()
        await client.send(up)
        await _same(scene, "RFC8446-9.3-4", upstream, hello + up, "upstream")
        await upstream.send(down)
        await _same(scene, "RFC8446-9.3-4", client, down, "client")
        again = scene.nonce()
        await client.send(again)
        await _same(scene, "RFC8446-9.3-3", upstream, again, "upstream")
    scene.allow("RFC8446-9.3-4", "byte-identical relay")


@case("tls-through-04", checks=["TLS-012"], publish=THROUGH)
async def test_tls_rules_are_the_upstreams(scene: Scene) -> None:
    """In passthrough the upstream enforces its own rules: version, client certificate, application protocol.

    The upstream wants TLS 1.3, a client certificate and the protocol `x`. A client that meets this gets through. The
    others get the upstream's alert: 70 for TLS 1.2, 120 for another protocol, 116 without a certificate.
    """
    wants: dict[str, Any] = {"versions": (TLS13,), "require_client_certificate": True, "alpn": ("x",)}
    card: dict[str, Any] = {"identity": identity("a client", usage="client")}
    with scene.judging("TLS-012"):
        client, server = await scene.pair(upstream=wants, alpn=["x"], **card)
        token = scene.nonce()
        await server.send(token)
        got = await client.receive_exactly(len(token))
        scene.expect("TLS-012", got == token, expected="a client that meets the rules to get through", actual=got.hex())
    for alert, options in ((70, {"versions": (TLS12,), **card}), (120, {"alpn": ["y"], **card}), (116, {})):
        with scene.judging("TLS-012"):
            await _alert_passes(scene, alert, wants, {"alpn": ["x"], **options})


async def _alert_passes(scene: Scene, alert: int, wants: dict[str, Any], options: dict[str, Any]) -> None:
    """The upstream's own alert must be what ends the client's connection; a reset may cut it."""
    client = await scene.tls_client(handshake=False, **options)
    _, end = await scene.both(_serve(scene, wants), refusal(client))
    right = end.kind is EndKind.RESET or end.alert == alert
    scene.expect("TLS-012", right, expected=f"the upstream's alert {alert} at the client", actual=str(end))


async def _serve(scene: Scene, wants: dict[str, Any]) -> None:
    server = await scene.upstream().accept_tls(handshake=False, **wants)
    while not isinstance(await server.read_event(), Refused | End):
        continue
    await server.link.send_end()


async def _ticket(peer: TlsPeer) -> Session:
    event = await peer.read_until(TicketReceived)
    assert isinstance(event, TicketReceived)
    return event.session


@case("tls-through-05", checks=["TLS-016"], publish=THROUGH)
async def test_sessions_and_early_data_go_end_to_end(scene: Scene) -> None:
    """In passthrough tickets, resumption, early data, KeyUpdate and close_notify go between client and upstream.

    The client resumes with the upstream's ticket, and its early data reaches the upstream as such; a KeyUpdate that
    asks for one is answered by the upstream, and the close_notify of either side arrives as close_notify.
    """
    early, tickets = scene.nonce(), TicketStore()
    offers: dict[str, Any] = {"tickets": tickets, "max_early_data": 1000, "versions": (TLS13,), "alpn": ()}
    with scene.judging("TLS-016"):
        client, server = await scene.pair(upstream=offers)
        session = await _ticket(client)
        await client.key_update(request=True)
        token = scene.nonce()
        await client.send(token)
        await server.receive_exactly(len(token))
        await server.send(token)
        await client.receive_exactly(len(token))
        updated = any(type(event).__name__ == "KeyUpdateReceived" for event in client.events)
        scene.expect("TLS-016", updated, expected="the upstream's KeyUpdate at the client", actual="none")
        await client.close_notify()
        end = await server.end()
        scene.expect("TLS-016", end.kind is EndKind.CLOSE_NOTIFY, expected="close_notify", actual=str(end))
        client = await scene.tls_client(handshake=False, session=session, early_data=early)
        _, server = await scene.both(client.handshake(), scene.upstream().accept_tls(**offers))
        got = await server.receive_exactly(len(early))
        done = server.done
        if done is None:
            raise PeerMismatch("a complete handshake", "none")
        scene.expect(
            "TLS-016",
            got == early and done.resumed and done.early_data_accepted,
            expected="resumption, and the early data at the upstream",
            actual=f"resumed: {done.resumed}, early data: {done.early_data_accepted}, {got.hex()}",
        )


@case(
    "tls-through-06",
    checks=["TLS-014"],
    publish={"main": THROUGH, "ended": tls()},
    settings={"project.tls-min-version": "tls1.3"},
    features=["project.tls-min-version", "tls.1.2"],
)
async def test_the_projects_tls_settings_leave_passthrough_alone(scene: Scene) -> None:
    """A project's lowest TLS version binds where the edge ends TLS, and leaves passthrough as it is.

    With TLS 1.3 as the project's lowest version, a client of TLS 1.2 reaches an upstream of TLS 1.2 through the
    passthrough tunnel; on a terminated tunnel the same client is refused, and one of TLS 1.3 gets through.
    """
    await works(scene, "TLS-014", upstream={"versions": (TLS12,)}, versions=(TLS12,))
    client = await scene.tls_client("ended", handshake=False, versions=(TLS12,))
    with scene.judging("TLS-014"):
        end = await client.try_handshake()
        refused = not isinstance(end, HandshakeDone)
        scene.expect("TLS-014", refused, expected="TLS 1.2 refused where TLS ends at the edge", actual=str(end))
    await works(scene, "TLS-014", name="ended", versions=(TLS13,))


@case(
    "tls-through-07",
    checks=["TLS-013"],
    needs=["dynamic"],
    family="tls",
    features=["tls.passthrough"],
    over={"with": ("alpn", "upstream-tls", "mtls")},
)
async def test_passthrough_goes_with_no_tls_of_the_edge(scene: Scene) -> None:
    """A passthrough tunnel with an ALPN list, upstream TLS or client certificates at the edge is not created.

    The engine must refuse the combination; the same tunnel without it is created and works.
    """
    combinations: dict[str, dict[str, Any]] = {
        "alpn": {"tls_alpns": ("a",)},
        "upstream-tls": {"upstream_tls": True},
        "mtls": {"mtls_auth": True},
    }
    extra = combinations[scene.variant["with"]]
    answers = await scene.publish({"odd": tls(tls_mode="passthrough", **extra), "main": THROUGH})
    refused = isinstance(answers["odd"], driver.Refused)
    scene.expect("TLS-013", refused, expected="a refusal", actual=str(answers["odd"]))
    await works(scene, "TLS-013")
