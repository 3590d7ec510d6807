"""QUIC for the load: aioquic on both sides, one thread for each side, no transcript and no event loop.

Client and upstream say the same over a stream of QUIC as the others do over TLS (see `blocks`); the upstream sends
datagrams back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from harness.bench.blocks import BLOCK, COMMAND, COUNT, LAST, MORE, WrongBytes
from harness.bench.streams import TIMEOUT, Target

ALPN = "edgecase-bench"
DATAGRAM = 1000
"""Octets of a datagram of the load: it fits in one packet of 1,200 octets with what stands around it."""
HIGH = 4 * BLOCK
"""Octets that wait to be sent on a stream before no more are made."""
BURST = 64
"""Datagrams of a socket that are taken before those are sent that are due."""
_PACKET = 65_536
_DATAGRAM_FRAME = 65_535
_BUFFER = 4 << 20


def server_configuration(certificate: Sequence[str], alpn: str = ALPN) -> QuicConfiguration:
    """The upstream's side, from a PEM chain and its key. Raises `OSError`."""
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=[alpn], max_datagram_frame_size=_DATAGRAM_FRAME, idle_timeout=TIMEOUT
    )
    configuration.load_cert_chain(*certificate)
    return configuration


def client_configuration(target: Target, alpn: str = ALPN, *, packet: int = 1200) -> QuicConfiguration:
    """A client's side, with datagrams on the wire of at most `packet` octets. Raises `OSError`."""
    configuration = QuicConfiguration(
        alpn_protocols=[alpn],
        server_name=target.server_name,
        max_datagram_frame_size=_DATAGRAM_FRAME,
        max_datagram_size=packet,
        idle_timeout=TIMEOUT,
    )
    if target.insecure:
        configuration.verify_mode = ssl.CERT_NONE
    elif target.ca_file:
        configuration.load_verify_locations(target.ca_file)
    return configuration


def queued(connection: QuicConnection, stream_id: int) -> int:
    """Octets of a stream that are not sent yet: aioquic has no public name for them."""
    return len(connection._streams[stream_id].sender._buffer)  # noqa: SLF001


def udp_socket() -> socket.socket:
    """A socket that does not wait, with room for bursts."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    made.setblocking(False)
    return made


class Comparer:
    """Bulk as it arrives, compared with what was sent."""

    def __init__(self) -> None:
        self.octets = 0
        self._at = 0
        self._block = MORE

    def feed(self, data: bytes) -> bool:
        """Compare the next octets; says whether the last block is complete. Raises `WrongBytes`."""
        at = 0
        while at < len(data):
            if self._at == 0:
                self._block = LAST if data[at] == LAST[0] else MORE
            size = min(BLOCK - self._at, len(data) - at)
            if data[at : at + size] != self._block[self._at : self._at + size]:
                raise WrongBytes(f"the octets behind {self.octets} are not the ones that were sent")
            at += size
            self.octets += size
            self._at = (self._at + size) % BLOCK
            if self._at == 0 and self._block is LAST:
                return True
        return False


class Upload:
    """Blocks for a stream, made as they leave, until `until`; the last one says so."""

    def __init__(self, connection: QuicConnection, stream_id: int, seconds: float) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._until = time.monotonic() + seconds
        self.octets = 0
        self.over = False

    def fill(self) -> None:
        """Queue what there is room for."""
        while not self.over and queued(self._connection, self._stream_id) < HIGH:
            self.over = time.monotonic() >= self._until
            self._connection.send_stream_data(self._stream_id, LAST if self.over else MORE)
            self.octets += BLOCK


class Session:
    """The upstream's side of one connection. Feed it packets, then send what its `turn` gives."""

    def __init__(self, configuration: QuicConfiguration, first: bytes) -> None:
        # Flags, version, then a length and the destination connection id (RFC 8999 section 5.1).
        self.connection = QuicConnection(
            configuration=configuration, original_destination_connection_id=first[6 : 6 + first[5]]
        )
        self.over = False
        self._heads: dict[int, bytes] = {}
        self._comparers: dict[int, Comparer] = {}
        self._uploads: dict[int, Upload] = {}

    def receive(self, packet: bytes, address: Any = ("upstream", 0)) -> None:
        """Take a packet."""
        self.connection.receive_datagram(packet, address, time.monotonic())

    def work(self) -> None:
        """Do what has become due. Raises `WrongBytes`."""
        now = time.monotonic()
        timer = self.connection.get_timer()
        if timer is not None and timer <= now:
            self.connection.handle_timer(now)
        while (event := self.connection.next_event()) is not None:
            self.handle(event)
        for stream_id, upload in tuple(self._uploads.items()):
            upload.fill()
            if upload.over:
                del self._uploads[stream_id]

    def handle(self, event: events.QuicEvent) -> None:
        """Follow commands, and send datagrams back. Raises `WrongBytes`."""
        if isinstance(event, events.StreamDataReceived):
            self._data(event.stream_id, event.data)
        elif isinstance(event, events.DatagramFrameReceived):
            self.connection.send_datagram_frame(event.data)
        elif isinstance(event, events.ConnectionTerminated):
            self.over = True

    def _data(self, stream_id: int, data: bytes) -> None:
        comparer = self._comparers.get(stream_id)
        if comparer is not None:
            if comparer.feed(data):
                self.connection.send_stream_data(stream_id, COUNT.pack(comparer.octets))
                del self._comparers[stream_id]
            return
        head = self._heads.pop(stream_id, b"") + data
        if len(head) < COMMAND.size:
            self._heads[stream_id] = head
            return
        name, seconds = COMMAND.unpack_from(head)
        if name == b"down":
            self._uploads[stream_id] = Upload(self.connection, stream_id, seconds)
            self.connection.send_stream_data(stream_id, b"")
        elif name == b"up\0\0":
            self._comparers[stream_id] = Comparer()
            if len(head) > COMMAND.size:
                self._data(stream_id, head[COMMAND.size :])
        else:
            self.connection.send_stream_data(stream_id, head)

    def turn(self) -> list[bytes]:
        """Do what has become due, and give the packets that are. Wrong octets end the connection, and the client's side
        says so."""
        try:
            self.work()
        except WrongBytes:
            self.connection.close(1, reason_phrase="wrong octets")
        return [packet for packet, _ in self.connection.datagrams_to_send(time.monotonic())]

    @property
    def due(self) -> float | None:
        """When `work` has something to do without a packet, on the monotonic clock."""
        return self.connection.get_timer()


