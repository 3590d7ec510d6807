"""The validation matrix: what a creation request may ask for, and the effective properties that come back."""

from __future__ import annotations

from conformance.edge._helpers import access, listed, serves
from conformance.validation._judging import gives, need
from conformance.validation.matrix import dtls, quic
from harness.errors import PeerMismatch
from harness.model.case import case
from harness.model.spec import TunnelSpec, http, tls
from harness.scene import Scene

MINIMAL = {
    "nothing": (TunnelSpec(), {"protocol": "http", "http_version": "http/1.1"}),
    "http": (TunnelSpec(protocol="http"), {"protocol": "http", "http_version": "http/1.1"}),
    "tls": (TunnelSpec(protocol="tls"), {"protocol": "tls", "tls_mode": "terminated"}),
}


@case(
    "val-02",
    checks=["VAL-002", "VAL-029"],
    needs=["dynamic"],
    features=["validation", "http.h1", "tls.terminated"],
    over={"asked": list(MINIMAL)},
    family="tls",
)
async def test_what_is_left_out_is_derived_and_reported(scene: Scene) -> None:
    """A request that says next to nothing gives a published byte stream tunnel, and the answer says what it became.

    Without a protocol, with protocol http alone, with tls alone: `publish` is true, the type bytestream; id, protocol,
    host name, upstream version or TLS mode are reported. The tunnel then serves.
    """
    spec, effective = MINIMAL[scene.variant["asked"]]
    made = await gives(scene, "VAL-002", spec, publish=True, type="bytestream")
    wanted = {**effective, "hostname": made.host}
    for name, value in wanted.items():
        got = made.properties.get(name)
        scene.expect("VAL-029", got == value, expected=f"{name} {value}", actual=f"{name} {got}")
    scene.expect("VAL-029", bool(made.name), expected="an id", actual="none")
    with scene.judging("VAL-002"):
        await serves(scene)


BY_PROTOCOL = {
    "tls": tls(),
    "http": http(),
    "passthrough": tls(tls_mode="passthrough"),
    "dtls": dtls(),
    "quic": quic(),
    "h3": http(http_version="h3"),
}


@case(
    "val-02-type",
    checks=["VAL-002"],
    needs=["dynamic"],
    features=lambda variant: ["validation", *sorted(BY_PROTOCOL[variant["asked"]].features())],
    over={"asked": list(BY_PROTOCOL)},
    family="tls",
)
async def test_the_type_follows_from_the_protocol(scene: Scene) -> None:
    """TLS and HTTP tunnels are byte streams, DTLS, QUIC and HTTP with h3 are datagram, unless the request says so."""
    asked = scene.variant["asked"]
    datagram = asked in ("dtls", "quic", "h3")
    await gives(scene, "VAL-002", BY_PROTOCOL[asked], type="datagram" if datagram else "bytestream")


@case("val-03-given", checks=["VAL-003"], needs=["dynamic"], features=["validation", "tls.terminated"], family="tls")
async def test_a_tls_tunnel_of_type_bytestream_is_given(scene: Scene) -> None:
    """A TLS tunnel may say that it is a byte stream."""
    await gives(scene, "VAL-003", tls(type="bytestream"), type="bytestream")
    with scene.judging("VAL-003"):
        await serves(scene)


@case(
    "val-04-given",
    checks=["VAL-004"],
    needs=["dynamic"],
    features=["validation", "dtls", "quic"],
    over={"asked": ["dtls", "quic"]},
    family="tls",
)
async def test_a_dtls_or_quic_tunnel_of_type_datagram_is_given(scene: Scene) -> None:
    """A DTLS or QUIC tunnel may say that it is datagram."""
    spec = dtls(type="datagram") if scene.variant["asked"] == "dtls" else quic(type="datagram")
    await gives(scene, "VAL-004", spec, type="datagram")


