"""Host, request-target forms, and whose request it is: none reaches a tunnel that its own authority does not name."""

from __future__ import annotations

from conformance.http._steps import Probe, probing
from harness.model.case import case
from harness.model.spec import http
from harness.scene import Scene
from harness.wire import http1_write as write

BAD_REQUEST = {
    "400": "400, then",
    "closed": "close without",
    "4xx": "another 4xx",
    "501": "another 4xx",
    "505": "another 4xx",
}
EDGE_025 = {"400": "400", "closed": "close without", "4xx": "another 4xx", "501": "another 4xx"}
EXPECTED = "400 and nothing at the upstream"


async def _bad_host(scene: Scene, probe: Probe, requirement: str, fields: list[write.Field]) -> None:
    await probe.say(write.request_head("GET", f"/{probe.nonce}", fields))
    await probe.outcome()
    probe.judge("EDGE-025", EDGE_025, expected=EXPECTED)
    probe.judge(requirement, BAD_REQUEST, expected=EXPECTED)


@case("http-authority-01", checks=["RFC9112-3.2-3", "EDGE-025"], publish=http())
async def test_no_host(scene: Scene) -> None:
    """An HTTP/1.1 request without Host gets 400, and nothing reaches the upstream."""
    async with probing(scene) as probe:
        await _bad_host(scene, probe, "RFC9112-3.2-3", [("X-Other", "1")])


@case(
    "http-authority-02",
    checks=["RFC9112-3.2-4", "EDGE-025"],
    publish=http(),
    over={"hosts": ("same", "different", "one-empty", "other-case")},
)
async def test_several_host_lines(scene: Scene) -> None:
    """A request with more than one Host line gets 400, whatever they say."""
    async with probing(scene) as probe:
        second = {
            "same": ("Host", probe.host),
            "different": ("Host", "evil.test"),
            "one-empty": ("Host", ""),
            "other-case": ("hOST", probe.host.upper()),
        }[scene.variant["hosts"]]
        await _bad_host(scene, probe, "RFC9112-3.2-4", [("Host", probe.host), second])


@case(
    "http-authority-03",
    checks=["RFC9112-3.2-5", "EDGE-025"],
    publish=http(),
    over={"host": ("space", "slash", "userinfo", "port-letters", "open-bracket", "nul")},
)
async def test_an_invalid_host(scene: Scene) -> None:
    """A Host that is no `host [":" port]` gets 400, and nothing reaches the upstream."""
    async with probing(scene) as probe:
        value = {
            "space": f"{probe.host} x",
            "slash": f"{probe.host}/x",
            "userinfo": f"user@{probe.host}",
            "port-letters": f"{probe.host}:https",
            "open-bracket": "[::1",
            "nul": f"{probe.host}\x00",
        }[scene.variant["host"]]
        await _bad_host(scene, probe, "RFC9112-3.2-5", [("Host", value)])


@case("http-authority-04", checks=["EDGE-025", "RFC9112-3.2-5"], publish=http(), over={"host": ("comma", "empty")})
async def test_an_odd_host_that_is_grammatical(scene: Scene) -> None:
    """A comma in a host name, and an empty Host, are grammatical: what the engine makes of them is recorded.

    Only a complete request at the upstream that names another host than the tunnel's would be wrong.
    """
    async with probing(scene) as probe:
        value = "" if scene.variant["host"] == "empty" else f"{probe.host},x"
        await probe.say(write.request_head("GET", f"/{probe.nonce}", [("Host", value)]))
        await probe.outcome()
        wrong = probe.kind == "relayed" and probe.request.get("host") not in (probe.host, value)
        if wrong or probe.upstream.unexpected:
            for requirement in ("EDGE-025", "RFC9112-3.2-5"):
                scene.depart(requirement, expected="a refusal, or this request alone", actual=probe.describe())
        for requirement in ("RFC9112-3.2-5", "EDGE-025"):
            scene.record(requirement, f"Host {value!r}: {probe.kind}")


@case(
    "http-authority-05",
    checks=["RFC9112-3.2-6", "RFC9110-7.2-1", "HTTP-HDR-002"],
    publish=http(),
    over={"host": ("plain", "with-port", "upper-case")},
)
async def test_one_host_goes_upstream(scene: Scene) -> None:
    """The upstream sees exactly one Host, without userinfo, and it should be the public authority."""
    async with probing(scene) as probe:
        sent = {
            "plain": probe.host,
            "with-port": f"{probe.host}:{scene.endpoint().port}",
            "upper-case": probe.host.upper(),
        }[scene.variant["host"]]
        await probe.say(probe.wire(host=sent))
        await probe.outcome()
        hosts = probe.request.get_all("host") if probe.requests else []
        one = len(hosts) == 1 and bool(hosts[0]) and "@" not in hosts[0]
        probe.expect("RFC9110-7.2-1", any(hosts), expected="a Host at the upstream")
        probe.expect("RFC9112-3.2-6", one, expected="exactly one Host at the upstream, without userinfo")
        name = hosts[0].lower().partition(":")[0]
        scene.expect("HTTP-HDR-002", name == probe.host.lower(), expected=f"Host {sent}", actual=f"Host {hosts[0]}")


