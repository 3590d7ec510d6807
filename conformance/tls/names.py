"""Server names: which tunnel a ClientHello selects, and which ones select none."""

from __future__ import annotations

import asyncio
from typing import Any

from conformance.tls._steps import (
    VERSIONS,
    Ending,
    by_mode,
    ended,
    ending_any,
    levels,
    quiet,
    reached,
    refusal,
    serving,
    spec_of,
    works,
)
from harness.link.stream import End
from harness.model.case import Variant, case
from harness.model.spec import TunnelSpec, tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import Extension
from harness.wire.tls import events as seen
from harness.wire.tls import extensions as ext

ENDS = ("terminated", "passthrough")
ALL = ("terminated", "upstream-tls", "passthrough")
SERVER_NAME = 0


def beside(variant: Variant) -> dict[str, TunnelSpec]:
    """Two tunnels of the variant's mode."""
    return {"main": spec_of(variant["mode"]), "other": spec_of(variant["mode"])}


def named(*names: str | bytes) -> dict[str, object]:
    """Client options: these host names in one server_name extension."""
    return {"hello": lambda hello: hello.with_extension(ext.server_name(names))}


def raw_name(data: bytes) -> dict[str, object]:
    """Client options: a server_name extension with this content."""
    return {"hello": lambda hello: hello.with_extension(Extension(SERVER_NAME, data))}


async def _attempt(scene: Scene, options: dict[str, object]) -> TlsPeer:
    return await scene.tls_client(handshake=False, **options)  # type: ignore[arg-type]


@case("tls-sni-01", checks=["RFC6066-3-8"], publish=beside, over={"mode": ALL})
async def test_a_name_is_compared_as_a_dns_name(scene: Scene) -> None:
    """A server name in upper case selects its tunnel; a trailing dot, NUL or address selects none by accident.

    The name in upper case must get through to its upstream. The name with a dot behind it may, or is refused. The name
    with a NUL inside (behind it, and in front of the other tunnel's name) and an address are refused, and nothing of
    them is at either upstream.
    """
    row, host, other = "RFC6066-3-8", scene.endpoint().host, scene.endpoint("other").host
    with scene.judging(row):
        end = await reached(scene, await _attempt(scene, named(host.upper())))
        scene.expect(row, end is None, expected="upper case to reach its tunnel", actual=str(end))
        end = await reached(scene, await _attempt(scene, named(f"{host}.")))
        scene.allow(row, "trailing dot")
    refuses = ending_any("NUL, IP literal", "NUL, IP literal")
    for name in (f"{host}\0", f"{host}\0.{other}", f"a\0{other}", "127.0.0.1", "1.2.3.4"):
        with scene.judging(row):
            client = await _attempt(scene, named(name))
            await _selects_none(scene, row, client, refuses, "main", "other")
    for tunnel in ("main", "other"):
        await quiet(scene, row, name=tunnel)


ONE_THROUGHOUT = "one entry used throughout"


def _lists(variant: Variant) -> dict[str, TunnelSpec]:
    """Two tunnels; where TLS ends at the edge each with an ALPN list of its own, to tell which one's rules apply."""
    if variant["mode"] == "passthrough":
        return beside(variant)
    return {"main": spec_of(variant["mode"], tls_alpns=("a",)), "other": spec_of(variant["mode"], tls_alpns=("b",))}


async def _two_readings(scene: Scene, row: str, change: dict[str, object], *, refuse: str, used: str) -> None:
    """A hello that names both tunnels is refused, or read in one way: route and rules of the same tunnel."""
    with scene.judging(row):
        client = await _attempt(scene, {"alpn": ["a", "b"], **change})
        if scene.variant["mode"] == "passthrough":
            # Nothing of the edge but its route reads the hello here.
            result: object = await _routed(scene, client, "main", "other")
        else:
            result = await client.try_handshake()
        if isinstance(result, End):
            await ended(scene, row, client, result, ending_any(refuse, refuse))
        else:
            if isinstance(result, seen.HandshakeDone):
                token = scene.nonce()
                await client.send(token)
                await scene.upstream("other" if client.alpn == "b" else "main").accept_with(token)
            scene.allow(row, used)
        await client.close()
    for name in ("main", "other"):
        await quiet(scene, row, name=name)
        await works(scene, row, name=name)


async def _selects_none(scene: Scene, row: str, client: TlsPeer, allowed: Ending, *names: str) -> None:
    """The client is refused, as `allowed` says, and where TLS goes through its hello comes to none of these upstreams:
    there nobody would answer it, and the client would only see silence."""
    if scene.spec().tls_mode != "passthrough":
        async with serving(scene, *names):
            await ended(scene, row, client, await refusal(client, say=scene.nonce()), allowed)
        return
    result = await _routed(scene, client, *names)
    if isinstance(result, End):
        await ended(scene, row, client, result, allowed)
        return
    actual = (
        f"the hello at the upstream of {result!r}" if isinstance(result, str) else "a handshake of the engine's own"
    )
    scene.depart(row, expected=f"{allowed.described}, and nothing at an upstream", actual=actual)


