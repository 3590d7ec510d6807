"""The adapter of Envoy: `python -m harness.adapters.envoy`.

All specs go into one configuration, and one process with one worker thread serves them, on listeners each of which is
for as many tunnels as it is asked for:

- `tls`: TLS ends here; a filter chain per tunnel, by server name;
- `http`: HTTP/1.1 and HTTP/2 over TLS on TCP, and HTTP/3 on UDP of the same port; a filter chain per set of TLS
  options, by server name, and in each of them all tunnels as virtual hosts;
- `pass`: reads the ClientHello, never ends TLS; a filter chain per tunnel, by server name;

and with the setting `listener.http` a plain one, `redirect`, which sends every request to https.

What Envoy's documentation recommends for an edge is set (limits of windows, buffers and streams, the client's
address); what changes a target there is not. Envoy has no way to say no to a tunnel: what it cannot express is
answered with the feature that it lacks.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.adapters._named import ADDRESS, HTTP, LISTENERS, REDIRECT, THROUGH, TLS, NamedTunnels
from harness.adapters._rpc import Result
from harness.adapters._spec import HTTP_VERSIONS, TLS12_CIPHERS, Tunnel

START_SECONDS = 15.0
TLS_VERSIONS = {"tls1.2": "TLSv1_2", "tls1.3": "TLSv1_3"}
EXTENSIONS = "type.googleapis.com/envoy.extensions."
NOBODY = "nobody.invalid"
"""The name of the filter chain that keeps a listener without tunnels open."""
STREAMS = 100
STREAM_WINDOW = 65_536
CONNECTION_WINDOW = 1_048_576
BUFFER = 32_768
"""Limits as Envoy's documentation recommends them for an edge ("Configuring Envoy as an edge proxy")."""
LATER = {"upstream_connect_mode": "ON_DOWNSTREAM_TLS_HANDSHAKE", "max_early_data_bytes": BUFFER}
"""Where TLS ends here: the upstream is for clients that completed their handshake."""
UPSTREAM_NAME = "localhost"
UPGRADES = ("websocket",)
"""Upgrades that are relayed; Envoy refuses what is not listed."""
WORDS = (
    "%DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %PROTOCOL% %REQ(:METHOD)% %RESPONSE_CODE% %RESPONSE_FLAGS% "
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% %DOWNSTREAM_TRANSPORT_FAILURE_REASON% "
    "%UPSTREAM_HOST% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n"
)
"""What the log says of each request and connection that has ended."""
KIBI = 1024

Json = dict[str, Any]

_HANDLED = (
    *("project.tls-min-version", "certificate.key", "domain", "listener.http", "listener.udp"),
    *("timeout.http-idle-ms", "timeout.http-header-ms", "timeout.http-response-ms", "timeout.upstream-idle-ms"),
    *("timeout.handshake-ms", "limit.http-header-count", "limit.http-header-bytes"),
)


def typed(name: str, kind: str, **values: Any) -> Json:
    """An extension `name` of the type `kind` below `envoy.extensions`, with its values."""
    return {"name": name, "typed_config": {"@type": EXTENSIONS + kind, **values}}


def place(port: int, address: str = ADDRESS, protocol: str = "TCP") -> Json:
    """A socket address."""
    return {"socket_address": {"address": address, "port_value": port, "protocol": protocol}}


