"""The rules of TLS at the edge: what is negotiated, and what the end of one leg means for the other.

Pure functions without state; `Parts.tls` holds the one object through which the engine reaches them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reference_engine.relay.stream import Address

TLS12 = 0x0303
TLS13 = 0x0304
VERSIONS = {"tls1.2": TLS12, "tls1.3": TLS13}
"""Values of `tls_min_version` and of the project's policy, and the version that each one names (TLS-017)."""

TLS12_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
}
"""TLS 1.2 suites that the edge knows: IANA name to OpenSSL's. Forward secret and AEAD only (RFC 9325 section 4.2)."""

TLS13_SUITES = ("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_128_GCM_SHA256")
"""TLS 1.3 suites, in the edge's order of preference (RFC 8446 section B.4)."""

_BY_OPENSSL_NAME = {theirs: iana for iana, theirs in TLS12_SUITES.items()}


class NoApplicationProtocol(Exception):  # noqa: N818 - the alert's name
    """The client's ALPN offer and the list have nothing in common: alert 120 (RFC 7301 section 3.2)."""


@dataclass(frozen=True, slots=True)
class Suites:
    """Suites that an endpoint offers or accepts, by IANA name. An empty `tls12` or `tls13` turns that version off."""

    tls12: tuple[str, ...] = tuple(TLS12_SUITES)
    tls13: tuple[str, ...] = TLS13_SUITES


class TlsRules:
    """What TLS endpoints of the engine negotiate, and what their ends mean."""

    def select_alpn(self, offered: Sequence[str], configured: Sequence[str]) -> str | None:
        """The protocol for a client that offered `offered` (not empty) where the endpoint's list is `configured`.

        | list  | offer            | outcome                                          |                               |
        | ----- | ---------------- | ------------------------------------------------ | ----------------------------- |
        | none  | any              | go on without ALPN: `None`                       | ALPN-010                      |
        | set   | with a match     | the list's first name that was offered           | ALPN-001, RFC 7301 3.2        |
        | set   | without a match  | refused: NoApplicationProtocol                   | ALPN-008, RFC 7301 3.2        |
        | any   | no ALPN          | never asked: the handshake goes on without       | ALPN-009                      |
        """
        if not configured:
            return None
        for name in configured:
            if name in offered:
                return name
        raise NoApplicationProtocol

    def upstream_alpns(self, negotiated: str | None, configured: Sequence[str]) -> tuple[str, ...]:
        """What is offered to an upstream over TLS: the negotiated name alone (ALPN-004), else the list (ALPN-005),
        else nothing (ALPN-006)."""
        return (negotiated,) if negotiated is not None else tuple(configured)

    def upstream_alpn_fits(self, offered: Sequence[str], selected: str | None) -> bool:
        """Whether the upstream's choice may be spoken: a name that was offered, or none (RFC 7301 3.2, ALPN-013)."""
        return selected is None or selected in offered

    def min_version(self, tunnel: str | None, project: str | None) -> int:
        """The lowest version of a terminated endpoint: the stricter of tunnel and project, never below TLS 1.2
        (TLS-017, TLS-018, POL-009; RFC 8996)."""
        return max([TLS12, *(VERSIONS[name] for name in (tunnel, project) if name is not None)])

    def suites(self, configured: Sequence[str]) -> Suites:
        """The suites of a terminated endpoint. A list limits TLS 1.2 to what it names; it limits TLS 1.3 only where
        it names suites of TLS 1.3 (TLS-020). Names that `unknown_suites` reports are left out."""
        if not configured:
            return Suites()
        names = [_BY_OPENSSL_NAME.get(name, name) for name in configured]
        return Suites(
            tls12=tuple(name for name in names if name in TLS12_SUITES),
            tls13=tuple(name for name in names if name in TLS13_SUITES) or TLS13_SUITES,
        )

    def unknown_suites(self, configured: Sequence[str]) -> tuple[str, ...]:
        """Names that are neither an IANA nor an OpenSSL name of a suite the edge has."""
        known = {*TLS12_SUITES, *TLS13_SUITES, *_BY_OPENSSL_NAME}
        return tuple(name for name in configured if name not in known)

    def may_resume(self, offered_versions: Sequence[int]) -> bool:
        """Whether a session may be resumed and tickets be given to a client that offered `offered_versions`.

        Only in TLS 1.3, where the name of the new ClientHello routes and decides (RFC 8446 section 4.6.1). A session of
        TLS 1.2 is bound to its first name (RFC 6066 section 3), and endpoints of several tunnels share keys here.
        """
        return TLS13 in offered_versions

    def speaks_tls_upstream(self, upstream_tls: bool | None) -> bool:
        """Whether a terminated tunnel makes a TLS connection of its own to the upstream (TLS-007, TLS-008)."""
        return bool(upstream_tls)

    def told_source(self, peer: Address | None) -> Address | None:
        """The client's address, told to the agent with the stream; nothing of it goes into the data (TLS-027)."""
        return peer

    def keeps_half_open(self, version: str) -> bool:
        """Whether a peer that has sent close_notify may still be sent data: yes in TLS 1.3 (RFC 8446 section 6.1);
        TLS 1.2 wants an immediate close (RFC 5246 section 7.2.1)."""
        return version == "TLSv1.3"