@case(
    "http-authority-06",
    checks=["RFC9110-7.4-1", "EDGE-024"],
    publish={"main": http(), "other": http()},
    over={"order": ("first-request", "second-request")},
)
async def test_a_request_for_another_tunnel(scene: Scene) -> None:
    """A request for tunnel B on a connection that was made for tunnel A never reaches A's upstream.

    B's own upstream may answer, where the presented certificate covers the name, or the engine refuses.
    """
    async with probing(scene, other="other") as probe:
        if scene.variant["order"] == "second-request":
            await probe.say(probe.wire())
            await probe.outcome()
        before = len(probe.requests)
        await probe.say(probe.wire(host=scene.endpoint("other").host))
        await probe.outcome()
        misled = len(probe.requests) > before or bool(probe.upstream.unexpected)
        kept = "nothing for B at A's upstream, and an answer by B's or a refusal"
        for requirement in ("EDGE-024", "RFC9110-7.4-1"):
            probe.expect(requirement, not misled, expected=kept)
        if probe.elsewhere:
            scene.allow("RFC9110-7.4-1", "(b) answered by B's upstream")
            scene.allow("EDGE-024", "answered by U_B")
        elif probe.kind in ("400", "421", "4xx", "closed"):
            scene.allow("RFC9110-7.4-1", "(b) 421 or another 4xx")
            scene.allow("EDGE-024", "close" if probe.kind == "closed" else "421 or another")
        else:
            probe.expect("RFC9110-7.4-1", False, expected=kept)


@case("http-authority-07", checks=["RFC9110-7.4-1", "EDGE-024"], publish=http())
async def test_an_authority_that_the_certificate_does_not_cover(scene: Scene) -> None:
    """A request for a name that the presented certificate does not cover is refused, and no upstream sees it."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(host="not-covered.example"))
        await probe.outcome()
        other = "(a) another 4xx"
        expected = "421 or another refusal, and nothing at the upstream"
        refused = "421 or another 4xx"
        probe.judge("EDGE-024", {"421": refused, "4xx": refused, "400": refused, "closed": "close"}, expected=expected)
        probe.judge("RFC9110-7.4-1", {"421": "(a) 421", "4xx": other, "400": other, "closed": other}, expected=expected)


@case("http-authority-08", checks=["RFC9112-3.2.1-1", "RFC9112-3.2.2-1"], publish=http())
async def test_absolute_form_becomes_origin_form(scene: Scene) -> None:
    """A target in absolute-form is accepted, and goes upstream in origin-form."""
    async with probing(scene) as probe:
        path = f"/{probe.nonce}?q=1"
        await probe.say(probe.wire(target=f"https://{probe.host}{path}"))
        await probe.outcome()
        probe.expect("RFC9112-3.2.2-1", probe.kind == "relayed", expected="an ordinary answer to absolute-form")
        target = probe.request.target if probe.requests else "nothing"
        expected = f"{path} at the upstream"
        scene.expect("RFC9112-3.2.1-1", target == path, expected=expected, actual=target, branch="origin-form at U")


@case("http-authority-14", checks=["RFC9112-3.2.1-2"], publish=http())
async def test_an_empty_path_goes_as_a_slash(scene: Scene) -> None:
    """`https://host?q=1` has an empty path: the upstream sees `/?q=1`."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(fields=[("Edgecase-Nonce", probe.nonce)], target=f"https://{probe.host}?q=1"))
        await probe.outcome()
        target = probe.request.target if probe.requests else probe.describe()
        scene.expect("RFC9112-3.2.1-2", target == "/?q=1", expected="/?q=1 at the upstream", actual=target)


@case(
    "http-authority-09",
    checks=["RFC9112-3.2.2-2", "RFC9112-3.2.2-3", "HTTP-HDR-018"],
    publish={"main": http(), "other": http()},
)
async def test_absolute_form_overrides_host(scene: Scene) -> None:
    """With absolute-form the Host that came is ignored: tunnel A's upstream gets the request with Host A, B's nothing.

    An engine may also refuse the mismatch.
    """
    async with probing(scene, other="other") as probe:
        fields = [("Host", scene.endpoint("other").host)]
        await probe.say(write.request_head("GET", f"https://{probe.host}/{probe.nonce}", fields))
        await probe.outcome()
        hosts = probe.request.get_all("host") if probe.requests else []
        named = all(host.lower().partition(":")[0] == probe.host.lower() for host in hosts)
        expected = "the request at A's upstream with Host A, or a refusal"
        probe.expect("HTTP-HDR-018", not probe.elsewhere, expected=expected)
        probe.expect("RFC9112-3.2.2-3", named, expected=expected)
        probe.expect("RFC9112-3.2.2-2", named and not probe.elsewhere, expected=expected)
        refused = ("400", "421", "4xx")
        probe.judge(
            "RFC9112-3.2.2-2",
            {"relayed": "routed to A", **dict.fromkeys(refused, "400, 421 or another")},
            expected=expected,
        )
        probe.judge(
            "RFC9112-3.2.2-3",
            {"relayed": "Host from the target", **dict.fromkeys(refused, "request refused")},
            expected=expected,
        )
        probe.judge(
            "HTTP-HDR-018",
            {"relayed": "routed by the target", **dict.fromkeys(refused, "400 or 421")},
            expected=expected,
        )


