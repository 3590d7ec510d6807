"""Rules on the course of an exchange: who waits how long, what goes out again, when a connection ends, what is told.

Pure functions of what has happened so far. Times are in seconds.
"""

from __future__ import annotations

from reference_engine.config import Settings
from reference_engine.http.errors import Fault, answer, fault_of
from reference_engine.http.events import RequestHead, ResponseHead
from reference_engine.http.syntax import Framing
from reference_engine.tunnel.model import TunnelProperties

MOST_ATTEMPTS = 3
"""How often one request goes out altogether."""
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class DeliveryRules:
    """What happens when, and what follows from it."""

    def client_time(self, awaited: str, settings: Settings) -> float:
        """How long a client may take: for its next request (`request`), for the rest of a head (`head`), for the next
        octets of content (`content`). HTTP-ERR-009, RFC9112-9.5-1."""
        return (settings.http_header_timeout_ms if awaited == "head" else settings.http_idle_ms) / 1000

    def response_time(self, settings: Settings) -> float:
        """How long an upstream may take from the end of a request to its final head (HTTP-ERR-003); what follows may
        take as long as it likes (HTTP-ERR-010)."""
        return settings.http_response_timeout_ms / 1000

    def repeatable(self, method: bytes, framing: Framing) -> bool:
        """Whether a request may go out a second time when a reused connection ended under it (RFC9110-9.2.2-1,
        HTTP-ERR-008).

        What may not be repeated is not sent on a connection that the upstream may be closing just now, either.
        """
        return method in IDEMPOTENT and framing.kind == "none"

    def repeats(self, method: bytes, framing: Framing, *, fresh: bool, heard: bool) -> bool:
        """Whether a request whose connection ended goes out again: only where the connection was a reused one that
        said nothing to it, so once at most (RFC9110-9.2.2-1, -9.2.2-2)."""
        return not fresh and not heard and self.repeatable(method, framing)

    def repeats_unprocessed(self, framing: Framing, attempts: int) -> bool:
        """Whether a request that the upstream did not look at, as it said itself, goes out again, whatever its method:
        while its content is not on the way, and a few times at most (RFC9113-6.8-2, -8.7-1, RFC9114-4.1.1-3)."""
        return framing.kind == "none" and attempts < MOST_ATTEMPTS

    def upstream_streams(self, announced: int) -> int:
        """How many requests an upstream connection has at once, by what the upstream allows (RFC9113-5.1.2-1)."""
        return announced

    def upstream_version(self, properties: TunnelProperties) -> str:
        """What the upstream leg speaks: `http/1.1`, `h2c`, `h3`, or `alpn`: what its TLS picks (HTTP-VER-001 to -005,
        -010)."""
        return properties.http_version or ("alpn" if self.encrypts_upstream(properties) else "http/1.1")

    def upstream_alpns(self, properties: TunnelProperties) -> tuple[str, ...]:
        """What the edge offers an upstream in TLS, most wanted first (HTTP-VER-010)."""
        return ("h2", "http/1.1") if self.upstream_version(properties) == "alpn" else ("http/1.1",)

    def switches(self, head: RequestHead) -> Fault | None:
        """CONNECT over HTTP/2 and HTTP/3 is not served."""
        if head.method == b"CONNECT" and head.version not in (b"1.0", b"1.1"):
            return fault_of("no-connect")
        return None

    def ends_early(self, *, complete: bool, closing: bool, expects: bool, deaf: bool) -> bool:
        """Whether the client is told, with a final response, that its connection ends behind it: the rest of its
        request will not be read (RFC9110-10.1.1-6, RFC9112-9.6-3).

        `complete`: the request is here as a whole; `closing`: the upstream has said close; `expects`: the client still
        waits for a 100; `deaf`: the upstream takes no more.
        """
        return not complete and (closing or expects or deaf)

    def encrypts_upstream(self, properties: TunnelProperties) -> bool:
        """Whether the upstream leg runs in TLS (HTTP-ERR-011, HTTP-VER-002)."""
        return bool(properties.upstream_tls or properties.http_use_tls)

    def failure(self, reason: str, fault: Fault | None) -> Fault:
        """What a client is told when no response came: `fault` where something was refused, else what the table says
        of `reason` (HTTP-ERR-002 to -004, RFC9110-15.6.3-1, -15.6.5-1)."""
        return fault or fault_of(reason)

    def answer(self, fault: Fault, *, close: bool) -> tuple[ResponseHead, bytes]:
        """Head and content of an answer of the edge's own (HTTP-ERR-013, RFC9110-6.6.1-1)."""
        return answer(fault, close=close)
