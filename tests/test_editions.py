"""Two tables of editions, made apart: what the documents promise as the suite reads it, and what the reference engine
gates. They must say the same."""

from __future__ import annotations

from typing import Any

import pytest

from harness.ledger import Ledger
from harness.profiles import load
from reference_engine.config import EDITIONS
from reference_engine.tunnel.editions import FEATURES, FLAGS, EditionRules
from reference_engine.tunnel.model import TunnelProperties

ROW_OF = {
    "http.h1": "http",
    "http.h2c": "h2c",
    "http.h3": "h3",
    "http.upstream-tls": "http",
    "http.token-auth": "token_auth",
    "http.rstream-auth": "rstream_auth",
    "http.challenge": "challenge_mode",
    "tls.terminated": "tls",
    "tls.upstream": "tls",
    "tls.passthrough": "tls",
    "tls.mtls": "mtls_auth",
    "policy.trusted-ips": "trusted_ips",
    "policy.geoip": "geoip",
    "dtls": "dtls",
    "quic": "quic",
    "tcp": "tcp",
    "private": "private bytestream",
    "private.datagram": "private datagram",
    "agent.certificate": "agent_certificates",
    "project.tls-min-version": "project_tls_min_version",
}
"""The suite's name of a feature to the engine's row."""
ONLY_HERE = {"webtty", "private datagram with upstream_tls"}
"""Rows of the engine for which the suite has no promise: the documents name the thing, and no edition."""
NO_GATE = ("tls.alpn", "tls.min-version", "tls.ciphers")
"""Promised to every edition; the engine has nothing to gate there."""

PROMISES = Ledger.load().editions


def test_both_tables_know_the_same_editions() -> None:
    assert {edition for promise in PROMISES.values() for edition in promise.editions} == set(EDITIONS)
    assert {edition for row in FEATURES.values() for edition in row.editions} == set(EDITIONS)


def test_every_row_of_the_engine_is_compared() -> None:
    assert set(FEATURES) - set(ROW_OF.values()) == ONLY_HERE
    assert set(ROW_OF) <= set(PROMISES)


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("feature", ROW_OF)
def test_a_feature_is_there_where_it_is_promised(feature: str, edition: str) -> None:
    promised = PROMISES[feature].editions[edition]
    row = FEATURES[ROW_OF[feature]]
    available = EditionRules().available(ROW_OF[feature], edition)
    if promised == "unknown":
        # The documents leave it open: the engine may choose, and must not need a listener for what has none elsewhere.
        assert row.needs_udp == ("listener" in PROMISES[feature].editions.values())
        return
    assert available == (promised != "no")
    if available:
        assert row.needs_udp == (promised == "listener")


@pytest.mark.parametrize("feature", NO_GATE)
def test_what_has_no_gate_is_promised_to_everybody(feature: str) -> None:
    assert set(PROMISES[feature].editions.values()) == {"yes"}


@pytest.mark.parametrize("feature", ROW_OF)
def test_the_reference_profile_claims_what_is_built(feature: str) -> None:
    """`http.h1` and its like share a row: only what is claimed must be built."""
    claimed = feature in load("reference").features
    assert claimed == FEATURES[ROW_OF[feature]].built


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_gated_by_its_own_row(name: str, edition: str) -> None:
    value: Any = ("x",) if name in ("trusted_ips", "geoip") else True
    asked = TunnelProperties(publish=True, protocol="http", **{name: value})
    assert [feature for feature, _ in EditionRules().needed(asked)] == ["http", name]
    refusal = EditionRules().gate(asked, edition=edition, udp=True)
    assert (refusal is None) == (FEATURES[name].built and edition in FEATURES[name].editions)
