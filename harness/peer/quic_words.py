"""What a scripted QUIC peer saw, in the field's words: for its transcript."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness.peer.tls import hello_detail
from harness.wire import quic as seen

Words = tuple[str, str, bytes | None]
"""The step, its readable rest, its payload."""


def merged(events: Sequence[seen.Event]) -> Iterator[seen.Event]:
    """Neighbouring data of one stream as one event: a transcript counts steps, not packets."""
    run: list[seen.StreamData] = []
    for event in events:
        data = event if isinstance(event, seen.StreamData) else None
        if run and not (data and (data.stream_id, data.early) == (run[0].stream_id, run[0].early)):
            yield _joined(run)
            run = []
        if data:
            run.append(data)
        else:
            yield event
    if run:
        yield _joined(run)


def _joined(run: Sequence[seen.StreamData]) -> seen.StreamData:
    return seen.StreamData(run[0].stream_id, b"".join(each.data for each in run), run[-1].fin, run[0].early)


def describe(event: seen.Event) -> Words | None:
    """One event; None for what every connection has."""
    told = _WORDS.get(type(event))
    return told(event) if told else None


def stream_detail(stream_id: int, *, fin: bool = False, early: bool = False) -> str:
    """`stream 4, FIN`."""
    return f"stream {stream_id}{', FIN' if fin else ''}{', 0-RTT' if early else ''}"


def kind_of(stream_id: int) -> str:
    """Uni- or bidirectional (RFC 9000 section 2.1)."""
    return "unidirectional" if stream_id & 2 else "bidirectional"


def _done(event: seen.HandshakeCompleted) -> Words:
    parts = [f"version 0x{event.version:x}", f"ALPN {event.alpn}" if event.alpn is not None else "no ALPN"]
    if event.resumed:
        parts.append("resumed")
    if event.early_data_accepted:
        parts.append("0-RTT accepted")
    if event.peer_verified:
        parts.append(f"certificate: {event.peer_verified}")
    return "handshake complete", ", ".join(parts), None


def _ended(event: seen.Ended) -> Words:
    closed = event.end.kind in ("application", "transport")
    return "CONNECTION_CLOSE" if closed else "end of the connection", str(event.end), None


_WORDS: dict[type[Any], Callable[[Any], Words]] = {
    seen.ClientHelloReceived: lambda event: ("Initial", hello_detail(event.hello), None),
    seen.HandshakeCompleted: _done,
    seen.StreamOpened: lambda event: ("stream opened", f"stream {event.stream_id}, {kind_of(event.stream_id)}", None),
    seen.StreamData: lambda event: (
        "stream data", stream_detail(event.stream_id, fin=event.fin, early=event.early), event.data,
    ),
    seen.StreamReset: lambda event: (
        "RESET_STREAM", f"stream {event.stream_id}, code {event.code}, final size {event.final_size}", None,
    ),
    seen.StopSendingReceived: lambda event: ("STOP_SENDING", f"stream {event.stream_id}, code {event.code}", None),
    seen.DatagramReceived: lambda event: ("DATAGRAM", "0-RTT" if event.early else "", event.data),
    seen.KeysUpdated: lambda event: ("keys updated", f"generation {event.generation}", None),
    seen.RetryReceived: lambda event: ("Retry", f"a token of {len(event.token)} octets", None),
    seen.NegotiationReceived: lambda event: (
        "Version Negotiation", ", ".join(f"0x{version:08x}" for version in event.versions), None,
    ),
    seen.ProtocolViolation: lambda event: ("QUIC violation", str(event), None),
    seen.EarlyDataRejected: lambda event: ("0-RTT rejected", "", None),
    seen.PingAcknowledged: lambda event: ("ACK of the PING", "", None),
    seen.Ended: _ended,
}  # fmt: skip
