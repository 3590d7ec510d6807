"""The rules of QUIC, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from reference_engine.edge.client_hello import ClientHello
from reference_engine.edge.rules import EdgeRules
from reference_engine.quic.configuration import VERSIONS
from reference_engine.quic.connection import QuicEnd
from reference_engine.quic.rules import Close, Offer, QuicRoute, QuicRules
from reference_engine.relay.stream import Address
from reference_engine.tunnel.model import Tunnel, TunnelProperties

RULES = QuicRules()
DOMAIN = "edge.test"


def hello(name: str | None, *alpns: str, malformed: bool = False, versions: tuple[int, ...] = (0x0304,)) -> ClientHello:
    return ClientHello(0x0303, name, alpns, malformed, versions, ())


def tunnel(name: str, **properties: Any) -> Tunnel:
    return Tunnel(
        name, TunnelProperties(**{"publish": True, "protocol": "quic", "hostname": name, **properties}), "c", "p"
    )


class Names(dict[str, Tunnel]):
    """A registry of names."""

    def by_hostname(self, name: str) -> Tunnel | None:
        return self.get(name)


QUIC, TLS = tunnel("q.t.edge.test"), tunnel("s.t.edge.test", protocol="tls")
NAMES = Names({"q.t.edge.test": QUIC, "s.t.edge.test": TLS})


@pytest.mark.parametrize(
    ("name", "alpns", "route"),
    [
        ("q.t.edge.test", ("x",), "tunnel"),
        ("Q.T.Edge.TEST", ("rstrm/1",), "tunnel"),
        ("q.t.edge.test", (), "tunnel"),
        ("s.t.edge.test", ("x",), 112),
        ("gone.t.edge.test", ("rstrm/1",), 112),
        ("q.t.edge.test.", ("x",), 112),
        ("edge.test", ("rstrm/1",), "agents"),
        ("p.edge.test", ("x", "rstrm/1"), "agents"),
        (None, ("rstrm/1",), "agents"),
        ("127.0.0.1", ("rstrm/1",), "agents"),
        ("elsewhere.test", ("rstrm/1",), "agents"),
        ("edge.test", ("h3",), 112),
        (None, (), 112),
    ],
)
def test_where_a_connection_goes(name: str | None, alpns: tuple[str, ...], route: str | int) -> None:
    found = RULES.route(hello(name, *alpns), NAMES, DOMAIN, EdgeRules())
    if route == "tunnel":
        assert found == QuicRoute(tunnel=QUIC)
    elif route == "agents":
        assert found == QuicRoute(agents=True)
    else:
        assert (found.tunnel, found.agents, found.alert) == (None, False, route)
        assert found.reason


def test_a_malformed_offer_is_no_agents() -> None:
    assert RULES.route(hello("edge.test", malformed=True), NAMES, DOMAIN, EdgeRules()).alert == 50


@pytest.mark.parametrize(
    ("listed", "alpns", "offer"),
    [
        ((), ("foo",), Offer("foo", ("foo",))),
        ((), ("foo", "bar"), Offer(None, ("foo", "bar"))),
        ((), ("foo", "b\u00e4r"), Offer("foo", ("foo",))),
        (("a", "b"), ("x", "b", "a"), Offer("a", ("a",))),
        (("a", "b"), ("b",), Offer("b", ("b",))),
    ],
)
def test_what_the_legs_negotiate(listed: tuple[str, ...], alpns: tuple[str, ...], offer: Offer) -> None:
    assert RULES.offer(hello("q", *alpns), listed) == offer


@pytest.mark.parametrize(
    ("listed", "seen", "alert"),
    [
        ((), hello("q"), 120),
        (("a",), hello("q"), 120),
        (("a",), hello("q", "x"), 120),
        ((), hello("q", "\u00e4"), 120),
        ((), hello("q", malformed=True), 50),
        ((), hello("q", "x", "y", versions=(0x0303,)), 70),
    ],
)
def test_what_has_no_protocol_has_no_upstream(listed: tuple[str, ...], seen: ClientHello, alert: int) -> None:
    offer = RULES.offer(seen, listed)
    assert (offer.alert, offer.upstream) == (alert, ())


@pytest.mark.parametrize(
    ("end", "close"),
    [
        (QuicEnd("peer", True, 42, "bye"), Close(42, "bye", application=True)),
        (QuicEnd("peer", True, 0, ""), Close(0, "", application=True)),
        (QuicEnd("peer", False, 0, "", 0), Close(0, "the other side is gone")),
        (QuicEnd("peer", False, 10, "x", 0), Close(1, "the other side failed")),
        (QuicEnd("idle", False, 1, "Idle timeout", 0), Close(0, "the other side is gone")),
        (QuicEnd("self", False, 3, "too much", 8), Close(0, "the other side is gone")),
    ],
)
def test_what_the_other_leg_is_told(end: QuicEnd, close: Close) -> None:
    assert RULES.close_for(end) == close


def test_a_refusal_of_the_upstream() -> None:
    assert RULES.refusal_for(QuicEnd("peer", False, 0x178, "", 6)).code == 0x178
    assert RULES.refusal_for(QuicEnd("peer", True, 0x178)).code == 2
    assert RULES.refusal_for(QuicEnd("idle", False, 1)).code == 2


def test_what_may_start_a_connection() -> None:
    assert RULES.may_start(bytes(8), 1_200)
    assert not RULES.may_start(bytes(7), 1_200)
    assert not RULES.may_start(bytes(8), 1_199)
    assert RULES.negotiates_version(0x1A2A3A4A, VERSIONS, 1_200)
    assert not RULES.negotiates_version(0x1A2A3A4A, VERSIONS, 1_199)
    assert not RULES.negotiates_version(0, VERSIONS, 1_200)
    assert not RULES.negotiates_version(VERSIONS[0], VERSIONS, 1_200)
    assert (RULES.wants_retry(63, 64), RULES.wants_retry(64, 64)) == (False, True)
    assert (RULES.has_room(0, 1), RULES.has_room(1, 1)) == (True, False)
    assert RULES.follows(Address("192.0.2.1", 1), Address("192.0.2.2", 2))


def test_what_belongs_to_no_connection_gets_no_answer() -> None:
    assert RULES.answer_to_stray(b"\x40" + bytes(42)) == b""
    assert RULES.answer_to_stray(b"\xe0\0\0\0\1\0\0" + bytes(1200)) == b""


def test_a_retry_has_an_id_of_its_own() -> None:
    chosen = bytes(8)
    given = {RULES.retry_id(chosen) for _ in range(10)}
    assert len(given) == 10
    assert chosen not in given
    assert {len(each) for each in given} == {8}
