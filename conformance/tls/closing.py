"""How connections end: close_notify and half-close, truncation, fatal alerts, an upstream that is not there."""

from __future__ import annotations

import asyncio
from typing import Any

from conformance.tls._steps import ENDED, echo, spec_of, works
from harness.errors import PeerMismatch
from harness.link.stream import End, EndKind
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, http, tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13
from harness.wire.tls import events as seen

MIB = 1 << 20


def by_mode(variant: Variant) -> TunnelSpec:
    """The tunnel of the variant's mode."""
    return spec_of(variant["mode"])


async def _send_and_close(upstream: Any, data: bytes) -> None:
    await upstream.send(data)
    await upstream.close()


async def _closes_cleanly(scene: Scene, row: str, version: int) -> None:
    """The upstream sends 1 MiB and closes: the client gets all of it, then close_notify, and FIN once it ends, too."""
    data = scene.nonce() * (MIB // 16)
    with scene.judging(row, "TLS-021"):
        client, upstream = await scene.pair(versions=(version,))
        _, (got, end) = await scene.both(_send_and_close(upstream, data), client.receive_until_end())
        for each in (row, "TLS-021"):
            whole = got == data
            scene.expect(each, whole, expected=f"{MIB} octets", actual=f"{len(got)}, then {end}")
        if version == TLS13:
            # Its own direction is the client's to end (RFC 8446 section 6.1): an engine may keep it open until then.
            await client.close_notify()
        behind = await client.transport_end()
        orderly = end.kind is EndKind.CLOSE_NOTIFY
        for each, branch in ((row, "close_notify, then FIN"), ("TLS-021", "data complete, close_notify, FIN")):
            if orderly and behind.kind is EndKind.FIN:
                scene.allow(each, branch)
            else:
                scene.depart(each, expected="close_notify, then FIN", actual=f"{end}, then {behind}")


@case("tls-close-01", checks=["RFC8446-6.1-2", "TLS-021"], publish=by_mode, over={"mode": ENDED})
async def test_an_end_of_the_upstream_is_announced(scene: Scene) -> None:
    """In TLS 1.3 the client sees the upstream's clean end as close_notify behind all data, and FIN once it ends, too.

    The upstream sends 1 MiB and closes.
    """
    await _closes_cleanly(scene, "RFC8446-6.1-2", TLS13)


@case(
    "tls-close-02", checks=["RFC5246-7.2.1-2", "TLS-021"], publish=by_mode, over={"mode": ENDED}, features=["tls.1.2"]
)
async def test_an_end_of_the_upstream_is_announced_in_tls_12(scene: Scene) -> None:
    """In TLS 1.2 the client sees the upstream's clean end as close_notify and FIN behind all data.

    The upstream sends 1 MiB and closes.
    """
    await _closes_cleanly(scene, "RFC5246-7.2.1-2", TLS12)


@case(
    "tls-close-03",
    checks=["RFC8446-6.1-1", "RFC8446-6.1-3", "TLS-021"],
    publish=by_mode,
    over={"mode": ENDED},
)
async def test_a_close_notify_ends_one_direction(scene: Scene) -> None:
    """Behind the client's close_notify nothing more is taken from it; what the upstream still says may get through.

    The client (TLS 1.3) sends a request, close_notify, and more data. The upstream sees the request and the end of that
    direction, and no octet of what came later. On another connection nothing comes later, and the upstream answers with
    1 MiB: whether the client gets that is noted. (Octets that an engine leaves unread make its close a reset, which may
    overtake the answer.)
    """
    asked, answer = scene.nonce(), scene.nonce() * (MIB // 16)
    with scene.judging("RFC8446-6.1-1"):
        client, upstream = await scene.pair(versions=(TLS13,))
        await client.send(asked)
        await client.close_notify()
        await client.send(b"late" * 1000)
        got, end = await upstream.receive_until_end()
        scene.expect("RFC8446-6.1-1", got == asked, expected="the request alone", actual=f"{len(got)} octets, {end}")
        scene.allow("RFC8446-6.1-1", "EOF or full close at U")
    with scene.judging("RFC8446-6.1-3", "TLS-021"):
        client, upstream = await scene.pair(versions=(TLS13,))
        await client.close_notify()
        await upstream.receive_until_end()
    sending = asyncio.ensure_future(_send_and_close(upstream, answer))
    with scene.judging("RFC8446-6.1-3", "TLS-021"):
        back, end = await client.receive_until_end()
        complete = back == answer and end.kind is EndKind.CLOSE_NOTIFY
        scene.allow("RFC8446-6.1-3", "U's answer complete" if complete else "both directions closed")
        scene.allow("TLS-021", "half-close kept" if complete else "both directions closed")
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


@case("tls-close-04", checks=["RFC5246-7.2.1-1"], publish=by_mode, over={"mode": ENDED}, features=["tls.1.2"])
async def test_a_close_notify_is_answered_in_tls_12(scene: Scene) -> None:
    """In TLS 1.2 a close_notify is answered with one and the connection closed; data behind it is ignored.

    The client sends a request, close_notify, and more data, and keeps its transport open. It must get a close_notify
    and FIN; the upstream sees the request, the end of the direction, and nothing of what came later.
    """
    row, asked = "RFC5246-7.2.1-1", scene.nonce()
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(TLS12,))
        await client.send(asked)
        await client.close_notify()
        await client.send(b"late" * 1000)
        data, end = await client.receive_until_end()
        got, far = await upstream.receive_until_end()
        scene.expect(row, got == asked, expected="the request alone", actual=f"{len(got)} octets, {far}")
        scene.expect(row, end.kind is EndKind.CLOSE_NOTIFY, expected="close_notify", actual=str(end))
        await client.transport_end()
        scene.allow(row, "pending data of U delivered first" if data else "close_notify and close at once")


CUTS = ("reset", "tls-reset", "tls-fin", "client-reset", "client-fin")


def _cut_tunnel(variant: Variant) -> TunnelSpec:
    return tls(upstream_tls=True) if variant["how"].startswith("tls") else tls()


@case("tls-close-05", checks=["RFC8446-6.1-4", "TLS-022"], publish=_cut_tunnel, over={"how": CUTS})
async def test_a_truncation_does_not_look_orderly(scene: Scene) -> None:
    """An abrupt end on one leg is not shown as a clean end on the other.

    In mid-transfer the upstream resets its connection, or ends a TLS one with a bare FIN: the client must not see
    close_notify behind the data. The other way round, the client's reset or bare FIN, what the upstream sees is noted.
    """
    how, rows = scene.variant["how"], ("RFC8446-6.1-4", "TLS-022")
    client, upstream = await scene.pair()
    if how.startswith("client"):
        await _cut_by_client(scene, client, upstream, rows)
        return
    with scene.judging(*rows):
        await upstream.send(scene.nonce())
        await client.receive_exactly(16)
        if how == "tls-fin":
            await upstream.send_fin()
        else:
            upstream.abort()
        end = await client.end()
        for row in rows:
            announced = end.kind is EndKind.CLOSE_NOTIFY
            if row == "RFC8446-6.1-4":
                scene.allow(row, "close_notify at C" if announced else "RST, bare FIN or an error alert at C")
            else:
                scene.allow(row, "close_notify after cut data" if announced else "reset, error alert")


async def _cut_by_client(scene: Scene, client: TlsPeer, upstream: Any, rows: tuple[str, ...]) -> None:
    with scene.judging(*rows):
        if scene.variant["how"] == "client-fin":
            await client.send_fin()
        else:
            client.abort()
        end = await upstream.end()
        for row in rows:
            scene.record(row, f"the client's {scene.variant['how'][7:]} is {end} at the upstream")


@case(
    "tls-close-06",
    checks=["RFC8446-6.2-1", "RFC8446-6-2"],
    publish=by_mode,
    over={"mode": ENDED, "alert": ("fatal-40", "warning-255", "warning-40")},
)
async def test_an_error_alert_ends_both_legs(scene: Scene) -> None:
    """A fatal alert, an unknown alert and an error alert at warning level end the client's connection.

    The client (TLS 1.3) sends the alert in mid-relay: nothing more comes and the connection closes; the upstream's leg
    ends, however, and carries nothing more. A tunnel without the alert relays on.
    """
    level, number = {"fatal-40": (2, 40), "warning-255": (1, 255), "warning-40": (1, 40)}[scene.variant["alert"]]
    row, other = ("RFC8446-6.2-1", "RFC8446-6-2") if level == 2 else ("RFC8446-6-2", "RFC8446-6.2-1")
    await works(scene, row, other, versions=(TLS13,))
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(TLS13,))
        await client.alert(number, level)
        data, end = await client.receive_until_end()
        scene.expect(row, not data, expected="nothing more", actual=f"{len(data)} octets, {end}")
        await client.transport_end()
        got, far = await upstream.receive_until_end()
        scene.expect(row, not got, expected="the end of the upstream's leg", actual=f"{len(got)} octets, {far}")