class Configuration:
    """Renders what Envoy is started with: pure."""

    def __init__(self, certificate: Mapping[str, str], ports: Mapping[str, int], settings: Mapping[str, Any]) -> None:
        self._certificate = certificate
        self._ports = ports
        self._settings = settings

    def render(self, tunnels: Sequence[Tunnel]) -> Json:
        """The whole configuration."""
        own = {name: [(f"c{i}", one) for i, one in enumerate(tunnels) if one.listener == name] for name in LISTENERS}
        listeners = [
            self._listener(TLS, [chain for name, tunnel in own[TLS] for chain in self._tls_chains(name, tunnel)]),
            self._listener(THROUGH, [self._through_chain(name, tunnel) for name, tunnel in own[THROUGH]]),
            self._listener(HTTP, list(self._http_chains(own[HTTP], quic=False))),
        ]
        if self._settings.get("listener.udp") is not False:
            listeners.append(self._quic_listener(list(self._http_chains(own[HTTP], quic=True))))
        if REDIRECT in self._ports:
            listeners.append(self._redirect_listener())
        clusters = [one for name, tunnel in own[TLS] for one in self._tls_clusters(name, tunnel)]
        clusters += [self._cluster(name, tunnel) for name, tunnel in own[THROUGH]]
        clusters += [self._http_cluster(name, tunnel) for name, tunnel in own[HTTP]]
        return {"static_resources": {"listeners": listeners, "clusters": clusters}}

    # listeners

    def _listener(self, name: str, chains: Sequence[Json]) -> Json:
        inspector = typed("tls_inspector", "filters.listener.tls_inspector.v3.TlsInspector")
        return {
            "name": name,
            "address": place(self._ports[name]),
            "enable_reuse_port": False,  # nobody else may listen there as well
            "per_connection_buffer_limit_bytes": BUFFER,
            "listener_filters": [inspector],
            "listener_filters_timeout": self._milliseconds("timeout.handshake-ms", 5000),
            "filter_chains": list(chains) or [self._chain([NOBODY], [self._tcp_proxy("nobody")])],
        }

    def _quic_listener(self, chains: Sequence[Json]) -> Json:
        return {
            "name": "quic",
            "address": place(self._ports[HTTP], protocol="UDP"),
            "enable_reuse_port": False,
            "per_connection_buffer_limit_bytes": BUFFER,
            "udp_listener_config": {"quic_options": {"quic_protocol_options": _quic_windows()}},
            "filter_chains": list(chains),
        }

    def _redirect_listener(self) -> Json:
        manager = {
            "stat_prefix": REDIRECT,
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": REDIRECT,
                        "domains": ["*"],
                        "routes": [
                            {
                                "match": {"prefix": "/"},
                                "redirect": {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"},
                            }
                        ],
                    }
                ]
            },
            "http_filters": [_router()],
        }
        return {
            "name": REDIRECT,
            "address": place(self._ports[REDIRECT]),
            "enable_reuse_port": False,
            "filter_chains": [{"filters": [_manager(manager)]}],
        }

    # filter chains

    def _chain(self, hosts: Sequence[str], filters: Sequence[Json], socket: Json | None = None, alpn: str = "") -> Json:
        match: Json = {"server_names": list(hosts)}
        if alpn:
            match["application_protocols"] = [alpn]
        chain: Json = {
            "filter_chain_match": match,
            "filters": list(filters),
            "transport_socket_connect_timeout": self._milliseconds("timeout.handshake-ms", 10_000),
        }
        return chain if socket is None else {**chain, "transport_socket": socket}

    def _tls_chains(self, name: str, tunnel: Tunnel) -> Iterator[Json]:
        """The protocol that the client gets is the only one that the upstream is offered: a chain for each of them. The
        last one is for clients that offer none of the list."""
        if tunnel.upstream_tls:
            for alpn in tunnel.alpns:
                socket = self._server(tunnel, [alpn])
                yield self._chain([tunnel.host], [self._tcp_proxy(f"{name}/{alpn}", **LATER)], socket, alpn)
        yield self._chain([tunnel.host], [self._tcp_proxy(name, **LATER)], self._server(tunnel, tunnel.alpns))

    def _through_chain(self, name: str, tunnel: Tunnel) -> Json:
        return self._chain([tunnel.host], [self._tcp_proxy(name)])

    def _http_chains(self, own: Sequence[tuple[str, Tunnel]], *, quic: bool) -> Iterator[Json]:
        """A chain per set of TLS options, with the names that they are for, and in each of them every tunnel: another
        one's authority is served on the same connection."""
        hosts: dict[str, list[str]] = defaultdict(list)
        for _, tunnel in own:
            hosts[json.dumps(self._parameters(tunnel))].append(tunnel.host)
        if not hosts:
            hosts["{}"] = [NOBODY]
        for options, names in sorted(hosts.items()):
            if quic:
                tls = self._tls_context({}, ["h3"])
                socket = typed(
                    "envoy.transport_sockets.quic",
                    "transport_sockets.quic.v3.QuicDownstreamTransport",
                    downstream_tls_context={"common_tls_context": tls},
                )
            else:
                socket = self._server_socket(json.loads(options), ["h2", "http/1.1"])
            yield self._chain(names, [self._http_manager(own, quic=quic)], socket)

    def _server(self, tunnel: Tunnel, alpns: Sequence[str]) -> Json:
        return self._server_socket(self._parameters(tunnel), alpns)

    def _server_socket(self, parameters: Json, alpns: Sequence[str]) -> Json:
        return typed(
            "tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context=self._tls_context(parameters, alpns),
        )

    def _tls_context(self, parameters: Json, alpns: Sequence[str]) -> Json:
        pair = {
            "certificate_chain": {"filename": self._certificate["chain"]},
            "private_key": {"filename": self._certificate["key"]},
        }
        context: Json = {"tls_certificates": [pair], "alpn_protocols": list(alpns)}
        return {**context, "tls_params": parameters} if parameters else context

    def _parameters(self, tunnel: Tunnel) -> Json:
        least = max(
            str(tunnel.properties.get("tls_min_version", "tls1.2")),
            str(self._settings.get("project.tls-min-version", "tls1.2")),
        )
        parameters: Json = {
            "tls_minimum_protocol_version": TLS_VERSIONS[least],
            "tls_maximum_protocol_version": "TLSv1_3",
        }
        ciphers = [TLS12_CIPHERS[name] for name in tunnel.properties.get("tls_ciphers", ())]
        return {**parameters, "cipher_suites": ciphers} if ciphers else parameters

    # filters

    def _tcp_proxy(self, cluster: str, **more: Any) -> Json:
        return typed(
            "tcp",
            "filters.network.tcp_proxy.v3.TcpProxy",
            stat_prefix=TLS,
            cluster=cluster,
            idle_timeout="3600s",
            access_log=_access_log(),
            **more,
        )

    def _http_manager(self, own: Sequence[tuple[str, Tunnel]], *, quic: bool) -> Json:
        # A route's own timeout is for the whole response: what has begun may go on, unless it falls silent.
        route: Json = {"timeout": "0s"}
        if "timeout.http-response-ms" in self._settings:
            silence = self._milliseconds("timeout.http-response-ms", 0)
            route["retry_policy"] = {"num_retries": 0, "per_try_idle_timeout": silence}
        hosts = [
            {
                "name": name,
                "domains": [tunnel.host],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, **route}}],
            }
            for name, tunnel in own
        ]
        common: Json = {"idle_timeout": self._milliseconds("timeout.http-idle-ms", 60_000)}
        if "limit.http-header-count" in self._settings:
            common["max_headers_count"] = int(self._settings["limit.http-header-count"])
        manager: Json = {
            "stat_prefix": HTTP,
            "codec_type": "HTTP3" if quic else "AUTO",
            "use_remote_address": True,
            "server_header_transformation": "PASS_THROUGH",
            "generate_request_id": False,
            "proxy_100_continue": True,  # 102 and 103 as well
            "request_headers_timeout": self._milliseconds("timeout.http-header-ms", 10_000),
            "common_http_protocol_options": common,
            "http_protocol_options": {"enable_trailers": True, "accept_http_10": True},
            "http2_protocol_options": _h2_windows(),
            "upgrade_configs": [{"upgrade_type": name} for name in UPGRADES],
            "route_config": {"ignore_port_in_host_matching": True, "virtual_hosts": hosts},
            "http_filters": [_router()],
            "access_log": _access_log(),
        }
        if "limit.http-header-bytes" in self._settings:
            manager["max_request_headers_kb"] = int(self._settings["limit.http-header-bytes"]) // KIBI
        return _manager(manager)

    # clusters

    def _tls_clusters(self, name: str, tunnel: Tunnel) -> Iterator[Json]:
        if not tunnel.upstream_tls:
            yield self._cluster(name, tunnel)
            return
        yield self._cluster(name, tunnel, _client_socket(tunnel, tunnel.alpns))
        for alpn in tunnel.alpns:
            yield self._cluster(f"{name}/{alpn}", tunnel, _client_socket(tunnel, [alpn]))

    def _cluster(self, name: str, tunnel: Tunnel, socket: Json | None = None, **more: Any) -> Json:
        address, _, port = tunnel.upstream.rpartition(":")
        where = {"endpoint": {"address": place(int(port), address)}}
        cluster: Json = {
            "name": name,
            "connect_timeout": "2s",
            "per_connection_buffer_limit_bytes": BUFFER,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [where]}]},
            **more,
        }
        return cluster if socket is None else {**cluster, "transport_socket": socket}

    def _http_cluster(self, name: str, tunnel: Tunnel) -> Json:
        h1, h2 = {"enable_trailers": True}, _h2_windows()
        socket = None
        chosen: Json
        if tunnel.upstream_tls:
            chosen = {"auto_config": {"http_protocol_options": h1, "http2_protocol_options": h2}}
            socket = _client_socket(tunnel, ["h2", "http/1.1"])
        elif tunnel.http_version == "h3":
            chosen = {"explicit_http_config": {"http3_protocol_options": {"quic_protocol_options": _quic_windows()}}}
            socket = typed(
                "envoy.transport_sockets.quic",
                "transport_sockets.quic.v3.QuicUpstreamTransport",
                upstream_tls_context=self._quic_client_context(tunnel),
            )
        elif tunnel.http_version == "h2c":
            chosen = {"explicit_http_config": {"http2_protocol_options": h2}}
        else:
            chosen = {"explicit_http_config": {"http_protocol_options": h1}}
        key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        options = {
            "@type": f"{EXTENSIONS}upstreams.http.v3.HttpProtocolOptions",
            "common_http_protocol_options": {"idle_timeout": self._milliseconds("timeout.upstream-idle-ms", 60_000)},
            **chosen,
        }
        return self._cluster(name, tunnel, socket, typed_extension_protocol_options={key: options})

    def _quic_client_context(self, tunnel: Tunnel) -> Json:
        """Over QUIC Envoy verifies the chain unless it is told to take what nobody trusts, and in any case the name
        that it asks for: one of those that the suite's upstreams have."""
        context = {**_client_context(tunnel, ["h3"]), "sni": UPSTREAM_NAME}
        anybody = {
            "trusted_ca": {"filename": self._certificate["ca"]},
            "trust_chain_verification": "ACCEPT_UNTRUSTED",
        }
        context["common_tls_context"]["validation_context"] = anybody
        return context

    def _milliseconds(self, setting: str, otherwise: int) -> str:
        return f"{int(self._settings.get(setting, otherwise)) / 1000:g}s"