async def _routed(scene: Scene, client: TlsPeer, *names: str) -> seen.HandshakeDone | End | str:
    """The tunnel of `names` at whose upstream the hello arrives in passthrough, or what comes of the handshake
    before."""
    handshake = asyncio.ensure_future(client.try_handshake())
    routes: dict[asyncio.Future[Any], str] = {asyncio.ensure_future(_first_octets(scene, name)): name for name in names}
    waiting: set[asyncio.Future[Any]] = {handshake, *routes}
    try:
        while handshake in waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done & routes.keys():
                if task.exception() is None:
                    return routes[task]
        return handshake.result()
    finally:
        for task in (handshake, *routes):
            task.cancel()
        await asyncio.gather(handshake, *routes, return_exceptions=True)


async def _first_octets(scene: Scene, name: str) -> None:
    side = scene.upstream(name)
    upstream = await side.accept()
    arrived = False
    try:
        await upstream.receive_exactly(1)
        arrived = True
    finally:
        if not arrived:
            # Octets that come later are looked for behind the barrier.
            side.give_back(upstream)


@case("tls-sni-02", checks=["RFC6066-3-1"], publish=_lists, over={"mode": ENDS})
async def test_two_names_are_never_read_in_two_ways(scene: Scene) -> None:
    """A server_name with the names of two tunnels is refused, or one of them is used throughout.

    Route and ALPN list must be those of the same tunnel; with a refusal neither upstream gets an octet.
    """
    names = named(scene.endpoint().host, scene.endpoint("other").host)
    await _two_readings(scene, "RFC6066-3-1", names, refuse="any fatal alert or close", used=ONE_THROUGHOUT)


@case("tls-sni-03", checks=["RFC8446-4.2-3"], publish=_lists, over={"mode": ENDS, "twice": ("server_name", "alpn")})
async def test_a_duplicate_extension_is_never_read_in_two_ways(scene: Scene) -> None:
    """A ClientHello with two server_name (or ALPN) extensions is refused, or one copy is used throughout.

    Route and ALPN list must be those of the same tunnel. What the edge sends itself holds no type twice, which our
    client checks in every handshake.
    """
    if scene.variant["twice"] == "server_name":
        again = ext.server_name([scene.endpoint("other").host])
    else:
        again = ext.alpn(["a"])
    change: dict[str, object] = {"hello": lambda hello: hello.appending(again)}
    if scene.variant["mode"] == "passthrough" and scene.variant["twice"] == "alpn":
        # The hello is the upstream's, but an edge that reads the name out of it may refuse what cannot be read.
        client = await _attempt(scene, {**change, "alpn": ["a"]})
        with scene.judging("RFC8446-4.2-3"):
            result = await _routed(scene, client, "main")
        branch = "one copy used throughout" if result == "main" else "any fatal alert or close"
        once = result == "main" or isinstance(result, End)
        scene.expect(
            "RFC8446-4.2-3", once, expected="the hello at the upstream, or an end", actual=f"{result}", branch=branch
        )
        return
    await _two_readings(
        scene, "RFC8446-4.2-3", change, refuse="any fatal alert or close", used="one copy used throughout"
    )


UNKNOWN = Ending(
    {112: "fatal alert 112"},
    alert="fatal alert 40 or another",
    reset="close or reset without alert",
    fin="close or reset without alert",
    notify="close or reset without alert",
)


