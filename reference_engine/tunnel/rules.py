"""What makes a set of tunnel properties valid, and what the engine fills in.

`ROWS` is the whole of it: one named row per rule, with its requirement, in the order in which they are asked; the first
that objects decides. A row is a method of `TunnelRules` that is handed the properties as they were asked for, with the
derived ones beside them, and returns the property at fault and a sentence, or None.

A bool that is present and false says no more than an absent one (`token_auth: false` with TLS contradicts nothing),
except where the rows below say otherwise (`upstream_tls: false` with QUIC).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from reference_engine.tunnel import hostnames
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.refusal import INVALID_REQUEST, Refusal

Problem = tuple[str, str] | None
"""The property at fault and what is wrong with it."""

ROWS: tuple[tuple[str, str], ...] = (
    # Values, one property at a time.
    ("protocol_is_known", "EDGE-002"),
    ("type_is_known", "VAL-001"),
    ("http_version_is_known", "VAL-020"),
    ("tls_mode_is_known", "VAL-001"),
    ("tls_min_version_is_known", "VAL-019"),
    ("name_is_safe", "VAL-001"),
    ("labels_are_bounded", "VAL-001"),
    ("alpns_are_protocol_names", "VAL-001"),
    ("ciphers_are_suite_names", "VAL-001"),
    ("trusted_ips_are_ranges", "VAL-001"),
    ("geoip_are_countries", "VAL-001"),
    ("port_is_in_range", "VAL-031"),
    # Private tunnels.
    ("private_has_no_public_name", "VAL-022"),
    ("private_has_no_edge_policy", "VAL-022"),
    ("private_has_no_edge_tls", "VAL-001"),
    ("private_has_no_http_version", "VAL-022"),
    ("private_protocol_is_dispatched", "VAL-023"),
    # Type against protocol and version.
    ("datagram_is_published_with_a_protocol", "VAL-006"),
    ("tls_is_bytestream", "VAL-003"),
    ("dtls_and_quic_are_datagram", "VAL-004"),
    ("http_type_fits_its_version", "VAL-005"),
    ("guaranteed_delivery_is_for_datagrams", "VAL-024"),
    # Published TCP.
    ("tcp_is_bytestream", "VAL-031"),
    ("tcp_has_no_edge_options", "VAL-031"),
    ("port_is_for_tcp", "EDGE-015"),
    # Passthrough.
    ("tls_mode_is_for_tls", "VAL-012"),
    ("passthrough_has_no_upstream_tls", "VAL-007"),
    ("passthrough_has_no_alpns", "VAL-008"),
    ("passthrough_has_no_mtls", "VAL-009"),
    ("passthrough_has_no_min_version", "VAL-010"),
    ("passthrough_has_no_ciphers", "VAL-011"),
    # HTTP and upstream TLS.
    ("http_auth_is_for_http", "VAL-016"),
    ("http_options_are_for_http", "VAL-021"),
    ("http_use_tls_agrees", "VAL-018"),
    ("http_version_has_no_upstream_tls", "VAL-013"),
    ("h3_has_upstream_tls", "VAL-014"),
    ("http_has_no_alpns", "VAL-015"),
    ("quic_has_upstream_tls", "VAL-017"),
)
"""(method, requirement) of every row, in order."""

PROTOCOLS = ("http", "tls", "tcp", "dtls", "quic", "webtty")
TYPES = ("bytestream", "datagram")
HTTP_VERSIONS = ("http/1.1", "h2c", "h3")
TLS_MODES = ("terminated", "passthrough")
TLS_VERSIONS = ("tls1.2", "tls1.3")
AUTH = ("token_auth", "rstream_auth", "challenge_mode")
EDGE_TLS = ("tls_mode", "tls_min_version", "tls_alpns", "tls_ciphers")
TCP_REFUSES = (
    *("hostname", *EDGE_TLS, "mtls_auth", "mtls_cacert_pem", "http_version", "http_use_tls", "upstream_tls"),
    *(*AUTH, "datagram_guaranteed_delivery"),
)

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
SUITE = re.compile(r"TLS_[A-Z0-9_]{1,60}|[A-Z0-9]+(?:-[A-Z0-9]+){1,8}")
COUNTRY = re.compile(r"[A-Z]{2}")
HTTPS_PORT = 443
MAX_LABELS = 64
MAX_LABEL_KEY = 128
MAX_LABEL_VALUE = 1024
MAX_ALPN_LIST = 65_535
"""Octets of an ALPN list on the wire, each name with its length octet (RFC 7301 section 3.1)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Properties as they were asked for, and what follows from them before any rule is applied."""

    own: TunnelProperties
    published: bool
    protocol: str | None
    type: str
    upstream_tls: bool | None

    @property
    def passthrough(self) -> bool:
        """Whether the edge leaves TLS alone."""
        return self.own.tls_mode == "passthrough"

    def first_set(self, names: tuple[str, ...]) -> str | None:
        """The first of these properties that was asked for: present, not false and not an empty list."""
        return next((name for name in names if getattr(self.own, name) not in (None, False, ())), None)


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> Problem:
    if value is None or value in allowed:
        return None
    return name, f"{value[:64]!r} is not one of {', '.join(allowed)}"


class TunnelRules:
    """The rows, the derived values and the names."""

    # -- as a whole ------------------------------------------------------------------------------------------------

    def validate(self, properties: TunnelProperties) -> Refusal | None:
        """The first row that objects, as an invalid request (2000), or None."""
        asked = self.asked(properties)
        for name, _requirement in ROWS:
            problem: Problem = getattr(self, name)(asked)
            if problem is not None:
                return Refusal(INVALID_REQUEST, problem[0], f"{problem[0]}: {problem[1]}")
        return None

    def asked(self, properties: TunnelProperties) -> Asked:
        """VAL-002, VAL-018: `publish` defaults to true, the protocol of a published tunnel to http."""
        published = properties.publish is not False
        protocol = properties.protocol
        if protocol is None and published and properties.type != "datagram":
            protocol = "http"
        upstream_tls = properties.upstream_tls if properties.upstream_tls is not None else properties.http_use_tls
        return Asked(properties, published, protocol, self.type_of(properties, protocol), upstream_tls)

    def type_of(self, properties: TunnelProperties, protocol: str | None) -> str:
        """VAL-002: the type that was asked for, or the one that follows from protocol and version."""
        if properties.type is not None:
            return properties.type
        if protocol in {"dtls", "quic"} or (protocol == "http" and properties.http_version == "h3"):
            return "datagram"
        return "bytestream"

    def effective(self, properties: TunnelProperties) -> TunnelProperties:
        """VAL-029: valid properties with every default and derived value in its place; identity and name come later.

        Read-only fields of the request (`id`, `creation_date`, `host`) are dropped: EDGE-015.
        """
        asked = self.asked(properties)
        properties = asked.own
        protocol, upstream_tls, version = asked.protocol, asked.upstream_tls, properties.http_version
        if protocol == "http" and asked.published and version is None:
            if asked.type == "datagram":
                version = "h3"
            elif not upstream_tls:
                version = "http/1.1"
        if protocol == "quic" or version == "h3":
            upstream_tls = True
        elif upstream_tls is None and protocol in {"http", "tls", "dtls"}:
            upstream_tls = False
        tls_mode = properties.tls_mode
        if protocol == "tls" and asked.published and tls_mode is None:
            tls_mode = "terminated"
        return dataclasses.replace(
            properties,
            id=None,
            creation_date=None,
            host=None,
            publish=asked.published,
            protocol=protocol,
            type=asked.type,
            http_version=version,
            upstream_tls=upstream_tls,
            tls_mode=tls_mode,
        )

    def bounded(self, properties: TunnelProperties, lowest: str | None) -> TunnelProperties:
        """POL-001, POL-009: effective properties within the project's lowest TLS version, wherever the edge ends TLS;
        passthrough is left alone (TLS-014)."""
        ends = properties.publish and properties.protocol in {"http", "tls"} and properties.tls_mode != "passthrough"
        if lowest is None or not ends:
            return properties
        # The names sort as the versions do.
        return dataclasses.replace(properties, tls_min_version=max(lowest, properties.tls_min_version or lowest))

    def suites_are_known(self, unknown: Sequence[str]) -> Refusal | None:
        """VAL-001: a suite that the edge does not have would be ignored in silence."""
        if not unknown:
            return None
        return Refusal(INVALID_REQUEST, "tls_ciphers", f"tls_ciphers: the edge does not have {unknown[0]!r}")

    # -- names -----------------------------------------------------------------------------------------------------

    def hostname(self, wanted: str | None, *, zone: str, project: str | None) -> str | Refusal:
        """EDGE-011, EDGE-012: the public name of a tunnel, or why the one asked for is refused.

        `project` is None on the edition where labels are free.
        """
        if wanted is None:
            return hostnames.made_up(zone=zone, project=project)
        name = hostnames.requested(wanted, zone=zone, project=project)
        if name is not None:
            return name
        form = f"<label>.{zone}" if project is None else f"<slug>-{project}.{zone}"
        return Refusal(INVALID_REQUEST, "hostname", f"hostname: {wanted[:255]!r} is not of the form {form}")

    def has_public_name(self, properties: TunnelProperties) -> bool:
        """EDGE-005: only what is published is reached by a name; published TCP by its port alone (VAL-031)."""
        return bool(properties.publish) and properties.protocol != "tcp"

    def hostname_is_free(self, wanted: TunnelProperties, holder: Tunnel | None, client: str) -> Refusal | None:
        """EDGE-013, EDGE-031: a name that a live or leased tunnel holds is not given again, to whichever client and for
        whichever protocol."""
        del wanted, client
        return Refusal(INVALID_REQUEST, "hostname", "hostname: in use by another tunnel") if holder else None

    def name_is_free(self, held: bool) -> Refusal | None:
        """A second tunnel of the same name in a project would make dialling by name ambiguous."""
        return Refusal(INVALID_REQUEST, "name", "name: in use by another tunnel of the project") if held else None

    def address(self, hostname: str, port: int) -> tuple[int, str]:
        """EDGE-015: `port` and the deprecated `host` of a tunnel of this name, given the public port."""
        return port, hostname if port == HTTPS_PORT else f"{hostname}:{port}"

    # -- rows: values ----------------------------------------------------------------------------------------------

    def protocol_is_known(self, asked: Asked) -> Problem:
        """Four families, and two newer ones that this engine refuses later."""
        return _one_of("protocol", asked.own.protocol, PROTOCOLS)

    def type_is_known(self, asked: Asked) -> Problem:
        """bytestream or datagram."""
        return _one_of("type", asked.own.type, TYPES)

    def http_version_is_known(self, asked: Asked) -> Problem:
        """http/1.1, h2c or h3; "h2" is only ever reported."""
        return _one_of("http_version", asked.own.http_version, HTTP_VERSIONS)

    def tls_mode_is_known(self, asked: Asked) -> Problem:
        """terminated or passthrough."""
        return _one_of("tls_mode", asked.own.tls_mode, TLS_MODES)

    def tls_min_version_is_known(self, asked: Asked) -> Problem:
        """tls1.2 or tls1.3."""
        return _one_of("tls_min_version", asked.own.tls_min_version, TLS_VERSIONS)

    def name_is_safe(self, asked: Asked) -> Problem:
        """Letters, digits, and ``-``, ``_``, ``.`` inside, at most 128: a name is a lookup key and is printed."""
        if asked.own.name is None or NAME.fullmatch(asked.own.name):
            return None
        return "name", "must be 1 to 128 letters, digits, '-', '_' or '.', with a letter or digit at both ends"

    def labels_are_bounded(self, asked: Asked) -> Problem:
        """Labels are free text, but not without end."""
        labels = asked.own.labels
        if len(labels) > MAX_LABELS:
            return "labels", f"at most {MAX_LABELS} labels"
        if any(not key or len(key) > MAX_LABEL_KEY or len(value) > MAX_LABEL_VALUE for key, value in labels.items()):
            return "labels", f"a key has 1 to {MAX_LABEL_KEY} characters, a value at most {MAX_LABEL_VALUE}"
        return None

    def alpns_are_protocol_names(self, asked: Asked) -> Problem:
        """RFC 7301 section 3.1: a name has 1 to 255 octets, the list at most 65,535."""
        sizes = [len(name.encode()) for name in asked.own.tls_alpns]
        if any(not 1 <= size <= 255 for size in sizes) or sum(sizes) + len(sizes) > MAX_ALPN_LIST:
            return "tls_alpns", "a protocol name has 1 to 255 octets, the list at most 65535"
        if len(set(asked.own.tls_alpns)) != len(sizes):
            return "tls_alpns", "a protocol name stands there twice"
        return None

    def ciphers_are_suite_names(self, asked: Asked) -> Problem:
        """IANA names, or OpenSSL's."""
        for name in asked.own.tls_ciphers:
            if not SUITE.fullmatch(name):
                return "tls_ciphers", f"{name[:64]!r} is not the name of a cipher suite"
        return None

    def trusted_ips_are_ranges(self, asked: Asked) -> Problem:
        """Addresses or CIDR ranges."""
        for text in asked.own.trusted_ips:
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                return "trusted_ips", f"{text[:64]!r} is neither an address nor a CIDR range"
        return None

    def geoip_are_countries(self, asked: Asked) -> Problem:
        """ISO 3166-1 alpha-2 codes."""
        for text in asked.own.geoip:
            if not COUNTRY.fullmatch(text):
                return "geoip", f"{text[:64]!r} is not a country code of two capital letters"
        return None

    def port_is_in_range(self, asked: Asked) -> Problem:
        """1 to 65535."""
        if asked.own.port is None or 1 <= asked.own.port <= 65535:
            return None
        return "port", f"{asked.own.port} is not in 1 to 65535"

    # -- rows: private tunnels -------------------------------------------------------------------------------------

    def private_has_no_public_name(self, asked: Asked) -> Problem:
        """A tunnel that is not published has no public endpoint to name."""
        name = None if asked.published else asked.first_set(("hostname", "port"))
        return (name, "a private tunnel has no public address") if name else None

    def private_has_no_edge_policy(self, asked: Asked) -> Problem:
        """Edge authentication and access policies guard public endpoints only."""
        policies = (*AUTH, "mtls_auth", "mtls_cacert_pem", "trusted_ips", "geoip")
        name = None if asked.published else asked.first_set(policies)
        return (name, "only published tunnels have edge authentication and access policies") if name else None

    def private_has_no_edge_tls(self, asked: Asked) -> Problem:
        """No public handshake, nothing to set about it; the list serves the upstream handshake where there is one."""
        names = EDGE_TLS if not (asked.protocol == "tls" and asked.upstream_tls) else EDGE_TLS[:2]
        name = None if asked.published else asked.first_set(names)
        return (name, "only published tunnels have TLS at the edge") if name else None

    def private_has_no_http_version(self, asked: Asked) -> Problem:
        """The documentation's reading: bytes of a private tunnel are relayed as they are."""
        if not asked.published and asked.own.http_version is not None:
            return "http_version", "private tunnels take no HTTP version"
        return None

    def private_protocol_is_dispatched(self, asked: Asked) -> Problem:
        """No private DTLS, QUIC or TCP."""
        if not asked.published and asked.protocol in {"dtls", "quic", "tcp"}:
            return "protocol", f"{asked.protocol} tunnels cannot be private"
        return None

    # -- rows: type ------------------------------------------------------------------------------------------------

    def datagram_is_published_with_a_protocol(self, asked: Asked) -> Problem:
        """Bare datagrams have no public endpoint."""
        if asked.published and asked.own.type == "datagram" and asked.own.protocol is None:
            return "type", "a published datagram tunnel needs protocol dtls, quic, or http with h3"
        return None

    def tls_is_bytestream(self, asked: Asked) -> Problem:
        """TLS runs on a byte stream."""
        if asked.protocol in {"tls", "webtty"} and asked.type == "datagram":
            return "type", f"{asked.protocol} tunnels are bytestream"
        return None

    def dtls_and_quic_are_datagram(self, asked: Asked) -> Problem:
        """DTLS and QUIC run on datagrams."""
        if asked.protocol in {"dtls", "quic"} and asked.type == "bytestream":
            return "type", f"{asked.protocol} tunnels are datagram"
        return None

    def http_type_fits_its_version(self, asked: Asked) -> Problem:
        """http/1.1 and h2c on bytestream, h3 on datagram."""
        version = asked.own.http_version
        if asked.protocol != "http" or version is None:
            return None
        if (version == "h3") != (asked.type == "datagram"):
            return "type", f"http tunnels with {version} are {'datagram' if version == 'h3' else 'bytestream'}"
        return None

    def guaranteed_delivery_is_for_datagrams(self, asked: Asked) -> Problem:
        """A byte stream has no other kind of delivery."""
        if asked.own.datagram_guaranteed_delivery and asked.type != "datagram":
            return "datagram_guaranteed_delivery", "only datagram tunnels take it"
        return None

    # -- rows: published TCP ---------------------------------------------------------------------------------------

    def tcp_is_bytestream(self, asked: Asked) -> Problem:
        """TCP is a byte stream."""
        return ("type", "tcp tunnels are bytestream") if asked.protocol == "tcp" and asked.type == "datagram" else None

    def tcp_has_no_edge_options(self, asked: Asked) -> Problem:
        """Routed by port, without TLS, HTTP or authentication at the edge."""
        name = asked.first_set(TCP_REFUSES) if asked.protocol == "tcp" else None
        return (name, "tcp tunnels do not take it") if name else None

    def port_is_for_tcp(self, asked: Asked) -> Problem:
        """Elsewhere the port is the listener's."""
        if asked.own.port is not None and asked.protocol != "tcp":
            return "port", "only tcp tunnels choose a port"
        return None

    # -- rows: passthrough -----------------------------------------------------------------------------------------

    def tls_mode_is_for_tls(self, asked: Asked) -> Problem:
        """Other protocols have no mode to choose."""
        if asked.own.tls_mode is not None and asked.protocol != "tls":
            return "tls_mode", "only tls tunnels have a TLS mode"
        return None

    def passthrough_has_no_upstream_tls(self, asked: Asked) -> Problem:
        """The edge does not end the client's TLS, so it starts none of its own."""
        if asked.passthrough and asked.upstream_tls:
            return "upstream_tls", "passthrough cannot be combined with upstream_tls"
        return None

    def passthrough_has_no_alpns(self, asked: Asked) -> Problem:
        """ALPN is between the client and the upstream."""
        if asked.passthrough and asked.own.tls_alpns:
            return "tls_alpns", "passthrough cannot be combined with tls_alpns"
        return None

    def passthrough_has_no_mtls(self, asked: Asked) -> Problem:
        """Client certificates are the upstream's business."""
        name = asked.first_set(("mtls_auth", "mtls_cacert_pem")) if asked.passthrough else None
        return (name, f"passthrough cannot be combined with {name}") if name else None

    def passthrough_has_no_min_version(self, asked: Asked) -> Problem:
        """The version is between the client and the upstream."""
        if asked.passthrough and asked.own.tls_min_version is not None:
            return "tls_min_version", "passthrough cannot be combined with tls_min_version"
        return None

    def passthrough_has_no_ciphers(self, asked: Asked) -> Problem:
        """So are the cipher suites."""
        if asked.passthrough and asked.own.tls_ciphers:
            return "tls_ciphers", "passthrough cannot be combined with tls_ciphers"
        return None

    # -- rows: HTTP and upstream TLS -------------------------------------------------------------------------------

    def http_auth_is_for_http(self, asked: Asked) -> Problem:
        """Tokens, browser sessions and challenges are answered in HTTP."""
        name = asked.first_set(AUTH) if asked.protocol != "http" else None
        return (name, "only http tunnels take it") if name else None

    def http_options_are_for_http(self, asked: Asked) -> Problem:
        """Version and the older name of upstream TLS."""
        name = asked.first_set(("http_version", "http_use_tls")) if asked.protocol != "http" else None
        return (name, "only http tunnels take it") if name else None

    def http_use_tls_agrees(self, asked: Asked) -> Problem:
        """Two names of one thing must not say two things."""
        old, new = asked.own.http_use_tls, asked.own.upstream_tls
        if old is not None and new is not None and old != new:
            return "http_use_tls", "contradicts upstream_tls"
        return None

    def http_version_has_no_upstream_tls(self, asked: Asked) -> Problem:
        """With TLS the version is negotiated by ALPN."""
        if asked.own.http_version in {"http/1.1", "h2c"} and asked.upstream_tls:
            return "http_version", "cannot be combined with upstream_tls: ALPN chooses the version"
        return None

    def h3_has_upstream_tls(self, asked: Asked) -> Problem:
        """HTTP/3 has no cleartext form (RFC 9114 section 3.1)."""
        h3 = asked.protocol == "http" and asked.type == "datagram"
        return ("upstream_tls", "h3 always has upstream TLS") if h3 and asked.upstream_tls is False else None

    def http_has_no_alpns(self, asked: Asked) -> Problem:
        """The edge offers HTTP's own protocols there."""
        if asked.protocol == "http" and asked.own.tls_alpns:
            return "tls_alpns", "http tunnels negotiate HTTP's own protocols"
        return None

    def quic_has_upstream_tls(self, asked: Asked) -> Problem:
        """QUIC has no cleartext form (RFC 9001 section 4)."""
        if asked.protocol == "quic" and asked.upstream_tls is False:
            return "upstream_tls", "quic always has upstream TLS"
        return None