VERSIONS = {
    "h1": http(http_version="http/1.1"),
    "h1-bytestream": http(http_version="http/1.1", type="bytestream"),
    "h2c": http(http_version="h2c"),
    "h2c-bytestream": http(http_version="h2c", type="bytestream"),
    "h3": http(http_version="h3"),
    "h3-datagram": http(http_version="h3", type="datagram"),
}


@case(
    "val-05-given",
    checks=["VAL-005", "VAL-020"],
    needs=["dynamic"],
    features=["validation"],
    over={"asked": list(VERSIONS)},
    family="tls",
)
async def test_the_right_pairs_of_version_and_type_are_given(scene: Scene) -> None:
    """http/1.1 and h2c on byte streams, h3 on datagrams: given, with the version that was asked for."""
    spec = VERSIONS[scene.variant["asked"]]
    need(scene, spec)
    wanted = "datagram" if spec.http_version == "h3" else "bytestream"
    made = await gives(scene, "VAL-005", spec, type=wanted)
    got = made.properties.get("http_version")
    expected = f"http_version {spec.http_version}"
    scene.expect("VAL-020", got == spec.http_version, expected=expected, actual=f"http_version {got}")
    if spec.http_version == "http/1.1":
        with scene.judging("VAL-005"):
            await serves(scene)


@case(
    "val-13-given",
    checks=["VAL-013"],
    needs=["dynamic"],
    features=["validation", "http.upstream-tls"],
    over={"asked": ["http", "h3"]},
    family="tls",
)
async def test_upstream_tls_without_a_version_or_with_h3_is_given(scene: Scene) -> None:
    """HTTP with upstream TLS is given when no version, or h3, is asked for."""
    spec = http(upstream_tls=True) if scene.variant["asked"] == "http" else http(http_version="h3", upstream_tls=True)
    need(scene, spec)
    await gives(scene, "VAL-013", spec, upstream_tls=True)


@case(
    "val-14-given",
    checks=["VAL-014"],
    needs=["dynamic"],
    features=["validation", "http.h3"],
    over={"asked": ["unset", "on"]},
    family="tls",
)
async def test_h3_has_upstream_tls_by_itself(scene: Scene) -> None:
    """An h3 upstream has upstream TLS, whether that is asked for or left out."""
    spec = http(http_version="h3", upstream_tls=True if scene.variant["asked"] == "on" else None)
    await gives(scene, "VAL-014", spec, upstream_tls=True)


@case(
    "val-17-given",
    checks=["VAL-017"],
    needs=["dynamic"],
    features=["validation", "quic"],
    over={"asked": ["unset", "on"]},
    family="tls",
)
async def test_quic_has_upstream_tls_by_itself(scene: Scene) -> None:
    """A QUIC tunnel has upstream TLS, whether that is asked for or left out."""
    await gives(
        scene, "VAL-017", quic(upstream_tls=True if scene.variant["asked"] == "on" else None), upstream_tls=True
    )


@case(
    "val-18-given",
    checks=["VAL-018"],
    needs=["dynamic"],
    features=["validation", "http.upstream-tls"],
    over={"asked": ["old", "both"]},
    family="tls",
)
async def test_the_old_name_means_upstream_tls(scene: Scene) -> None:
    """`http_use_tls`, alone or beside an equal `upstream_tls`, means TLS toward the upstream.

    A client's request must begin a TLS handshake at the upstream.
    """
    new = True if scene.variant["asked"] == "both" else None
    await gives(scene, "VAL-018", TunnelSpec(protocol="http", http_use_tls=True, upstream_tls=new, upstream="tls"))
    with scene.judging("VAL-018"):
        client = await scene.http_client()
        await client.request("GET", "/")
        upstream = await scene.upstream().accept_tls(alpn=("http/1.1",))
        head = await upstream.receive()
        scene.expect("VAL-018", head.startswith(b"GET / "), expected="the request under TLS", actual=repr(head[:40]))


