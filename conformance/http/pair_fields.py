"""Fields through every pair of versions: what arrives unchanged, what belongs to a hop alone, what the engine adds."""

from __future__ import annotations

from conformance.http._pair_steps import Met, behind, meet, new_client, pair_case, plain, told
from harness.peer.http import Fields, Response
from harness.scene import Scene
from harness.tasks import one_of


@pair_case("http-pair-03", ["HTTP-HDR-001", "RFC9110-5.1-1", "RFC9110-7.6-3"])
async def test_what_is_end_to_end_arrives_unchanged(scene: Scene) -> None:
    """A method and a status that nobody knows, a target with escapes, and twenty fields arrive as they were said."""
    nonce = scene.nonce().hex()
    target = f"/a%2Fb//c/{nonce}/?x=%20&y=%C3%A9"
    fields = [(f"x-unknown-{number}", f'value {number}; a="b, c"') for number in range(20)]
    met = await meet(scene, "FROB", target, fields, b"body")
    names = [name for name, _ in fields]
    got = (met.request.method, met.request.target, plain(met.request, *names))
    content = await met.request.body()
    told_fields = [("x-answer", "kept; q=0.5"), ("content-language", "en")]
    response = await met.answered(299, told_fields, b"back")
    answered = (response.status, plain(response, "x-answer", "content-language"), response.body)
    method = met.request.method == "FROB" and content == b"body" and response.status == 299
    scene.expect("RFC9110-7.6-3", method, expected="FROB with its content, 299", actual=f"{got[:2]}, {told(response)}")
    kept = got[2] == fields and answered[1] == told_fields
    scene.expect("RFC9110-5.1-1", kept, expected="every field unchanged", actual=f"{got[2]}, {answered[1]}")
    same = got == ("FROB", target, fields) and answered == (299, told_fields, b"back")
    scene.expect("HTTP-HDR-001", same, expected=f"FROB {target}, 299, their fields", actual=f"{got}, {answered}")


@pair_case("http-pair-04", ["RFC9110-5.3-1", "RFC9110-5.3-2", "HTTP-HDR-009"])
async def test_repeated_fields(scene: Scene) -> None:
    """Lines of one name keep their order, with others between them; Set-Cookie lines stay apart."""
    lines = [("x-l", "a"), ("x-other", "1"), ("x-l", "b"), ("x-other", "2"), ("x-l", "c")]
    cookies = ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2", "c=3; Path=/"]
    met = await meet(scene, fields=lines)
    response = await met.answered(200, [*lines, *(("set-cookie", value) for value in cookies)])
    for side, got in (("upstream", met.request.get_all("x-l")), ("client", response.get_all("x-l"))):
        told_order = [part.strip() for value in got for part in value.split(",")]
        for requirement in ("RFC9110-5.3-1", "HTTP-HDR-009"):
            ordered = told_order == ["a", "b", "c"]
            scene.expect(requirement, ordered, expected=f"a, b, c at the {side}", actual=f"{got}")
    kept = response.get_all("set-cookie")
    for requirement in ("RFC9110-5.3-2", "HTTP-HDR-009"):
        scene.expect(requirement, kept == cookies, expected=f"{cookies}", actual=f"{kept}")


async def _crumbs(scene: Scene, requirement: str) -> None:
    """Cookie in three lines; an HTTP/1.1 upstream gets one, others the same cookies in any number of lines."""
    met = await meet(scene, fields=[("cookie", "a=1"), ("x-between", "y"), ("cookie", "b=2"), ("cookie", "c=3; d=4")])
    got = met.request.get_all("cookie")
    await met.answered(200)
    joined = "; ".join(got) == "a=1; b=2; c=3; d=4" and (scene.variant["up"] != "h1" or len(got) == 1)
    for name in (requirement, "HTTP-HDR-009"):
        scene.expect(name, joined, expected="`a=1; b=2; c=3; d=4`, one line in HTTP/1.1", actual=f"{got}")


@pair_case("http-pair-05", ["RFC9113-8.2.3-1", "HTTP-HDR-009"], down=("h2",))
async def test_cookie_crumbs_of_http2(scene: Scene) -> None:
    """Cookie lines that an HTTP/2 client split are one line, joined with `; `, once they leave HTTP/2."""
    await _crumbs(scene, "RFC9113-8.2.3-1")


