"""The adapter of mitmproxy: what it renders and what it says it lacks; where mitmproxy is installed, QUIC through it
between peers that know nothing of this project's own QUIC."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.adapters._process import bound, sockets_of
from harness.adapters._rpc import Trouble
from harness.adapters.mitmproxy import Mitmproxy, Tunnel, configuration, lacking, scheme_of
from harness.engine.adapter import check
from harness.foreign.lock import folder, installed_stamp, lock
from harness.peer.tls_pki import edge_identity, upstream_identity
from tests.foreign_quic_support import CLIENT_DONE, SERVER_DONE, STOCK, client, server

(LOCKED,) = [one for one in lock() if one.name == "mitmproxy"]
installed = [
    pytest.mark.needs("mitmproxy"),
    pytest.mark.skipif(
        installed_stamp(LOCKED, folder()) != LOCKED.stamp, reason="not run: needs mitmproxy 11.0.2 (make foreign)"
    ),
]
PORTS = {"first": 31_000, "last": 31_099}
"""Outside of what a running suite takes (20000 and up, 24 ranges of 500)."""


@pytest.mark.parametrize(
    ("properties", "feature"),
    [
        ({"protocol": "quic"}, None),
        ({"protocol": "quic", "type": "datagram", "upstream_tls": True}, None),
        ({"protocol": "tls"}, None),
        ({"protocol": "tls", "upstream_tls": True, "tls_mode": "terminated"}, None),
        ({"protocol": "tls", "mtls_auth": False}, None),
        ({}, "http"),
        ({"protocol": "dtls"}, "dtls"),
        ({"protocol": "quic", "type": "bytestream"}, "quic"),
        ({"protocol": "quic", "upstream_tls": False}, "quic"),
        ({"protocol": "quic", "tls_alpns": ["a"]}, "quic.alpn"),
        ({"protocol": "tls", "tls_alpns": ["a"]}, "tls.alpn"),
        ({"protocol": "tls", "tls_mode": "passthrough"}, "tls.passthrough"),
        ({"protocol": "tls", "tls_min_version": "tls1.3"}, "tls.min-version"),
        ({"protocol": "tls", "tls_ciphers": ["x"]}, "tls.ciphers"),
        ({"protocol": "quic", "mtls_auth": True}, "tls.mtls"),
        ({"protocol": "quic", "trusted_ips": ["192.0.2.0/24"]}, "policy.trusted-ips"),
        ({"protocol": "quic", "hostname": "a.t.test"}, "edge.requested-hostname"),
        ({"protocol": "quic", "colour": "red"}, "colour"),
        ({"protocol": "quic", "publish": False}, "private"),
    ],
)
def test_what_it_lacks(properties: dict[str, Any], feature: str | None) -> None:
    assert lacking(properties) == feature


def test_a_mode_and_a_port_per_tunnel() -> None:
    tunnels = [
        Tunnel("quic", "127.0.0.1:9", 20_001),
        Tunnel("tls", "127.0.0.1:8", 20_002),
        Tunnel("tcp", "[::1]:7", 20_003),
    ]
    whole = configuration(20_000, tunnels, {"combined": "edge.pem"}, {"project.tls-min-version": "tls1.3"})
    assert whole["mode"] == [
        "reverse:tcp://127.0.0.1:1@127.0.0.1:20000",
        "reverse:quic://127.0.0.1:9@127.0.0.1:20001",
        "reverse:tls://127.0.0.1:8@127.0.0.1:20002",
        "reverse:tcp://[::1]:7@127.0.0.1:20003",
    ]
    assert (whole["certs"], whole["tls_version_client_min"]) == (["*=edge.pem"], "TLS1_3")
    assert [tunnel.transport for tunnel in tunnels] == ["udp", "tcp", "tcp"]
    assert scheme_of({"protocol": "tls", "upstream_tls": True}) == "tls"


# -- where it is installed


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Mitmproxy]:
    """A started adapter. What it would say unasked is dropped."""
    made = Mitmproxy()
    made._out = io.BytesIO()
    made.hello()
    files = {name: str(path) for name, path in edge_identity("edgecase.test").write(tmp_path).items()}
    assert made.start({"settings": {}, "folder": str(tmp_path), "ports": PORTS, "certificate": files}) == []
    yield made
    made.shutdown()


def spec(key: str, port: int, **properties: Any) -> dict[str, Any]:
    upstream = {"address": "127.0.0.1", "port": port, "speaks": "quic"}
    return {
        "key": key,
        "host": f"{key}.t.edgecase.test",
        "properties": {"protocol": "quic", **properties},
        "upstream": upstream,
    }


def published(adapter: Mitmproxy, *specs: dict[str, Any]) -> list[dict[str, Any]]:
    results = adapter.publish(specs)
    assert check("publish", "result", {"results": results}) is None
    return results


class TestInstalled:
    """With a process of mitmproxy."""

    pytestmark = installed

    def test_quic_goes_through_it_and_tunnels_do_not_cross(self, adapter: Mitmproxy, tmp_path: Path) -> None:
        identity = upstream_identity()
        with (
            server(STOCK, identity, tmp_path / "a") as (one, told),
            server(STOCK, identity, tmp_path / "b") as (two, idle),
        ):
            first, lacks, second = published(adapter, spec("a", one), spec("l", one, tls_alpns=["x"]), spec("b", two))
            assert lacks == {"unsupported": "quic.alpn"}
            endpoint = first["endpoint"]
            assert endpoint["transport"] == "udp"
            assert second["endpoint"]["port"] != endpoint["port"]
            address = f"{endpoint['address']}:{endpoint['port']}"
            heard = client(STOCK, address, tmp_path / "ca.pem", endpoint["host"])
        assert (heard.code, heard.events[-1]) == (0, CLIENT_DONE), (heard, adapter.log(40))
        assert told.events == [SERVER_DONE], told
        assert idle.events == []

    def test_a_second_publication_leaves_the_first_where_it_was(self, adapter: Mitmproxy) -> None:
        (first,) = published(adapter, spec("a", 9))
        (second,) = published(adapter, spec("b", 9))
        ports = {result["endpoint"]["port"] for result in (first, second)}
        pid = adapter.status()["pid"]
        assert set(bound(ports)) == ports
        assert all(inodes <= sockets_of(pid) for inodes in bound(ports).values())
        adapter.unpublish(["a", "nobody"])
        assert set(bound(ports)) == {second["endpoint"]["port"]}
        adapter.restart()
        assert set(bound(ports)) == {second["endpoint"]["port"]}

    def test_a_port_that_another_one_holds_is_left_alone(self, adapter: Mitmproxy) -> None:
        (first,) = published(adapter, spec("a", 9))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.1", first["endpoint"]["port"] + 1))
            (second,) = published(adapter, spec("b", 9))
        assert second["endpoint"]["port"] > first["endpoint"]["port"] + 1

    def test_without_ports_it_says_so(self, adapter: Mitmproxy) -> None:
        adapter._params = {**adapter._params, "ports": {"first": PORTS["first"], "last": PORTS["first"] + 1}}
        with pytest.raises(Trouble, match=r"3 ports are needed, [01] are free"):
            adapter.publish([spec(key, 9) for key in "abc"])

    def test_its_end_is_told(self, adapter: Mitmproxy) -> None:
        assert adapter._child is not None
        assert isinstance(adapter._out, io.BytesIO)
        os.kill(adapter.status()["pid"], signal.SIGKILL)
        assert adapter._child.wait(10)
        adapter._child._watcher.join(10)
        assert b'"exited"' in adapter._out.getvalue()
        assert adapter.status()["running"] is False
