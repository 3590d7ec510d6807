"""Which upstream a request reaches on a connection that serves several names, in every pair of versions."""

from __future__ import annotations

from conformance.http._pair_steps import Met, behind, kind_of, meet, new_client, pair_case, told, works
from conformance.http._pairs import pair_tunnel
from conformance.http._steps import meanwhile
from harness.engine.agent_driver import AgentSession
from harness.model.case import Variant
from harness.model.spec import TunnelSpec
from harness.peer.http import ConnectionEnd, ExchangeEnd, HttpClient, Response
from harness.scene import Scene


def two(variant: Variant) -> dict[str, TunnelSpec]:
    """Two tunnels of the variant's upstream version."""
    return {"main": pair_tunnel(variant), "other": pair_tunnel(variant)}


class Named:
    """What came of a request for the tunnel `other` on a connection that was made for `main`."""

    def __init__(self, scene: Scene, nonce: str) -> None:
        self.nonce = nonce
        self.got: Response | ExchangeEnd | None = None
        self._scene = scene

    async def ask(self, client: HttpClient, authority: str) -> None:
        """Ask, and answer at `other`; then the barrier on both tunnels."""
        other, nonce = behind(self._scene, "other"), self.nonce

        async def answer() -> None:
            request = await other.request(nonce)
            await request.respond(200, (), b"other " + nonce.encode())

        sent = await client.begin("GET", f"/{nonce}", nonce=nonce, authority=authority)
        async with meanwhile(answer()):
            self.got = await sent.outcome()
        for name in ("main", "other"):
            await self._scene.settle(name)

    @property
    def misled(self) -> bool:
        """Whether the upstream of the connection's own tunnel saw the request."""
        return bool(behind(self._scene, "main").seen(self.nonce))

    @property
    def served(self) -> bool:
        """Whether the tunnel that was named answered."""
        got = self.got
        return isinstance(got, Response) and got.complete and got.body == b"other " + self.nonce.encode()

    @property
    def refused(self) -> bool:
        """Whether the client got an error and no upstream the request."""
        got, seen = self.got, behind(self._scene, "other").seen(self.nonce)
        return got is not None and kind_of(got) in ("4xx", "aborted") and not seen

    @property
    def status(self) -> int:
        """The status at the client, 0 without one."""
        return self.got.status if isinstance(self.got, Response) else 0

    def describe(self) -> str:
        """One line for an `actual`."""
        at = [name for name in ("main", "other") if behind(self._scene, name).seen(self.nonce)]
        return f"{told(self.got) if self.got else 'nothing'} at the client; the request at {at or 'no upstream'}"


async def _reused(scene: Scene, branches: dict[str, tuple[str, str, str]]) -> None:
    """Requests for the connection's own tunnel and for another one by turns. `branches` gives by row the items for an
    answer by the other tunnel's upstream, for 421 or another 4xx, and for an end."""
    client = await new_client(scene)
    for _ in range(2):
        own = await works(scene, client)
        for requirement in branches:
            scene.expect(requirement, own.status == 200, expected="the own tunnel to answer", actual=told(own))
        named = Named(scene, scene.nonce().hex())
        await named.ask(client, scene.endpoint("other").host)
        for requirement, (served, refused, ended) in branches.items():
            right = not named.misled and (named.served or named.refused)
            expected = "an answer by the other tunnel's upstream, or a refusal"
            scene.expect(requirement, right, expected=expected, actual=named.describe())
            scene.allow(requirement, served if named.served else refused if named.status else ended)
        if named.got is None or not named.status or client_closes(named.got):
            return


def client_closes(got: Response | ExchangeEnd) -> bool:
    """Whether an HTTP/1.1 connection ends behind this response."""
    return not isinstance(got, Response) or "close" in (got.get("connection") or "").lower()


@pair_case("http-pair-45", ["EDGE-024", "RFC9110-7.4-1"], publish=two)
async def test_the_authority_of_another_tunnel(scene: Scene) -> None:
    """On one connection each request goes to the tunnel that its own authority names, or is refused; never to the one
    that the connection was made for."""
    await _reused(
        scene,
        {
            "RFC9110-7.4-1": ("(b) answered by B's upstream", "(b) 421 or another 4xx", "(b) 421 or another 4xx"),
            "EDGE-024": ("answered by U_B", "421 or another 4xx", "close"),
        },
    )


@pair_case("http-pair-86", ["EDGE-021", "RFC9110-7.4-2"], publish=two, down=("h2", "h3"))
async def test_a_reused_connection_routes_by_authority(scene: Scene) -> None:
    """A reused connection of HTTP/2 or HTTP/3 serves every tunnel whose name its certificate covers: each request by
    its own authority."""
    await _reused(
        scene,
        {
            "EDGE-021": ("each authority answered", "421 or another 4xx", "421 or another 4xx"),
            "RFC9110-7.4-2": ("answered by the named tunnel's", "421", "stream or connection error"),
        },
    )


