"""Validation of tunnel properties: the whole matrix, row by row, and what the engine fills in."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.tunnel import hostnames
from reference_engine.tunnel.editions import FEATURES, EditionRules
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.properties import from_message, to_message
from reference_engine.tunnel.refusal import Refusal
from reference_engine.tunnel.rules import ROWS, TunnelRules

RULES = TunnelRules()
Wanted = dict[str, Any]

ACCEPTED: list[Wanted] = [
    {},
    {"protocol": "http"},
    {"protocol": "http", "http_version": "http/1.1", "type": "bytestream"},
    {"protocol": "http", "http_version": "h2c"},
    {"protocol": "http", "upstream_tls": True},
    {"protocol": "http", "http_use_tls": True},
    {"protocol": "http", "http_use_tls": True, "upstream_tls": True},
    {"protocol": "http", "http_version": "h3"},
    {"protocol": "http", "http_version": "h3", "type": "datagram", "upstream_tls": True},
    {"protocol": "http", "type": "datagram"},
    {"protocol": "http", "token_auth": True, "challenge_mode": True},
    {"protocol": "tls"},
    {"protocol": "tls", "tls_mode": "terminated", "upstream_tls": True, "tls_alpns": ("a", "b")},
    {"protocol": "tls", "tls_min_version": "tls1.3", "tls_ciphers": ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",)},
    {"protocol": "tls", "tls_min_version": "tls1.2", "mtls_auth": True},
    {"protocol": "tls", "tls_mode": "passthrough", "upstream_tls": False, "token_auth": False},
    {"protocol": "dtls", "tls_alpns": ("coap",), "upstream_tls": True},
    {"protocol": "dtls", "type": "datagram", "datagram_guaranteed_delivery": True},
    {"protocol": "quic"},
    {"protocol": "quic", "upstream_tls": True},
    {"protocol": "tcp", "port": 2222},
    {"publish": False, "name": "a.b_c-1", "labels": {"k": "v"}},
    {"publish": False, "type": "datagram"},
    {"publish": False, "protocol": "tls", "upstream_tls": True, "tls_alpns": ("x",)},
    {"publish": False, "protocol": "http"},
    {"trusted_ips": ("10.0.0.0/8", "::1"), "geoip": ("DE",)},
]

REFUSED: list[tuple[Wanted, str, str]] = [
    ({"protocol": "foo"}, "protocol", "protocol_is_known"),
    ({"type": "stream"}, "type", "type_is_known"),
    ({"http_version": "h2"}, "http_version", "http_version_is_known"),
    ({"http_version": "1.0"}, "http_version", "http_version_is_known"),
    ({"protocol": "tls", "tls_mode": "off"}, "tls_mode", "tls_mode_is_known"),
    ({"protocol": "tls", "tls_min_version": "tls1.1"}, "tls_min_version", "tls_min_version_is_known"),
    ({"name": "a b"}, "name", "name_is_safe"),
    ({"name": ""}, "name", "name_is_safe"),
    ({"name": "a\n"}, "name", "name_is_safe"),
    ({"labels": {"": "v"}}, "labels", "labels_are_bounded"),
    ({"labels": {str(n): "" for n in range(65)}}, "labels", "labels_are_bounded"),
    ({"protocol": "tls", "tls_alpns": ("",)}, "tls_alpns", "alpns_are_protocol_names"),
    ({"protocol": "tls", "tls_alpns": ("é" * 128,)}, "tls_alpns", "alpns_are_protocol_names"),
    ({"protocol": "tls", "tls_alpns": ("a", "a")}, "tls_alpns", "alpns_are_protocol_names"),
    ({"protocol": "tls", "tls_ciphers": ("ALL:!aNULL",)}, "tls_ciphers", "ciphers_are_suite_names"),
    ({"trusted_ips": ("10.0.0.0/40",)}, "trusted_ips", "trusted_ips_are_ranges"),
    ({"geoip": ("Germany",)}, "geoip", "geoip_are_countries"),
    ({"protocol": "tcp", "port": 0}, "port", "port_is_in_range"),
    ({"protocol": "tcp", "port": 70000}, "port", "port_is_in_range"),
    ({"publish": False, "hostname": "x"}, "hostname", "private_has_no_public_name"),
    ({"publish": False, "token_auth": True}, "token_auth", "private_has_no_edge_policy"),
    ({"publish": False, "mtls_auth": True}, "mtls_auth", "private_has_no_edge_policy"),
    ({"publish": False, "trusted_ips": ("1.2.3.4",)}, "trusted_ips", "private_has_no_edge_policy"),
    ({"publish": False, "protocol": "tls", "tls_mode": "terminated"}, "tls_mode", "private_has_no_edge_tls"),
    ({"publish": False, "protocol": "http", "http_version": "h2c"}, "http_version", "private_has_no_http_version"),
    ({"publish": False, "protocol": "dtls"}, "protocol", "private_protocol_is_dispatched"),
    ({"publish": False, "protocol": "quic"}, "protocol", "private_protocol_is_dispatched"),
    ({"type": "datagram"}, "type", "datagram_is_published_with_a_protocol"),
    ({"protocol": "tls", "type": "datagram"}, "type", "tls_is_bytestream"),
    ({"protocol": "dtls", "type": "bytestream"}, "type", "dtls_and_quic_are_datagram"),
    ({"protocol": "quic", "type": "bytestream"}, "type", "dtls_and_quic_are_datagram"),
    ({"protocol": "http", "http_version": "h3", "type": "bytestream"}, "type", "http_type_fits_its_version"),
    ({"protocol": "http", "http_version": "h2c", "type": "datagram"}, "type", "http_type_fits_its_version"),
    ({"protocol": "http", "http_version": "http/1.1", "type": "datagram"}, "type", "http_type_fits_its_version"),
    (
        {"protocol": "tls", "datagram_guaranteed_delivery": True},
        "datagram_guaranteed_delivery",
        "guaranteed_delivery_is_for_datagrams",
    ),
    ({"protocol": "tcp", "type": "datagram"}, "type", "tcp_is_bytestream"),
    ({"protocol": "tcp", "hostname": "x"}, "hostname", "tcp_has_no_edge_options"),
    ({"protocol": "tcp", "token_auth": True}, "token_auth", "tcp_has_no_edge_options"),
    ({"protocol": "tls", "port": 443}, "port", "port_is_for_tcp"),
    ({"protocol": "http", "tls_mode": "passthrough"}, "tls_mode", "tls_mode_is_for_tls"),
    ({"protocol": "quic", "tls_mode": "passthrough"}, "tls_mode", "tls_mode_is_for_tls"),
    (
        {"protocol": "tls", "tls_mode": "passthrough", "upstream_tls": True},
        "upstream_tls",
        "passthrough_has_no_upstream_tls",
    ),
    ({"protocol": "tls", "tls_mode": "passthrough", "tls_alpns": ("x",)}, "tls_alpns", "passthrough_has_no_alpns"),
    ({"protocol": "tls", "tls_mode": "passthrough", "mtls_auth": True}, "mtls_auth", "passthrough_has_no_mtls"),
    (
        {"protocol": "tls", "tls_mode": "passthrough", "tls_min_version": "tls1.3"},
        "tls_min_version",
        "passthrough_has_no_min_version",
    ),
    (
        {"protocol": "tls", "tls_mode": "passthrough", "tls_ciphers": ("TLS_AES_128_GCM_SHA256",)},
        "tls_ciphers",
        "passthrough_has_no_ciphers",
    ),
    ({"protocol": "tls", "token_auth": True}, "token_auth", "http_auth_is_for_http"),
    ({"protocol": "dtls", "rstream_auth": True}, "rstream_auth", "http_auth_is_for_http"),
    ({"protocol": "quic", "challenge_mode": True}, "challenge_mode", "http_auth_is_for_http"),
    ({"protocol": "tls", "http_version": "h2c"}, "http_version", "http_options_are_for_http"),
    ({"protocol": "tls", "http_use_tls": True}, "http_use_tls", "http_options_are_for_http"),
    ({"http_use_tls": True, "upstream_tls": False}, "http_use_tls", "http_use_tls_agrees"),
    ({"http_version": "h2c", "upstream_tls": True}, "http_version", "http_version_has_no_upstream_tls"),
    ({"http_version": "http/1.1", "http_use_tls": True}, "http_version", "http_version_has_no_upstream_tls"),
    ({"http_version": "h3", "upstream_tls": False}, "upstream_tls", "h3_has_upstream_tls"),
    ({"protocol": "http", "tls_alpns": ("h2",)}, "tls_alpns", "http_has_no_alpns"),
    ({"protocol": "quic", "upstream_tls": False}, "upstream_tls", "quic_has_upstream_tls"),
]


@pytest.mark.parametrize("wanted", ACCEPTED, ids=str)
def test_accepted(wanted: Wanted) -> None:
    assert RULES.validate(TunnelProperties(**wanted)) is None


@pytest.mark.parametrize(("wanted", "at_fault", "row"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_by_its_row_and_only_by_it(wanted: Wanted, at_fault: str, row: str) -> None:
    """The message names the property; without the row the request would pass (the row is what decides)."""
    properties = TunnelProperties(**wanted)
    refusal = RULES.validate(properties)
    assert refusal is not None
    assert (refusal.code, refusal.property) == (2000, at_fault)
    assert refusal.message.startswith(f"{at_fault}: ")
    objecting = [name for name, _ in ROWS if getattr(RULES, name)(RULES.asked(properties)) is not None]
    assert objecting[0] == row


def test_every_row_has_a_refusal_of_its_own() -> None:
    assert {row for _, _, row in REFUSED} == {name for name, _ in ROWS}


def effective(**wanted: Any) -> TunnelProperties:
    return RULES.effective(TunnelProperties(**wanted))


def test_defaults_and_derived_values() -> None:
    plain = effective()
    assert (plain.publish, plain.protocol, plain.type) == (True, "http", "bytestream")
    assert (plain.http_version, plain.upstream_tls) == ("http/1.1", False)
    assert effective(protocol="http", http_use_tls=True).upstream_tls is True
    assert effective(protocol="http", upstream_tls=True).http_version is None
    h3 = effective(http_version="h3")
    assert (h3.type, h3.upstream_tls) == ("datagram", True)
    assert effective(protocol="http", type="datagram").http_version == "h3"
    assert (effective(protocol="tls").tls_mode, effective(protocol="tls").upstream_tls) == ("terminated", False)
    assert effective(protocol="dtls").type == "datagram"
    assert effective(protocol="quic").upstream_tls is True


def test_private_gets_no_public_value() -> None:
    private = effective(publish=False)
    assert (private.protocol, private.type, private.tls_mode, private.http_version) == (None, "bytestream", None, None)
    assert effective(publish=False, protocol="tls").tls_mode is None


def test_read_only_fields_of_a_request_are_dropped() -> None:
    asked = effective(id="mine", host="evil.example", creation_date=dt.datetime.now(dt.UTC))
    assert (asked.id, asked.host, asked.creation_date) == (None, None, None)


@pytest.mark.parametrize(
    ("wanted", "project", "name"),
    [
        ("abc", None, "abc.t.e"),
        ("ABC.t.E", None, "abc.t.e"),
        ("x-p.t.e", "p", "x-p.t.e"),
        ("X-P.T.E", "p", "x-p.t.e"),
    ],
)
def test_hostname_given(wanted: str, project: str | None, name: str) -> None:
    assert RULES.hostname(wanted, zone="t.e", project=project) == name


@pytest.mark.parametrize(
    ("wanted", "project"),
    [
        ("", None),
        ("a.b.t.e", None),
        ("t.e", None),
        ("e", "p"),
        ("abc.example", None),
        ("-a.t.e", None),
        ("a_b.t.e", None),
        ("abc.t.e.", None),
        ("*.t.e", None),
        ("a\0.t.e", None),
        ("a" * 64, None),
        ("x-q.t.e", "p"),
        ("-p.t.e", "p"),
        ("p.t.e", "p"),
        ("abc", "p"),
        ("x-p.t.other", "p"),
    ],
)
def test_hostname_refused(wanted: str, project: str | None) -> None:
    refusal = RULES.hostname(wanted, zone="t.e", project=project)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.property) == (2000, "hostname")


def test_made_up_names_differ_and_are_valid() -> None:
    names = {hostnames.made_up(zone="t.e", project="p") for _ in range(50)}
    assert len(names) == 50
    assert all(hostnames.requested(name, zone="t.e", project="p") == name for name in names)
    free = hostnames.made_up(zone="t.e", project=None)
    assert hostnames.requested(free, zone="t.e", project=None) == free


def gate(edition: str, *, udp: bool = False, **wanted: Any) -> Refusal | None:
    return EditionRules().gate(effective(**wanted), edition=edition, udp=udp)


@pytest.mark.parametrize("edition", ["community", "basic", "pro", "enterprise"])
@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ({"protocol": "dtls"}, "protocol"),
        ({"protocol": "tcp"}, "protocol"),
        ({"protocol": "webtty"}, "protocol"),
        ({"token_auth": True}, "token_auth"),
        ({"rstream_auth": True}, "rstream_auth"),
        ({"challenge_mode": True}, "challenge_mode"),
        ({"mtls_auth": True}, "mtls_auth"),
        ({"mtls_cacert_pem": "x"}, "mtls_cacert_pem"),
        ({"trusted_ips": ("1.2.3.4",)}, "trusted_ips"),
        ({"geoip": ("DE",)}, "geoip"),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused_on_every_edition(edition: str, wanted: Wanted, name: str) -> None:
    for udp in (False, True):
        refusal = gate(edition, udp=udp, **wanted)
        assert refusal is not None
        assert (refusal.code, refusal.property) == (5000, name)
        assert name in refusal.message


@pytest.mark.parametrize("edition", ["community", "basic", "pro", "enterprise"])
def test_what_every_edition_has(edition: str) -> None:
    assert gate(edition) is None
    assert gate(edition, protocol="tls", tls_mode="passthrough") is None
    assert gate(edition, protocol="http", upstream_tls=True) is None
    assert gate(edition, publish=False) is None


def test_the_reason_says_which_gate_it_was() -> None:
    def words(edition: str, udp: bool, protocol: str = "quic") -> str:
        refusal = gate(edition, udp=udp, protocol=protocol)
        assert refusal is not None
        return refusal.message

    assert "not part of the community edition" in words("community", False)
    assert "needs the UDP listener" in words("pro", False)
    assert "not built into this engine" in words("pro", True, "dtls")
    assert gate("pro", udp=True, protocol="quic") is None


def test_private_datagrams() -> None:
    assert gate("community", publish=False, type="datagram") is not None
    assert gate("pro", publish=False, type="datagram") is None
    refusal = gate("pro", publish=False, type="datagram", upstream_tls=True)
    assert refusal is not None
    assert "upstream_tls" in refusal.message
    assert "not built" in refusal.message


def test_every_feature_row_names_a_requirement() -> None:
    assert all(row.requirement and row.editions for row in FEATURES.values())


def test_properties_there_and_back() -> None:
    """Absent stays absent, empty stays empty, false stays false."""
    full = TunnelProperties(
        name="",
        publish=False,
        labels={"a": "b"},
        geoip=("DE",),
        tls_alpns=("x", "y"),
        port=0,
        upstream_tls=True,
        token_auth=False,
    )
    assert from_message(pb.TunnelProperties.FromString(to_message(full).SerializeToString())) == full
    assert to_message(TunnelProperties()).SerializeToString() == b""
    stamped = to_message(TunnelProperties(id="i", creation_date=dt.datetime(2030, 1, 2, tzinfo=dt.UTC)))
    assert stamped.creation_date.ToJsonString() == "2030-01-02T00:00:00Z"


@pytest.mark.parametrize(
    ("wanted", "lowest"),
    [
        ({"protocol": "tls"}, "tls1.3"),
        ({"protocol": "tls", "tls_min_version": "tls1.2"}, "tls1.3"),
        ({"protocol": "http"}, "tls1.3"),
        ({"protocol": "tls", "tls_mode": "passthrough"}, None),
        ({"publish": False, "protocol": "tls"}, None),
        ({"protocol": "dtls"}, None),
    ],
    ids=str,
)
def test_a_project_bounds_the_lowest_version(wanted: Wanted, lowest: str | None) -> None:
    asked = effective(**wanted)
    assert RULES.bounded(asked, "tls1.3").tls_min_version == lowest
    assert RULES.bounded(asked, None) == asked


def test_a_stricter_tunnel_stays_as_it_is() -> None:
    asked = effective(protocol="tls", tls_min_version="tls1.3")
    assert RULES.bounded(asked, "tls1.2") == asked


@pytest.mark.parametrize(
    ("wanted", "named"),
    [({"protocol": "tls"}, True), ({}, True), ({"publish": False}, False), ({"protocol": "tcp", "port": 22}, False)],
    ids=str,
)
def test_who_has_a_public_name(wanted: Wanted, named: bool) -> None:
    assert RULES.has_public_name(effective(**wanted)) is named


def test_an_address() -> None:
    assert RULES.address("a.t.edge.test", 443) == (443, "a.t.edge.test")
    assert RULES.address("a.t.edge.test", 9443) == (9443, "a.t.edge.test:9443")


def test_a_name_in_use_is_refused_to_everybody() -> None:
    asked = effective(protocol="tls", hostname="a")
    holder = Tunnel("1", asked, "client", "project")
    assert RULES.hostname_is_free(asked, None, "client") is None
    for client in ("client", "another"):
        refusal = RULES.hostname_is_free(asked, holder, client)
        assert refusal is not None
        assert (refusal.code, refusal.property) == (2000, "hostname")
