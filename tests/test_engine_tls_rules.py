"""The rules of TLS at the edge, row by row."""

from __future__ import annotations

import pytest

from reference_engine.tls.rules import TLS12, TLS13, TLS13_SUITES, NoApplicationProtocol, Suites, TlsRules

RULES = TlsRules()


@pytest.mark.parametrize(
    ("offered", "configured", "selected"),
    [
        (["x"], [], None),
        (["b"], ["a", "b"], "b"),
        (["b", "a"], ["a", "b"], "a"),
        (["zzz", "a"], ["a"], "a"),
    ],
)
def test_select_alpn(offered: list[str], configured: list[str], selected: str | None) -> None:
    assert RULES.select_alpn(offered, configured) == selected


def test_select_alpn_refuses_without_a_match() -> None:
    with pytest.raises(NoApplicationProtocol):
        RULES.select_alpn(["zzz"], ["a", "b"])


@pytest.mark.parametrize(
    ("negotiated", "configured", "offered"),
    [("b", ["a", "b"], ("b",)), (None, ["a", "b"], ("a", "b")), (None, [], ())],
)
def test_upstream_alpns(negotiated: str | None, configured: list[str], offered: tuple[str, ...]) -> None:
    assert RULES.upstream_alpns(negotiated, configured) == offered


def test_upstream_alpn_fits() -> None:
    assert RULES.upstream_alpn_fits(["a"], "a")
    assert RULES.upstream_alpn_fits(["a"], None)
    assert not RULES.upstream_alpn_fits(["a"], "b")
    assert not RULES.upstream_alpn_fits([], "b")


@pytest.mark.parametrize(
    ("own", "project", "lowest"),
    [
        (None, None, TLS12),
        ("tls1.2", None, TLS12),
        ("tls1.3", None, TLS13),
        (None, "tls1.3", TLS13),
        ("tls1.2", "tls1.3", TLS13),
        ("tls1.3", "tls1.2", TLS13),
    ],
)
def test_min_version(own: str | None, project: str | None, lowest: int) -> None:
    assert RULES.min_version(own, project) == lowest


def test_suites() -> None:
    assert RULES.suites(()) == Suites()
    one = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    assert RULES.suites((one,)) == Suites((one,), TLS13_SUITES)
    assert RULES.suites(("ECDHE-ECDSA-AES128-GCM-SHA256",)) == Suites((one,), TLS13_SUITES)
    assert RULES.suites((one, "TLS_AES_128_GCM_SHA256")) == Suites((one,), ("TLS_AES_128_GCM_SHA256",))
    assert RULES.suites(("TLS_NO_SUCH_SUITE",)).tls12 == ()
    assert RULES.unknown_suites((one, "nonsense")) == ("nonsense",)


def test_ends_and_sessions() -> None:
    assert RULES.keeps_half_open("TLSv1.3")
    assert not RULES.keeps_half_open("TLSv1.2")
    assert RULES.may_resume((0x0A0A, 0x0304, 0x0303))
    assert not RULES.may_resume((0x0303,))