def wait_seconds(dues: Iterable[float | None], most: float = 1.0) -> float:
    """How long to wait for a packet at most."""
    now = time.monotonic()
    return min((max(0.0, due - now) for due in dues if due is not None), default=most)


NewSession = Callable[[bytes], Session]
"""Makes the session of a connection whose first packet is given."""


class UdpUpstream:
    """Sessions on a UDP port, one for each address, all in one thread."""

    def __init__(self, new: NewSession) -> None:
        self._new = new
        self._socket = udp_socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._sessions: dict[Any, Session] = {}

    def run(self) -> None:
        """Serve for as long as the process lives."""
        while True:
            select.select([self._socket], [], [], wait_seconds(one.due for one in self._sessions.values()))
            for packet, address in _burst(self._socket):
                session = self._sessions.get(address)
                if session is None:
                    session = self._sessions[address] = self._new(packet)
                session.receive(packet, address)
            for address, session in tuple(self._sessions.items()):
                for packet in session.turn():
                    # What the socket does not take is lost like any other; QUIC sends again.
                    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                        self._socket.sendto(packet, address)
                if session.over:
                    del self._sessions[address]


def _burst(sock: socket.socket) -> Iterable[tuple[bytes, Any]]:
    for _ in range(BURST):
        try:
            yield sock.recvfrom(_PACKET)
        except (BlockingIOError, ConnectionRefusedError):
            return


class QuicClient:
    """One connection to a target, with its handshake done. Raises `OSError`, also when the connection ends early."""

    def __init__(self, target: Target, alpn: str = ALPN, *, packet: int = 1200) -> None:
        self._socket = udp_socket()
        self._socket.connect((target.address, target.port))
        self._events: deque[events.QuicEvent] = deque()
        self._ended: events.ConnectionTerminated | None = None
        self.connection = QuicConnection(configuration=client_configuration(target, alpn, packet=packet))
        self.connection.connect((target.address, target.port), now=time.monotonic())
        try:
            self.until(lambda event: isinstance(event, events.HandshakeCompleted))
        except BaseException:
            self._socket.close()
            raise

    def step(self, most: float = 1.0) -> None:
        """Send what is due; wait for a packet, for a timer or for `most` seconds."""
        self.flush()
        select.select([self._socket], [], [], wait_seconds([self.connection.get_timer()], most))
        self.take()
        self.flush()

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def take(self) -> None:
        """Take what has arrived, and what time has brought."""
        now = time.monotonic()
        for packet, address in _burst(self._socket):
            self.connection.receive_datagram(packet, address, now)
        timer = self.connection.get_timer()
        if timer is not None and timer <= now:
            self.connection.handle_timer(now)
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, events.ConnectionTerminated):
                self._ended = event
            self._events.append(event)

    def flush(self) -> None:
        """Send what is due."""
        for packet, _ in self.connection.datagrams_to_send(time.monotonic()):
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self._socket.send(packet)

    def happened(self) -> Iterable[events.QuicEvent]:
        """What has happened and nobody has seen yet. Raises `OSError` behind the end."""
        while self._events:
            yield self._events.popleft()
        if self._ended is not None:
            raise OSError(f"the QUIC connection ended: {self._ended.error_code:#x} {self._ended.reason_phrase!r}")

    def until(self, wanted: Callable[[events.QuicEvent], bool], idle: Callable[[], None] | None = None) -> None:
        """Go on until an event is the wanted one; `idle` runs in each turn. Raises `OSError`."""
        last = time.monotonic() + TIMEOUT
        while time.monotonic() < last:
            if idle is not None:
                idle()
            self.step()
            for event in self.happened():
                if wanted(event):
                    return
                last = time.monotonic() + TIMEOUT
        raise OSError(f"nothing of use came for {TIMEOUT:g} s")

    def stream(self) -> int:
        """The id of a new bidirectional stream."""
        stream_id = self.connection.get_next_available_stream_id()
        self.connection.send_stream_data(stream_id, b"")
        return stream_id

    def ask(self, stream_id: int, question: bytes, size: int) -> bytes:
        """Send, and wait for `size` octets. Raises `OSError`."""
        got = bytearray()

        def arrived(event: events.QuicEvent) -> bool:
            if isinstance(event, events.StreamDataReceived) and event.stream_id == stream_id:
                got.extend(event.data)
            return len(got) >= size

        self.connection.send_stream_data(stream_id, question)
        self.until(arrived)
        return bytes(got)

    def close(self) -> None:
        """Say goodbye and do not wait for an answer."""
        self.connection.close()
        self.flush()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()