@case(
    "val-19-given",
    checks=["VAL-019"],
    needs=["dynamic"],
    features=["validation", "tls.min-version"],
    over={"version": ["tls1.2", "tls1.3"], "family": ["tls", "http"]},
    family="tls",
)
async def test_the_two_lowest_versions_are_given(scene: Scene) -> None:
    """`tls1.2` and `tls1.3` are given, reported, and the tunnel serves."""
    version = scene.variant["version"]
    spec = tls(tls_min_version=version) if scene.variant["family"] == "tls" else http(tls_min_version=version)
    await gives(scene, "VAL-019", spec, tls_min_version=version)
    with scene.judging("VAL-019"):
        await serves(scene)


@case("val-23-given", checks=["VAL-023"], needs=["dynamic"], features=["validation", "private.datagram"], family="tls")
async def test_a_private_datagram_tunnel_is_given(scene: Scene) -> None:
    """A tunnel that is not published may carry datagrams."""
    await gives(scene, "VAL-023", TunnelSpec(publish=False, type="datagram"), type="datagram", hostname=None)


@case("val-24-given", checks=["VAL-024"], needs=["dynamic"], features=["validation", "dtls"], family="tls")
async def test_guaranteed_delivery_on_datagrams_is_given(scene: Scene) -> None:
    """A DTLS tunnel may ask for guaranteed delivery."""
    await gives(scene, "VAL-024", dtls(datagram_guaranteed_delivery=True), datagram_guaranteed_delivery=True)


@case(
    "val-25",
    checks=["VAL-025"],
    needs=["dynamic"],
    features=["validation", "tls.mtls"],
    over={"family": ["http", "tls", "dtls", "quic"]},
    family="tls",
)
async def test_client_certificates_wherever_the_edge_terminates(scene: Scene) -> None:
    """Every protocol that the edge terminates may ask for client certificates."""
    makers = {"http": http, "tls": tls, "dtls": dtls, "quic": quic}
    spec = makers[scene.variant["family"]](mtls_auth=True)
    need(scene, spec)
    await gives(scene, "VAL-025", spec, mtls_auth=True)


@case(
    "val-29",
    checks=["VAL-029"],
    publish={"web": http(), "raw": tls(), "passed": tls(tls_mode="passthrough"), "up": tls(upstream_tls=True)},
    needs=["dynamic"],
    features=["validation", "edge.api"],
)
async def test_effective_properties_are_in_the_list(scene: Scene) -> None:
    """The list of the engine's API shows each tunnel with its effective properties.

    Four tunnels of one agent: id, protocol, type, TLS mode, upstream version, upstream TLS, host name and port must
    be those of the answer to the agent, with every derived value in place.
    """
    with scene.judging("VAL-029"):
        tunnels = {item.get("id"): item for item in await listed(scene, token=access(scene).token)}
        for name, more in EFFECTIVE.items():
            where = scene.endpoint(name)
            item = tunnels.get(where.name)
            if item is None:
                raise PeerMismatch(f"tunnel {where.name} in the list", f"{sorted(map(str, tunnels))}")
            wanted = {"publish": True, "type": "bytestream", "hostname": where.host, "port": where.port, **more}
            for key, value in wanted.items():
                got = item.get(key, 443 if key == "port" else None)
                scene.expect(
                    "VAL-029",
                    got == value or (not got and not value),
                    expected=f"{key} {value} of {name!r} in the list",
                    actual=f"{got}",
                )
                reported = where.properties.get(key, 443 if key == "port" else None)
                scene.expect(
                    "VAL-029",
                    reported == value or (not reported and not value),
                    expected=f"{key} {value} of {name!r} in the answer",
                    actual=f"{reported}",
                )


EFFECTIVE = {
    "web": {"protocol": "http", "http_version": "http/1.1", "upstream_tls": False},
    "raw": {"protocol": "tls", "tls_mode": "terminated", "upstream_tls": False},
    "passed": {"protocol": "tls", "tls_mode": "passthrough", "upstream_tls": False},
    "up": {"protocol": "tls", "tls_mode": "terminated", "upstream_tls": True},
}
