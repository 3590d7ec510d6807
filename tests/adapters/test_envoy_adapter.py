"""The adapter of Envoy: what it renders and what it says it lacks; where Envoy is installed, its process."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.adapters._process import bound, listeners, sockets_of
from harness.adapters._spec import Tunnel, lacking
from harness.adapters.envoy import Configuration, Envoy
from harness.engine.adapter import check
from harness.foreign.lock import folder, installed_stamp, lock
from harness.peer.tls_pki import edge_identity

(LOCKED,) = [one for one in lock() if one.name == "envoy"]
installed = [
    pytest.mark.needs("envoy"),
    pytest.mark.skipif(
        installed_stamp(LOCKED, folder()) != LOCKED.stamp, reason="not run: needs envoy 1.40.0 (make foreign)"
    ),
]
PORTS = {"tls": 20_000, "http": 20_001, "pass": 20_002}
RANGE = {"first": 31_100, "last": 31_199}
"""Outside of what a running suite takes (20000 and up, 24 ranges of 500)."""
Json = dict[str, Any]


def rendered(*tunnels: Tunnel, settings: Mapping[str, Any] | None = None, **ports: int) -> Json:
    files = {"chain": "chain.pem", "key": "key.pem", "ca": "ca.pem"}
    whole: Json = Configuration(files, {**PORTS, **ports}, settings or {}).render(tunnels)["static_resources"]
    return {
        "listeners": {one["name"]: one for one in whole["listeners"]},
        "clusters": {one["name"]: one for one in whole["clusters"]},
    }


def tunnel(listener: str, host: str = "a.t.test", **properties: Any) -> Tunnel:
    return Tunnel(listener, host, properties, "127.0.0.1:9")


@pytest.mark.parametrize(
    ("properties", "feature"),
    [
        ({"protocol": "tls"}, None),
        ({}, None),
        ({"http_version": "h2c"}, None),
        ({"http_version": "h3", "type": "datagram"}, None),
        ({"type": "datagram"}, None),
        ({"http_version": "h3", "type": "bytestream"}, "http"),
        ({"http_version": "h2c", "type": "datagram"}, "http"),
        ({"http_version": "http/0.9"}, "http_version http/0.9"),
        ({"protocol": "http", "tls_mode": "passthrough"}, "tls.passthrough"),
        ({"protocol": "http", "mtls_auth": True}, "tls.mtls"),
        ({"protocol": "quic"}, "quic"),
        ({"protocol": "tls", "type": "datagram"}, "tls"),
        ({"protocol": "tls", "colour": "red"}, "colour"),
    ],
)
def test_what_it_lacks(properties: dict[str, Any], feature: str | None) -> None:
    assert lacking(properties, Envoy.versions) == feature


def test_what_speaks_what_upstream() -> None:
    kinds: dict[str, Json] = {
        "h1": {},
        "h2": {"http_version": "h2c"},
        "h3": {"http_version": "h3"},
        "tls": {"upstream_tls": True},
    }
    whole = rendered(*(tunnel("http", f"{name}.test", **properties) for name, properties in kinds.items()))
    chosen = [
        next(iter(one["typed_extension_protocol_options"].values())) for _, one in sorted(whole["clusters"].items())
    ]
    told = [one.get("explicit_http_config") or one["auto_config"] for one in chosen]
    assert [sorted(one) for one in told] == [
        ["http_protocol_options"],
        ["http2_protocol_options"],
        ["http3_protocol_options"],
        ["http2_protocol_options", "http_protocol_options"],
    ]
    sockets = [one.get("transport_socket", {}).get("name") for _, one in sorted(whole["clusters"].items())]
    assert sockets == [None, None, "envoy.transport_sockets.quic", "tls"]


def test_another_tunnels_authority_is_served_on_the_same_connection() -> None:
    whole = rendered(tunnel("http", "a.test"), tunnel("http", "b.test", tls_min_version="tls1.3"))
    for name in ("http", "quic"):
        chains = whole["listeners"][name]["filter_chains"]
        assert [one["filter_chain_match"]["server_names"] for one in chains] == [["a.test"], ["b.test"]]
        for chain in chains:
            hosts = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
            assert [host["domains"] for host in hosts] == [["a.test"], ["b.test"]]


def test_http_3_has_the_port_of_the_others_or_is_off() -> None:
    where = rendered(tunnel("http"))["listeners"]["quic"]["address"]["socket_address"]
    assert (where["port_value"], where["protocol"]) == (20_001, "UDP")
    assert "quic" not in rendered(tunnel("http"), settings={"listener.udp": False})["listeners"]


def test_the_upstream_is_offered_what_the_client_got() -> None:
    whole = rendered(tunnel("tls", upstream_tls=True, tls_alpns=["a", "b"]))
    chains = whole["listeners"]["tls"]["filter_chains"]
    assert [one["filter_chain_match"].get("application_protocols") for one in chains] == [["a"], ["b"], None]
    contexts = {name: one["transport_socket"]["typed_config"] for name, one in whole["clusters"].items()}
    assert {name: one["common_tls_context"]["alpn_protocols"] for name, one in contexts.items()} == {
        "c0": ["a", "b"],
        "c0/a": ["a"],
        "c0/b": ["b"],
    }


def test_settings_are_said() -> None:
    settings = {"timeout.http-idle-ms": 300, "limit.http-header-bytes": 8192, "project.tls-min-version": "tls1.3"}
    (chain,) = rendered(tunnel("http"), settings=settings)["listeners"]["http"]["filter_chains"]
    manager = chain["filters"][0]["typed_config"]
    assert manager["common_http_protocol_options"]["idle_timeout"] == "0.3s"
    assert manager["max_request_headers_kb"] == 8
    parameters = chain["transport_socket"]["typed_config"]["common_tls_context"]["tls_params"]
    assert parameters["tls_minimum_protocol_version"] == "TLSv1_3"


def test_a_redirecting_listener_only_where_it_was_asked_for() -> None:
    assert "redirect" not in rendered()["listeners"]
    assert rendered(redirect=20_003)["listeners"]["redirect"]["address"]["socket_address"]["port_value"] == 20_003


# -- where it is installed


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Envoy]:
    """A started adapter. What it would say unasked is dropped."""
    made = Envoy()
    made._out = io.BytesIO()
    made.hello()
    files = {name: str(path) for name, path in edge_identity("edgecase.test").write(tmp_path).items()}
    assert made.start({"settings": {}, "folder": str(tmp_path), "ports": RANGE, "certificate": files}) == []
    yield made
    made.shutdown()


def spec(key: str, **properties: Any) -> Json:
    upstream = {"address": "127.0.0.1", "port": 9, "speaks": "tcp"}
    return {"key": key, "host": f"{key}.t.edgecase.test", "properties": properties, "upstream": upstream}


def published(adapter: Envoy, *specs: Json) -> list[Json]:
    results = adapter.publish(specs)
    assert check("publish", "result", {"results": results}) is None
    return results


class TestInstalled:
    """With a process of Envoy."""

    pytestmark = installed

    def test_every_kind_of_tunnel_is_taken(self, adapter: Envoy) -> None:
        kinds: list[Json] = [
            {"protocol": "tls", "tls_alpns": ["a", "b"], "tls_min_version": "tls1.3"},
            {"protocol": "tls", "upstream_tls": True, "tls_alpns": ["a", "b"]},
            {"protocol": "tls", "tls_ciphers": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
            {"protocol": "tls", "tls_mode": "passthrough"},
            *({"http_version": name} for name in ("http/1.1", "h2c", "h3")),
            {"upstream_tls": True},
        ]
        results = published(adapter, *(spec(f"k{number}", **kind) for number, kind in enumerate(kinds)))
        places = [result["endpoint"] for result in results]
        assert [place.get("udp_port") == place["port"] for place in places] == [False] * 4 + [True] * 4
        pid = adapter.status()["pid"]
        tcp, udp = {place["port"] for place in places}, {place["udp_port"] for place in places[4:]}
        mine = sockets_of(pid)
        assert all(inodes <= mine for inodes in [*listeners(tcp).values(), *bound(udp).values()])

    def test_what_was_published_stays_where_it_was(self, adapter: Envoy) -> None:
        (first,) = published(adapter, spec("a"))
        (second, twice) = published(adapter, spec("b"), spec("c", hostname="a.t.edgecase.test"))
        assert second["endpoint"]["port"] == first["endpoint"]["port"]
        assert twice == {"unsupported": "edge.requested-hostname"}
        adapter.unpublish(["a", "nobody"])
        adapter.restart()
        assert adapter.status()["running"] is True
        assert set(listeners({first["endpoint"]["port"]})) == {first["endpoint"]["port"]}

    def test_a_port_that_another_one_holds_is_left_alone(self, adapter: Envoy, tmp_path: Path) -> None:
        first = adapter._ports["tls"]
        adapter.shutdown()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", first))
            adapter.open()
            assert first not in adapter._ports.values()

    def test_its_end_is_told(self, adapter: Envoy) -> None:
        assert adapter._child is not None
        assert isinstance(adapter._out, io.BytesIO)
        os.kill(adapter.status()["pid"], signal.SIGKILL)
        assert adapter._child.wait(10)
        adapter._child._watcher.join(10)
        assert b'"exited"' in adapter._out.getvalue()
        assert adapter.status()["running"] is False
