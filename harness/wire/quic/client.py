"""The QUIC client: first flight, Version Negotiation, Retry, end of the handshake (RFC 9000 sections 6 to 8)."""

from __future__ import annotations

from harness.wire.quic.connection import QuicConnection
from harness.wire.quic.crypto import Undecryptable, initial_keys
from harness.wire.quic.events import (
    EarlyDataRejected,
    NegotiationReceived,
    QuicEnd,
    Resumption,
    RetryReceived,
    TicketReceived,
    Violation,
)
from harness.wire.quic.handshake import CryptoClient
from harness.wire.quic.numbers import ErrorCode, Level, PacketKind, ParameterId, Space, version_name
from harness.wire.quic.options import ClientOptions
from harness.wire.quic.packet import Header, retry_is_genuine, unmask
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.state import RemoteId
from harness.wire.tls import HandshakeDone as TlsHandshakeDone
from harness.wire.tls.events import Session


class QuicClient(QuicConnection):
    """A QUIC client; see `ClientOptions` and `QuicConnection`. The first `outgoing` gives the first Initial."""

    is_client = True
    tls: CryptoClient

    def __init__(self, options: ClientOptions) -> None:
        super().__init__(options)
        self.client_options = options
        resumption = options.resumption
        self.token = options.token or (resumption.token if resumption else b"")
        self.retried = False
        self.negotiated = False
        self._source_seen = False
        first = resumption.version if resumption else options.versions[0]
        self._begin_with(first if options.version is None else options.version)

    def _begin_with(self, version: int) -> None:
        options = self.client_options
        self.version = version
        if not self.local_ids:
            self.new_id()
        destination = options.destination if options.destination is not None else options.random(8)
        self.original_destination = destination
        self.remote_ids = {0: RemoteId(0, destination)}
        self.remote_sequence = 0
        self.make_initial_keys(destination)
        session = options.resumption.session if options.resumption else None
        early = options.early_data and session is not None and session.max_early_data > 0
        self.tls = CryptoClient(
            options.tls, self.encode_parameters, alpn_required=options.alpn_required, session=session, early=early
        )
        self.tls.start()
        self.client_hello = self.tls.hello
        if early and options.resumption is not None:
            self.table.use_remote(options.resumption.parameters)
        self.pump_tls()

    def initial_token(self) -> bytes:
        """The token of our Initial packets: of the options, of NEW_TOKEN, or of a Retry."""
        return self.token

    @property
    def announced(self) -> Parameters | None:
        """The server's parameters; in 0-RTT those that came with the ticket."""
        resumption = self.client_options.resumption
        return self.remote_parameters or (resumption.parameters if resumption else None)

    # Packets that only a client takes

    def on_packet(self, header: Header, level: Level) -> None:
        """The server's first packet names its connection id (RFC 9000 section 7.2)."""
        if not self._source_seen and header.kind in (PacketKind.INITIAL, PacketKind.HANDSHAKE):
            self._source_seen = True
            self.remote_ids[0] = RemoteId(0, header.source)

    def on_packet_sent(self, level: Level) -> None:
        """Initial keys are dropped with the first Handshake packet (RFC 9001 section 4.9.1)."""
        if level == Level.HANDSHAKE and Level.INITIAL in self.write_keys:
            self.discard(Level.INITIAL)

    def on_negotiation(self, header: Header) -> None:
        """Version Negotiation (RFC 9000 section 6.2): believed only before anything else came."""
        if self._source_seen or self.retried or self.negotiated or header.source != self.original_destination:
            self.trouble(header, "Version Negotiation that answers nothing of ours")
            return
        if self.version in header.versions:
            self.trouble(header, "Version Negotiation that lists the version in use")
            return
        self.trouble(header, "")
        self.emit(NegotiationReceived(header.versions))
        chosen = next((version for version in self.options.versions if version in header.versions), None)
        if chosen is None:
            offered = ", ".join(version_name(version) for version in header.versions)
            self.finish(QuicEnd("negotiation", reason=f"no common version: offered {offered}"))
            self.over = True
            return
        self.negotiated = True
        self._restart(Space.INITIAL)
        self._begin_with(chosen)

    def on_retry(self, datagram: bytes, header: Header) -> None:
        """Retry (RFC 9000 section 17.2.5.2): once, before anything else, and only a genuine one."""
        if self._source_seen or self.retried:
            self.trouble(header, "second Retry, or one behind another packet")
            return
        if header.version != self.version or not retry_is_genuine(datagram, header, self.original_destination):
            self.trouble(header, "Retry with a wrong integrity tag")
            return
        if not header.token or header.source == self.original_destination:
            self.trouble(header, "Retry without a token, or without a new connection id")
            return
        self.trouble(header, "")
        self.retried = True
        self.token = header.token
        self.retry_source = header.source
        self.remote_ids = {0: RemoteId(0, header.source)}
        self.make_initial_keys(header.source)
        self.emit(RetryReceived(header.token, header.source))
        # What was sent is gone, 0-RTT included; packet numbers go on (RFC 9000 section 17.2.5.3).
        self._restart(Space.INITIAL)
        self._restart(Space.APPLICATION)

    def _restart(self, number: Space) -> None:
        space = self.spaces[number]
        lost = list(space.sent.values())
        for packet in lost:
            self.recovery.forget(space, packet)
        self.packets_lost(space, lost)
        self.recovery.pto_count = 0
        if number == Space.INITIAL and not self.retried:
            # Another version begins a connection of its own.
            space.crypto_out.drop()
            space.crypto_out = type(space.crypto_out)()

    def on_other_version(self, datagram: bytes, header: Header) -> bool:
        """The server goes on in another version that we offer (RFC 9368 section 2.3)."""
        offered = header.kind == PacketKind.INITIAL and header.version in self.options.versions
        if not offered or self._source_seen or self.version not in self.options.versions:
            return False
        _, server = initial_keys(header.version, self.remote_id)
        clear = None
        try:
            clear = unmask(server, datagram, header)
            number = clear.number(self.spaces[Space.INITIAL].expected)
            server.open(clear.header, number, datagram[header.number_at + clear.length : header.end])
        except Undecryptable:
            return False
        self.version = header.version
        self.make_initial_keys(self.remote_id)
        return True

    # The handshake

    def check_ids(self, parameters: Parameters) -> None:
        """The server names our first DCID, and its Retry's where there was one (RFC 9000 section 7.3)."""
        super().check_ids(parameters)
        code, section = ErrorCode.TRANSPORT_PARAMETER_ERROR, "RFC 9000 section 7.3"
        if parameters.get(ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID) != self.original_destination:
            raise Violation("original_destination_connection_id is missing or another", section, code)
        if parameters.get(ParameterId.RETRY_SOURCE_CONNECTION_ID) != self.retry_source:
            raise Violation("retry_source_connection_id does not fit the Retry", section, code)
        known = parameters.versions
        if known and known[0] != self.version:
            what = f"version_information chooses {version_name(known[0])}, in use is {version_name(self.version)}"
            raise Violation(what, "RFC 9368 section 4", ErrorCode.VERSION_NEGOTIATION_ERROR)
        if self.negotiated and known:
            # Somebody else may have written the Version Negotiation packet that sent us here.
            best = next((version for version in self.options.versions if version in known[1:]), self.version)
            if best != self.version:
                what = f"Version Negotiation led to {version_name(self.version)}, the server has {version_name(best)}"
                raise Violation(what, "RFC 9368 section 4", ErrorCode.VERSION_NEGOTIATION_ERROR)

    def on_tls_done(self, done: TlsHandshakeDone) -> None:
        """The handshake is complete; 0-RTT that was not taken goes out again (RFC 9001 section 4.6.2)."""
        assert self.handshake is not None
        if self.tls.client_options.early_data and not done.early_data_accepted:
            space = self.spaces[Space.APPLICATION]
            lost = [packet for packet in space.sent.values() if packet.level == Level.EARLY]
            for packet in lost:
                self.recovery.forget(space, packet)
            self.packets_lost(space, lost)
            self.emit(EarlyDataRejected())
        self.emit(self.handshake)

    def after_packet(self, level: Level) -> None:
        """Give connection ids once the handshake is complete."""
        if self.handshake is not None and self.next_local_id == 1 and self.one_rtt.write is not None:
            self.give_usual_ids()

    def on_ticket(self, session: Session) -> None:
        """A ticket, with what belongs to it."""
        assert self.remote_parameters is not None
        # Ids, tokens and times of this connection are not remembered (RFC 9000 section 7.4.1).
        kept = self.remote_parameters.without(
            ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID,
            ParameterId.INITIAL_SOURCE_CONNECTION_ID,
            ParameterId.RETRY_SOURCE_CONNECTION_ID,
            ParameterId.STATELESS_RESET_TOKEN,
            ParameterId.PREFERRED_ADDRESS,
            ParameterId.ACK_DELAY_EXPONENT,
            ParameterId.MAX_ACK_DELAY,
        )
        self.emit(TicketReceived(Resumption(session, kept, self.version, self.new_token)))
