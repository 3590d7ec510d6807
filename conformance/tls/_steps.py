"""Steps that many TLS cases share: a connection is to be refused or to end, and nothing may have come out behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.judge import Departed
from harness.link.stream import End, EndKind, LinkReset
from harness.model.case import Variant
from harness.model.spec import TunnelSpec, tls
from harness.peer.raw import RawPeer
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, ClientHello, alert_name
from harness.wire.tls import events as seen

ENDED = ("terminated", "upstream-tls")
"""The modes of a TLS tunnel in which TLS ends at the edge."""
MODES = ("terminated", "upstream-tls", "passthrough")
VERSIONS = {"tls1.2": (TLS12,), "tls1.3": (TLS13,)}
Hello = Callable[[ClientHello], ClientHello]


def spec_of(mode: str, **properties: Any) -> TunnelSpec:
    """A TLS tunnel of that mode."""
    if mode == "passthrough":
        return tls(tls_mode="passthrough", **properties)
    return tls(upstream_tls=True, **properties) if mode == "upstream-tls" else tls(**properties)


def by_mode(variant: Variant) -> TunnelSpec:
    """For `publish=`: the tunnel of the variant's `mode`."""
    return spec_of(variant["mode"])


# How a connection ended


@dataclass(frozen=True, slots=True)
class Ending:
    """What may end a refused connection, by the item of a row's `allowed` that says so; None where nothing does.

    `alerts` by number, `alert` any other fatal alert; `reset`, `fin` (no alert came before it), `notify` (an orderly
    end).
    """

    alerts: Mapping[int, str]
    alert: str | None = None
    reset: str | None = None
    fin: str | None = None
    notify: str | None = None

    def branch(self, end: End) -> str | None:
        """The item for `end`."""
        match end.kind:
            case EndKind.ALERT:
                return self.alerts.get(end.alert or 0, self.alert)
            case EndKind.RESET:
                return self.reset
            case EndKind.CLOSE_NOTIFY:
                return self.notify
            case _:
                return self.fin

    @property
    def described(self) -> str:
        """For an `expected`."""
        named = [f"alert {number} {alert_name(number)}" for number in self.alerts]
        others = {"any fatal alert": self.alert, "a reset": self.reset, "FIN": self.fin, "close_notify": self.notify}
        return " or ".join([*named, *(name for name, item in others.items() if item is not None)])


def ending_13(*alerts: int, item: str) -> Ending:
    """The rows of RFC 8446: these alerts, or an end without one (section 6.2)."""
    return Ending(dict.fromkeys(alerts, item), reset="connection ended", fin="connection ended")


def ending_12(*alerts: int, item: str) -> Ending:
    """The rows of RFC 5246: these alerts, a reset, or FIN alone, which is noted."""
    return Ending(dict.fromkeys(alerts, item), reset="TCP reset", fin="FIN without an alert")


def ending_any(alert: str, close: str) -> Ending:
    """Any fatal alert, any close."""
    return Ending({}, alert=alert, reset=close, fin=close, notify=close)


ANY_13 = ending_any("any fatal alert", "connection ended")


async def refusal(client: TlsPeer, *, say: bytes = b"") -> End:
    """How the engine refuses the connection, in the handshake or right behind it.

    A TLS 1.3 client is done before the engine has judged its last flight: `say` is what it then sends, so that an
    engine that goes on has something to hand to the upstream.
    """
    result = await client.try_handshake()
    if isinstance(result, seen.HandshakeDone):
        if say:
            await offer(client, say)
        result = await client.end()
    return result


async def offer(client: TlsPeer, data: bytes) -> None:
    """Send `data` where the engine may have closed already."""
    try:
        await client.send(data)
    except LinkReset:
        return


async def ended(scene: Scene, requirement: str, client: TlsPeer, end: End, allowed: Ending) -> None:
    """Judge how the connection of `client` ended; behind an alert the transport must end as well."""
    item = allowed.branch(end)
    if item is None:
        scene.depart(requirement, expected=allowed.described, actual=str(end))
        return
    if end.kind is EndKind.ALERT:
        with scene.judging(requirement):
            await client.transport_end()
    scene.allow(requirement, item)


async def refused(scene: Scene, requirement: str, allowed: Ending, *, name: str = "main", **options: Any) -> End:
    """A client with these options must be refused, by `requirement`, as `allowed` says."""
    end = End(EndKind.RESET)
    with scene.judging(requirement):
        client = await scene.tls_client(name, handshake=False, **options)
        end = await refusal(client, say=scene.nonce())
        await ended(scene, requirement, client, end, allowed)
        await client.close()
    return end


@contextlib.asynccontextmanager
async def serving(scene: Scene, *names: str) -> AsyncIterator[None]:
    """While the block runs, each of these tunnels' upstreams that speaks TLS of its own answers the engine's
    handshakes: an engine may make them before it ends the client's, or refuses that. For a client that no upstream is
    to serve: what reached one all the same is among the strays that `quiet` looks at."""
    async with contextlib.AsyncExitStack() as stack:
        for name in names or ("main",):
            spec = scene.spec(name)
            if spec.family == "tls" and spec.upstream == "tls" and spec.tls_mode != "passthrough":
                await stack.enter_async_context(scene.upstream(name).serving_tls())
        yield


async def quiet(scene: Scene, *requirements: str, name: str = "main") -> None:
    """The barrier, and behind it: no octet has reached the upstream but what the script asked for.

    A stream without octets is no departure: an engine may open it before it knows whether it needs it.
    """
    await scene.settle(name)
    strays = [stray for stray in await scene.strays(name) if stray.data]
    carried = "; ".join(stray.describe() for stray in strays) or "nothing"
    for requirement in requirements:
        scene.expect(requirement, not strays, expected="no octet at the upstream", actual=carried)


