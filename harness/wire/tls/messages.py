"""Handshake messages as data; what is unknown is kept (RFC 8446 section 4, RFC 5246 section 7.4)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

from harness.wire.tls import extensions as ext
from harness.wire.tls.codec import DecodeError, Reader, uint, uints, vector
from harness.wire.tls.extensions import Extension, Extensions, decode_extensions, encode_extensions
from harness.wire.tls.numbers import RETRY_RANDOM, ExtensionType, HandshakeType


class Message:
    """One handshake message. `TYPE` is its number; `encode()` gives header and body."""

    __slots__ = ()
    TYPE: ClassVar[int]

    @property
    def name(self) -> str:
        """The RFC's name of the message."""
        return type(self).__name__

    @property
    def type(self) -> int:
        """The number of the message."""
        return self.TYPE

    def body(self) -> bytes:
        """The octets behind the header."""
        raise TypeError(f"{self.name} has no body of its own")

    def encode(self) -> bytes:
        """Header and body."""
        return uint(1, self.type) + vector(3, self.body())


class _Extended(Message):
    """What the messages with one extension block share."""

    __slots__ = ()
    extensions: Extensions | None

    def extension(self, number: int) -> bytes | None:
        """Data of the first extension of that type."""
        return ext.find(self.extensions, number)

    @property
    def extension_types(self) -> tuple[int, ...]:
        """Types in order of appearance."""
        return tuple(extension.type for extension in self.extensions or ())

    def with_extension(self, *new: Extension) -> Self:
        """A copy where each of `new` replaces the first of its type, or stands last (before pre_shared_key)."""
        found = list(self.extensions or ())
        for extension in new:
            at = next((index for index, old in enumerate(found) if old.type == extension.type), None)
            if at is not None:
                found[at] = extension
            elif found and found[-1].type == ExtensionType.PRE_SHARED_KEY:
                found.insert(len(found) - 1, extension)
            else:
                found.append(extension)
        return dataclasses.replace(self, extensions=tuple(found))  # type: ignore[type-var]

    def appending(self, *new: Extension) -> Self:
        """A copy with `new` at the very end, doubles included."""
        return dataclasses.replace(self, extensions=(*(self.extensions or ()), *new))  # type: ignore[type-var]

    def without_extension(self, *numbers: int) -> Self:
        """A copy without the extensions of these types."""
        kept = tuple(extension for extension in self.extensions or () if extension.type not in numbers)
        return dataclasses.replace(self, extensions=kept)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class ClientHello(_Extended):
    """RFC 8446 section 4.1.2. `extensions` is None without a block; `trailing` is written behind everything."""

    TYPE = HandshakeType.CLIENT_HELLO
    legacy_version: int
    random: bytes
    session_id: bytes
    cipher_suites: tuple[int, ...]
    compression_methods: bytes = b"\x00"
    extensions: Extensions | None = ()
    trailing: bytes = b""

    def body(self) -> bytes:
        """The octets behind the header."""
        return (
            uint(2, self.legacy_version)
            + self.random
            + vector(1, self.session_id)
            + uints(2, 2, self.cipher_suites)
            + vector(1, self.compression_methods)
            + encode_extensions(self.extensions)
            + self.trailing
        )

    @classmethod
    def decode(cls, body: bytes) -> ClientHello:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "ClientHello")
        version, random = reader.uint(2), reader.take(32)
        session_id = reader.vector(1)
        if len(session_id) > 32:
            raise DecodeError(f"ClientHello: session id of {len(session_id)} octets")
        suites, compression = reader.uints(2, 2, 2), reader.vector(1, 1)
        extensions = decode_extensions(reader) if reader.left else None
        reader.end()
        return cls(version, random, session_id, suites, compression, extensions)

    def _parsed(self, number: int) -> bytes:
        return self.extension(number) or b""

    @property
    def server_names(self) -> tuple[tuple[int, bytes], ...]:
        """Pairs of name type and name; empty without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.SERVER_NAME)
        return () if data is None else ext.parse_server_name(data)

    @property
    def server_name(self) -> str | None:
        """The first host name as Latin-1 text. Raises `DecodeError`."""
        return next((name.decode("latin-1") for kind, name in self.server_names if kind == 0), None)

    @property
    def alpn(self) -> tuple[str, ...] | None:
        """Offered protocols as Latin-1 text; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.ALPN)
        return None if data is None else tuple(name.decode("latin-1") for name in ext.parse_alpn(data))

    @property
    def supported_versions(self) -> tuple[int, ...] | None:
        """Offered versions; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.SUPPORTED_VERSIONS)
        return None if data is None else ext.parse_supported_versions(data)

    @property
    def groups(self) -> tuple[int, ...] | None:
        """Offered groups; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.SUPPORTED_GROUPS)
        return None if data is None else ext.parse_supported_groups(data)

    @property
    def key_shares(self) -> tuple[tuple[int, bytes], ...] | None:
        """Pairs of group and public value; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.KEY_SHARE)
        return None if data is None else ext.parse_key_shares(data)

    @property
    def signature_schemes(self) -> tuple[int, ...] | None:
        """Offered signature schemes; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.SIGNATURE_ALGORITHMS)
        return None if data is None else ext.parse_signature_algorithms(data)

    @property
    def psks(self) -> ext.OfferedPsks | None:
        """Offered pre-shared keys; None without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.PRE_SHARED_KEY)
        return None if data is None else ext.parse_pre_shared_keys(data)


@dataclass(frozen=True, slots=True)
class ServerHello(_Extended):
    """RFC 8446 section 4.1.3; a HelloRetryRequest is one with a fixed random."""

    TYPE = HandshakeType.SERVER_HELLO
    legacy_version: int
    random: bytes
    session_id: bytes
    cipher_suite: int
    compression_method: int = 0
    extensions: Extensions | None = ()

    @property
    def is_retry(self) -> bool:
        """Whether it is a HelloRetryRequest."""
        return self.random == RETRY_RANDOM

    @property
    def name(self) -> str:
        """`HelloRetryRequest` or `ServerHello`."""
        return "HelloRetryRequest" if self.is_retry else "ServerHello"

    def body(self) -> bytes:
        """The octets behind the header."""
        return (
            uint(2, self.legacy_version)
            + self.random
            + vector(1, self.session_id)
            + uint(2, self.cipher_suite)
            + uint(1, self.compression_method)
            + encode_extensions(self.extensions)
        )

    @classmethod
    def decode(cls, body: bytes) -> ServerHello:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "ServerHello")
        version, random, session_id = reader.uint(2), reader.take(32), reader.vector(1)
        suite, compression = reader.uint(2), reader.uint(1)
        extensions = decode_extensions(reader) if reader.left else None
        reader.end()
        return cls(version, random, session_id, suite, compression, extensions)

    @property
    def selected_version(self) -> int:
        """supported_versions where present, else the legacy field. Raises `DecodeError`."""
        data = self.extension(ExtensionType.SUPPORTED_VERSIONS)
        return self.legacy_version if data is None else ext.parse_uint16(data, "supported_versions")


@dataclass(frozen=True, slots=True)
class EncryptedExtensions(_Extended):
    """RFC 8446 section 4.3.1."""

    TYPE = HandshakeType.ENCRYPTED_EXTENSIONS
    extensions: Extensions | None = ()

    def body(self) -> bytes:
        """The octets behind the header."""
        return encode_extensions(self.extensions)

    @classmethod
    def decode(cls, body: bytes) -> EncryptedExtensions:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "EncryptedExtensions")
        extensions = decode_extensions(reader)
        reader.end()
        return cls(extensions)


@dataclass(frozen=True, slots=True)
class Certificate(Message):
    """TLS 1.3: `context` and pairs of DER and extensions (RFC 8446 section 4.4.2); TLS 1.2: `context` is None."""

    TYPE = HandshakeType.CERTIFICATE
    entries: tuple[tuple[bytes, Extensions], ...]
    context: bytes | None = None

    def body(self) -> bytes:
        """The octets behind the header."""
        if self.context is None:
            return vector(3, b"".join(vector(3, der) for der, _ in self.entries))
        listed = b"".join(vector(3, der) + encode_extensions(extensions) for der, extensions in self.entries)
        return vector(1, self.context) + vector(3, listed)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates as DER, in order."""
        return tuple(der for der, _ in self.entries)

    @classmethod
    def decode(cls, body: bytes, *, tls13: bool) -> Certificate:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "Certificate")
        context = reader.vector(1) if tls13 else None
        listed = reader.inner(3)
        reader.end()
        entries: list[tuple[bytes, Extensions]] = []
        while listed.left:
            der = listed.vector(3, 1)
            entries.append((der, decode_extensions(listed) if tls13 else ()))
        return cls(tuple(entries), context)


