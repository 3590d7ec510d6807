"""HTTP/3 without I/O for tests: two connections of ours, and aioquic's as the other side of one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from aioquic.h3.connection import H3Connection
from aioquic.quic.events import StreamDataReceived, StreamReset

from harness.wire.http3 import Http3Connection, Http3Options, Violation
from harness.wire.http3 import message as seen

REQUEST = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.test"), (b":path", b"/"))
POST = ((b":method", b"POST"), *REQUEST[1:])
OK = ((b":status", b"200"),)


def ids(client: bool) -> Callable[[], int]:
    """Ids of unidirectional streams."""
    numbers = itertools.count(2 if client else 3, 4)
    return lambda: next(numbers)


def plain(events: Iterable[Any]) -> list[Any]:
    """Events without those about credit, neighbouring content joined."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, seen.Consumed):
            continue
        last = found[-1] if found else None
        if isinstance(event, seen.Content) and isinstance(last, seen.Content) and last.stream_id == event.stream_id:
            found[-1] = seen.Content(event.stream_id, last.data + event.data)
        else:
            found.append(event)
    return found


class Side:
    """One of our connections with what it saw; `step` octets at a time are given to it."""

    def __init__(self, options: Http3Options | None, *, is_client: bool, step: int | None = None) -> None:
        self.wire = Http3Connection(options, is_client=is_client)
        self.events: list[Any] = []
        self.step = step
        self._opened: set[int] = set()
        self.wire.begin(ids(is_client))

    def feed(self, stream_id: int, data: bytes, *, fin: bool = False) -> list[Any]:
        """Octets of the other side."""
        ours = bool(stream_id & 1) != self.wire.is_client
        found: list[Any] = []
        if not ours and stream_id not in self._opened:
            self._opened.add(stream_id)
            found += self.wire.stream_opened(stream_id)
        step = self.step or max(1, len(data))
        for at in range(0, max(1, len(data)), step):
            found += self.wire.stream_data(stream_id, data[at : at + step], fin=fin and at + step >= len(data))
        self.events += found
        return found

    @property
    def violations(self) -> list[Violation]:
        """What the other side broke."""
        return [event for event in self.events if isinstance(event, Violation)]

    def heads(self, kind: str) -> list[seen.Head]:
        """Heads of that kind."""
        return [event for event in self.events if isinstance(event, seen.Head) and event.kind == kind]


class Pair:
    """Two of our connections."""

    def __init__(
        self, client: Http3Options | None = None, server: Http3Options | None = None, *, step: int | None = None
    ) -> None:
        self.client = Side(client, is_client=True, step=step)
        self.server = Side(server, is_client=False, step=step)

    def run(self) -> None:
        """Until neither has anything to say."""
        while True:
            said = [(self.server, each) for each in self.client.wire.outgoing()]
            said += [(self.client, each) for each in self.server.wire.outgoing()]
            if not said:
                return
            for to, each in said:
                to.feed(each.stream_id, each.data, fin=each.fin)


class _Below:
    """What aioquic's H3Connection needs of a QUIC connection."""

    def __init__(self, *, is_client: bool) -> None:
        self.configuration = type("Configuration", (), {"is_client": is_client})()
        self._quic_logger = None
        self._remote_max_datagram_frame_size = None
        self.said: list[tuple[int, bytes, bool]] = []
        self.closed: int | None = None
        self.resets: dict[int, int] = {}
        self._uni = ids(is_client)
        self._bidi = itertools.count(0, 4)

    def get_next_available_stream_id(self, is_unidirectional: bool = False) -> int:
        return self._uni() if is_unidirectional else next(self._bidi)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        self.said.append((stream_id, data, end_stream))

    def reset_stream(self, stream_id: int, error_code: int) -> None:
        self.resets[stream_id] = error_code

    def stop_stream(self, stream_id: int, error_code: int) -> None:
        self.resets[stream_id] = error_code

    def close(self, error_code: int, reason_phrase: str = "", **_: Any) -> None:
        self.closed = error_code


class Other:
    """aioquic's HTTP/3 in the place of the other side of `ours`."""

    def __init__(self, options: Http3Options | None = None, *, ours_is_client: bool) -> None:
        self.ours = Side(options, is_client=ours_is_client)
        self.below = _Below(is_client=not ours_is_client)
        self.h3 = H3Connection(self.below)  # type: ignore[arg-type]
        self.events: list[Any] = []

    def run(self) -> None:
        """Until neither has anything to say."""
        while True:
            said = self.ours.wire.outgoing()
            answered, self.below.said = self.below.said, []
            if not said and not answered:
                return
            for each in said:
                if self.below.closed is None:
                    self.events += self.h3.handle_event(StreamDataReceived(each.data, each.fin, each.stream_id))
            for stream_id, data, fin in answered:
                self.ours.feed(stream_id, data, fin=fin)

    def reset(self, stream_id: int, code: int) -> None:
        """Our side resets a stream."""
        self.events += self.h3.handle_event(StreamReset(code, stream_id))
