"""A datagram channel on a TLS connection of the agent, with the QUIC upstream inside (agent protocol section 2.5)."""

from __future__ import annotations

import select
import ssl

from harness.bench.quic import NewSession, Session, wait_seconds

_HEAD = 4
_READ = 1 << 18


def carry_packets(stream: ssl.SSLSocket, new: NewSession) -> None:
    """Serve the channel on `stream` until it ends: four octets of length in front of each packet. Raises `OSError`."""
    stream.setblocking(False)
    rest = bytearray()
    session: Session | None = None
    while session is None or not session.over:
        select.select([stream], [], [], wait_seconds([session.due] if session else []))
        if not _read(stream, rest):
            break
        for packet in packets(rest):
            if session is None:
                session = new(packet)
            session.receive(packet)
        if session is not None:
            framed = [part for packet in session.turn() for part in (len(packet).to_bytes(_HEAD, "big"), packet)]
            _write(stream, b"".join(framed))
    stream.close()


def _read(stream: ssl.SSLSocket, into: bytearray) -> bool:
    """Take what is there; False at the end of the stream."""
    try:
        while data := stream.recv(_READ):
            into += data
            if not stream.pending():
                return True
    except ssl.SSLWantReadError:
        return True
    return False


def packets(rest: bytearray) -> list[bytes]:
    """Whole packets at the front of `rest`, which are taken away."""
    whole, at = [], 0
    while len(rest) - at >= _HEAD:
        size = int.from_bytes(rest[at : at + _HEAD], "big")
        if len(rest) - at - _HEAD < size:
            break
        whole.append(bytes(rest[at + _HEAD : at + _HEAD + size]))
        at += _HEAD + size
    del rest[:at]
    return whole


def _write(stream: ssl.SSLSocket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[stream.send(view) :]
        except ssl.SSLWantWriteError:
            select.select([], [stream], [])
        except ssl.SSLWantReadError:
            select.select([stream], [], [])