@dataclass(frozen=True, slots=True)
class CertificateRequest(_Extended):
    """TLS 1.3: `context` and `extensions` (RFC 8446 section 4.3.2); TLS 1.2: types, schemes, names (RFC 5246)."""

    TYPE = HandshakeType.CERTIFICATE_REQUEST
    context: bytes | None = None
    extensions: Extensions | None = ()
    certificate_types: tuple[int, ...] = (64, 1)
    schemes: tuple[int, ...] = ()
    authorities: bytes = b""

    def body(self) -> bytes:
        """The octets behind the header."""
        if self.context is not None:
            return vector(1, self.context) + encode_extensions(self.extensions)
        return uints(1, 1, self.certificate_types) + uints(2, 2, self.schemes) + vector(2, self.authorities)

    @property
    def accepted_schemes(self) -> tuple[int, ...]:
        """The signature schemes that the requester takes. Raises `DecodeError`."""
        if self.context is None:
            return self.schemes
        return ext.parse_signature_algorithms(self.extension(ExtensionType.SIGNATURE_ALGORITHMS) or b"")

    @classmethod
    def decode(cls, body: bytes, *, tls13: bool) -> CertificateRequest:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "CertificateRequest")
        if tls13:
            found = cls(reader.vector(1), decode_extensions(reader))
        else:
            types, schemes = reader.uints(1, 1, 1), reader.uints(2, 2, 2)
            found = cls(None, (), types, schemes, reader.vector(2))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class CertificateVerify(Message):
    """A signature over the transcript (RFC 8446 section 4.4.3, RFC 5246 section 7.4.8)."""

    TYPE = HandshakeType.CERTIFICATE_VERIFY
    scheme: int
    signature: bytes

    def body(self) -> bytes:
        """The octets behind the header."""
        return uint(2, self.scheme) + vector(2, self.signature)

    @classmethod
    def decode(cls, body: bytes) -> CertificateVerify:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "CertificateVerify")
        found = cls(reader.uint(2), reader.vector(2))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class Finished(Message):
    """RFC 8446 section 4.4.4, RFC 5246 section 7.4.9."""

    TYPE = HandshakeType.FINISHED
    verify_data: bytes

    def body(self) -> bytes:
        """The octets behind the header."""
        return self.verify_data


