"""What adapters of installed programs have in common: what they claim, what they refuse, what they say when absent."""

from __future__ import annotations

from typing import Any

import pytest

from harness.adapters._program import ProgramAdapter
from harness.adapters._rpc import Trouble
from harness.adapters.envoy import Envoy
from harness.adapters.haproxy import HAProxy
from harness.adapters.mitmproxy import Mitmproxy
from harness.ledger import Ledger
from harness.profiles import load

EVERY: tuple[type[ProgramAdapter], ...] = (Envoy, HAProxy, Mitmproxy)


@pytest.mark.parametrize("adapter", EVERY)
def test_it_claims_known_features_and_its_profile_no_more(adapter: type[ProgramAdapter]) -> None:
    assert set(adapter.features) <= set(Ledger.load().features)
    assert load(adapter.name.lower()).features <= set(adapter.features)


@pytest.mark.parametrize(
    ("adapter", "settings", "unknown"),
    [
        (
            Envoy,
            {"edition": "pro", "listener.dtls": False, "limit.http-header-bytes": 1000, "listener.udp": True},
            ["edition", "limit.http-header-bytes"],
        ),
        (
            HAProxy,
            {"edition": "pro", "timeout.close-ms": 5, "listener.udp": True, "listener.dtls": False},
            ["edition", "listener.udp"],
        ),
        (
            Mitmproxy,
            {"edition": "pro", "listener.udp": True, "listener.dtls": False, "listener.http": True},
            ["edition", "listener.http"],
        ),
    ],
)
def test_settings_that_it_does_not_know_are_told_and_nothing_is_started(
    adapter: type[ProgramAdapter], settings: dict[str, Any], unknown: list[str]
) -> None:
    made = adapter(find=lambda _: None)
    assert made.start({"settings": settings}) == unknown
    assert made.status() == {"running": False, "pid": None}


@pytest.mark.parametrize("adapter", EVERY)
def test_where_it_is_not_installed_it_says_what_to_do(adapter: type[ProgramAdapter]) -> None:
    with pytest.raises(Trouble, match="run `make foreign`"):
        adapter(find=lambda _: None).hello()
