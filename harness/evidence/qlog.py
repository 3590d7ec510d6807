"""Notes the packets of QUIC connections, and makes qlog files of them, without I/O.

The format is qlog 0.3 as JSON, which viewers (qvis) read: draft-ietf-quic-qlog-main-schema-02 for the frame of it,
draft-ietf-quic-qlog-quic-events-01 for the events. It tells headers and frames, and never what a stream carried.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from harness.link.tap import QuicTap
from harness.version import suite_version
from harness.wire.quic import PacketInfo, PacketKind, QuicEnd, QuicOptions
from harness.wire.quic import frames as quic

LIMIT = 8 << 20
"""Octets of the packets of one case that are noted (8 MiB), those of all its connections together."""
PACKET_COST = 256
"""What a packet counts on top of its octets: many small ones are bounded, too."""
VERSION = "0.3"
PACKET_TYPES = {
    PacketKind.INITIAL: "initial",
    PacketKind.EARLY: "0RTT",
    PacketKind.HANDSHAKE: "handshake",
    PacketKind.RETRY: "retry",
    PacketKind.SHORT: "1RTT",
    PacketKind.NEGOTIATION: "version_negotiation",
    PacketKind.UNKNOWN: "unknown",
}
TRIGGERS = {"duplicate": "duplicate", "version": "unsupported_version"}
"""Why a packet was dropped, where the format has a word for it."""

Options = TypeVar("Options", bound=QuicOptions)
Fields = dict[str, Any]


class Trace(QuicTap):
    """One connection, told by `us`: `client` or `server`."""

    def __init__(self, log: Qlog, leg: str, us: str, name: str) -> None:
        self._log = log
        self.leg = leg
        self.us = us
        self.name = name
        self.noted: list[tuple[float, str, PacketInfo | QuicEnd]] = []
        self._over = False

    def hooked(self, options: Options) -> Options:
        """See `QuicTap`."""
        theirs = options.on_packet

        def on_packet(direction: str, info: PacketInfo) -> None:
            self._log.note(self, direction, info, info.size)
            if theirs is not None:
                theirs(direction, info)

        return dataclasses.replace(options, on_packet=on_packet)

    def closed(self, end: QuicEnd | None) -> None:
        """See `QuicTap`; the first end counts."""
        if end is not None and not self._over:
            self._over = True
            self._log.note(self, "closed", end, 0)


class Qlog:
    """The QUIC connections of one case. `clock` gives seconds (monotonic), `start` is the transcript's second 0 on it.

    Once `LIMIT` is reached nothing more is noted, and each file says so.
    """

    def __init__(self, clock: Callable[[], float], start: float | None = None) -> None:
        self._clock = clock
        now = clock()
        self._start = now if start is None else start
        self._epoch = time.time() - now
        self._traces: list[Trace] = []
        self._room = LIMIT
        self._left_out = 0
        self._stopped = False

    def trace(self, leg: str, us: str, name: str) -> Trace:
        """A connection that begins now; `name` is its name in the transcript."""
        made = Trace(self, leg, us, name)
        self._traces.append(made)
        return made

    def note(self, trace: Trace, what: str, about: PacketInfo | QuicEnd, size: int) -> None:
        """One packet, or the end, of a connection."""
        if self._stopped:
            return
        cost = size + PACKET_COST
        if self._left_out or cost > self._room:
            self._left_out += 1
            return
        self._room -= cost
        trace.noted.append((self._clock(), what, about))

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True

    def forget(self, names: Collection[str]) -> None:
        """Forget the connections with these names."""
        self._traces = [trace for trace in self._traces if trace.name not in names]

    def files(self, title: str) -> dict[str, str]:
        """The text of one file per leg on which packets went; each connection is a trace of it."""
        told = [trace for trace in self._traces if trace.noted]
        return {
            leg: self._file(title, [trace for trace in told if trace.leg == leg])
            for leg in dict.fromkeys(trace.leg for trace in told)
        }

    def _file(self, title: str, traces: Sequence[Trace]) -> str:
        described = f"Written by Edgecase {suite_version()}. Second 0 is that of the transcript."
        if self._left_out:
            described += f" {LIMIT >> 20} MiB of one case are noted, {self._left_out:,} packets that followed are not."
        data = {
            "qlog_version": VERSION,
            "qlog_format": "JSON",
            "title": title,
            "description": described,
            "traces": [self._trace(trace) for trace in traces],
        }
        return json.dumps(data, separators=(",", ":")) + "\n"

    def _trace(self, trace: Trace) -> Fields:
        return {
            "title": trace.name,
            "vantage_point": {"name": trace.name, "type": trace.us},
            "common_fields": {
                "protocol_type": ["QUIC"],
                "time_format": "relative",
                "reference_time": round((self._epoch + self._start) * 1000, 3),
                **_first_destination(trace),
            },
            "events": [
                {"time": round((at - self._start) * 1000, 3), **_event(what, about)} for at, what, about in trace.noted
            ],
        }


def _first_destination(trace: Trace) -> Fields:
    """The original destination connection id: that of the first packet, which the client chose."""
    first = next((about for _, _, about in trace.noted if isinstance(about, PacketInfo)), None)
    return {} if first is None else {"ODCID": first.destination.hex()}


def _event(what: str, about: PacketInfo | QuicEnd) -> Fields:
    if isinstance(about, QuicEnd):
        return {"name": "connectivity:connection_closed", "data": _closed(about)}
    data: Fields = {"header": _header(about), "raw": {"length": about.size}}
    if about.trouble:
        data["details"] = about.trouble
    if what == "received" and (about.number is None or about.trouble in TRIGGERS) and about.trouble:
        trigger = TRIGGERS.get(about.trouble)
        return {"name": "transport:packet_dropped", "data": {**data, **({"trigger": trigger} if trigger else {})}}
    data["frames"] = [frame_fields(frame) for frame in about.frames]
    return {"name": f"transport:packet_{what}", "data": data}


def _header(info: PacketInfo) -> Fields:
    fields: Fields = {"packet_type": PACKET_TYPES[info.kind], "dcid": info.destination.hex()}
    if info.number is not None:
        fields["packet_number"] = info.number
    if info.kind != PacketKind.SHORT:
        fields |= {"version": f"{info.version:08x}", "scid": info.source.hex()}
    elif info.phase is not None:
        fields["key_phase"] = info.phase
    return fields


def _closed(end: QuicEnd) -> Fields:
    fields: Fields = {"owner": "remote" if end.by_peer else "local", "reason": end.reason}
    if end.kind == "application":
        fields["application_code"] = end.code
    elif end.kind == "transport":
        fields["connection_code"] = end.code
    else:
        fields["trigger"] = {"idle": "idle_timeout", "reset": "stateless_reset"}.get(end.kind, "error")
    return fields


# frames: those whose fields have other names or shapes there than here

RENAMED: Mapping[type[quic.Frame], Mapping[str, str]] = {
    quic.MaxData: {"limit": "maximum"},
    quic.MaxStreamData: {"limit": "maximum"},
    quic.MaxStreams: {"limit": "maximum"},
    quic.ResetStream: {"code": "error_code"},
    quic.StopSending: {"code": "error_code"},
    quic.NewConnectionId: {"sequence": "sequence_number", "reset_token": "stateless_reset_token"},
    quic.RetireConnectionId: {"sequence": "sequence_number"},
}
LENGTH_ONLY = (quic.Crypto, quic.Stream, quic.Datagram, quic.NewToken, quic.Raw)
"""Frames whose octets are told by their length."""
SKIPPED = ("implicit_length", "elicits")


def frame_fields(frame: quic.Frame) -> Fields:
    """One frame as qlog has it (draft-ietf-quic-qlog-quic-events-01 section A.13)."""
    if isinstance(frame, quic.Padding):
        return {"frame_type": "padding", "length": frame.count}
    if isinstance(frame, quic.Ack):
        return _ack(frame)
    if isinstance(frame, quic.ConnectionClose):
        return _connection_close(frame)
    fields: Fields = {"frame_type": _snake(type(frame).__name__) if not isinstance(frame, quic.Raw) else "unknown"}
    renamed = RENAMED.get(type(frame), {})
    for field in dataclasses.fields(frame):  # type: ignore[arg-type]  # every frame is one; the base has no fields
        value = getattr(frame, field.name)
        if field.name == "bidirectional":
            fields["stream_type"] = "bidirectional" if value else "unidirectional"
        elif isinstance(value, bytes) and isinstance(frame, LENGTH_ONLY):
            fields["length"] = len(value)
        elif field.name not in SKIPPED:
            fields[renamed.get(field.name, field.name)] = value.hex() if isinstance(value, bytes) else value
    return fields


def _ack(frame: quic.Ack) -> Fields:
    fields: Fields = {"frame_type": "ack", "acked_ranges": [list(pair) for pair in frame.ranges]}
    if frame.ecn is not None:
        fields |= dict(zip(("ect0", "ect1", "ce"), frame.ecn, strict=True))
    return fields


def _connection_close(frame: quic.ConnectionClose) -> Fields:
    fields: Fields = {
        "frame_type": "connection_close",
        "error_space": "application" if frame.application else "transport",
        "error_code": frame.code,
        "reason": frame.reason.decode("utf-8", "replace"),
    }
    return fields if frame.application else {**fields, "trigger_frame_type": frame.frame_type}


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