@dataclass(frozen=True, slots=True)
class NewSessionTicket(_Extended):
    """TLS 1.3 (RFC 8446 section 4.6.1); TLS 1.2 where `nonce` is None (RFC 5077 section 3.3). `lifetime` in seconds."""

    TYPE = HandshakeType.NEW_SESSION_TICKET
    lifetime: int
    ticket: bytes
    age_add: int = 0
    nonce: bytes | None = None
    extensions: Extensions | None = ()

    def body(self) -> bytes:
        """The octets behind the header."""
        if self.nonce is None:
            return uint(4, self.lifetime) + vector(2, self.ticket)
        head = uint(4, self.lifetime) + uint(4, self.age_add) + vector(1, self.nonce)
        return head + vector(2, self.ticket) + encode_extensions(self.extensions)

    @property
    def max_early_data(self) -> int:
        """Octets of early data that the server takes; 0 without the extension. Raises `DecodeError`."""
        data = self.extension(ExtensionType.EARLY_DATA)
        if data is None:
            return 0
        reader = Reader(data, "early_data")
        limit = reader.uint(4)
        reader.end()
        return limit

    @classmethod
    def decode(cls, body: bytes, *, tls13: bool) -> NewSessionTicket:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "NewSessionTicket")
        lifetime = reader.uint(4)
        if tls13:
            age_add, nonce, ticket = reader.uint(4), reader.vector(1), reader.vector(2, 1)
            found = cls(lifetime, ticket, age_add, nonce, decode_extensions(reader))
        else:
            found = cls(lifetime, reader.vector(2))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class ServerKeyExchange(Message):
    """The ECDHE form: named curve, point and signature (RFC 8422 section 5.4)."""

    TYPE = HandshakeType.SERVER_KEY_EXCHANGE
    group: int
    public: bytes
    scheme: int
    signature: bytes

    @property
    def params(self) -> bytes:
        """The octets that are signed, behind the two randoms."""
        return b"\x03" + uint(2, self.group) + vector(1, self.public)

    def body(self) -> bytes:
        """The octets behind the header."""
        return self.params + uint(2, self.scheme) + vector(2, self.signature)

    @classmethod
    def decode(cls, body: bytes) -> ServerKeyExchange:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "ServerKeyExchange")
        kind = reader.uint(1)
        if kind != 3:
            raise DecodeError(f"ServerKeyExchange: curve type {kind}, named_curve (3) required")
        found = cls(reader.uint(2), reader.vector(1, 1), reader.uint(2), reader.vector(2))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class ClientKeyExchange(Message):
    """The ECDHE form: the client's point (RFC 8422 section 5.7)."""

    TYPE = HandshakeType.CLIENT_KEY_EXCHANGE
    public: bytes

    def body(self) -> bytes:
        """The octets behind the header."""
        return vector(1, self.public)

    @classmethod
    def decode(cls, body: bytes) -> ClientKeyExchange:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "ClientKeyExchange")
        found = cls(reader.vector(1, 1))
        reader.end()
        return found


