"""The engine's settings: one table of keys, read from a TOML file, from flags, or from both (a flag wins).

A key is one line of `Settings`: its name is the TOML key, and with dashes the flag (`http_idle_ms`, `--http-idle-ms`).
The line says the default, the unit and what is allowed. Durations are whole milliseconds, sizes are octets.

Nothing here opens a socket. What is wrong with a value is a `ConfigError`: one line that names the file or the flag,
the key, what was found and what is allowed. Other parts of the engine raise it too, for what only they can see (a
certificate that does not parse, a port that is taken); the command prints it and exits with 2.
"""

# ruff: noqa: RUF009 - `_key` and its like are dataclasses.field() with the row's text

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reference_engine.relay.stream import Address

PERMISSION_TUNNELS = "tunnels.tunnels.create-delete"
"""Open control channels and tunnels."""
PERMISSION_STREAMS = "tunnels.streams.create-delete"
"""Dial tunnels."""
PERMISSION_READ = "tunnels.resources.read-only"
"""List and watch through the HTTP API."""
PERMISSIONS = (PERMISSION_TUNNELS, PERMISSION_STREAMS, PERMISSION_READ)

EDITIONS = ("community", "basic", "pro", "enterprise")
LONGEST_MS = 86_400_000
"""A day: the longest duration that a key takes."""
LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class ConfigError(Exception):
    """A setting cannot be used; the text is the one line for the user."""


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """One token that agents, dialers and API clients may present, and what it opens."""

    token: str = dataclasses.field(repr=False)
    project: str
    permissions: tuple[str, ...] = PERMISSIONS


@dataclass(frozen=True, slots=True)
class CertificateGrant:
    """One client certificate of agents, by the SHA-256 of its DER form (64 lower-case hex digits)."""

    fingerprint: str
    project: str
    permissions: tuple[str, ...] = PERMISSIONS


@dataclass(frozen=True, slots=True)
class Kind:
    """How a key is read: what is allowed, in words; a flag's text to a TOML value; a TOML value to ours."""

    allowed: str
    read: Callable[[Any], Any]
    from_text: Callable[[str], Any] = str


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table: `name` is the TOML key, `flag` the command line's, `about` says what it is for."""

    name: str
    flag: str
    default: Any
    kind: Kind
    about: str


def _key(default: Any, kind: Kind, about: str) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "about": about})


def _number(low: int, high: int, unit: str) -> Kind:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(f"an integer from {low} to {high} ({unit})", read, int)


def _ms(default: int, about: str, *, low: int = 1, high: int = LONGEST_MS) -> Any:
    return _key(default, _number(low, high, "milliseconds"), about)


def _octets(default: int, about: str, *, low: int, high: int = 1 << 30) -> Any:
    return _key(default, _number(low, high, "octets"), about)


def _count(default: int, about: str, *, low: int = 1, high: int = 1_000_000) -> Any:
    return _key(default, _number(low, high, "count"), about)


