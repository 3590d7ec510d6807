"""Where a connection goes: the routing table, row by row."""

from __future__ import annotations

import pytest

from reference_engine.edge.client_hello import ClientHello
from reference_engine.edge.rules import EdgeRules, Front, NameKind
from tests.engine_tls_support import DOMAIN, Names, tunnel

NAMES = Names(
    tunnel("term"),
    tunnel("pass", tls_mode="passthrough"),
    tunnel("plain", tls_mode=None),
    tunnel("web", protocol="http"),
    tunnel("voice", protocol="dtls"),
    tunnel("hidden", publish=False),
)


def hello(name: str | None, *alpns: str, malformed: bool = False) -> ClientHello:
    return ClientHello(0x0303, name, alpns, malformed, (0x0304,), ())


def way(name: str | None, *alpns: str, malformed: bool = False) -> Front | int | None:
    route = EdgeRules().route(hello(name, *alpns, malformed=malformed), NAMES, DOMAIN)
    return route.alert if route.front is Front.REFUSED else route.front


@pytest.mark.parametrize(
    ("name", "alpns", "expected"),
    [
        ("term.t.edge.test", (), Front.TLS),
        ("plain.t.edge.test", (), Front.TLS),
        ("TERM.T.Edge.Test", ("anything",), Front.TLS),
        ("pass.t.edge.test", ("h2",), Front.PASSTHROUGH),
        ("web.t.edge.test", ("h2",), Front.HTTP),
        ("voice.t.edge.test", (), 112),
        ("hidden.t.edge.test", (), 112),
        ("edge.test", ("rstrm/1",), Front.AGENTS),
        ("default.edge.test", ("rstrm/1",), Front.AGENTS),
        (None, ("rstrm/1",), Front.AGENTS),
        ("127.0.0.1", ("rstrm/1",), Front.AGENTS),
        ("::1", ("rstrm/1",), Front.AGENTS),
        ("localhost", ("rstrm/1",), Front.AGENTS),
        ("edge.test", (), Front.API),
        ("EDGE.test", ("h2", "http/1.1"), Front.API),
        ("default.edge.test", ("http/1.1",), Front.API),
        (None, ("http/1.1",), Front.API),
        ("127.0.0.1", ("http/1.1",), Front.API),
        ("edge.test", ("h2",), 120),
        ("edge.test", ("zzz", "yyy"), 120),
        (None, (), 112),
        (None, ("h2",), 112),
        ("localhost", (), 112),
        ("localhost", ("http/1.1",), 112),
        ("nobody.t.edge.test", (), 112),
        ("nobody.t.edge.test", ("rstrm/1",), 112),
        ("nobody.t.edge.test", ("http/1.1",), 112),
        ("t.edge.test", ("http/1.1",), 112),
        ("a.b.edge.test", ("rstrm/1",), 112),
        ("term.t.edge.test.", ("rstrm/1",), 112),
        ("edge.test.", ("rstrm/1",), 112),
        ("term\0.t.edge.test", (), 112),
        ("term.t.edge.test\0", (), 112),
        ("t\udcffrm.t.edge.test", ("rstrm/1",), 112),
        ("", ("rstrm/1",), 112),
        ("a" * 300 + ".edge.test", ("rstrm/1",), 112),
    ],
)
def test_route(name: str | None, alpns: tuple[str, ...], expected: Front | int) -> None:
    assert way(name, *alpns) == expected


def test_malformed_alpn_matters_only_where_it_routes() -> None:
    assert way("pass.t.edge.test", malformed=True) is Front.PASSTHROUGH
    assert way("term.t.edge.test", malformed=True) is Front.TLS
    assert way("edge.test", malformed=True) == 50
    assert way(None, malformed=True) == 50


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (None, NameKind.ABSENT),
        ("10.0.0.1", NameKind.ADDRESS),
        ("[::1]", NameKind.ADDRESS),
        ("edge.test", NameKind.ENGINE),
        ("p.edge.test", NameKind.ENGINE),
        ("t.edge.test", NameKind.ZONE),
        ("x.t.edge.test", NameKind.ZONE),
        ("notedge.test", NameKind.FOREIGN),
        ("xedge.test", NameKind.FOREIGN),
        ("edge.test:443", NameKind.MALFORMED),
        ("a..edge.test", NameKind.MALFORMED),
        ("-a.edge.test", NameKind.MALFORMED),
    ],
)
def test_kind(name: str | None, kind: NameKind) -> None:
    assert EdgeRules().kind(name, DOMAIN) is kind


def test_alpn_lists_of_the_fronts() -> None:
    rules = EdgeRules()
    listed = Names(tunnel("a", tls_alpns=("foo", "bar")), tunnel("w", protocol="http"))

    def alpns(name: str, *offer: str) -> tuple[str, ...]:
        return rules.alpns(rules.route(hello(name, *offer), listed, DOMAIN))

    assert alpns("a.t.edge.test") == ("foo", "bar")
    assert alpns("w.t.edge.test") == ("h2", "http/1.1")
    assert alpns("edge.test") == ("http/1.1",)
    assert alpns("edge.test", "rstrm/1") == ("rstrm/1",)


def test_octets_without_tls_go_nowhere() -> None:
    for octets in (b"GET / HTTP/1.1\r\nHost: web.t.edge.test\r\n\r\n", b"\x00", b""):
        route = EdgeRules().plaintext(octets, NAMES)
        assert (route.front, route.tunnel, route.alert) == (Front.REFUSED, None, None)


def test_the_certificate_covers_engine_projects_and_tunnels() -> None:
    assert EdgeRules().certificate_names(DOMAIN) == ("edge.test", "*.edge.test", "*.t.edge.test")


def test_a_pair_is_another_one_when_any_time_differs() -> None:
    rules = EdgeRules()
    assert not rules.certificate_changed((1, 2), (1, 2))
    assert rules.certificate_changed((1, 2), (1, 3))
    assert rules.certificate_changed((1, 2), (1, None))