@dataclass(frozen=True, slots=True)
class KeyUpdate(Message):
    """RFC 8446 section 4.6.3; `request` is 0, 1, or something illegal."""

    TYPE = HandshakeType.KEY_UPDATE
    request: int = 0

    def body(self) -> bytes:
        """The octets behind the header."""
        return uint(1, self.request)

    @classmethod
    def decode(cls, body: bytes) -> KeyUpdate:
        """Parse a body. Raises `DecodeError`."""
        reader = Reader(body, "KeyUpdate")
        found = cls(reader.uint(1))
        reader.end()
        return found


_BARE_NAMES = {
    HandshakeType.HELLO_REQUEST: "HelloRequest",
    HandshakeType.SERVER_HELLO_DONE: "ServerHelloDone",
    HandshakeType.END_OF_EARLY_DATA: "EndOfEarlyData",
    HandshakeType.CERTIFICATE_STATUS: "CertificateStatus",
    HandshakeType.MESSAGE_HASH: "message_hash",
}
_EMPTY = (HandshakeType.HELLO_REQUEST, HandshakeType.SERVER_HELLO_DONE, HandshakeType.END_OF_EARLY_DATA)


@dataclass(frozen=True, slots=True)
class Bare(Message):
    """A message without structure: HelloRequest, ServerHelloDone, EndOfEarlyData, or one that we do not know."""

    number: int
    octets: bytes = b""

    @property
    def type(self) -> int:
        """The number of the message."""
        return self.number

    @property
    def name(self) -> str:
        """The RFC's name, or `handshake type 99`."""
        return next(
            (name for number, name in _BARE_NAMES.items() if number == self.number), f"handshake type {self.number}"
        )

    def body(self) -> bytes:
        """The octets behind the header."""
        return self.octets


def decode_message(number: int, body: bytes, *, tls13: bool) -> Message:
    """Parse the body of message `number` in the form of the negotiated version. Raises `DecodeError`."""
    match number:
        case HandshakeType.CERTIFICATE:
            return Certificate.decode(body, tls13=tls13)
        case HandshakeType.CERTIFICATE_REQUEST:
            return CertificateRequest.decode(body, tls13=tls13)
        case HandshakeType.NEW_SESSION_TICKET:
            return NewSessionTicket.decode(body, tls13=tls13)
        case HandshakeType.FINISHED:
            return Finished(body)
    plain = _PLAIN.get(number)
    if plain is not None:
        return plain.decode(body)
    if body and number in _EMPTY:
        raise DecodeError(f"{Bare(number).name}: {len(body)} octets after the end")
    return Bare(number, body)


_PLAIN: dict[
    int,
    type[
        ClientHello
        | ServerHello
        | EncryptedExtensions
        | CertificateVerify
        | ServerKeyExchange
        | ClientKeyExchange
        | KeyUpdate
    ],
] = {
    kind.TYPE: kind
    for kind in (
        ClientHello,
        ServerHello,
        EncryptedExtensions,
        CertificateVerify,
        ServerKeyExchange,
        ClientKeyExchange,
        KeyUpdate,
    )
}
