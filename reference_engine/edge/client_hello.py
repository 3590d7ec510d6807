"""Reads the ClientHello of a connection without answering it, over any number of records and segments.

Sans-I/O and bounded. What is read here routes the connection, and in passthrough it is all that is ever read: so the
reader is strict in what carries the route (record and message framing, the extension block, server_name) and leaves
the rest to whoever ends the handshake. A malformed ALPN extension, for one, is noted and not judged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

HANDSHAKE = 22
CLIENT_HELLO = 1
MAX_RECORD = 16_384
"""Most octets of one plaintext record (RFC 8446 section 5.1)."""

SERVER_NAME = 0
SUPPORTED_GROUPS = 10
ALPN = 16
SUPPORTED_VERSIONS = 43

UNEXPECTED_MESSAGE = 10
RECORD_OVERFLOW = 22
ILLEGAL_PARAMETER = 47
DECODE_ERROR = 50
UNRECOGNIZED_NAME = 112
NO_APPLICATION_PROTOCOL = 120


class HelloError(Exception):
    """The octets are no ClientHello that can be routed; `alert` is what the client is told (None: it speaks no TLS)."""

    def __init__(self, reason: str, alert: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.alert = alert


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a ClientHello says, as far as routing and limits go. Names are text, octets above 127 as surrogates."""

    legacy_version: int
    server_name: str | None
    """The host_name as sent; None without the extension."""
    alpns: tuple[str, ...]
    """The ALPN offer; empty without the extension, or where it is malformed."""
    alpn_malformed: bool
    versions: tuple[int, ...]
    """supported_versions, else the legacy version alone (RFC 8446 section 4.2.1)."""
    groups: tuple[int, ...]


class _Reader:
    """Takes vectors off a piece of a message; anything that does not fit is a decode_error."""

    def __init__(self, data: bytes, what: str) -> None:
        self.data = data
        self.at = 0
        self.what = what

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if len(piece) != count:
            raise HelloError(f"{self.what}: cut short", DECODE_ERROR)
        self.at += count
        return piece

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def finish(self) -> None:
        if self.more:
            raise HelloError(f"{self.what}: octets behind the end", DECODE_ERROR)


def parse_client_hello(body: bytes) -> ClientHello:
    """The body of a ClientHello message (without its 4-octet header). Raises HelloError."""
    reader = _Reader(body, "ClientHello")
    legacy_version = reader.number(2)
    reader.take(32)
    reader.vector(1)
    reader.vector(2)
    reader.vector(1)
    extensions: dict[int, bytes] = {}
    twice: set[int] = set()
    if reader.more:
        # A hello without any extension block is well formed (RFC 5246 section 7.4.1.2).
        block = _Reader(reader.vector(2), "extensions")
        reader.finish()
        while block.more:
            kind = block.number(2)
            if kind in extensions:
                twice.add(kind)
            extensions[kind] = block.vector(2)
    if SERVER_NAME in twice:
        raise HelloError("two server_name extensions", ILLEGAL_PARAMETER)
    alpns = None if ALPN in twice else _alpns(extensions.get(ALPN))
    return ClientHello(
        legacy_version=legacy_version,
        server_name=_server_name(extensions.get(SERVER_NAME)),
        alpns=alpns or (),
        alpn_malformed=alpns is None,
        versions=_numbers(extensions.get(SUPPORTED_VERSIONS), 1) or (min(legacy_version, 0x0303),),
        groups=_numbers(extensions.get(SUPPORTED_GROUPS), 2),
    )


def _server_name(data: bytes | None) -> str | None:
    """The one host_name of the extension (RFC 6066 section 3)."""
    if data is None:
        return None
    reader = _Reader(data, "server_name")
    names = _Reader(reader.vector(2), "server_name")
    reader.finish()
    found: list[bytes] = []
    while names.more:
        kind = names.number(1)
        name = names.vector(2)
        if not name:
            raise HelloError("server_name: empty name", DECODE_ERROR)
        if kind == 0:
            found.append(name)
    if len(found) > 1:
        raise HelloError("server_name: two host names", ILLEGAL_PARAMETER)
    if not found:
        raise HelloError("server_name: no host name", DECODE_ERROR)
    return found[0].decode("ascii", "surrogateescape")


def _alpns(data: bytes | None) -> tuple[str, ...] | None:
    """The offered protocol names (RFC 7301 section 3.1); None where the extension is malformed."""
    if data is None:
        return ()
    try:
        reader = _Reader(data, "alpn")
        names = _Reader(reader.vector(2), "alpn")
        reader.finish()
        found = []
        while names.more:
            found.append(names.vector(1).decode("utf-8", "surrogateescape"))
    except HelloError:
        return None
    return tuple(found) if found and all(found) else None


def _numbers(data: bytes | None, width: int) -> tuple[int, ...]:
    """A vector of 16-bit numbers; empty where it is absent or malformed (whoever negotiates judges it)."""
    if data is None or int.from_bytes(data[:width], "big") != len(data) - width or (len(data) - width) % 2:
        return ()
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(width, len(data), 2))


class HelloReader:
    """Collects octets until the ClientHello is whole. `most` bounds everything that is kept, record headers included.

    `raw` is everything that was fed, for whoever goes on with the connection. `read` makes a hello of its body.
    """

    def __init__(self, most: int, read: Callable[[bytes], ClientHello] = parse_client_hello) -> None:
        self.raw = bytearray()
        self._most = most
        self._read = read
        self._at = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> ClientHello | None:
        """The hello once it is whole, None while more is needed. Raises HelloError."""
        self.raw += data
        while True:
            hello = self._complete()
            if hello is not None:
                return hello
            if not self._record():
                break
        if len(self.raw) > self._most:
            raise HelloError(f"ClientHello of more than {self._most} octets", ILLEGAL_PARAMETER)
        return None

    def _record(self) -> bool:
        """Move one whole record to the message; False when there is none yet."""
        header = self.raw[self._at : self._at + 5]
        if not header:
            return False
        if header[0] != HANDSHAKE or (len(header) > 1 and header[1] != 3):
            # Before the first record it is no TLS at all; behind it a record that cannot stand there.
            first = self._at == 0 and header[0] not in (20, 21, 23)
            raise HelloError("not TLS" if first else "not a handshake record", None if first else UNEXPECTED_MESSAGE)
        if len(header) < 5:
            return False
        length = int.from_bytes(header[3:], "big")
        if length > MAX_RECORD:
            raise HelloError("record of more than 16384 octets", RECORD_OVERFLOW)
        if length == 0:
            raise HelloError("empty handshake record", UNEXPECTED_MESSAGE)
        if len(self.raw) < self._at + 5 + length:
            return False
        self._message += self.raw[self._at + 5 : self._at + 5 + length]
        self._at += 5 + length
        return True

    def _complete(self) -> ClientHello | None:
        if not self._message:
            return None
        if self._message[0] != CLIENT_HELLO:
            raise HelloError("the first message is not a ClientHello", UNEXPECTED_MESSAGE)
        if len(self._message) < 4:
            return None
        length = int.from_bytes(self._message[1:4], "big")
        if length > self._most:
            raise HelloError(f"ClientHello of more than {self._most} octets", ILLEGAL_PARAMETER)
        if len(self._message) < 4 + length:
            return None
        return self._read(bytes(self._message[4 : 4 + length]))


def alert_record(alert: int) -> bytes:
    """A fatal alert in a plaintext record (RFC 8446 sections 5.1 and 6.2)."""
    return bytes((21, 3, 3, 0, 2, 2, alert))
