"""What is left of HTTP after a 101 or a 2xx to CONNECT: two byte streams, each the other's far end.

Nothing is relayed before that answer (HTTP-WS-002, HTTP-CONNECT-003, RFC 9110 sections 7.8 and 9.3.6); from then on no
octet is looked at and no timeout of HTTP applies (HTTP-WS-008, HTTP-WS-013, LIM-004). What either side sent too early,
glued to a head, comes first.
"""

from __future__ import annotations

from reference_engine.relay.pump import Relay, Relayed
from reference_engine.relay.stream import ByteStream


async def relay(
    pump: Relay, client: ByteStream, upstream: ByteStream, *, client_half_open: bool, upstream_half_open: bool
) -> Relayed:
    """Relay until both directions have ended; both streams are closed then. Cancelling aborts both.

    The flags say whether a stream takes data behind its own end (TLS 1.2 does not, RFC 5246 section 7.2.1).
    """
    return await pump.run(client, upstream, a_half_open=client_half_open, b_half_open=upstream_half_open)
