"""The downstream codec of HTTP/1.1: octets of a client to events, events to octets of responses. No I/O."""

from __future__ import annotations

import h11

from reference_engine.http import h1_write
from reference_engine.http.errors import Fault, ProtocolFault
from reference_engine.http.events import Data, End, Event, InformationalHead, RequestHead, Reset, ResponseHead
from reference_engine.http.gate import Gate, check
from reference_engine.http.rules import HttpRules
from reference_engine.http.syntax import NO_CONTENT, Framing, Limits


class H1ServerCodec:
    """One downstream connection. Feed it with `receive` and `eof`, ask `next_event`, answer with `send`.

    After a `ProtocolFault` only an answer that closes the connection makes sense.
    """

    def __init__(self, rules: HttpRules, limits: Limits) -> None:
        self._rules = rules
        self._gate = Gate(rules, limits, requests=True)
        self._h11 = h11.Connection(h11.SERVER, limits.header_bytes + limits.trailer_bytes + 65_536)
        self._eof = False
        self.framing: Framing = NO_CONTENT
        self.request: RequestHead | None = None
        """The request that is being served."""
        self.complete = True
        """Whether the request at hand has arrived as a whole."""
        self.is_head = False
        """Whether the request at hand looks like HEAD, also when the rest of it is refused."""
        self.until_close = False
        """Whether only the end of the connection delimits the response at hand."""
        self._chunked = False
        self._fed = False

    def receive(self, data: bytes) -> None:
        """Take octets from the client."""
        self._gate.feed(data)

    def eof(self) -> None:
        """The client has ended its direction."""
        self._eof = True

    @property
    def ended(self) -> bool:
        """Whether the client has ended its direction."""
        return self._eof

    @property
    def pending(self) -> int:
        """Octets that wait for their turn."""
        return self._gate.pending

    def leftover(self) -> bytes:
        """Raw octets behind a request that switched the connection to something else."""
        return self._gate.drain()

    def next_event(self) -> Event | None:
        """The next event, None when more octets are needed. Raises ProtocolFault for a request that is refused."""
        try:
            return self._next_head() if self.request is None else self._next_content()
        except h11.RemoteProtocolError as problem:
            raise ProtocolFault(Fault(problem.error_status_hint, "the request is not valid")) from None

    def _next_head(self) -> Event | None:
        self.is_head = self._gate.starts_with(b"HEAD ")
        raw = self._gate.head()
        if raw is None:
            return Reset("incomplete") if self._eof else None
        version = raw[raw.index(b"\r\n") - 3 :][:3]
        hosts, lengths, codings = self._gate.framing_fields(raw)
        check(self._rules.content_length(lengths))
        check(self._rules.transfer_encoding(codings, version=version, has_length=bool(lengths)))
        check(self._rules.host(hosts, version=version))
        head = self._parsed(raw, version)
        if hosts and not head.authority:
            head.authority = hosts[0]
        self.framing = self._rules.request_framing(head.fields)
        self._gate.begin(self.framing)
        self._fed = False
        self.request = head
        # A request without content is complete with its head, and h11 has to know.
        self.complete = self.framing.kind == "none" and isinstance(self._h11.next_event(), h11.EndOfMessage)
        return head

    def _parsed(self, raw: bytes, version: bytes) -> RequestHead:
        self._h11.receive_data(raw)
        event = self._h11.next_event()
        if not isinstance(event, h11.Request):
            raise ProtocolFault(Fault(400, "the request is not valid"))
        return RequestHead(event.method, event.target, event.headers.raw_items(), version)

    def _next_content(self) -> Event | None:
        if self.complete:
            return None
        if not self._fed:
            vetted = self._gate.content()
            if vetted:
                self._h11.receive_data(vetted)
                self._fed = True
        event = self._h11.next_event()
        if event is h11.NEED_DATA and self._fed:
            self._fed = False
            return self._next_content()
        if isinstance(event, h11.Data):
            return Data(event.data)
        if isinstance(event, h11.EndOfMessage):
            self.complete = True
            return End(event.headers.raw_items())
        return Reset("incomplete") if self._eof else None

    @property
    def _method(self) -> bytes:
        return self.request.method if self.request is not None else b""

    def send(self, event: InformationalHead | ResponseHead | Data | End) -> bytes:
        """The octets of one event. A head of unknown length becomes chunked, or ends with the connection for
        HTTP/1.0."""
        if isinstance(event, Data):
            return self._h11.send(h11.Data(data=event.data))
        if isinstance(event, ResponseHead):
            framing = self._rules.response_framing(self._method, event.status, event.fields)
            self._chunked = framing.kind == "close" and self._h11.their_http_version == b"1.1"
            self.until_close = framing.kind == "close" and not self._chunked
            octets = self._h11.send(h1_write.response(event))
            if event.codings:
                # h11 writes no other coding than chunked; what lies beneath it is said here (RFC 9112 section 7).
                octets = octets.replace(b"Encoding: chunked\r\n", b"Encoding: " + event.codings + b", chunked\r\n", 1)
            return octets
        if isinstance(event, InformationalHead):
            return self._h11.send(
                h11.InformationalResponse(
                    status_code=event.status, headers=event.fields, reason=event.reason, http_version=b"1.1"
                )
            )
        # Without chunked there is no place for a trailer section (RFC 9112 section 7.1.2).
        trailers = event.trailers if self._chunked else None
        return self._h11.send(h11.EndOfMessage(headers=trailers) if trailers else h1_write.END)

    @property
    def reusable(self) -> bool:
        """Whether request and response are both complete and neither side has said close."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def next_cycle(self) -> None:
        """Go on to the next request; only when `reusable`."""
        self._h11.start_next_cycle()
        self.request = None
        self.complete = True
