"""The upstream codec of HTTP/1.1: events to octets of a request, octets of the upstream to events. No I/O."""

from __future__ import annotations

import h11

from reference_engine.http import h1_write
from reference_engine.http.errors import ProtocolFault, fault_of
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    ResponseHead,
    members,
    values,
)
from reference_engine.http.gate import Gate, check
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import Limits, cut

TRANSFER_ENCODING = frozenset({b"transfer-encoding"})
INTERIM_LIMIT = 100
"""Interim responses before one final response."""


class H1ClientCodec:
    """One upstream connection: one request, its responses, then perhaps the next request.

    `next_event` turns everything that is wrong with a response into a `Reset`; after it the connection is of no use.
    """

    def __init__(self, rules: HttpRules, limits: Limits) -> None:
        self._rules = rules
        self._gate = Gate(rules, limits, requests=False)
        self._h11 = h11.Connection(h11.CLIENT, limits.header_bytes + limits.trailer_bytes + 65_536)
        self._eof = False
        self._method = b""
        self._fields: Fields = []
        self.answered = False
        """Whether the final head has been read."""
        self.over = False
        """Whether nothing more comes of the response at hand."""
        self._last = False
        self._interim = 0
        self._fed = False
        self.heard = False
        """Whether any octet came since the request at hand was begun."""

    def send(self, event: RequestHead | Data | End) -> bytes:
        """The octets of one event of a request."""
        if isinstance(event, Data):
            return self._h11.send(h11.Data(data=event.data))
        if isinstance(event, RequestHead):
            self._method = event.method
            self._fields = event.fields
            return self._h11.send(h1_write.request(event))
        # Without chunked there is no place for a trailer section (RFC 9112 section 7.1.2).
        trailers = event.trailers and values(self._fields, b"transfer-encoding")
        return self._h11.send(h11.EndOfMessage(headers=event.trailers) if trailers else h1_write.END)

    def receive(self, data: bytes) -> None:
        """Take octets from the upstream."""
        self.heard = True
        self._gate.feed(data)

    def eof(self) -> None:
        """The upstream has ended its direction cleanly."""
        self._eof = True

    def leftover(self) -> bytes:
        """Raw octets behind a 101 or a 2xx to CONNECT."""
        return self._gate.drain()

    def next_event(self) -> Event | None:
        """The next event, None when more octets are needed or the response is over."""
        try:
            if self.over:
                return None
            return self._next_content() if self.answered else self._next_head()
        except (ProtocolFault, h11.RemoteProtocolError):
            self.over = True
            return Reset("upstream-truncated" if self.answered and self._eof else "upstream-malformed")

    def _next_head(self) -> Event | None:
        raw = self._gate.head()
        if raw is None:
            return Reset("upstream-closed") if self._eof else None
        raw, codings = self._framed(raw)
        head = self._parsed(raw)
        if isinstance(head, InformationalHead):
            self._interim += 1
            if self._interim > INTERIM_LIMIT:
                raise ProtocolFault(fault_of("upstream-malformed"))
            return head
        head.codings = codings
        self._gate.begin(self._rules.response_framing(self._method, head.status, head.fields))
        # "Connection: close" counts from here on, while h11 makes a state of it only at the end of the response.
        self._last = raw[5:8] < b"1.1" or b"close" in members(head.fields, b"connection")
        self.answered = True
        self._fed = False
        return head

    def _parsed(self, raw: bytes) -> InformationalHead | ResponseHead:
        self._h11.receive_data(raw)
        event = self._h11.next_event()
        if isinstance(event, h11.InformationalResponse):
            return InformationalHead(event.status_code, event.headers.raw_items(), event.reason)
        if not isinstance(event, h11.Response):
            raise ProtocolFault(fault_of("upstream-malformed"))
        return ResponseHead(event.status_code, event.headers.raw_items(), event.reason)

    def _framed(self, raw: bytes) -> tuple[bytes, bytes]:
        """The head with its framing fields vetted, and transfer codings that only the end of the connection delimits.

        Responses without content are exempt: they end at the empty line, whatever they carry (RFC9112-6.3-1, -6.3-2).
        """
        version, status = raw[5:8], int(raw[9:12])
        _, lengths, codings = self._gate.framing_fields(raw)
        if self._rules.response_framing(self._method, status, []).kind == "none":
            return (cut(raw, TRANSFER_ENCODING) if codings else raw), b""
        check(self._rules.content_length(lengths))
        if self._rules.until_close(codings, version=version, has_length=bool(lengths)):
            return cut(raw, TRANSFER_ENCODING), b", ".join(codings)
        check(self._rules.transfer_encoding(codings, version=version, has_length=bool(lengths)))
        return raw, b""

    def _next_content(self) -> Event | None:
        if not self._fed:
            vetted = self._gate.content()
            if vetted:
                self._h11.receive_data(vetted)
                self._fed = True
            elif self._eof:
                self._h11.receive_data(b"")
        event = self._h11.next_event()
        if event is h11.NEED_DATA and self._fed:
            self._fed = False
            return self._next_content()
        if isinstance(event, h11.Data):
            return Data(event.data)
        if isinstance(event, h11.EndOfMessage):
            self.over = True
            return End(event.headers.raw_items())
        return None

    @property
    def closing(self) -> bool:
        """Whether the upstream has said, or shown, that this is its last response."""
        return self._eof or self._last

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: both messages complete, nobody said close, nothing left
        over."""
        return (
            self._h11.our_state is h11.DONE
            and self._h11.their_state is h11.DONE
            and not self._gate.pending
            and not self._eof
        )

    def next_cycle(self) -> None:
        """Be ready for the next request; only when `reusable`."""
        self._h11.start_next_cycle()
        self.answered = self.over = self.heard = False
        self._interim = 0