@case(
    "tls-sni-04",
    checks=["RFC6066-3-2", "RFC6066-3-3"],
    publish={"main": tls(), "through": tls(tls_mode="passthrough")},
    over={"version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_an_unknown_name_reaches_no_tunnel(scene: Scene) -> None:
    """A name that no tunnel has touches no upstream; the attempt ends, and an alert 112 is fatal.

    A name beside the tunnels' own and a name of another domain are refused (or get a default certificate and then an
    end). Before and behind that both tunnels work.
    """
    options: dict[str, Any] = {"versions": VERSIONS[scene.variant["version"]]}
    # A tunnel that was reached just now is the one that an engine might fall back to.
    for name in ("through", "main"):
        await works(scene, "RFC6066-3-2", name=name)
    for name in (f"nobody-{scene.endpoint().host}", "nobody.example"):
        client = await _attempt(scene, {**options, "server_name": name})
        with scene.judging("RFC6066-3-2"):
            result = await client.try_handshake()
            if isinstance(result, End):
                await ended(scene, "RFC6066-3-2", client, result, UNKNOWN)
            else:
                await client.send(scene.nonce())
                await client.end()
                scene.allow("RFC6066-3-2", "handshake with a default certificate")
        found = levels(client)
        right = all(level == 2 for level in found)
        scene.expect("RFC6066-3-3", right, expected="alerts at fatal level", actual=f"levels {found}")
        await client.close()
    for name in ("main", "through"):
        await quiet(scene, "RFC6066-3-2", name=name)
        await works(scene, "RFC6066-3-2", name=name)


NO_NAME = Ending(
    dict.fromkeys((109, 112, 40), "fatal alert 109, 112 or 40"), reset="connection ended", fin="connection ended"
)


@case(
    "tls-sni-05",
    checks=["RFC8446-9.2-2", "RFC8446-9.3-5"],
    publish=by_mode,
    over={"mode": ALL},
)
async def test_without_a_name_no_tunnel_is_reached(scene: Scene) -> None:
    """A client without a server name gets an alert or a default, never an arbitrary tunnel's upstream.

    The connection must end (or be served by the engine itself), and no octet is at the upstream. With its name the
    tunnel works, before that and behind it.
    """
    no_name = "no or unknown SNI"
    await works(scene, "RFC8446-9.2-2")
    with scene.judging("RFC8446-9.2-2"):
        client = await _attempt(scene, {"server_name": None})
        async with serving(scene):
            result = await client.try_handshake()
            if isinstance(result, End):
                await ended(scene, "RFC8446-9.2-2", client, result, NO_NAME)
            else:
                await client.send(scene.nonce())
                await client.end()
                scene.allow("RFC8446-9.2-2", "base-host certificate")
        scene.allow("RFC8446-9.3-5", no_name)
        await client.close()
    await quiet(scene, "RFC8446-9.2-2", "RFC8446-9.3-5")
    await works(scene, "RFC8446-9.2-2")


def _broken_names(host: bytes) -> dict[str, bytes]:
    """server_name contents whose lengths do not fit, with the tunnel's name inside."""
    size = len(host)

    def entry(length: int, name: bytes = host) -> bytes:
        return b"\0" + length.to_bytes(2, "big") + name

    def listed(body: bytes, length: int | None = None) -> bytes:
        return (len(body) if length is None else length).to_bytes(2, "big") + body

    return {
        "empty extension": b"",
        "list of length 0": listed(b""),
        "list length 0, name behind it": listed(entry(size), 0),
        "list length 65535": listed(entry(size), 65535),
        "list length one short": listed(entry(size), size + 2),
        "name of length 0": listed(entry(0, b"")),
        "name length 0, name behind it": listed(entry(0)),
        "name length 65535": listed(entry(65535)),
        "name length one over": listed(entry(size + 1)),
        "octets behind the list": listed(entry(size)) + b"\0\0",
    }


@case("tls-sni-06", checks=["RFC6066-11.1-2"], publish=by_mode, over={"mode": ENDS})
async def test_no_length_in_the_name_overflows(scene: Scene) -> None:
    """Lengths in server_name that do not fit end the attempt, and the engine serves the next client.

    Lengths of 0 and 65535, one short and one over, an empty list and octets behind the list, each with the tunnel's own
    name inside: nothing of them is at the upstream, and the tunnel works afterwards.
    """
    row, host = "RFC6066-11.1-2", scene.endpoint().host.encode()
    either = "any fatal alert (50 usual) or close"
    for data in _broken_names(host).values():
        with scene.judging(row):
            client = await _attempt(scene, raw_name(data))
            await _selects_none(scene, row, client, ending_any(either, either), "main")
            await client.close()
    await quiet(scene, row)
    await works(scene, row)


@case(
    "tls-sni-07",
    checks=["RFC6066-3-4", "RFC8446-4.2-1", "RFC5246-7.4.1.4-1"],
    publish=tls(),
    over={"version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_the_name_is_acknowledged_empty(scene: Scene) -> None:
    """The answer to a known name is an empty server_name; nothing is answered that was not asked.

    In TLS 1.2 it stands in ServerHello, in TLS 1.3 in EncryptedExtensions; one that is missing is noted. Then a client
    with a minimal ClientHello (no ALPN, no session ticket, no extended_master_secret) must get no answer to an
    extension that it did not send.
    """
    modern = scene.variant["version"] == "tls1.3"
    options: dict[str, Any] = {"versions": VERSIONS[scene.variant["version"]]}
    client = await works(scene, "RFC6066-3-4", **options)
    answer = _answers(client, "EncryptedExtensions" if modern else "ServerHello").get(SERVER_NAME)
    if answer is None:
        scene.allow("RFC6066-3-4", "absent: recorded")
    else:
        scene.expect("RFC6066-3-4", answer == b"", expected="an empty one", actual=answer.hex(), branch="empty")
    row, other = ("RFC8446-4.2-1", "RFC5246-7.4.1.4-1") if modern else ("RFC5246-7.4.1.4-1", "RFC8446-4.2-1")
    client = await works(
        scene, row, **options, alpn=(), offer_tickets=False, extended_master_secret=False, renegotiation=None
    )
    offered = set(client.client_hello.extension_types)
    every = {**_answers(client, "ServerHello"), **_answers(client, "EncryptedExtensions")}
    odd = sorted(set(every) - offered)
    scene.expect(row, not odd, expected="answers to extensions of the ClientHello", actual=f"types {odd}")
    scene.not_run(other, "the other version's rule")


def _answers(client: TlsPeer, name: str) -> dict[int, bytes]:
    """The extensions of the messages of that name."""
    found: dict[int, bytes] = {}
    for event in client.events:
        if isinstance(event, seen.HandshakeMessage) and event.name == name:
            found.update({one.type: one.data for one in getattr(event.message, "extensions", None) or ()})
    return found
