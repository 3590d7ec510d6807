"""UDP flows and listeners: whole packets, queues with a limit, a refusal (ICMP port unreachable) told as a reset.

On sockets of our own rather than asyncio's datagram transport, which sends no empty datagram and keeps what the socket
does not take without a limit. What a socket or a queue does not take is lost, as on any network.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Any

from harness.link import tap
from harness.link.datagram import DatagramLink
from harness.link.stream import LinkReset
from harness.model.event import DOWNSTREAM, UPSTREAM

MAX_PACKET = 65535
"""Octets that are read of a datagram: all (RFC 768: its length field has 16 bits)."""
MAX_SENT = 65507
"""Octets of the longest datagram on IPv4 (RFC 791 section 3.1: 65535 with the headers of IP and UDP)."""
MAX_UNREAD = 1 << 20
"""Octets that may lie unread in one flow; what comes on top is lost."""
PACKET_COST = 64
"""What a packet counts on top of its octets: many empty ones are bounded, too."""
MAX_FLOWS = 512
"""Flows of one listener, those together that are open, wait to be accepted, or were closed a short while ago."""
MAX_LEFT = 16
"""Ports that a flow went away from and keeps."""
BURST = 64
"""Packets that are read before the loop does something else."""
BUFFER = 1 << 20
"""What the kernel is asked to hold for us, in octets; it may give less."""
CLOSED = "closed by ourselves"


class _Flow(DatagramLink):
    """What every UDP flow has: a bounded queue of packets that arrived, and an end."""

    def __init__(self) -> None:
        self._packets: deque[bytes] = deque()
        self._unread = 0
        self._readable = asyncio.Event()
        self._over = ""
        self.local: tap.Address = ("", 0)
        self.remote: tap.Address = ("", 0)
        self.lost = 0
        """Packets that found no room in the queue."""

    @property
    def closed(self) -> bool:
        """Whether the flow is over: closed, or refused by the other side."""
        return bool(self._over)

    @property
    def refused(self) -> bool:
        """Whether it was not us who ended it."""
        return self._over not in ("", CLOSED)

    def _arrived(self, packet: bytes) -> None:
        if self._over:
            return
        cost = len(packet) + PACKET_COST
        if self._unread + cost > MAX_UNREAD:
            self.lost += 1
            return
        self.tap.got(packet)
        self._unread += cost
        self._packets.append(packet)
        self._readable.set()

    def _check(self, packet: bytes = b"") -> None:
        if self._over:
            raise LinkReset(self._over)
        if len(packet) > MAX_SENT:
            raise ValueError(f"a datagram of {len(packet)} octets, allowed are {MAX_SENT}")

    def _end(self, reason: str) -> None:
        self._over = self._over or reason
        self._readable.set()

    async def receive(self) -> bytes:
        """The next packet. Raises `LinkReset` when nothing is left and the flow is over."""
        while (packet := self.receive_now()) is None:
            if self._over:
                raise LinkReset(self._over)
            self._readable.clear()
            await self._readable.wait()
        return packet

    def receive_now(self) -> bytes | None:
        """The next packet that is there already, or None."""
        if not self._packets:
            return None
        packet = self._packets.popleft()
        self._unread -= len(packet) + PACKET_COST
        return packet

    async def close(self) -> None:
        """End the flow; nothing is told to the other side, since UDP has no end."""
        self.abort()


class UdpLink(_Flow):
    """A flow of ours to one address. Made by `connect_udp`.

    Once the other side's host said that nobody listens there, the flow is over: `LinkReset`, behind what arrived
    before.
    """

    def __init__(self, sock: socket.socket, leg: str = DOWNSTREAM) -> None:
        super().__init__()
        self._left: deque[socket.socket] = deque()
        self._use(sock)
        self.tap = tap.current().datagrams(leg, self.local, self.remote, dialed=True)

    def _use(self, sock: socket.socket) -> None:
        self._socket = sock
        self.local = sock.getsockname()[:2]
        self.remote = sock.getpeername()[:2]
        asyncio.get_running_loop().add_reader(sock, self._on_readable)

    def _on_readable(self) -> None:
        refused: OSError | None = None
        for _ in range(BURST):
            try:
                self._arrived(self._socket.recv(MAX_PACKET))
            except BlockingIOError:
                break
            except OSError as error:
                # It stands in front of packets that came before.
                refused = refused or error
        if refused:
            self._refuse(refused)

    def _refuse(self, error: OSError) -> None:
        if isinstance(error, ConnectionRefusedError):
            self.tap.got_reset()
        self._shut(f"UDP: {(error.strerror or str(error)).lower()}")

    def _shut(self, reason: str) -> None:
        if not self._over:
            asyncio.get_running_loop().remove_reader(self._socket)
            for sock in (self._socket, *self._left):
                sock.close()
            self.tap.sent_end()
            self._end(reason)

    def send(self, packet: bytes) -> None:
        """Send one packet. Raises `LinkReset` when the flow is over, `ValueError` for more than `MAX_SENT` octets."""
        self._check(packet)
        self.tap.sent(packet)
        try:
            self._socket.send(packet)
        except BlockingIOError:
            return
        except OSError as error:
            # The kernel tells at the next call that an earlier packet was refused; what arrived before is read first.
            self._on_readable()
            self._refuse(error)
            raise LinkReset(self._over) from error

    def rebind(self) -> None:
        """Go on from another local port, as behind a NAT that forgot the flow. The old one stays bound, so that what
        comes there is lost rather than refused. Raises `LinkReset` when the flow is over, `OSError`."""
        self._check()
        address, _, *rest = self._socket.getsockname()
        sock = _connected(self._socket.family, self._socket.getpeername(), (address, 0, *rest))
        asyncio.get_running_loop().remove_reader(self._socket)
        self._left.append(self._socket)
        if len(self._left) > MAX_LEFT:
            self._left.popleft().close()
        self._use(sock)
        self.tap = self.tap.moved(self.local)

    def abort(self) -> None:
        """End the flow at once. Safe to call twice."""
        self._shut(CLOSED)


def _connected(family: int, remote: Any, local: Any = None) -> socket.socket:
    """A connected socket that does not block, bound to `local` (port 0: any). Raises `OSError`."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if local is not None:
            sock.bind(local)
        sock.connect(remote)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_udp(host: str, port: int, *, leg: str = DOWNSTREAM, local: str | None = None) -> UdpLink:
    """A flow of `leg` from a port of its own to `host:port`, of the address `local` where it is given; nothing is sent
    yet. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    family, _, _, _, remote = found[0]
    return UdpLink(_connected(family, remote, None if local is None else (local, 0)), leg)


class UdpFlow(_Flow):
    """What comes to a listener from one address, and goes back there."""

    def __init__(self, listener: UdpListener, remote: Any) -> None:
        super().__init__()
        self._listener = listener
        self._address = remote
        self.local = (listener.host, listener.port)
        self.remote = remote[:2]
        self.tap = tap.current().datagrams(UPSTREAM, self.local, self.remote, dialed=False)

    def send(self, packet: bytes) -> None:
        """Send one packet. Raises `LinkReset` when the flow is over, `ValueError` for more than `MAX_SENT` octets."""
        self._check(packet)
        self.tap.sent(packet)
        self._listener.send_to(self._address, packet)

    def abort(self) -> None:
        """End the flow at once; what still comes from its address is dropped. Safe to call twice."""
        self.tap.sent_end()
        self._end(CLOSED)


class UdpListener:
    """A UDP port of its own (bind 0): each remote address is a flow, and those that nobody took wait in order of
    arrival.

    A closed flow keeps its address until `MAX_FLOWS` are known, so that what was under way to it is no new flow. While
    all of them are open, packets from further addresses are lost.
    """

    def __init__(self) -> None:
        self._flows: dict[Any, UdpFlow] = {}
        self._waiting: deque[UdpFlow] = deque()
        self._arrived = asyncio.Event()
        self._socket: socket.socket | None = None
        self.host = "127.0.0.1"
        self.port = 0
        self.lost = 0
        """Packets of addresses that found no room."""

    async def start(self, host: str = "127.0.0.1") -> None:
        """Bind. Raises `OSError`."""
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            sock.bind((host, 0))
        except BaseException:
            sock.close()
            raise
        self.host, self.port = sock.getsockname()[:2]
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._on_readable)

    def _on_readable(self) -> None:
        assert self._socket is not None
        for _ in range(BURST):
            try:
                packet, remote = self._socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                # About a packet that we sent; it does not say which flow's.
                continue
            flow = self._flows.get(remote) or self._new_flow(remote)
            if flow is None:
                self.lost += 1
            else:
                flow._arrived(packet)  # noqa: SLF001 - a flow is the listener's own part

    def _new_flow(self, remote: Any) -> UdpFlow | None:
        if len(self._flows) >= MAX_FLOWS:
            closed = next((address for address, flow in self._flows.items() if flow.closed), None)
            if closed is None:
                return None
            del self._flows[closed]
        flow = self._flows[remote] = UdpFlow(self, remote)
        self._waiting.append(flow)
        self._arrived.set()
        return flow

    def send_to(self, remote: Any, packet: bytes) -> None:
        """Send a packet of the flow with `remote`; what the socket does not take is lost."""
        assert self._socket is not None
        with contextlib.suppress(OSError):
            self._socket.sendto(packet, remote)

    async def accept(self) -> UdpFlow:
        """The next flow, oldest first; its first packet is there already."""
        await self.arrival()
        return self._waiting.popleft()

    async def arrival(self) -> None:
        """Return as soon as a flow waits to be accepted."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()

    @property
    def waiting(self) -> int:
        """Flows that arrived and were not accepted yet."""
        return len(self._waiting)

    def strays(self) -> list[UdpFlow]:
        """Take every flow that was not accepted."""
        taken = list(self._waiting)
        self._waiting.clear()
        return taken

    async def stop(self) -> None:
        """Close the port and every flow."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        for flow in self._flows.values():
            flow.abort()
        self._flows.clear()
        self._waiting.clear()
