"""The public UDP port: QUIC, told apart from DTLS and from junk, each packet brought to its connection.

Everything that can be asked of it before an address is proven is bounded: connections, unfinished handshakes, and what
goes out for what came in (RFC 9000 sections 8.1 and 21).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from reference_engine.agent.quic import AgentQuic, answer_to_agents
from reference_engine.config import ConfigError
from reference_engine.edge.client_hello import ClientHello
from reference_engine.quic.configuration import VERSIONS, server_configuration
from reference_engine.quic.connection import CID_LENGTH, QuicEnd, read_header
from reference_engine.quic.rules import CONNECTION_REFUSED, LONG_HEADER, NO_ERROR, Kind
from reference_engine.quic.stream import QuicClosed
from reference_engine.quic.transport import QuicTransport
from reference_engine.quic.upstream import peer_windows
from reference_engine.relay.stream import Address

if TYPE_CHECKING:
    from reference_engine.engine import Engine

LONGEST = 65_535
AT_ONCE = 64
"""Datagrams that are read in one go before anybody else gets a turn."""
SOCKET_BUFFER = 4 << 20
"""Octets that the system is asked to keep for us in each direction (it may give less)."""
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
"""ip(7): the bit that forbids fragments is set, whatever the system believes the path to be. Not named in Python."""


class UdpListener:
    """One UDP port. `counts` says what came and was not taken: `dtls`, `junk`, `small`, `unknown`, `refused`, `invalid
    token`, and what was sent without a connection: `version negotiation`, `retry`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._socket: socket.socket | None = None
        self._by_cid: dict[bytes, QuicTransport] = {}
        self._transports: dict[QuicTransport, set[bytes]] = {}
        self._unfinished: set[QuicTransport] = set()
        self._timers: dict[QuicTransport, asyncio.TimerHandle] = {}
        self._served: set[asyncio.Task[None]] = set()
        self._tokens = QuicRetryTokenHandler()
        self._closing = False
        self.counts: Counter[str] = Counter()

    @property
    def connections(self) -> tuple[QuicTransport, ...]:
        """The connections that are open now, those that are closing included."""
        return tuple(self._transports)

    @property
    def unfinished(self) -> int:
        """Connections whose handshake is not complete."""
        return len(self._unfinished)

    # -- start and stop --------------------------------------------------------------------------------------------

    async def start(self) -> Address:
        """Bind; the address has the port that the system gave. Raises ConfigError."""
        listen = self._engine.settings.udp_listen
        if listen is None:
            raise ConfigError("udp_listen: off")
        loop = asyncio.get_running_loop()
        try:
            family, _, _, _, name = (
                await loop.getaddrinfo(listen.host, listen.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
            )[0]
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                self._socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
            if family == socket.AF_INET:
                # No packet of ours is fragmented on the way (RFC 9000 section 14).
                self._socket.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            self._socket.bind(name)
        except OSError as problem:
            self._drop_socket()
            raise ConfigError(f"udp_listen: cannot listen on {listen}: {problem.strerror or problem}") from None
        loop.add_reader(self._socket.fileno(), self._readable)
        host, port = self._socket.getsockname()[:2]
        return Address(str(host), int(port))

    def refuse_new(self) -> None:
        """Take no new connection; those that are there go on."""
        self._closing = True

    async def stop(self, grace: float) -> None:
        """Let what was written arrive within `grace` seconds, then close every connection and the port."""
        self.refuse_new()
        if self._transports and grace > 0:
            drained = [asyncio.ensure_future(transport.drained()) for transport in self._transports]
            await asyncio.wait(drained, timeout=grace)
            for waiting in drained:
                waiting.cancel()
            await asyncio.gather(*drained, return_exceptions=True)
        for task in tuple(self._served):
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)
        for transport in tuple(self._transports):
            transport.close(NO_ERROR, "the engine stops", application=False)
            transport.flush()
            transport.drop()
        self._drop_socket()

    def _drop_socket(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    # -- packets ---------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            if self._socket is None:
                return
            try:
                datagram, hop = self._socket.recvfrom(LONGEST)
            except BlockingIOError:
                return
            except OSError as problem:
                # A port that was unreachable for what we sent: an ICMP error proves nothing (RFC 9000 section 14.2.1).
                self._engine.log.debug("udp error problem=%r", problem)
                continue
            self._received(datagram, hop)

    def _send(self, packet: bytes, hop: Any) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(packet, hop)
        except OSError:
            self.counts["not sent"] += 1  # As good as lost on the way.

    def _received(self, datagram: bytes, hop: Any) -> None:
        rules = self._engine.parts.quic
        kind = rules.kind(datagram)
        if kind is not Kind.QUIC:
            self.counts[kind.value] += 1
            return
        if datagram[0] & LONG_HEADER:
            transport = self._long(datagram, hop)
        else:
            transport = self._by_cid.get(datagram[1 : 1 + CID_LENGTH])
        if transport is None:
            self.counts["unknown"] += 1
            if answer := rules.answer_to_stray(datagram):
                self._send(answer, hop)
        elif transport.connection.get_peer_address() in (None, hop) or rules.follows(_address(hop), transport.peer):
            transport.receive(datagram, hop)
            if not transport.connection.started:
                # Nothing of it was genuine.
                transport.drop()

    def _long(self, datagram: bytes, hop: Any) -> QuicTransport | None:
        """The connection of a datagram that begins with a long header, which may be a new one."""
        rules = self._engine.parts.quic
        try:
            header = read_header(datagram)
        except ValueError:
            header = None
        invariant = _invariant(datagram)
        if invariant is None:
            return None
        version, destination, source = invariant
        known = self._by_cid.get(destination)
        if known is not None:
            return known
        if rules.negotiates_version(version, VERSIONS, len(datagram)):
            self.counts["version negotiation"] += 1
            self._send(rules.negotiation(destination, source, VERSIONS), hop)
            return None
        if header is None or header.packet_type is not QuicPacketType.INITIAL or version not in VERSIONS:
            return None
        if not rules.may_start(destination, len(datagram)):
            self.counts["small"] += 1
            return None
        return self._new(header, hop)

    def _new(self, header: QuicHeader, hop: Any) -> QuicTransport | None:
        """The connection that an Initial starts; None where it is not taken, or has to prove its address first."""
        engine, rules = self._engine, self._engine.parts.quic
        settings = engine.settings
        if (
            self._closing
            or not rules.has_room(len(self._transports), settings.max_connections)
            or not rules.has_room(len(self._unfinished), settings.quic_max_unfinished)
        ):
            self.counts["refused"] += 1
            return None
        original = self._redeemed(header, hop) if header.token else None
        if original is None and rules.wants_retry(len(self._unfinished), settings.quic_retry_above):
            if header.token:
                self.counts["invalid token"] += 1
            else:
                self._retry(header, hop)
            return None
        retried = header.destination_cid if original is not None else None
        return self._open(header.destination_cid, original or header.destination_cid, retried, hop)

    def _redeemed(self, header: QuicHeader, hop: Any) -> bytes | None:
        """The id that the client chose first, where its token proves that it got our Retry at this address; None for a
        token that proves nothing, which is then as good as none (RFC 9000 section 8.1.3)."""
        try:
            return self._tokens.validate_token(
                address=_plain(hop),
                destination_cid=header.destination_cid,
                token=header.token,
                now=asyncio.get_running_loop().time(),
            )
        except ValueError:
            return None

    def _retry(self, header: QuicHeader, hop: Any) -> None:
        cid = self._engine.parts.quic.retry_id(header.destination_cid)
        token = self._tokens.create_token(
            address=_plain(hop),
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=cid,
            now=asyncio.get_running_loop().time(),
        )
        self.counts["retry"] += 1
        self._send(
            encode_quic_retry(
                version=header.version or VERSIONS[0],
                source_cid=cid,
                destination_cid=header.source_cid,
                original_destination_cid=header.destination_cid,
                retry_token=token,
            ),
            hop,
        )

    # -- connections -----------------------------------------------------------------------------------------------

    def _open(self, destination: bytes, original: bytes, retried: bytes | None, hop: Any) -> QuicTransport:
        engine, settings = self._engine, self._engine.settings
        windows = peer_windows(engine)
        connection = engine.parts.quic_endpoints.server(
            server_configuration(engine.certificates.current(), windows, idle=settings.quic_idle_ms / 1000),
            windows=windows,
            most_hello=settings.max_client_hello_bytes,
            read_hello=engine.parts.edge.read_hello,
            original_destination_connection_id=original,
            retry_source_connection_id=retried,
        )
        transport = QuicTransport(
            connection,
            self._send,
            peer=_address(hop),
            high_water=settings.stream_buffer_bytes,
            most_datagrams=settings.quic_datagrams,
            on_hello=self._hello,
            on_cid=self._cid,
            on_complete=self._complete,
            on_over=self._over,
            on_gone=self._gone,
        )
        self._transports[transport] = set()
        self._unfinished.add(transport)
        for cid in (destination, *connection.own_cids):
            self._cid(transport, cid, True)
        self._timers[transport] = asyncio.get_running_loop().call_later(
            settings.handshake_timeout_ms / 1000, self._too_late, transport
        )
        return transport

    def _cid(self, transport: QuicTransport, cid: bytes, issued: bool) -> None:
        mine = self._transports.get(transport)
        if mine is None:
            return
        if issued:
            mine.add(cid)
            self._by_cid[cid] = transport
        else:
            mine.discard(cid)
            self._by_cid.pop(cid, None)

    def _too_late(self, transport: QuicTransport) -> None:
        self._timers.pop(transport, None)
        transport.close(CONNECTION_REFUSED, "handshake timed out", application=False)

    def _settled(self, transport: QuicTransport) -> None:
        self._unfinished.discard(transport)
        timer = self._timers.pop(transport, None)
        if timer is not None:
            timer.cancel()

    def _complete(self, transport: QuicTransport) -> None:
        self._settled(transport)

    def _over(self, transport: QuicTransport, end: QuicEnd) -> None:
        self._settled(transport)
        self._engine.log.debug("quic connection over peer=%s by=%s code=%#x", transport.peer, end.by, end.code)

    def _gone(self, transport: QuicTransport) -> None:
        for cid in self._transports.pop(transport, ()):
            if self._by_cid.get(cid) is transport:
                del self._by_cid[cid]
        self._settled(transport)

    # -- whose they are --------------------------------------------------------------------------------------------

    def _hello(self, transport: QuicTransport, hello: ClientHello) -> None:
        engine = self._engine
        route = engine.parts.quic.route(hello, engine.registry, engine.settings.domain, engine.parts.edge)
        if route.tunnel is not None and route.tunnel.properties.protocol == "http":
            self._serve(engine.http.serve_quic(transport, route.tunnel, hello))
            return
        if route.tunnel is not None:
            self._serve(engine.quic_tunnels.serve(transport, route.tunnel, hello))
            return
        if route.agents:
            transport.answer(answer_to_agents(engine))
            self._serve(AgentQuic(engine, transport).serve())
            return
        engine.log.info("quic refused peer=%s name=%r reason=%r", transport.peer, hello.server_name, route.reason)
        transport.refuse(route.alert, route.reason)

    def _serve(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._served.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._served.discard(task)
        problem = None if task.cancelled() else task.exception()
        if problem is not None and not isinstance(problem, QuicClosed):
            self._engine.log.error("quic connection failed problem=%r", problem, exc_info=problem)


def _invariant(datagram: bytes) -> tuple[int, bytes, bytes] | None:
    """Version, destination and source connection id of a long header, in whatever version (RFC 8999 section 5.1)."""
    if len(datagram) < 7:
        return None
    at = 6 + datagram[5]
    if len(datagram) <= at:
        return None
    end = at + 1 + datagram[at]
    if len(datagram) < end:
        return None
    return int.from_bytes(datagram[1:5], "big"), datagram[6:at], datagram[at + 1 : end]


def _plain(hop: Any) -> tuple[str, int]:
    """Host and port without what else the tuple of an IPv6 socket holds."""
    return str(hop[0]).partition("%")[0], int(hop[1])


def _address(hop: Any) -> Address:
    """The address as the rest of the engine has it; an IPv4-mapped one as the IPv4 address that it is."""
    host, port = _plain(hop)
    mapped = getattr(ipaddress.ip_address(host), "ipv4_mapped", None)
    return Address(str(mapped or host), port)
