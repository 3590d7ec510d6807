"""The scripted HTTP/1.1 peers: a client on the downstream leg, an upstream behind the tunnel, and the probe of both.

They stand on `harness.wire.http1`, not on h11: the engine does, and a peer must be able to say illegal things.
"""

from __future__ import annotations

from harness.errors import PeerMismatch
from harness.peer.http1_client import Http1Client, Response
from harness.peer.http1_stream import NONCE_FIELD
from harness.peer.http1_upstream import Fragment, Http1Upstream, UpstreamConnection, UpstreamRequest
from harness.peer.http_upstream import probe


async def exchange(client: Http1Client, upstream: Http1Upstream, nonce: str) -> tuple[UpstreamRequest, Response]:
    """One plain GET through the tunnel: the upstream answers with the nonce, the client must get it.

    Raises `PeerMismatch` when anything else comes, `DeadlineExpired`.
    """
    await client.request("GET", f"/{nonce}", nonce=nonce)
    request = await upstream.request(nonce)
    await request.respond(200, body=nonce.encode())
    response = await client.response()
    if response.status != 200 or response.body != nonce.encode():
        raise PeerMismatch(f"200 with the nonce {nonce}", f"{response.describe()}: {response.body[:60]!r}")
    return request, response


__all__ = [
    "NONCE_FIELD",
    "Fragment",
    "Http1Client",
    "Http1Upstream",
    "Response",
    "UpstreamConnection",
    "UpstreamRequest",
    "exchange",
    "probe",
]