@pair_case("http-pair-87", ["RFC9113-9.1.1-1"], publish=two, down=("h2",))
async def test_another_authority_on_an_http2_connection(scene: Scene) -> None:
    """A request of HTTP/2 for another authority may be served, or refused with 421; never by the wrong upstream."""
    served = "answered by B's own upstream"
    await _reused(scene, {"RFC9113-9.1.1-1": (served, "421", "another 4xx")})


@pair_case("http-pair-88", ["RFC9114-3.3-3"], publish=two, down=("h3",))
async def test_another_authority_on_an_http3_connection(scene: Scene) -> None:
    """A request of HTTP/3 for another authority may be served, or refused with 421; never by the wrong upstream."""
    served = "answered by B's own upstream"
    await _reused(scene, {"RFC9114-3.3-3": (served, "421", "another 4xx")})


@pair_case("http-pair-46", ["EDGE-022"], publish=two, down=("h2", "h3"), needs=["dynamic"])
async def test_a_connection_outlives_its_tunnel(scene: Scene) -> None:
    """When the tunnel that a connection was made for closes, the connection still serves another one, and a request for
    the closed tunnel gets an error, never the other's answer."""
    assert isinstance(scene.session, AgentSession)
    client = await new_client(scene)
    await works(scene, client)
    own = scene.endpoint("main").host
    with scene.judging("EDGE-022"):
        await scene.session.withdraw("main")
        nonce = scene.nonce().hex()
        other = behind(scene, "other")

        async def answer() -> None:
            request = await other.request(nonce)
            await request.respond(200, (), nonce.encode())

        got: Response | ExchangeEnd | ConnectionEnd
        async with meanwhile(answer()):
            sent = await client.begin("GET", f"/{nonce}", nonce=nonce, authority=scene.endpoint("other").host)
            got = await sent.outcome()
        if isinstance(got, ExchangeEnd) and got.kind in ("goaway", "connection"):
            scene.allow("EDGE-022", "edge closes the connection")
            later = await works(scene, await new_client(scene, "other"), "other")
            scene.expect("EDGE-022", later.status == 200, expected="the other tunnel to answer", actual=told(later))
            return
        fine = isinstance(got, Response) and got.body == nonce.encode()
        scene.expect("EDGE-022", fine, expected="the other tunnel to answer", actual=told(got), branch="B answered")
        closed = scene.nonce().hex()
        sent = await client.begin("GET", f"/{closed}", nonce=closed, authority=own)
        gone = await sent.outcome()
        await scene.settle("other")
        error = kind_of(gone) not in ("2xx", "3xx") and not other.seen(closed)
        expected = "an error for the closed tunnel"
        scene.expect("EDGE-022", error, expected=expected, actual=told(gone), branch="B answered")


async def _nobodys(scene: Scene, authority: str) -> Response | ExchangeEnd:
    client, nonce = await new_client(scene), scene.nonce().hex()
    sent = await client.begin("GET", f"/{nonce}", nonce=nonce, authority=authority)
    got = await sent.outcome()
    await scene.settle()
    return got


@pair_case("http-pair-47", ["RFC9110-7.4-1"])
async def test_an_authority_that_the_certificate_does_not_cover(scene: Scene) -> None:
    """A request for a name that the presented certificate does not cover is refused, and no upstream sees it."""
    got = await _nobodys(scene, "not-covered.example")
    await scene.untouched("RFC9110-7.4-1")
    refused = kind_of(got) in ("4xx", "aborted")
    named = "(a) 421" if isinstance(got, Response) and got.status == 421 else "(a) another 4xx"
    scene.expect("RFC9110-7.4-1", refused, expected="421 or another refusal", actual=told(got), branch=named)


@pair_case("http-pair-48", ["EDGE-016"])
async def test_an_authority_that_nobody_has(scene: Scene) -> None:
    """A request for a name of the engine's zone that no tunnel has gets an error, and no upstream sees it."""
    zone = scene.endpoint().host.partition(".")[2]
    got = await _nobodys(scene, f"nobody-{scene.nonce().hex()[:12]}.{zone}")
    await scene.untouched("EDGE-016")
    refused = kind_of(got) in ("4xx", "aborted")
    scene.expect("EDGE-016", refused, expected="404, 421 or an end", actual=told(got))


async def _crowd(scene: Scene) -> list[tuple[str, Met]]:
    """Ten exchanges of each tunnel at one time, on connections of their own."""
    return [(name, await meet(scene, name=name)) for name in ("main", "other") * 10]


@pair_case("http-pair-89", ["EDGE-024"], publish=two)
async def test_exchanges_of_two_tunnels_never_cross(scene: Scene) -> None:
    """Exchanges of two tunnels at one time, answered from the last to the first, each get their own tunnel's answer."""
    for name, met in reversed(await _crowd(scene)):
        content = f"{name} {met.nonce}".encode()
        response = await met.answered(200, (), content)
        own = response.body == content
        scene.expect("EDGE-024", own, expected=f"{content!r}", actual=told(response), branch="answered by U_B")
