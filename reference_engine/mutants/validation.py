"""Mutants of the validation matrix, three for a row where the engine can show them.

A row that objects to nothing lets a contradiction through; a request whose odd property is dropped is served as
something else than was asked for; a row that objects to more than it should refuses what is allowed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.refusal import INVALID_REQUEST, Refusal
from reference_engine.tunnel.rules import Asked, Problem

AUTH = ("token_auth", "rstream_auth", "challenge_mode")

# -- rows that object to nothing -----------------------------------------------------------------------------------

LETS_THROUGH = {
    "type_is_known": ("VAL-001", "any tunnel type"),
    "tls_mode_is_known": ("VAL-001", "any TLS mode"),
    "alpns_are_protocol_names": ("VAL-001", "an application protocol without a name"),
    "tls_is_bytestream": ("VAL-003", "a TLS tunnel of type datagram"),
    "datagram_is_published_with_a_protocol": ("VAL-006", "published datagrams without a protocol"),
    "passthrough_has_no_upstream_tls": ("VAL-007", "passthrough with upstream TLS"),
    "passthrough_has_no_alpns": ("VAL-008", "passthrough with a list of application protocols"),
    "tls_mode_is_for_tls": ("VAL-012", "a TLS mode on any protocol"),
    "http_version_has_no_upstream_tls": ("VAL-013", "http/1.1 with upstream TLS"),
    "http_use_tls_agrees": ("VAL-018", "the old name of upstream TLS against the new one"),
    "tls_min_version_is_known": ("VAL-019", "any lowest TLS version"),
    "http_version_is_known": ("VAL-020", "any upstream version"),
    "http_options_are_for_http": ("VAL-021", "HTTP's own properties on any protocol"),
    "private_has_no_public_name": ("VAL-022", "a public name for a private tunnel"),
    "guaranteed_delivery_is_for_datagrams": ("VAL-024", "guaranteed delivery on a byte stream"),
}
"""Row to its requirement and what it then takes."""


def _lets_through(row: str, requirement: str, what: str) -> None:
    @mutant(f"validation-takes-{row.replace('_', '-')}", (requirement,), f"takes {what}: no look at {row}")
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, asked: Asked) -> Problem:
            if original(asked) is not None:
                reached()
            return None

        swap(parts.tunnel, row, broken)


for _row, (_requirement, _what) in LETS_THROUGH.items():
    _lets_through(_row, _requirement, _what)

# -- requests that are changed instead of refused ------------------------------------------------------------------

Change = Callable[[TunnelProperties], dict[str, Any]]
"""What is changed in the properties that were asked for: nothing where the mutant does not apply."""


def _odd_port(own: TunnelProperties) -> dict[str, Any]:
    return {"port": None} if own.port is not None else {}


def _bytestream_over_datagrams(own: TunnelProperties) -> dict[str, Any]:
    odd = own.protocol in ("dtls", "quic") and own.type == "bytestream"
    return {"protocol": "tls"} if odd else {}


def _version_against_type(own: TunnelProperties) -> dict[str, Any]:
    if own.protocol == "http" and own.http_version == "h3" and own.type == "bytestream":
        return {"http_version": None}
    if own.protocol == "http" and own.http_version is not None and own.type == "datagram":
        return {"http_version": None, "type": None}
    return {}


def _passthrough_mtls(own: TunnelProperties) -> dict[str, Any]:
    return {"mtls_auth": None} if own.tls_mode == "passthrough" and own.mtls_auth else {}


def _passthrough_with(name: str) -> Change:
    return lambda own: {"tls_mode": None} if own.tls_mode == "passthrough" and getattr(own, name) else {}


def _cleartext_h3(own: TunnelProperties) -> dict[str, Any]:
    return {"http_version": None} if own.http_version == "h3" and own.upstream_tls is False else {}


def _list_on_http(own: TunnelProperties) -> dict[str, Any]:
    return {"protocol": "tls"} if own.protocol == "http" and own.tls_alpns else {}


def _auth_without_http(own: TunnelProperties) -> dict[str, Any]:
    odd = own.protocol not in (None, "http") and any(getattr(own, name) for name in AUTH)
    return {**dict.fromkeys(AUTH), "protocol": "tls"} if odd else {}


def _cleartext_quic(own: TunnelProperties) -> dict[str, Any]:
    return {"protocol": "tls"} if own.protocol == "quic" and own.upstream_tls is False else {}


def _private_policy(own: TunnelProperties) -> dict[str, Any]:
    odd = own.publish is False and (own.trusted_ips or own.geoip or any(getattr(own, name) for name in AUTH))
    return {**dict.fromkeys(AUTH), "trusted_ips": (), "geoip": ()} if odd else {}


def _private_datagram_protocol(own: TunnelProperties) -> dict[str, Any]:
    return {"protocol": None} if own.publish is False and own.protocol in ("dtls", "quic") else {}


def _private_published(own: TunnelProperties) -> dict[str, Any]:
    odd = own.publish is False and own.http_version is not None
    return {"publish": True, "protocol": "http", "hostname": None} if odd else {}


CHANGES: dict[str, tuple[str, str, Change]] = {
    "unknown-protocol": (
        "EDGE-002",
        "publishes a protocol that it does not know as HTTP",
        lambda own: {"protocol": "http"} if own.protocol not in (None, "http", "tls", "dtls", "quic") else {},
    ),
    "port": ("VAL-001", "passes over a port that nobody can have", _odd_port),
    "datagram-type": ("VAL-004", "publishes DTLS and QUIC of type bytestream as TLS", _bytestream_over_datagrams),
    "http-version": ("VAL-005", "passes over an HTTP version that does not fit the type", _version_against_type),
    "passthrough-mtls": ("VAL-009", "passes over client certificates in passthrough", _passthrough_mtls),
    "passthrough-version": (
        "VAL-010",
        "terminates a passthrough tunnel that sets a lowest version",
        _passthrough_with("tls_min_version"),
    ),
    "passthrough-ciphers": (
        "VAL-011",
        "terminates a passthrough tunnel that lists cipher suites",
        _passthrough_with("tls_ciphers"),
    ),
    "cleartext-h3": ("VAL-014", "makes http/1.1 of h3 without upstream TLS", _cleartext_h3),
    "list-on-http": ("VAL-015", "makes a TLS tunnel of HTTP with a list of protocols", _list_on_http),
    "auth-without-http": ("VAL-016", "passes over authentication on what is not HTTP", _auth_without_http),
    "cleartext-quic": ("VAL-017", "makes a TLS tunnel of QUIC without upstream TLS", _cleartext_quic),
    "private-policy": ("VAL-022", "passes over policies and authentication of private tunnels", _private_policy),
    "private-version": ("VAL-022", "publishes a private tunnel that has an HTTP version", _private_published),
    "private-protocol": (
        "VAL-023",
        "passes over the protocol of a private DTLS or QUIC tunnel",
        _private_datagram_protocol,
    ),
}


def _changed(what: str, requirement: str, breaks: str, change: Change) -> None:
    @mutant(f"validation-changes-{what}", (requirement,), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, properties: TunnelProperties) -> Asked:
            changes = change(properties)
            if not changes:
                return original(properties)  # type: ignore[no-any-return]
            reached()
            return original(dataclasses.replace(properties, **changes))  # type: ignore[no-any-return]

        swap(parts.tunnel, "asked", broken)


for _what, (_requirement, _breaks, _change) in CHANGES.items():
    _changed(_what, _requirement, _breaks, _change)

# -- rows that object to what is allowed ---------------------------------------------------------------------------

Objects = Callable[[TunnelProperties], str | None]
"""The property that the mutant objects to, None where it does not."""


def _no_http(own: TunnelProperties) -> str | None:
    return "protocol" if own.protocol == "http" else None


def _no_default(own: TunnelProperties) -> str | None:
    return "protocol" if own.protocol is None and own.publish is not False else None


REFUSES: dict[str, tuple[tuple[str, ...], str, Objects]] = {
    "http": (("EDGE-002",), "refuses HTTP tunnels", _no_http),
    "no-protocol": (("VAL-002",), "wants the protocol said", _no_default),
    "tls-bytestream": (
        ("VAL-003",),
        "refuses a TLS tunnel that says its type",
        lambda own: "type" if own.protocol == "tls" and own.type == "bytestream" else None,
    ),
    "h1-bytestream": (
        ("VAL-005",),
        "refuses an http/1.1 tunnel that says its type",
        lambda own: "type" if own.http_version == "http/1.1" and own.type == "bytestream" else None,
    ),
    "http-upstream-tls": (
        ("VAL-013",),
        "wants a version beside upstream TLS",
        lambda own: "http_version" if own.protocol == "http" and own.upstream_tls and not own.http_version else None,
    ),
    "old-name": (
        ("VAL-018",),
        "refuses the old name of upstream TLS",
        lambda own: "http_use_tls" if own.http_use_tls is not None else None,
    ),
    "lowest-1.2": (
        ("VAL-019",),
        "refuses tls1.2 as the lowest version",
        lambda own: "tls_min_version" if own.tls_min_version == "tls1.2" else None,
    ),
    "h1": (
        ("VAL-005", "VAL-020"),
        "refuses http/1.1 as an upstream version",
        lambda own: "http_version" if own.http_version == "http/1.1" else None,
    ),
}


def _refuses(what: str, rows: tuple[str, ...], breaks: str, objects: Objects) -> None:
    @mutant(f"validation-refuses-{what}", rows, breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, properties: TunnelProperties) -> Refusal | None:
            name = objects(properties)
            if name is None:
                return original(properties)  # type: ignore[no-any-return]
            reached()
            return Refusal(INVALID_REQUEST, name, f"{name}: not allowed here")

        swap(parts.tunnel, "validate", broken)


for _what, (_rows, _breaks, _objects) in REFUSES.items():
    _refuses(_what, _rows, _breaks, _objects)

# -- what is left behind, and what is derived ----------------------------------------------------------------------


@mutant("validation-keeps-names", ("VAL-007", "VAL-022"), "holds the names that a refused request asked for")
def _(parts: Parts, reached: Reached) -> None:
    held: set[str] = set()

    def broken(original: Any, properties: TunnelProperties) -> Refusal | None:
        names = {name for name in (properties.name, properties.hostname) if name}
        refusal: Refusal | None = original(properties)
        if refusal is None and names & held:
            reached()
            return Refusal(INVALID_REQUEST, "hostname", "hostname: in use by another tunnel")
        if refusal is not None:
            held.update(names)
        return refusal

    swap(parts.tunnel, "validate", broken)


@mutant("validation-lists-refused", ("VAL-007",), "puts a tunnel into the inventory before it is validated")
def _(parts: Parts, reached: Reached) -> None:
    inventory: list[Any] = []

    def route(original: Any, hello: Any, names: Any, domain: str) -> Any:
        inventory[:] = [names]
        return original(hello, names, domain)

    def broken(original: Any, properties: TunnelProperties) -> Refusal | None:
        refusal: Refusal | None = original(properties)
        if refusal is not None and inventory:
            reached()
            client = inventory[0].clients()[-1]
            half = dataclasses.replace(properties, hostname=None, name=None)
            inventory[0].add(Tunnel(parts.agent.new_id(), half, client.id, client.project))
        return refusal

    swap(parts.edge, "route", route)
    swap(parts.tunnel, "validate", broken)


def _effective(what: str, requirement: str, breaks: str, change: Change) -> None:
    """A mutant of the derived values: `change` gives what is wrong, from the effective properties."""

    @mutant(f"validation-derives-{what}", (requirement,), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, properties: TunnelProperties) -> TunnelProperties:
            effective: TunnelProperties = original(properties)
            changes = {
                name: value
                for name, value in change(effective).items()
                if getattr(properties, name) is None and getattr(effective, name) != value
            }
            if not changes:
                return effective
            reached()
            return dataclasses.replace(effective, **changes)

        swap(parts.tunnel, "effective", broken)


_effective("no-type", "VAL-002", "does not report the type that follows from the protocol", lambda own: {"type": None})
_effective("no-version", "VAL-029", "does not report the upstream version", lambda own: {"http_version": None})
_effective("no-mode", "VAL-029", "does not report the TLS mode", lambda own: {"tls_mode": None})


@mutant("validation-default-tls", ("VAL-002", "VAL-029"), "takes a request without protocol for a TLS tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties) -> Asked:
        if properties.protocol is not None or properties.publish is False:
            return original(properties)  # type: ignore[no-any-return]
        reached()
        return original(dataclasses.replace(properties, protocol="tls"))  # type: ignore[no-any-return]

    swap(parts.tunnel, "asked", broken)


@mutant("validation-old-name-ignored", ("VAL-018",), "passes over the old name of upstream TLS")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties) -> Asked:
        if properties.http_use_tls is None or properties.upstream_tls is not None:
            return original(properties)  # type: ignore[no-any-return]
        reached()
        return original(dataclasses.replace(properties, http_use_tls=None))  # type: ignore[no-any-return]

    swap(parts.tunnel, "asked", broken)


@mutant("validation-lists-as-asked", ("VAL-029",), "lists a tunnel with what was asked for, not with what it became")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, subject: Any) -> dict[str, Any]:
        found: dict[str, Any] = original(subject)
        for name in ("http_version", "tls_mode", "type", "publish"):
            if found.pop(name, None) is not None:
                reached()
        return found

    swap(parts.edge, "listed", broken)
