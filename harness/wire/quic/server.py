"""The QUIC server: the first Initial, Retry, Version Negotiation, and the end of the handshake."""

from __future__ import annotations

import hmac

from harness.wire.quic.codec import DecodeError
from harness.wire.quic.connection import QuicConnection
from harness.wire.quic.crypto import Undecryptable
from harness.wire.quic.events import ClientHelloReceived, HandshakeConfirmed, PacketInfo, Violation
from harness.wire.quic.frames import HandshakeDone, NewToken
from harness.wire.quic.handshake import CryptoServer
from harness.wire.quic.numbers import MIN_INITIAL, ErrorCode, Level, PacketKind, ParameterId, Space
from harness.wire.quic.options import ServerOptions
from harness.wire.quic.packet import Header, build_negotiation, build_retry, first_of, parse_header, unmask
from harness.wire.quic.parameters import Parameters
from harness.wire.quic.state import RemoteId
from harness.wire.tls import HandshakeDone as TlsHandshakeDone

MAX_READY = 16
"""Retry and Version Negotiation packets that wait to go out."""


class QuicServer(QuicConnection):
    """A QUIC server of one connection; see `ServerOptions` and `QuicConnection`. `began` is False until an Initial came
    that begins it."""

    is_client = False
    tls: CryptoServer

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        self.server_options = options
        self.retry_token = options.retry_token if options.retry_token is not None else options.random(24)
        self.began = False
        self._ready: list[bytes] = []
        self._before_retry = b""
        self.tls = CryptoServer(
            options.tls,
            self.encode_parameters,
            alpn_required=options.alpn_required,
            early=options.early_data,
            on_parameters=self._on_hello,
        )

    def take_ready(self) -> list[bytes]:
        """Retry and Version Negotiation packets."""
        ready, self._ready = self._ready, []
        return ready

    def _answer(self, packet: bytes) -> None:
        if len(self._ready) < MAX_READY:
            self._ready.append(packet)
            self.sizes_sent[len(packet)] += 1

    # The first datagram

    def take_datagram(self, datagram: bytes) -> None:
        """Before the connection begins only an Initial in our version is taken (RFC 9000 sections 5.2.2 and 6.1)."""
        if not self.began:
            self.started = True
            self.last_activity = self.now
            first = first_of(datagram)
            if first is None:
                self.note_received(PacketInfo(self.now, PacketKind.SHORT, len(datagram), trouble="no connection yet"))
                return
            version, destination, source = first
            accepted = self.server_options.negotiate or self.options.versions
            if version not in accepted or version not in self.options.versions:
                self._negotiate(version, destination, source, len(datagram))
                return
            if not self._begins(datagram):
                return
        super().take_datagram(datagram)

    def _negotiate(self, version: int, destination: bytes, source: bytes, size: int) -> None:
        info = PacketInfo(self.now, PacketKind.UNKNOWN, size, version, None, destination, source, trouble="version")
        self.note_received(info)
        if version and size >= MIN_INITIAL:
            listed = self.server_options.negotiate or self.options.versions
            self._answer(build_negotiation(source, destination, listed))

    def _begins(self, datagram: bytes) -> bool:
        """Whether the datagram begins the connection; a Retry may be its answer instead."""
        try:
            header = parse_header(datagram, 0, self.options.id_length)
        except DecodeError as error:
            self.note_received(PacketInfo(self.now, PacketKind.UNKNOWN, len(datagram), trouble=str(error)))
            return False
        if header.kind != PacketKind.INITIAL:
            self.trouble(header, "no connection yet")
            return False
        if len(datagram) < MIN_INITIAL:
            self.trouble(header, "Initial in a datagram below 1200 octets")
            return False
        if len(header.destination) < 8:
            self.trouble(header, "Initial with a destination connection id below 8 octets")
            return False
        if self.server_options.retry and not self._has_token(header):
            self._retry(header)
            return False
        return self._begin_with(datagram, header)

    def _has_token(self, header: Header) -> bool:
        return bool(self._before_retry) and hmac.compare_digest(header.token, self.retry_token)

    def _retry(self, header: Header) -> None:
        self.trouble(header, "answered by Retry")
        if self.retry_source is None:
            self.retry_source = self.options.random(max(8, self.options.id_length))
        self._before_retry = header.destination
        packet = build_retry(header.version, header.source, self.retry_source, self.retry_token, header.destination)
        self._answer(packet)

    def _begin_with(self, datagram: bytes, header: Header) -> bool:
        self.version = header.version
        self.make_initial_keys(header.destination)
        try:
            clear = unmask(self.read_keys[Level.INITIAL], datagram, header)
            sealed = datagram[header.number_at + clear.length : header.end]
            self.read_keys[Level.INITIAL].open(clear.header, clear.number(0), sealed)
        except Undecryptable as error:
            self.trouble(header, str(error))
            self.read_keys.clear()
            self.write_keys.clear()
            return False
        self.began = True
        self.original_destination = header.destination
        self.remote_ids = {0: RemoteId(0, header.source)}
        self.new_id()
        if self.retry_source is not None:
            self.validated = True
        return True

    # Limits and parameters

    def amplification_room(self) -> int:
        """Three times what came, until the client's address is validated (RFC 9000 section 8.1)."""
        if self.validated or not self.server_options.limit_amplification:
            return super().amplification_room()
        left = 3 * self.octets_received - self.octets_sent
        # A datagram with an Initial that elicits an answer is not to be shorter (RFC 9000 section 14.1): it waits.
        return left if left >= MIN_INITIAL else 0

    def _base_parameters(self) -> Parameters:
        found = super()._base_parameters()
        original = self._before_retry or self.original_destination
        found = found.appending(ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID, original)
        if self.retry_source is not None:
            found = found.appending(ParameterId.RETRY_SOURCE_CONNECTION_ID, self.retry_source)
        if self.server_options.reset_token is not None:
            self.local_tokens[0] = self.server_options.reset_token
            found = found.appending(ParameterId.STATELESS_RESET_TOKEN, self.server_options.reset_token)
        return found

    def _on_hello(self, raw: bytes) -> None:
        """The ClientHello is there: its parameters are judged before anything is answered."""
        self.client_hello = self.tls.latest_hello
        self.emit(ClientHelloReceived(self.tls.latest_hello))
        if self.remote_parameters is None:
            self.take_remote_parameters(raw)
        wanted = self.server_options.upgrade_to
        assert self.remote_parameters is not None
        if wanted is not None and wanted != self.version and wanted in self.remote_parameters.versions[1:]:
            self.version = wanted
            self.make_initial_keys(self.original_destination)

    def check_ids(self, parameters: Parameters) -> None:
        """The client names its own id, and the version of its first Initial (RFC 9368 section 4)."""
        super().check_ids(parameters)
        known = parameters.versions
        if known and known[0] != self.version:
            what = "version_information names another chosen version"
            raise Violation(what, "RFC 9368 section 4", ErrorCode.VERSION_NEGOTIATION_ERROR)

    # The handshake

    def on_packet(self, header: Header, level: Level) -> None:
        """A Handshake packet validates the address, and ends the use of Initial keys (RFC 9001 section 4.9.1)."""
        if level == Level.HANDSHAKE:
            self.validated = True
            self.discard(Level.INITIAL)
        elif level == Level.APPLICATION:
            self.read_keys.pop(Level.EARLY, None)

    def on_other_version(self, datagram: bytes, header: Header) -> bool:
        """The client's Initials of the version that it began with, after we went on in another."""
        return False

    def on_tls_done(self, done: TlsHandshakeDone) -> None:
        """Complete is confirmed here (RFC 9001 section 4.1.2)."""
        assert self.handshake is not None
        self.validated = self.confirmed = True
        self.emit(self.handshake)
        self.emit(HandshakeConfirmed())
        self.queue(HandshakeDone())
        if self.server_options.new_token:
            self.queue(NewToken(self.server_options.new_token))

    def after_packet(self, level: Level) -> None:
        """Handshake keys go once the handshake is confirmed, behind the packet that confirmed it."""
        if self.confirmed and not self.spaces[Space.HANDSHAKE].discarded:
            self.discard(Level.HANDSHAKE)
            self.give_usual_ids()