@pair_case("http-pair-60", ["RFC9114-4.2.1-1", "HTTP-HDR-009"], down=("h3",))
async def test_cookie_crumbs_of_http3(scene: Scene) -> None:
    """Cookie lines that an HTTP/3 client split are one line, joined with `; `, once they leave HTTP/2 and HTTP/3."""
    await _crumbs(scene, "RFC9114-4.2.1-1")


# Fields of one hop


HOP = [("Connection", "x-hop, Keep-Alive"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Proxy-Connection", "close")]


async def _hop_up(scene: Scene, *requirements: str) -> None:
    """Fields of the hop from an HTTP/1.1 client; none of them is at the upstream."""
    fields = [*HOP, ("TE", "gzip"), ("Upgrade", "foo/1"), ("X-Kept", "end to end")]
    met = await meet(scene, fields=fields)
    await met.answered(200)
    request = met.request
    said = request.get("connection") or ""
    found = [name for name in ("x-hop", "keep-alive", "proxy-connection", "upgrade") if request.get(name)]
    found += [f"te: {value}" for value in request.get_all("te") if value.lower() != "trailers"]
    found += [f"connection: {said}"] if "x-hop" in said.lower() or (said and scene.variant["up"] != "h1") else []
    kept = request.get("x-kept") == "end to end"
    for requirement in requirements:
        actual = f"{found or 'none'}, X-Kept {request.get('x-kept')}"
        scene.expect(requirement, not found and kept, expected="none of them at the upstream", actual=actual)


@pair_case("http-pair-06", ["HTTP-HDR-006", "RFC9110-7.6.1-1"], down=("h1",))
async def test_fields_of_the_clients_hop(scene: Scene) -> None:
    """Connection, what it names, Keep-Alive, Proxy-Connection, TE and Upgrade of an HTTP/1.1 client stay on its leg."""
    await _hop_up(scene, "RFC9110-7.6.1-1", "HTTP-HDR-006")


@pair_case("http-pair-61", ["RFC9113-8.2.2-4", "HTTP-HDR-007"], down=("h1",), up=("h2c",))
async def test_fields_of_the_hop_toward_http2(scene: Scene) -> None:
    """What HTTP/1.1 says for one connection is taken out on the way to HTTP/2."""
    await _hop_up(scene, "RFC9113-8.2.2-4", "HTTP-HDR-007")


@pair_case("http-pair-62", ["RFC9114-4.2-6", "HTTP-HDR-007"], down=("h1",), up=("h3",))
async def test_fields_of_the_hop_toward_http3(scene: Scene) -> None:
    """What HTTP/1.1 says for one connection is taken out on the way to HTTP/3."""
    await _hop_up(scene, "RFC9114-4.2-6", "HTTP-HDR-007")


async def _hop_down(scene: Scene, *requirements: str) -> None:
    """Fields of the hop from an HTTP/1.1 upstream; none of them is at the client, and the content is whole."""
    met = await meet(scene)
    fields = [*HOP, ("Upgrade", "foo/1"), ("X-Kept", "end to end")]
    response = await met.answered(200, fields, b"hello", length=scene.variant["framing"] == "length")
    below = scene.variant["down"]
    names = ("x-hop", "keep-alive", "proxy-connection", "upgrade")
    found = [name for name in names if response.get(name)]
    said = response.get("connection") or ""
    found += [f"connection: {said}"] if "x-hop" in said.lower() or (said and below != "h1") else []
    found += ["transfer-encoding"] if below != "h1" and response.get("transfer-encoding") else []
    whole = response.complete and response.body == b"hello" and response.get("x-kept") == "end to end"
    for requirement in requirements:
        actual = f"{found or 'none'}, {told(response)}"
        scene.expect(requirement, not found and whole, expected="none of them, content whole", actual=actual)


@pair_case("http-pair-07", ["HTTP-HDR-006", "RFC9110-7.6.1-1"], up=("h1",), over={"framing": ("length", "chunked")})
async def test_fields_of_the_upstreams_hop(scene: Scene) -> None:
    """Connection, what it names, Keep-Alive, Proxy-Connection and Upgrade of an HTTP/1.1 upstream stay on its leg."""
    await _hop_down(scene, "RFC9110-7.6.1-1", "HTTP-HDR-006")


@pair_case(
    "http-pair-63",
    ["RFC9113-8.2.2-3", "HTTP-HDR-007"],
    down=("h2",),
    up=("h1",),
    over={"framing": ("length", "chunked")},
)
async def test_no_connection_fields_in_http2(scene: Scene) -> None:
    """A client of HTTP/2 sees none of the fields that an HTTP/1.1 upstream said for its connection."""
    await _hop_down(scene, "RFC9113-8.2.2-3", "HTTP-HDR-007")


@pair_case(
    "http-pair-64",
    ["RFC9114-4.2-4", "RFC9114-4.1-5", "HTTP-HDR-007"],
    down=("h3",),
    up=("h1",),
    over={"framing": ("length", "chunked")},
)
async def test_no_connection_fields_in_http3(scene: Scene) -> None:
    """A client of HTTP/3 sees none of the fields that an HTTP/1.1 upstream said for its connection."""
    await _hop_down(scene, "RFC9114-4.2-4", "RFC9114-4.1-5", "HTTP-HDR-007")


@pair_case("http-pair-17", ["HTTP-HDR-012", "RFC9110-7.6.1-4"], up=("h2c", "h3"))
async def test_te_trailers_goes_on(scene: Scene) -> None:
    """`TE: trailers` is said again to an upstream of HTTP/2 or HTTP/3, where gRPC looks for it."""
    te = [("te", "trailers")] + ([("connection", "te")] if scene.variant["down"] == "h1" else [])
    met = await meet(scene, fields=te)
    await met.answered(200)
    got = met.request.get_all("te")
    only = all(value.lower() == "trailers" for value in got)
    scene.expect("RFC9110-7.6.1-4", only, expected="no TE but trailers", actual=f"{got}")
    scene.expect("HTTP-HDR-012", got == ["trailers"], expected="te: trailers", actual=f"{got}")


@pair_case("http-pair-16", ["HTTP-HDR-010", "RFC9110-5.5-2"])
async def test_unusual_values(scene: Scene) -> None:
    """Octets above 0x7F, an empty value, and a value of 4 KiB arrive unchanged both ways."""
    raw = "".join(map(chr, range(0x80, 0x100)))
    lines = [("x-raw", raw), ("x-empty", ""), ("x-long", "v" * 4096)]
    met = await meet(scene, fields=lines)
    response = await met.answered(200, lines)
    for side, got in (("upstream", met.request), ("client", response)):
        seen = plain(got, "x-raw", "x-empty", "x-long")
        told_raw = got.get("x-raw")
        scene.expect("RFC9110-5.5-2", told_raw == raw, expected=f"the octets at the {side}", actual=f"{told_raw!r}")
        scene.expect("HTTP-HDR-010", seen == lines, expected=f"three values at the {side}", actual=f"{seen}"[:300])


# Names in lower case


async def _cased(scene: Scene, requirement: str) -> None:
    """A field that the HTTP/1.1 side spells with capitals has lower case on the other side."""
    met = await meet(scene, fields=[("X-Foo", "1")] if scene.variant["down"] == "h1" else [("x-foo", "1")])
    shown = [("Set-Cookie", "a=1"), ("X-Bar", "2")] if scene.variant["up"] == "h1" else [("x-bar", "2")]
    response = await met.answered(200, shown)
    far = met.request if scene.variant["down"] == "h1" else response
    upper = [name for name, _ in far.headers if name != name.lower()]
    there = met.request.get("x-foo") == "1" and response.get("x-bar") == "2"
    scene.expect(requirement, not upper and there, expected="lower case", actual=f"{upper or far.headers}")


@pair_case("http-pair-21", ["RFC9113-8.2-1"], down=("h1",), up=("h2c",))
async def test_names_toward_an_h2c_upstream(scene: Scene) -> None:
    """Names that an HTTP/1.1 client spells with capitals go to an h2c upstream in lower case."""
    await _cased(scene, "RFC9113-8.2-1")


@pair_case("http-pair-65", ["RFC9113-8.2-1"], down=("h2",), up=("h1",))
async def test_names_toward_an_h2_client(scene: Scene) -> None:
    """Names that an HTTP/1.1 upstream spells with capitals go to a client of HTTP/2 in lower case."""
    await _cased(scene, "RFC9113-8.2-1")


@pair_case("http-pair-66", ["RFC9114-4.2-1"], down=("h1",), up=("h3",))
async def test_names_toward_an_h3_upstream(scene: Scene) -> None:
    """Names that an HTTP/1.1 client spells with capitals go to an h3 upstream in lower case."""
    await _cased(scene, "RFC9114-4.2-1")


@pair_case("http-pair-67", ["RFC9114-4.2-1"], down=("h3",), up=("h1",))
async def test_names_toward_an_h3_client(scene: Scene) -> None:
    """Names that an HTTP/1.1 upstream spells with capitals go to a client of HTTP/3 in lower case."""
    await _cased(scene, "RFC9114-4.2-1")


# Authority, Via, identity


def _port_gone(authority: str | None) -> str:
    return (authority or "").lower().removesuffix(":443")


async def _authorised(scene: Scene, *requirements: str) -> Met:
    """A request for the public name; the upstream sees it as authority, once."""
    met = await meet(scene)
    await met.answered(200)
    host = scene.endpoint().host
    seen, hosts = met.request.authority, met.request.get_all("host")
    own = _port_gone(seen) == host and all(_port_gone(value) == host for value in hosts)
    single = len(hosts) == 1 if scene.variant["up"] == "h1" else len(hosts) <= 1
    for requirement in requirements:
        actual = f"authority {seen}, Host {hosts}"
        scene.expect(requirement, own and single, expected=f"{host}, once", actual=actual)
    return met


@pair_case("http-pair-18", ["HTTP-HDR-002"])
async def test_the_public_authority_at_the_upstream(scene: Scene) -> None:
    """The upstream sees the name that the client asked for, once, and no address of its own."""
    await _authorised(scene, "HTTP-HDR-002")


@pair_case("http-pair-68", ["RFC9113-8.3.1-3"], up=("h2c",))
async def test_authority_in_http2(scene: Scene) -> None:
    """A request to an h2c upstream has `:authority`, with the name that the client asked for."""
    met = await _authorised(scene, "RFC9113-8.3.1-3")
    pseudo = b":authority" in met.request.raw_head
    scene.expect("RFC9113-8.3.1-3", pseudo, expected=":authority", actual=f"{met.request.raw_head[:200]!r}")


@pair_case("http-pair-69", ["RFC9113-8.3.1-4", "RFC9110-7.2-1"], down=("h2",), up=("h1",))
async def test_host_made_of_authority_of_http2(scene: Scene) -> None:
    """A request of HTTP/2 has one Host at an HTTP/1.1 upstream, that of its `:authority`."""
    await _authorised(scene, "RFC9113-8.3.1-4", "RFC9110-7.2-1")


@pair_case("http-pair-70", ["RFC9114-4.3.1-2", "RFC9110-7.2-1"], down=("h3",), up=("h1",))
async def test_host_made_of_authority_of_http3(scene: Scene) -> None:
    """A request of HTTP/3 has one Host at an HTTP/1.1 upstream, that of its `:authority`."""
    await _authorised(scene, "RFC9114-4.3.1-2", "RFC9110-7.2-1")


@pair_case("http-pair-19", ["RFC9110-7.6.3-1", "RFC9110-7.6.3-2", "HTTP-HDR-017"])
async def test_via(scene: Scene) -> None:
    """Via gets a member for the engine behind those that are there, with the version that the client spoke."""
    met = await meet(scene, fields=[("via", "1.0 fred"), ("via", "1.1 p.example")])
    await met.answered(200)
    got = [part.strip() for value in met.request.get_all("via") for part in value.split(",")]
    versions = {"h1": ("1.1",), "h2": ("2", "2.0"), "h3": ("3", "3.0")}[scene.variant["down"]]
    scene.record("HTTP-HDR-017", f"Via {got}")
    kept = got[:2] == ["1.0 fred", "1.1 p.example"]
    if len(got) <= 2:
        scene.expect("RFC9110-7.6.3-2", kept, expected="both members", actual=f"{got}", branch="only `1.0 fred`")
        scene.allow("RFC9110-7.6.3-1", "no Via")
        return
    own = got[-1].partition(" ")[0].lower().removeprefix("http/")
    fine = kept and len(got) == 3 and own in versions
    expected = f"both members, then one of {versions[0]}"
    for requirement, branch in (("RFC9110-7.6.3-1", "Via with a correct"), ("RFC9110-7.6.3-2", "edge member appended")):
        scene.expect(requirement, fine, expected=expected, actual=f"{got}", branch=branch)


@pair_case("http-pair-20", ["HTTP-HDR-005", "HTTP-HDR-004"])
async def test_a_client_cannot_forge_who_it_is(scene: Scene) -> None:
    """Where the engine says who the client is, what the client says about itself stays apart from it."""
    forged: Fields = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", "gopher"), ("forwarded", "for=192.0.2.1")]
    clean = await meet(scene)
    await clean.answered(200)
    met = await meet(scene, fields=forged)
    await met.answered(200)
    chain = [part.strip() for value in met.request.get_all("x-forwarded-for") for part in value.split(",")]
    scene.record("HTTP-HDR-004", f"X-Forwarded-For {chain}, -Proto {met.request.get_all('x-forwarded-proto')}")
    if not clean.request.get("x-forwarded-for"):
        scene.record("HTTP-HDR-005", f"the engine says nothing of its own; passed on: {chain}")
        return
    protos = met.request.get_all("x-forwarded-proto")
    own = chain[-1:] == ["127.0.0.1"] and (not clean.request.get("x-forwarded-proto") or protos == ["https"])
    actual = f"X-Forwarded-For {chain}, -Proto {protos}"
    scene.expect("HTTP-HDR-005", own, expected="the client's address last, https", actual=actual)


# OPTIONS for the whole server


async def _asterisk(scene: Scene, branches: dict[str, tuple[str, str, str | None]]) -> Met | None:
    """`OPTIONS *`: forwarded as `*`, or answered by the engine. `branches` gives by row the items for forwarded,
    answered, refused."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    sent = await client.begin("OPTIONS", "*", nonce=nonce)
    got, request = await one_of(sent.outcome(), upstream.request(nonce))
    if request is not None:
        await request.respond(200, [("allow", "GET")])
        await sent.response()
        for requirement, (forwarded, _, _) in branches.items():
            same = request.method == "OPTIONS" and request.target == "*"
            actual = f"{request.method} {request.target}"
            scene.expect(requirement, same, expected="OPTIONS *", actual=actual, branch=forwarded)
        return Met(scene, client, upstream, sent, request, nonce)
    for requirement, (_, answered, refused) in branches.items():
        if isinstance(got, Response):
            # A refusal is an answer of the engine's own, too, where no other item is for it.
            scene.allow(requirement, refused if refused and got.status >= 400 else answered)
        else:
            scene.depart(requirement, expected="OPTIONS * forwarded or answered", actual=told(got))
    return None


@pair_case("http-pair-14", ["HTTP-HDR-018", "RFC9112-3.2.4-1"])
async def test_options_for_the_whole_server(scene: Scene) -> None:
    """`OPTIONS *` is forwarded as `*`, or the engine answers it; never as a path."""
    edge = "`OPTIONS *` answered by the edge itself"
    await _asterisk(
        scene,
        {
            "HTTP-HDR-018": ("`OPTIONS *` forwarded as *", edge, None),
            "RFC9112-3.2.4-1": ("forwarded as *", "answered by the edge", "4xx or 501"),
        },
    )


@pair_case("http-pair-71", ["RFC9113-8.3.1-8"], up=("h2c",))
async def test_options_for_the_whole_server_to_h2c(scene: Scene) -> None:
    """`OPTIONS *` is `:path` `*` at an h2c upstream, where it is forwarded."""
    await _asterisk(scene, {"RFC9113-8.3.1-8": ("forwarded as *", "answered by the edge", None)})


@pair_case("http-pair-72", ["RFC9113-8.3.1-8"], down=("h2",))
async def test_options_for_the_whole_server_from_h2(scene: Scene) -> None:
    """`:path` `*` of a client of HTTP/2 is forwarded as `*`, or the engine answers it."""
    await _asterisk(scene, {"RFC9113-8.3.1-8": ("forwarded as *", "answered by the edge", None)})


@pair_case("http-pair-73", ["RFC9114-4.3.1-3"], down=("h1",), up=("h3",))
async def test_options_for_the_whole_server_to_h3(scene: Scene) -> None:
    """`OPTIONS *` of an HTTP/1.1 client has no `:authority` at an h3 upstream, and keeps Host."""
    client, upstream, nonce = await new_client(scene), behind(scene), scene.nonce().hex()
    sent = await client.begin("OPTIONS", "*", nonce=nonce)
    got, request = await one_of(sent.outcome(), upstream.request(nonce))
    if request is None:
        scene.record("RFC9114-4.3.1-3", f"answered by the engine: {told(got)}")
        return
    await request.respond(200)
    await sent.response()
    bare = b":authority" not in request.raw_head and _port_gone(request.get("host")) == scene.endpoint().host
    actual = f"{request.raw_head[:200]!r}"
    fine = bare and request.target == "*"
    scene.expect("RFC9114-4.3.1-3", fine, expected=":path * and host, no :authority", actual=actual)
