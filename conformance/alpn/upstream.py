"""ALPN between the edge and an upstream over TLS: what is offered, and what the upstream's choice means."""

from __future__ import annotations

from conformance.tls._steps import broken_upstream, echo, ended_at_upstream, ending_any, works
from harness.link.stream import End
from harness.model.case import case
from harness.model.spec import tls
from harness.scene import Scene

LISTED = tls(upstream_tls=True, tls_alpns=("a", "b"))
UNLISTED = tls(upstream_tls=True)
REFUSED = "fatal alert at U (47, 110, 120 or another), or close"


@case("alpn-upstream-01", checks=["ALPN-004", "RFC7301-3.1-4"], publish=LISTED)
async def test_the_negotiated_protocol_goes_upstream(scene: Scene) -> None:
    """What the client negotiated is the only protocol that the engine offers upstream.

    On the list [a, b] the client offers [b], and another one [unknown, a]: the upstream's ClientHello must carry [b],
    or [a], alone, and the upstream negotiates it.
    """
    for offer, name in ((["b"], "b"), (["unknown", "a"], "a")):
        with scene.judging("ALPN-004"):
            client, upstream = await scene.pair(alpn=offer)
            offered = upstream.client_hello.alpn
            right = offered == (name,) and upstream.alpn == client.alpn == name
            actual = f"{offered}, negotiated {upstream.alpn}, and {client.alpn} at the client"
            scene.expect("ALPN-004", right, expected=f"[{name}] alone, negotiated on both legs", actual=actual)
            branch = "[foo] alone"
            scene.expect("RFC7301-3.1-4", offered == (name,), expected=f"[{name}]", actual=str(offered), branch=branch)
            await echo(scene, client, upstream, "ALPN-004")


@case("alpn-upstream-02", checks=["ALPN-005", "RFC7301-3.1-4"], publish=LISTED)
async def test_the_list_is_offered_where_nothing_was_negotiated(scene: Scene) -> None:
    """Where the client sent no ALPN, the engine offers the upstream the configured list.

    On the list [a, b] the upstream's ClientHello must carry a and b (another order is noted), and octets are relayed.
    """
    with scene.judging("ALPN-005"):
        client, upstream = await scene.pair(alpn=[])
        offered = upstream.client_hello.alpn or ()
        same = sorted(offered) == ["a", "b"]
        scene.expect("ALPN-005", same, expected="[a, b]", actual=str(offered))
        ordered = offered == ("a", "b")
        scene.allow("ALPN-005", "[a,b]" if ordered else "same values in another order")
        scene.allow(
            "RFC7301-3.1-4", "fallback list in configured order" if ordered else "fallback list in another order"
        )
        await echo(scene, client, upstream, "ALPN-005")


@case("alpn-upstream-03", checks=["ALPN-006"], publish=UNLISTED)
async def test_without_a_list_no_alpn_goes_upstream(scene: Scene) -> None:
    """With neither a list nor a negotiated protocol the handshake with the upstream carries no ALPN.

    The client sends no ALPN; the extension must be absent at the upstream, and octets are relayed.
    """
    with scene.judging("ALPN-006"):
        client, upstream = await scene.pair(alpn=[])
        offered = upstream.client_hello.alpn
        scene.expect("ALPN-006", offered is None, expected="no ALPN extension", actual=str(offered))
        await echo(scene, client, upstream, "ALPN-006")


@case("alpn-upstream-04", checks=["ALPN-012", "RFC7301-3.2-5"], publish=LISTED)
async def test_an_upstream_that_refuses_ends_the_client(scene: Scene) -> None:
    """If the upstream refuses the protocol, the client is not left with a connection that speaks it.

    The upstream answers [b] with alert 120: the client gets no data, its connection ends, and nothing that it sent is
    at the upstream. With an upstream that takes b the tunnel works.
    """
    rows = ("ALPN-012", "RFC7301-3.2-5")
    await broken_upstream(scene, *rows, client={"alpn": ["b"]}, alpn=("other",))
    for row in rows:
        scene.allow(row, "alert, close_notify and FIN, FIN or RST at C")
    await works(scene, *rows, alpn=["b"])


@case(
    "alpn-upstream-05",
    checks=["RFC7301-3.2-4"],
    publish={"main": LISTED, "bare": UNLISTED},
    over={"offers": ("b", "nothing")},
)
async def test_a_protocol_that_was_not_offered_carries_nothing(scene: Scene) -> None:
    """An upstream that selects a protocol which the edge did not offer gets no data, and the client's connection ends.

    The edge offers [b] and the upstream selects `bar`; the edge offers no ALPN and the upstream selects `bar`.
    """
    row, offers = "RFC7301-3.2-4", scene.variant["offers"]
    name = "main" if offers == "b" else "bare"
    client = {"alpn": ["b"] if offers == "b" else []}
    _, far = await broken_upstream(scene, row, client=client, name=name, select_alpn="bar")
    allowed = ending_any(REFUSED, REFUSED)
    await ended_at_upstream(scene, row, far, allowed)
    await works(scene, row, name=name, **client)


@case("alpn-upstream-06", checks=["ALPN-013", "ALPN-004"], publish=LISTED)
async def test_an_upstream_that_selects_nothing(scene: Scene) -> None:
    """If the upstream selects no protocol although one was offered, the relay goes on, or the client's connection ends.

    The offer is [b], which the client has negotiated. Either way on is noted; octets must not be changed if it goes on.
    """
    with scene.judging("ALPN-004", "ALPN-013"):
        client = await scene.tls_client(handshake=False, alpn=["b"])
        result, upstream = await scene.both(client.try_handshake(), scene.upstream().accept_tls(alpn=()))
        offered = upstream.client_hello.alpn
        scene.expect("ALPN-004", offered == ("b",), expected="[b] alone", actual=str(offered))
        token = scene.nonce()
        if not isinstance(result, End):
            await client.send(token)
            got = await upstream.receive(len(token))
            if got:
                scene.expect("ALPN-013", got == token, expected=token.hex(), actual=got.hex())
                scene.allow("ALPN-013", "relay goes on")
                return
        scene.allow("ALPN-013", "C's connection ended")


@case("alpn-through-01", checks=["ALPN-014"], publish=tls(tls_mode="passthrough"))
async def test_in_passthrough_alpn_is_the_upstreams(scene: Scene) -> None:
    """In passthrough the protocol is between client and upstream alone.

    The client offers [x, y]; the upstream sees both and chooses y, and the client sees y. The upstream's alert 120
    reaches a client that offers [z].
    """
    with scene.judging("ALPN-014"):
        client, upstream = await scene.pair(alpn=["x", "y"], upstream={"alpn": ("y",)})
        right = upstream.client_hello.alpn == ("x", "y") and client.alpn == "y"
        actual = f"{upstream.client_hello.alpn} offered, {client.alpn} at the client"
        scene.expect("ALPN-014", right, expected="[x, y] offered, y chosen", actual=actual)
        await echo(scene, client, upstream, "ALPN-014")
        client = await scene.tls_client(handshake=False, alpn=["z"])
        _, end = await scene.both(_refuses(scene), client.try_handshake())
        scene.expect(
            "ALPN-014", getattr(end, "alert", None) == 120, expected="the upstream's alert 120", actual=str(end)
        )


async def _refuses(scene: Scene) -> None:
    server = await scene.upstream().accept_tls(handshake=False, alpn=("y",))
    await server.read_event()