@case("tls-close-07", checks=["TLS-023"], publish=by_mode, over={"mode": (*ENDED, "passthrough")}, needs=["dynamic"])
async def test_without_an_upstream_the_connection_ends(scene: Scene) -> None:
    """Where the upstream cannot be reached, the client's connection ends and carries nothing.

    The agent refuses the stream: the client's connection ends in the handshake or right behind it. With an agent that
    takes streams the tunnel works.
    """
    scene.agent.refuse_streams = (6000, "the upstream is not there")
    with scene.judging("TLS-023"):
        client = await scene.tls_client(handshake=False)
        result = await client.try_handshake()
        if isinstance(result, End):
            scene.allow("TLS-023", "handshake fails with an alert or close")
        else:
            data, end = await client.receive_until_end()
            scene.expect("TLS-023", not data, expected="no octet", actual=f"{len(data)} octets, {end}")
            scene.allow("TLS-023", "handshake completes, then close")
    scene.agent.refuse_streams = None
    await works(scene, "TLS-023")


@case(
    "tls-close-08",
    checks=["RFC9112-9.8-1", "RFC9112-9.8-2"],
    publish=http(),
    settings={"timeout.http-idle-ms": 300},
)
async def test_http_connections_end_with_close_notify(scene: Scene) -> None:
    """When an HTTP connection over TLS is idle for too long, close_notify comes before FIN; a client's bare FIN is
    taken.

    The client waits on an idle connection for its end. Another one ends with FIN and no close_notify: the engine ends
    it too, and goes on serving.
    """
    with scene.judging("RFC9112-9.8-1"):
        client = await scene.tls_client()
        end = await client.end()
        scene.expect("RFC9112-9.8-1", end.kind is EndKind.CLOSE_NOTIFY, expected="close_notify", actual=str(end))
        behind = await client.transport_end()
        scene.expect("RFC9112-9.8-1", behind.kind is EndKind.FIN, expected="then FIN", actual=str(behind))
    with scene.judging("RFC9112-9.8-2"):
        client = await scene.tls_client()
        await client.send_fin()
        await client.transport_end()
        await scene.settle()
        scene.expect("RFC9112-9.8-2", True, expected="service to go on", actual="it went on")