def _manager(values: Json) -> Json:
    return typed("http", "filters.network.http_connection_manager.v3.HttpConnectionManager", **values)


def _router() -> Json:
    return typed("router", "filters.http.router.v3.Router", suppress_envoy_headers=True)


def _access_log() -> list[Json]:
    words = {"text_format_source": {"inline_string": WORDS}}
    return [typed("log", "access_loggers.stream.v3.StderrAccessLog", log_format=words)]


def _h2_windows() -> Json:
    return {
        "max_concurrent_streams": STREAMS,
        "initial_stream_window_size": STREAM_WINDOW,
        "initial_connection_window_size": CONNECTION_WINDOW,
    }


def _quic_windows() -> Json:
    return _h2_windows()


def _client_context(tunnel: Tunnel, alpns: Sequence[str]) -> Json:
    """TLS of Envoy's own: the certificate of the suite's upstreams is not verified, as the protocol wants it."""
    versions = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
    return {"sni": tunnel.host, "common_tls_context": {"tls_params": versions, "alpn_protocols": list(alpns)}}


def _client_socket(tunnel: Tunnel, alpns: Sequence[str]) -> Json:
    return typed("tls", "transport_sockets.tls.v3.UpstreamTlsContext", **_client_context(tunnel, alpns))


class Envoy(NamedTunnels):
    """Envoy behind the adapter protocol."""

    name = "Envoy"
    features = (
        "edge.redirect",
        "http.downstream-h2",
        "http.downstream-h3",
        "http.h1",
        "http.h2c",
        "http.h3",
        "http.interim",
        "http.trailers",
        "http.upgrade",
        "http.upstream-tls",
        "project.tls-min-version",
        "tls.1.2",
        "tls.alpn",
        "tls.ciphers",
        "tls.half-close",
        "tls.min-version",
        "tls.passthrough",
        "tls.terminated",
        "tls.upstream",
    )

    binary = "envoy"
    version_flag = "--version"
    version_pattern = r"version: \w+/([^/\s]+)/"
    handled = frozenset(_HANDLED)
    versions = frozenset(HTTP_VERSIONS)

    def can(self, key: str, value: object) -> bool:
        """Envoy counts the size of a head in KiB."""
        whole = key != "limit.http-header-bytes" or int(str(value)) % KIBI == 0
        return whole and super().can(key, value)

    def endpoint(self, tunnel: Tunnel) -> Result:
        """Where clients find it: HTTP/3 on UDP of the same port."""
        found = super().endpoint(tunnel)
        over_udp = tunnel.listener == HTTP and self._params["settings"].get("listener.udp") is not False
        return {**found, "udp_port": found["port"]} if over_udp else found

    def launch(self) -> str | None:
        """Start a process with the configuration of now, in the place of the one that runs; what is wrong, or
        `None`."""
        settings = self._params["settings"]
        configuration = Configuration(self._params["certificate"], self._ports, settings)
        file = self._folder / "envoy.json"
        file.write_text(json.dumps(configuration.render(list(self._tunnels.values())), indent=1), encoding="utf-8")
        options = ("--concurrency", "1", "--disable-hot-restart", "-l", "warning", "--file-flush-interval-msec", "50")
        command = [self._binary, "-c", str(file), *options]
        udp = [] if settings.get("listener.udp") is False else [self._ports[HTTP]]
        return self.replace(command, self._ports.values(), udp, START_SECONDS)


if __name__ == "__main__":
    sys.exit(Envoy().serve())