@case(
    "http-authority-10",
    checks=["RFC9110-7.1-1"],
    publish=http(),
    over={"form": ("get-asterisk", "post-asterisk", "get-authority")},
)
async def test_target_forms_of_other_methods(scene: Scene) -> None:
    """`*` belongs to OPTIONS and authority-form to CONNECT: neither goes upstream with another method."""
    method, _, form = scene.variant["form"].partition("-")
    async with probing(scene) as probe:
        target = "*" if form == "asterisk" else f"{probe.host}:443"
        fields = [("Edgecase-Nonce", probe.nonce), ("Content-Length", "0")]
        await probe.say(probe.head(method.upper(), fields, target=target))
        await probe.outcome()
        refused = "another 4xx or 501"
        probe.judge(
            "RFC9110-7.1-1",
            {
                "400": "400 (expected",
                "4xx": refused,
                "501": refused,
                "closed": "connection closed",
                "5xx": "answered by the edge",
                "relayed": None,
            },
            expected="400",
        )
        kept = all(request.target != target for request in probe.requests)
        probe.expect("RFC9110-7.1-1", kept, expected=f"no `{method.upper()} {target}` at the upstream")


@case(
    "http-authority-11",
    checks=["RFC9110-4.2.2-1"],
    publish=http(),
)
async def test_an_https_target_without_a_host(scene: Scene) -> None:
    """`https:///x` names no host: it is refused, and the upstream sees nothing."""
    async with probing(scene) as probe:
        await probe.say(probe.wire(target=f"https:///{probe.nonce}"))
        await probe.outcome()
        probe.judge(
            "RFC9110-4.2.2-1",
            {"400": "400", "4xx": "another 4xx", "421": "another 4xx", "closed": "connection closed"},
            expected="a refusal",
        )


@case(
    "http-authority-12",
    checks=["RFC9110-4.2.4-1", "RFC9110-4.2.4-2"],
    publish=http(),
    over={"place": ("target", "host")},
)
async def test_userinfo_goes_nowhere(scene: Scene) -> None:
    """Userinfo in an authority should be an error, and never reaches the upstream."""
    async with probing(scene) as probe:
        if scene.variant["place"] == "target":
            wire = probe.wire(target=f"https://user:pw@{probe.host}/{probe.nonce}")
        else:
            wire = probe.wire(host=f"user@{probe.host}")
        await probe.say(wire)
        await probe.outcome()
        refused = dict.fromkeys(("400", "421", "4xx", "closed"), "request refused")
        expected = "a refusal, or the request without userinfo"
        error = {"400": "400", "4xx": "another 4xx", "421": "another 4xx", "relayed": "relayed without", "closed": None}
        probe.judge("RFC9110-4.2.4-2", error, expected="400")
        probe.judge("RFC9110-4.2.4-1", {**refused, "relayed": "request relayed with"}, expected=expected)
        gone = all("@" not in request.raw_head.decode("latin-1") for request in probe.requests)
        for requirement in ("RFC9110-4.2.4-2", "RFC9110-4.2.4-1"):
            probe.expect(requirement, gone, expected="no `@` in target and Host at the upstream")


@case("http-authority-13", checks=["RFC9112-3.2.4-1", "HTTP-HDR-018"], publish=http())
async def test_options_for_the_server(scene: Scene) -> None:
    """`OPTIONS *` goes upstream as `*`, or the engine answers it; it never becomes `/`."""
    async with probing(scene) as probe:
        await probe.say(probe.wire("OPTIONS", [("Edgecase-Nonce", probe.nonce)], target="*"), expects="OPTIONS")
        await probe.outcome()
        if probe.requests:
            star = probe.request.target == "*" and probe.request.method == "OPTIONS"
            expected = "`OPTIONS *` at the upstream"
            probe.expect("HTTP-HDR-018", star, expected=expected, branch="`OPTIONS *` forwarded")
            probe.expect("RFC9112-3.2.4-1", star, expected=expected, branch="forwarded as *")
            return
        refused = dict.fromkeys(("400", "4xx", "501"), "4xx or 501")
        own = dict.fromkeys(("2xx", "204"), "answered by the edge")
        probe.judge("RFC9112-3.2.4-1", {**refused, **own}, expected="`*` at the upstream, or an answer of the engine's")
        answered = dict.fromkeys((*refused, *own), "`OPTIONS *` answered")
        probe.judge("HTTP-HDR-018", answered, expected="`*` at the upstream, or an answer of the engine's")