@case("tls-close-09", checks=["RFC5246-7.2.2-1"], publish=tls(), features=["tls.1.2"])
async def test_alerts_of_fatal_conditions_are_fatal(scene: Scene) -> None:
    """In TLS 1.2 conditions that are fatal are told with an alert at fatal level before the end.

    A ClientHello that cannot be decoded, one without a suite in common, and a record that fails deprotection, each on a
    connection of its own. A reset may destroy the alert. This row alone judges a missing one.
    """
    row = "RFC5246-7.2.2-1"
    triggers: dict[str, dict[str, Any]] = {
        "decode_error": {"tamper": {"client_hello": _overrun}},
        "handshake_failure": {"suites": (0x0003,)},
    }
    for name, options in triggers.items():
        with scene.judging(row):
            client = await scene.tls_client(handshake=False, versions=(TLS12,), **options)
            result = await client.try_handshake()
            _fatal(scene, row, client, result, name)
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(TLS12,))
        await echo(scene, client, upstream, row)
        await client.raw_record(23, b"spoiled", flip_bit=-1)
        _fatal(scene, row, client, await client.end(), "bad_record_mac")


def _overrun(raw: bytes) -> bytes:
    """A ClientHello whose session id is longer than the message."""
    return raw[:38] + b"\xff" + raw[39:]


def _fatal(scene: Scene, row: str, client: TlsPeer, end: object, condition: str) -> None:
    if not isinstance(end, End):
        raise PeerMismatch(f"the end of the connection after {condition}", "a handshake")
    if end.kind is EndKind.RESET:
        scene.allow(row, "TCP reset")
        return
    found = [event.level for event in client.events if isinstance(event, seen.Alert)]
    if found and set(found) == {2}:
        scene.allow(row, "alert at fatal level")
    else:
        scene.depart(row, expected=f"an alert at fatal level for {condition}", actual=f"levels {found}, {end}")