# Joined connections


async def echo(scene: Scene, client: TlsPeer, upstream: Any, *requirements: str) -> None:
    """A nonce up and another one down, on a tunnel that is joined already."""
    up, down = scene.nonce(), scene.nonce()
    actual = "nothing"
    for requirement in requirements or scene.case.requirements[:1]:
        with scene.judging(requirement):
            await client.send(up)
            got_up = await upstream.receive_exactly(len(up))
            await upstream.send(down)
            got_down = await client.receive_exactly(len(down))
            actual = f"{got_up.hex()} and {got_down.hex()}"
            same = (got_up, got_down) == (up, down)
            scene.expect(requirement, same, expected=f"{up.hex()} and {down.hex()} relayed", actual=actual)


async def works(scene: Scene, *requirements: str, name: str = "main", **options: Any) -> TlsPeer:
    """A client with these options gets through, to the upstream and back. Gives the client; where it does not, the
    script ends, whatever the level of the rows."""
    client: TlsPeer | None = None
    upstream: Any
    with scene.judging(*requirements):
        client, upstream = await scene.pair(name, **options)
        token = scene.nonce()
        await upstream.send(token)
        got = await client.receive_exactly(len(token))
        for requirement in requirements:
            scene.expect(
                requirement, got == token, expected="a handshake, and octets relayed both ways", actual=got.hex()
            )
    if client is None:
        raise Departed(*requirements)
    return client


async def cut_off(
    scene: Scene, requirement: str, client: TlsPeer, upstream: RawPeer, allowed: Ending, *, before: bytes = b""
) -> End:
    """After a broken record: the client's connection ends as `allowed` says, the upstream's ends too, and carried
    nothing but `before`. Gives how the client's ended."""
    end = End(EndKind.RESET)
    with scene.judging(requirement):
        end = await client.end()
        data, up = await upstream.receive_until_end()
        scene.expect(
            requirement, data == before, expected=f"{len(before)} octets at the upstream", actual=f"{data[:64]!r}, {up}"
        )
        await ended(scene, requirement, client, end, allowed)
    return end


async def no_data(scene: Scene, client: TlsPeer, *requirements: str) -> End:
    """The client's connection ends, and without application data."""
    end = End(EndKind.RESET)
    with scene.judging(*requirements):
        result = await client.try_handshake()
        data = b""
        if isinstance(result, seen.HandshakeDone):
            data, result = await client.receive_until_end()
        end = result
        for requirement in requirements:
            scene.expect(requirement, not data, expected="no application data at the client", actual=f"{data[:64]!r}")
    return end


def levels(client: TlsPeer) -> list[int]:
    """The level of every alert that came, close_notify excepted."""
    return [event.level for event in client.events if isinstance(event, seen.Alert)]


def messages(client: TlsPeer, name: str) -> Sequence[Any]:
    """The handshake messages of that name that the other side sent, decoded."""
    return [event.message for event in client.events if isinstance(event, seen.HandshakeMessage) and event.name == name]


async def reached(scene: Scene, client: TlsPeer, name: str = "main") -> End | None:
    """Whether `client` gets through to the upstream of the tunnel `name`, with a nonce: None, or how it was refused."""
    token, side = scene.nonce(), scene.upstream(name)
    behind = scene.spec(name).upstream == "tls"
    taking = asyncio.ensure_future(side.accept_tls() if behind else side.accept_with(token))
    try:
        result = await client.try_handshake()
        if isinstance(result, End):
            return result
        await offer(client, token)
        ending = asyncio.ensure_future(client.end())
        await asyncio.wait((taking, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        if not taking.done():
            return ending.result()
        upstream = taking.result()
        if isinstance(upstream, TlsPeer):
            await side.check_nonce(upstream, token)
        return None
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a TLS upstream saw of a connection that had to fail: the octets it got, and how the engine ended it."""

    peer: TlsPeer
    data: bytes
    end: End


async def broken_upstream(
    scene: Scene, *requirements: str, client: Mapping[str, Any] | None = None, name: str = "main", **server: Any
) -> tuple[TlsPeer, Upstream]:
    """An upstream TLS server with these options, which must not lead to data: by `requirements` the client gets none,
    nothing of its own arrives there, and its connection ends."""
    near = await scene.tls_client(name, handshake=False, **(client or {}))
    token = scene.nonce()
    serving = asyncio.ensure_future(_serve_broken(scene, name, server))
    try:
        with scene.judging(*requirements):
            result = await near.try_handshake()
            data = b""
            if isinstance(result, seen.HandshakeDone):
                await offer(near, token)
                data, result = await near.receive_until_end()
            far = await serving
        for requirement in requirements:
            nothing = not data and token not in far.data
            actual = f"{len(data)} octets at the client, {len(far.data)} at the upstream"
            scene.expect(requirement, nothing, expected="no application data on either side", actual=actual)
        return near, far
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _serve_broken(scene: Scene, name: str, options: Mapping[str, Any]) -> Upstream:
    server = await scene.upstream(name).accept_tls(handshake=False, **options)
    result = await server.try_handshake()
    data = b""
    if isinstance(result, seen.HandshakeDone):
        try:
            await server.send(b"from the upstream")
        except LinkReset:
            data = b""
        data, result = await server.receive_until_end()
    return Upstream(server, data, result)


async def ended_at_upstream(scene: Scene, requirement: str, far: Upstream, allowed: Ending) -> None:
    """Judge how the engine ended its connection to the upstream."""
    item = allowed.branch(far.end)
    if item is None:
        scene.depart(requirement, expected=f"{allowed.described} at the upstream", actual=str(far.end))
        return
    scene.allow(requirement, item)
