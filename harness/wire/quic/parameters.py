"""Transport parameters: an ordered list of (id, octets) with a typed view (RFC 9000 section 18)."""

from __future__ import annotations

from dataclasses import dataclass

from harness.wire.quic.codec import DecodeError, QuicReader, varint, varint_vector
from harness.wire.quic.numbers import MAX_CONNECTION_ID, ParameterId

_INTEGERS: dict[int, int] = {
    ParameterId.MAX_IDLE_TIMEOUT: 0,
    ParameterId.MAX_UDP_PAYLOAD_SIZE: 65527,
    ParameterId.INITIAL_MAX_DATA: 0,
    ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_LOCAL: 0,
    ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_REMOTE: 0,
    ParameterId.INITIAL_MAX_STREAM_DATA_UNI: 0,
    ParameterId.INITIAL_MAX_STREAMS_BIDI: 0,
    ParameterId.INITIAL_MAX_STREAMS_UNI: 0,
    ParameterId.ACK_DELAY_EXPONENT: 3,
    ParameterId.MAX_ACK_DELAY: 25,
    ParameterId.ACTIVE_CONNECTION_ID_LIMIT: 2,
    ParameterId.MAX_DATAGRAM_FRAME_SIZE: 0,
}
"""The integer parameters and what their absence stands for."""
_SERVER_ONLY = (
    ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID,
    ParameterId.STATELESS_RESET_TOKEN,
    ParameterId.PREFERRED_ADDRESS,
    ParameterId.RETRY_SOURCE_CONNECTION_ID,
)
_BOUNDS: dict[int, tuple[int, int]] = {
    ParameterId.MAX_UDP_PAYLOAD_SIZE: (1200, 1 << 62),
    ParameterId.ACK_DELAY_EXPONENT: (0, 20),
    ParameterId.MAX_ACK_DELAY: (0, (1 << 14) - 1),
    ParameterId.ACTIVE_CONNECTION_ID_LIMIT: (2, 1 << 62),
    ParameterId.INITIAL_MAX_STREAMS_BIDI: (0, 1 << 60),
    ParameterId.INITIAL_MAX_STREAMS_UNI: (0, 1 << 60),
}
"""Least and most of a legal value (RFC 9000 section 18.2)."""
EXTENSION = 0x39
"""The TLS extension quic_transport_parameters (RFC 9001 section 8.2)."""


def parameter_name(number: int) -> str:
    """The registry's name in lower case, `parameter 0x1b` for an unknown one."""
    try:
        return ParameterId(number).name.lower()
    except ValueError:
        return f"parameter 0x{number:x}"