def _flag_bool(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _read_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


BOOL = Kind("true or false", _read_bool, _flag_bool)


def parse_address(text: str) -> Address:
    """`host:port` or `[v6]:port` to an Address; the port may be 0 (the system picks). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError
    if host.startswith("[") and host.endswith("]"):
        return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
    if not host or ":" in host:
        raise ValueError
    return Address(host, int(port))


def _read_address(value: Any) -> Address:
    if not isinstance(value, str):
        raise ValueError
    return parse_address(value)


ADDRESS = Kind("host:port, port 0 to 65535", _read_address)


def _or_off(kind: Kind) -> Kind:
    return Kind(f"{kind.allowed}, or off", lambda value: None if value == "off" else kind.read(value), kind.from_text)


def _one_of(*names: str) -> Kind:
    def read(value: Any) -> str:
        if value not in names:
            raise ValueError
        return str(value)

    return Kind("one of " + ", ".join(names), read)


def _read_domain(value: Any) -> str:
    name = str(value).lower() if isinstance(value, str) else ""
    if len(name) > 200 or not all(LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError
    return name


DOMAIN = Kind("a DNS name", _read_domain)


def _read_label(value: Any) -> str:
    if not isinstance(value, str) or not LABEL.fullmatch(value) or value == "t":
        raise ValueError
    return value


LABEL_KIND = Kind("one lower-case DNS label other than t", _read_label)


def _read_file(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError
    path = Path(value)
    try:
        with path.open("rb"):
            return path
    except OSError as problem:
        raise ConfigError(f"cannot read {value}: {problem.strerror}") from None


FILE = Kind("a readable file", _read_file)


def _read_directory(value: Any) -> Path:
    if not isinstance(value, str) or not value or (Path(value).exists() and not Path(value).is_dir()):
        raise ValueError
    return Path(value)


DIRECTORY = Kind("a directory (made when it is absent)", _read_directory)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ValueError from None


def _grant(entry: Any, secret: str) -> tuple[str, str, tuple[str, ...]]:
    """(secret, project or "", permissions) of one row of a table of credentials."""
    if isinstance(entry, str):
        entry = {secret: entry}
    if not isinstance(entry, Mapping) or set(entry) - {secret, "project", "permissions"}:
        raise ValueError
    value, project = entry.get(secret), entry.get("project", "")
    permissions = entry.get("permissions", list(PERMISSIONS))
    if not isinstance(value, str) or not value.encode() or (project != "" and not LABEL.fullmatch(str(project))):
        raise ValueError
    if not isinstance(permissions, list) or not set(permissions) <= set(PERMISSIONS):
        raise ValueError
    return value, str(project), tuple(permissions)


def _read_tokens(value: Any) -> tuple[TokenGrant, ...]:
    if not isinstance(value, list):
        raise ValueError
    return tuple(TokenGrant(*_grant(entry, "token")) for entry in value)


def _read_certificates(value: Any) -> tuple[CertificateGrant, ...]:
    if not isinstance(value, list):
        raise ValueError
    grants = []
    for entry in value:
        fingerprint, project, permissions = _grant(entry, "fingerprint")
        fingerprint = fingerprint.replace(":", "").lower()
        if not FINGERPRINT.fullmatch(fingerprint):
            raise ValueError
        grants.append(CertificateGrant(fingerprint, project, permissions))
    return tuple(grants)


_ROWS = 'a list of strings or of {{{0} = "..", project = "..", permissions = [{1}]}}'
_NAMES = ", ".join(f'"{name}"' for name in PERMISSIONS)
TOKENS = Kind(_ROWS.format("token", _NAMES), _read_tokens, _toml_value)
CERTIFICATES = Kind(
    _ROWS.format("fingerprint", _NAMES) + ", a fingerprint being 64 hex digits", _read_certificates, _toml_value
)


@dataclass(frozen=True)
class Settings:
    """All settings of one engine. `Settings()` is the engine as it starts without file and flags."""

    listen: Address = _key(Address("127.0.0.1", 9443), ADDRESS, "public TCP listener: agents, tunnels, HTTP API")
    udp_listen: Address | None = _key(None, _or_off(ADDRESS), "public UDP listener: QUIC tunnels, agents over QUIC")
    http_listen: Address | None = _key(None, _or_off(ADDRESS), "plain HTTP listener that redirects to https")
    metrics_listen: Address | None = _key(None, _or_off(ADDRESS), "plain HTTP listener of the metrics")
    domain: str = _key("edgecase.localhost", DOMAIN, "the engine's own name; tunnels live under t.<domain>")
    certificate_file: Path | None = _key(None, _or_off(FILE), "PEM chain of the edge; a CA of our own without it")
    key_file: Path | None = _key(None, _or_off(FILE), "PEM private key of certificate_file")
    ca_file: Path | None = _key(None, _or_off(FILE), "PEM of the CA that clients should trust; only reported")
    state_dir: Path | None = _key(
        None, _or_off(DIRECTORY), "where the self-made CA is kept; off: a temporary directory"
    )
    edition: str = _key("enterprise", _one_of(*EDITIONS), "which features exist")
    project: str = _key("default", LABEL_KIND, "the project of agents whose credential names none")
    tokens: tuple[TokenGrant, ...] = _key((), TOKENS, "tokens of agents, dialers and API clients")
    agent_certificates: tuple[CertificateGrant, ...] = _key((), CERTIFICATES, "client certificates of agents")
    project_tls_min_version: str | None = _key(
        None, _or_off(_one_of("tls1.2", "tls1.3")), "lowest TLS version wherever the edge terminates TLS"
    )
    upstream_verify: bool = _key(
        False, BOOL, "verify the certificates of upstreams over TLS, against the tunnel's host name"
    )
    upstream_ca_file: Path | None = _key(None, _or_off(FILE), "PEM of the CAs for upstream_verify; off: the system's")
    log_level: str = _key("info", _one_of("debug", "info", "warning", "error"), "what is written to stderr")

    first_frame_timeout_ms: int = _ms(10_000, "from the end of an agent's TLS handshake to its first whole frame")
    handshake_timeout_ms: int = _ms(10_000, "from accept to the end of the TLS handshake, ClientHello included")
    agent_connect_timeout_ms: int = _ms(30_000, "from ProxyConnReq to the agent's ProxyReq")
    heartbeat_timeout_floor_ms: int = _ms(15_000, "shortest liveness timeout that is announced", high=900_000)
    lease_ms: int = _ms(0, "how long names stay held after a lost control channel", low=0)
    http_idle_ms: int = _ms(60_000, "idle downstream HTTP connection")
    http_header_timeout_ms: int = _ms(10_000, "from the first octet of a request to the end of its fields")
    http_response_timeout_ms: int = _ms(30_000, "from the whole request to the upstream's final status line")
    http_half_close_ms: int = _ms(1_000, "without an octet for a client that has ended its direction, in a response")
    upstream_idle_ms: int = _ms(30_000, "pooled upstream HTTP connection")
    alt_svc_ms: int = _ms(
        3_600_000, "how long clients may remember that HTTP tunnels are there over HTTP/3; 0: they are not told", low=0
    )
    quic_idle_ms: int = _ms(60_000, "QUIC connection without a packet, on both legs; the peer may ask for less")
    drain_ms: int = _ms(5_000, "live streams at shutdown", low=0)
    close_timeout_ms: int = _ms(5_000, "for the peer's end after ours, before the connection is dropped")

    max_connections: int = _count(20_000, "accepted connections at one time")
    max_control_channels: int = _count(10_000, "control channels at one time")
    max_tunnels_per_channel: int = _count(1_000, "tunnels of one control channel")
    max_pending_streams_per_channel: int = _count(256, "unanswered ProxyConnReq of one control channel", high=4096)
    max_streams_per_channel: int = _count(10_000, "live data streams of one control channel")
    quic_retry_above: int = _count(
        64, "unfinished QUIC handshakes from which on a client must prove its address with Retry", low=0
    )
    quic_max_unfinished: int = _count(1_000, "unfinished QUIC handshakes at one time")
    quic_max_streams: int = _count(
        128, "open streams of each kind that a client of a QUIC tunnel may have", high=65_536
    )
    http3_max_resets: int = _count(200, "requests that an HTTP/3 client cancels, at once and again every ten seconds")
    http3_max_idle_frames: int = _count(
        1_000, "frames and streams of an HTTP/3 connection that say nothing, beyond ten for each that does"
    )
    http3_blocked_streams: int = _count(
        16, "request streams of an HTTP/3 connection that wait for its QPACK table", low=0, high=65_536
    )
    quic_datagrams: int = _count(256, "waiting DATAGRAM frames of a QUIC connection per direction, more are dropped")
    http2_max_streams: int = _count(128, "open streams of an HTTP/2 client connection", high=65_536)
    http2_max_resets: int = _count(
        200, "streams that an HTTP/2 client resets, or has reset for its mistakes, at once and again every ten seconds"
    )
    http2_max_control_frames: int = _count(
        1_000, "HTTP/2 frames without content that a peer sends beyond its need, at once and again every ten seconds"
    )
    upstream_max_idle: int = _count(32, "pooled upstream HTTP connections of one tunnel and client address", low=0)
    http_max_header_bytes: int = _octets(65_536, "all fields of one message head", low=256)
    http_max_header_count: int = _count(128, "fields of one message head")
    http_max_trailer_bytes: int = _octets(16_384, "all fields of one trailer section", low=64)
    http_chunk_extension_bytes: int = _octets(4_096, "chunk extensions of one message", low=0)
    http3_table_bytes: int = _octets(4_096, "QPACK table of one HTTP/3 connection; 0: none", low=0, high=1 << 20)
    max_client_hello_bytes: int = _octets(
        65_536, "ClientHello of a public connection, record headers included", low=512
    )
    stream_buffer_bytes: int = _octets(262_144, "unread or unsent octets of one stream per direction", low=1_024)
    http2_window_bytes: int = _octets(131_072, "unread octets of one HTTP/2 stream, on both legs", low=65_535)
    quic_window_bytes: int = _octets(4_194_304, "unread octets of all streams of a QUIC connection", low=1_024)

    @property
    def open_mode(self) -> bool:
        """Without any configured credential everybody may connect, with a token or without."""
        return not self.tokens and not self.agent_certificates

    @property
    def zone(self) -> str:
        """The domain under which published tunnels get their names."""
        return f"t.{self.domain}"


def keys() -> dict[str, Key]:
    """The table: every key by its TOML name, in the order of `Settings`."""
    return {
        field.name: Key(
            field.name,
            "--" + field.name.replace("_", "-"),
            field.default,
            field.metadata["kind"],
            field.metadata["about"],
        )
        for field in dataclasses.fields(Settings)
    }


def load(file: Path | None = None, flags: Mapping[str, str] | None = None) -> Settings:
    """Settings from `file` (TOML) and `flags` (key name to the flag's text), each key checked. Raises ConfigError."""
    table = keys()
    values: dict[str, Any] = {}
    if file is not None:
        for name, value in _read_toml(file).items():
            key = table.get(name)
            if key is None:
                raise ConfigError(f"{file}: unknown key {name!r}{_near(name, table)}")
            values[name] = _check(key, value, f"{file}: {name}")
    for name, text in (flags or {}).items():
        key = table[name]
        try:
            value = key.kind.from_text(text)
        except (ValueError, KeyError):
            # "off" and the like are no value of the kind's own; the reader decides.
            value = text
        values[name] = _check(key, value, key.flag)
    return _complete(Settings(**values))


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as problem:
        raise ConfigError(f"--config: cannot read {file}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(f"--config: {file} is not TOML: {problem}") from None


def _near(name: str, table: Mapping[str, Key]) -> str:
    close = difflib.get_close_matches(name, table, n=1)
    return f" (did you mean {close[0]!r}?)" if close else f"; allowed: {', '.join(table)}"


def _check(key: Key, value: Any, where: str) -> Any:
    try:
        return key.kind.read(value)
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None
    except (ValueError, TypeError):
        found = "a value that is not allowed" if key.name == "tokens" else f"found {value!r}"
        raise ConfigError(f"{where}: {found}; allowed: {key.kind.allowed}") from None


def _complete(settings: Settings) -> Settings:
    """Fill what depends on another key, and refuse keys that contradict each other."""
    if (settings.certificate_file is None) != (settings.key_file is None):
        given, missing = (
            ("certificate_file", "key_file") if settings.key_file is None else ("key_file", "certificate_file")
        )
        raise ConfigError(f"{given}: given without {missing}; allowed: both or neither")
    own = settings.project
    return dataclasses.replace(
        settings,
        tokens=tuple(dataclasses.replace(grant, project=grant.project or own) for grant in settings.tokens),
        agent_certificates=tuple(
            dataclasses.replace(grant, project=grant.project or own) for grant in settings.agent_certificates
        ),
    )
