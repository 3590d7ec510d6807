"""A first look at a published tunnel: does a client that goes to its endpoint come out at its upstream?

Deliberately crude, and made of the standard library but for QUIC, which it lacks: it tells a wrong address, a dead
listener and a crossed wire from a working tunnel, before any case judges the engine.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from typing import TYPE_CHECKING

from harness.engine.driver import Endpoint, Incoming, UpstreamQueue
from harness.errors import EngineDeparted
from harness.evidence.transcript import DOWNSTREAM, Transcript
from harness.link.stream import LinkReset
from harness.link.udp import connect_udp
from harness.model.spec import QUIC_ALPN, TunnelSpec

if TYPE_CHECKING:
    from harness.peer.quic import QuicPeer

HANDSHAKE_RECORD = b"\x16\x03"
ENOUGH = 4096
UDP_SECONDS = 0.5
"""How long an answer over UDP is awaited: its absence is no finding, but a refusal on this machine comes at once."""
UNKNOWN_VERSION = bytes.fromhex("c0 1a2a3a4a 08 0001020304050607 08 08090a0b0c0d0e0f") + bytes(1200 - 23)
"""A QUIC packet of a reserved version with two connection ids (RFC 8999 section 5.1, RFC 9000 sections 6.3, 14.1)."""


async def reachable(endpoint: Endpoint, seconds: float) -> str | None:
    """Why nobody answers TCP at the endpoint, or why nobody can be there where it is reached over UDP, or `None`."""
    where = f"{endpoint.address}:{endpoint.port}"
    if endpoint.transport == "udp":
        return await _refused(endpoint, where, min(seconds, UDP_SECONDS))
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
    except TimeoutError:
        return f"{where} does not accept TCP within {seconds:g} s"
    except (OSError, ValueError) as error:
        return f"{where}: {getattr(error, 'strerror', None) or error}"
    writer.transport.abort()
    return None


async def _refused(endpoint: Endpoint, where: str, seconds: float) -> str | None:
    """Why nobody is at a UDP endpoint, or `None`: silence tells nothing, a refusal (ICMP) does. What is sent asks for
    a version that no QUIC server has, which most of them answer."""
    try:
        link = await connect_udp(endpoint.address, endpoint.port)
    except OSError as error:
        return f"{where}: {error.strerror or error}"
    try:
        async with asyncio.timeout(seconds):
            link.send(UNKNOWN_VERSION)
            await link.receive()
    except TimeoutError:
        return None
    except LinkReset as refusal:
        return f"{where}: {refusal.reason}"
    finally:
        link.abort()
    return None


async def carries(endpoint: Endpoint, spec: TunnelSpec, queue: UpstreamQueue, seconds: float) -> str | None:
    """Why what a client sends to the endpoint does not come to the upstream behind `queue`, or `None`."""
    if spec.family == "quic":
        return await _carries_quic(endpoint, spec, queue, seconds)
    nonce = secrets.token_hex(16).encode()
    talking = asyncio.create_task(_talk(endpoint, spec, nonce))
    try:
        async with asyncio.timeout(seconds):
            seen = await _until_seen(queue, spec, nonce)
    except TimeoutError:
        seen = None
    finally:
        talking.cancel()
        (told,) = await asyncio.gather(talking, return_exceptions=True)
        for incoming in queue.drain():
            incoming.flow.abort()
    if seen is None:
        return f"nothing came to the upstream within {seconds:g} s{f' ({told})' if isinstance(told, OSError) else ''}"
    return seen or None


async def _carries_quic(endpoint: Endpoint, spec: TunnelSpec, queue: UpstreamQueue, seconds: float) -> str | None:
    from harness.peer.quic import QuicPeer
    from harness.peer.quic_upstream import QuicUpstream
    from harness.wire.quic import ClientOptions

    transcript = Transcript(asyncio.get_running_loop().time)
    alpn = spec.tls_alpns or QUIC_ALPN
    nonce = secrets.token_hex(16).encode()
    behind = QuicUpstream(queue, spec, transcript, "probe")
    try:
        link = await connect_udp(endpoint.address, endpoint.port)
    except OSError as error:
        return f"{endpoint.address}:{endpoint.port}: {error.strerror or error}"
    options = ClientOptions.of(server_name=endpoint.host, alpn=alpn)
    client = QuicPeer.client(link, transcript.channel(DOWNSTREAM, "client", "probe"), options)
    asking = asyncio.create_task(_ask_over_quic(client, nonce))
    try:
        async with asyncio.timeout(seconds):
            await behind.check_nonce(await behind.accept(alpn=alpn), nonce)
            await asking
    except TimeoutError:
        came = "nothing came" if not queue.total else "no connection came about"
        told = f" ({asking.exception()})" if asking.done() and not asking.cancelled() and asking.exception() else ""
        return f"{came} to the upstream within {seconds:g} s{told}"
    except (EngineDeparted, LinkReset) as error:
        return str(error)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await client.shut()
        await behind.close()
    return None


async def _ask_over_quic(client: QuicPeer, nonce: bytes) -> None:
    await client.handshake()
    stream = await client.open_stream()
    await stream.send(nonce, fin=True)
    await stream.receive_until_end()


async def _until_seen(queue: UpstreamQueue, spec: TunnelSpec, nonce: bytes) -> str:
    """Nothing when the first stream that carries anything at the upstream is the client's, else what it was. An engine
    that connects upstream as soon as it is connected to does so for a mere look, too: that stream ends empty."""
    while True:
        data = await _first_octets(await queue.get(), spec, nonce)
        if _recognised(data, spec, nonce):
            return ""
        if data:
            return f"the upstream got {data[:40]!r} and not what the client sent"


async def _first_octets(incoming: Incoming, spec: TunnelSpec, nonce: bytes) -> bytes:
    """What came on the stream, until it is enough to tell or the stream ends; the stream is aborted."""
    data = b""
    try:
        while len(data) < ENOUGH and not _recognised(data, spec, nonce):
            more = await incoming.link.receive()
            if not more:
                break
            data += more
    except LinkReset:
        pass
    finally:
        incoming.flow.abort()
    return data


def _recognised(data: bytes, spec: TunnelSpec, nonce: bytes) -> bool:
    return data.startswith(HANDSHAKE_RECORD) if spec.upstream == "tls" else nonce in data


async def _talk(endpoint: Endpoint, spec: TunnelSpec, nonce: bytes) -> None:
    """Be a client of the standard library until the engine ends it or somebody cancels. Raises OSError."""
    reader, writer = await asyncio.open_connection(
        endpoint.address, endpoint.port, ssl=_context(spec), server_hostname=endpoint.host
    )
    try:
        writer.write(_words(endpoint, spec, nonce))
        while await reader.read(ENOUGH):
            pass
    finally:
        writer.transport.abort()


def _context(spec: TunnelSpec) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    alpns = ("http/1.1",) if spec.family == "http" else spec.tls_alpns[:1]
    if alpns:
        context.set_alpn_protocols(list(alpns))
    return context


def _words(endpoint: Endpoint, spec: TunnelSpec, nonce: bytes) -> bytes:
    if spec.family != "http":
        return nonce
    return b"GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (nonce, endpoint.host.encode())