@dataclass(frozen=True, slots=True)
class Parameters:
    """Transport parameters in the order of the wire; the same id may stand twice, and a value may be malformed."""

    entries: tuple[tuple[int, bytes], ...] = ()

    def encode(self) -> bytes:
        """The octets of the extension."""
        return b"".join(varint(number) + varint_vector(value) for number, value in self.entries)

    @classmethod
    def decode(cls, data: bytes) -> Parameters:
        """Parse the extension. Raises `DecodeError`."""
        reader = QuicReader(data, "transport parameters")
        entries = []
        while reader.left:
            entries.append((reader.varint(), reader.varint_vector()))
        return cls(tuple(entries))

    def get(self, number: int) -> bytes | None:
        """The value of the first parameter of that id."""
        return next((value for each, value in self.entries if each == number), None)

    def has(self, number: int) -> bool:
        """Whether the parameter is there."""
        return self.get(number) is not None

    def integer(self, number: int) -> int:
        """An integer parameter, or what its absence stands for. Raises `DecodeError`."""
        value = self.get(number)
        if value is None:
            return _INTEGERS[number]
        reader = QuicReader(value, parameter_name(number))
        found = reader.varint()
        reader.end()
        return found

    def with_value(self, number: int, value: bytes | int) -> Parameters:
        """A copy where the first parameter of that id has `value`, or with it at the end."""
        octets = varint(value) if isinstance(value, int) else value
        if not self.has(number):
            return self.appending(number, octets)
        entries = list(self.entries)
        entries[[each for each, _ in entries].index(number)] = (number, octets)
        return Parameters(tuple(entries))

    def appending(self, number: int, value: bytes | int) -> Parameters:
        """A copy with one more at the end, doubles included."""
        octets = varint(value) if isinstance(value, int) else value
        return Parameters((*self.entries, (number, octets)))

    def without(self, *numbers: int) -> Parameters:
        """A copy without the parameters of these ids."""
        return Parameters(tuple(entry for entry in self.entries if entry[0] not in numbers))

    def check(self, *, from_server: bool) -> str | None:
        """What is wrong with them where the other side sent them (RFC 9000 section 18.2), None where nothing is."""
        numbers = [number for number, _ in self.entries]
        for number in numbers:
            if numbers.count(number) > 1:
                return f"{parameter_name(number)} twice"
            if number in _SERVER_ONLY and not from_server:
                return f"{parameter_name(number)} of a client"
            try:
                wrong = self._check_value(number)
            except DecodeError as error:
                return str(error)
            if wrong:
                return wrong
        return None

    def _check_value(self, number: int) -> str | None:
        value = self.get(number) or b""
        if number in _INTEGERS:
            least, most = _BOUNDS.get(number, (0, 1 << 62))
            found = self.integer(number)
            return None if least <= found <= most else f"{parameter_name(number)} {found}"
        if number == ParameterId.STATELESS_RESET_TOKEN and len(value) != 16:
            return f"stateless_reset_token of {len(value)} octets"
        if number == ParameterId.DISABLE_ACTIVE_MIGRATION and value:
            return "disable_active_migration with a value"
        if number in _CONNECTION_IDS and len(value) > MAX_CONNECTION_ID:
            return f"{parameter_name(number)} of {len(value)} octets"
        if number == ParameterId.VERSION_INFORMATION and (len(value) % 4 or not value or 0 in self.versions):
            return "malformed version_information"
        return None

    # The typed view: integers, with the RFC's defaults. All raise `DecodeError` for a malformed value.

    @property
    def max_idle_timeout(self) -> int:
        """Milliseconds; 0 is none."""
        return self.integer(ParameterId.MAX_IDLE_TIMEOUT)

    @property
    def max_udp_payload_size(self) -> int:
        """Octets of a datagram."""
        return self.integer(ParameterId.MAX_UDP_PAYLOAD_SIZE)

    @property
    def initial_max_data(self) -> int:
        """Octets of stream data on the connection."""
        return self.integer(ParameterId.INITIAL_MAX_DATA)

    @property
    def initial_max_stream_data_bidi_local(self) -> int:
        """Octets on a bidirectional stream that the sender of the parameter opens."""
        return self.integer(ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_LOCAL)

    @property
    def initial_max_stream_data_bidi_remote(self) -> int:
        """Octets on a bidirectional stream that the receiver of the parameter opens."""
        return self.integer(ParameterId.INITIAL_MAX_STREAM_DATA_BIDI_REMOTE)

    @property
    def initial_max_stream_data_uni(self) -> int:
        """Octets on a unidirectional stream."""
        return self.integer(ParameterId.INITIAL_MAX_STREAM_DATA_UNI)

    @property
    def initial_max_streams_bidi(self) -> int:
        """Bidirectional streams."""
        return self.integer(ParameterId.INITIAL_MAX_STREAMS_BIDI)

    @property
    def initial_max_streams_uni(self) -> int:
        """Unidirectional streams."""
        return self.integer(ParameterId.INITIAL_MAX_STREAMS_UNI)

    @property
    def active_connection_id_limit(self) -> int:
        """Connection ids that are kept."""
        return self.integer(ParameterId.ACTIVE_CONNECTION_ID_LIMIT)

    @property
    def max_datagram_frame_size(self) -> int:
        """Octets of a DATAGRAM frame with its type and length; 0 takes none (RFC 9221 section 3)."""
        return self.integer(ParameterId.MAX_DATAGRAM_FRAME_SIZE)

    @property
    def ack_delay_exponent(self) -> int:
        """The scale of the ACK Delay field."""
        return self.integer(ParameterId.ACK_DELAY_EXPONENT)

    @property
    def max_ack_delay(self) -> int:
        """Milliseconds."""
        return self.integer(ParameterId.MAX_ACK_DELAY)

    @property
    def versions(self) -> tuple[int, ...]:
        """version_information (RFC 9368 section 3): the chosen version, then the available ones."""
        value = self.get(ParameterId.VERSION_INFORMATION) or b""
        return tuple(int.from_bytes(value[at : at + 4], "big") for at in range(0, len(value) - 3, 4))


_CONNECTION_IDS = (
    ParameterId.ORIGINAL_DESTINATION_CONNECTION_ID,
    ParameterId.INITIAL_SOURCE_CONNECTION_ID,
    ParameterId.RETRY_SOURCE_CONNECTION_ID,
)
