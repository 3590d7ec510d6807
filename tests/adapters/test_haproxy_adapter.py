"""The adapter of HAProxy without HAProxy: what it renders, what it says it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.adapters._spec import Tunnel, lacking
from harness.adapters.haproxy import Configuration, HAProxy

PORTS = {"tls": 20_000, "http": 20_001, "pass": 20_002}


def configuration(folder: Path, settings: Mapping[str, Any] | None = None, **ports: int) -> Configuration:
    return Configuration(folder, "edge.pem", {**PORTS, **ports}, settings or {})


def tunnel(listener: str, **properties: Any) -> Tunnel:
    return Tunnel(listener, "a.t.test", properties, "127.0.0.1:9")


@pytest.mark.parametrize(
    ("properties", "feature"),
    [
        ({"protocol": "tls"}, None),
        ({}, None),
        ({"protocol": "tls", "tls_mode": "passthrough", "tls_alpns": ["a"]}, None),
        ({"protocol": "tls", "mtls_auth": False}, None),
        ({"protocol": "tls", "mtls_auth": True}, "tls.mtls"),
        ({"protocol": "tls", "trusted_ips": ["192.0.2.0/24"]}, "policy.trusted-ips"),
        ({"protocol": "quic"}, "quic"),
        ({"protocol": "tls", "type": "datagram"}, "tls"),
        ({"publish": False}, "private"),
        ({"protocol": "tls", "colour": "red"}, "colour"),
        ({"protocol": "http", "http_version": "h2c"}, None),
        ({"protocol": "http", "http_version": "h3"}, "http.h3"),
        ({"protocol": "http", "tls_mode": "passthrough"}, "tls.passthrough"),
        ({"protocol": "tls", "tls_mode": "sideways"}, "tls.terminated"),
        ({"protocol": "tls", "tls_alpns": ["a b"]}, "tls.alpn"),
        ({"protocol": "tls", "tls_min_version": "ssl3"}, "tls.min-version"),
        ({"protocol": "tls", "tls_ciphers": ["TLS_NULL"]}, "tls.ciphers"),
    ],
)
def test_what_it_lacks(properties: dict[str, Any], feature: str | None) -> None:
    assert lacking(properties, HAProxy.versions) == feature


def test_no_http_2_on_a_connection_that_selected_http_1(tmp_path: Path) -> None:
    lines = configuration(tmp_path).render([])
    assert lines.index("  option disable-h2-upgrade") > lines.index("  mode http")


def test_settings_are_said(tmp_path: Path) -> None:
    settings = {"timeout.http-idle-ms": 300, "timeout.http-header-ms": 900, "limit.http-header-count": 10}
    lines = configuration(tmp_path, settings).render([])
    assert "  timeout http-keep-alive 300ms" in lines
    assert [line for line in lines if "timeout http-request" in line] == ["  timeout http-request 900ms"]
    assert "  tune.http.maxhdr 10" in lines
    assert "  timeout http-request 300ms" in configuration(tmp_path, {"timeout.http-idle-ms": 300}).render([])


def test_a_redirecting_listener_only_where_it_was_asked_for(tmp_path: Path) -> None:
    assert "frontend redirect" not in configuration(tmp_path).render([])
    lines = configuration(tmp_path, redirect=20_003).render([])
    assert lines[lines.index("frontend redirect") + 1] == "  bind 127.0.0.1:20003"


def test_the_upstream_is_offered_what_the_client_got(tmp_path: Path) -> None:
    lines = configuration(tmp_path).render([tunnel("tls", upstream_tls=True, tls_alpns=["a", "b"])])
    assert "  use-server s1 if { ssl_fc_alpn -m str b }" in lines
    assert "  server s1 127.0.0.1:9 ssl verify none sni ssl_fc_sni alpn b" in lines


def test_an_upstream_is_spoken_to_in_its_version(tmp_path: Path) -> None:
    lines = configuration(tmp_path).render([tunnel("http"), tunnel("http", http_version="h2c")])
    assert [line for line in lines if line.startswith("  server s")] == [
        "  server s 127.0.0.1:9",
        "  server s 127.0.0.1:9 proto h2",
    ]
    assert configuration(tmp_path).crt_list([tunnel("http")]) == [
        "edge.pem [ssl-min-ver TLSv1.2 alpn h2,http/1.1] a.t.test"
    ]


def test_a_line_of_the_list_per_set_of_options(tmp_path: Path) -> None:
    chosen = [tunnel("tls"), tunnel("tls", tls_min_version="tls1.3"), tunnel("tls", tls_alpns=["a"])]
    lines = configuration(tmp_path).crt_list(chosen)
    assert lines == [
        "edge.pem [ssl-min-ver TLSv1.2] a.t.test",
        "edge.pem [ssl-min-ver TLSv1.2 alpn a] a.t.test",
        "edge.pem [ssl-min-ver TLSv1.3] a.t.test",
    ]
    strict = configuration(tmp_path, {"project.tls-min-version": "tls1.3"})
    assert strict.crt_list([tunnel("tls")]) == ["edge.pem [ssl-min-ver TLSv1.3] a.t.test"]
