"""Extensions: building and parsing those that the peers speak; every other stays octets (RFC 8446 section 4.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.wire.tls.codec import Reader, uint, uints, vector
from harness.wire.tls.numbers import ExtensionType

Name = str | bytes


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension as it stands on the wire."""

    type: int
    data: bytes = b""

    def encode(self) -> bytes:
        """Type, length and data."""
        return uint(2, self.type) + vector(2, self.data)


Extensions = tuple[Extension, ...]


def octets(name: Name) -> bytes:
    """A name as octets: text stands for its Latin-1 octets, so every octet string has one spelling."""
    return name.encode("latin-1") if isinstance(name, str) else name


def encode_extensions(extensions: Extensions | None) -> bytes:
    """The block with its length; nothing at all for None."""
    if extensions is None:
        return b""
    return vector(2, b"".join(extension.encode() for extension in extensions))


def decode_extensions(reader: Reader) -> Extensions:
    """A block with its length. Raises `DecodeError`."""
    block = reader.inner(2)
    found = []
    while block.left:
        found.append(Extension(block.uint(2), block.vector(2)))
    return tuple(found)


def find(extensions: Extensions | None, number: int) -> bytes | None:
    """Data of the first extension of that type."""
    for extension in extensions or ():
        if extension.type == number:
            return extension.data
    return None


def duplicates(extensions: Extensions | None) -> tuple[int, ...]:
    """Types that occur more than once (forbidden by RFC 8446 section 4.2)."""
    seen: set[int] = set()
    double: list[int] = []
    for extension in extensions or ():
        if extension.type in seen and extension.type not in double:
            double.append(extension.type)
        seen.add(extension.type)
    return tuple(double)


# Building: legal for legal arguments, and nothing is checked, so a case can name what it likes.


def server_name(names: Iterable[Name | tuple[int, Name]]) -> Extension:
    """server_name (RFC 6066 section 3): host names, or pairs of name type and name."""
    entries = b""
    for name in names:
        kind, value = name if isinstance(name, tuple) else (0, name)
        entries += uint(1, kind) + vector(2, octets(value))
    return Extension(ExtensionType.SERVER_NAME, vector(2, entries))


def alpn(protocols: Iterable[Name]) -> Extension:
    """application_layer_protocol_negotiation (RFC 7301 section 3.1)."""
    names = b"".join(vector(1, octets(name)) for name in protocols)
    return Extension(ExtensionType.ALPN, vector(2, names))


def supported_versions(versions: Sequence[int]) -> Extension:
    """supported_versions of a ClientHello (RFC 8446 section 4.2.1)."""
    return Extension(ExtensionType.SUPPORTED_VERSIONS, uints(1, 2, tuple(versions)))


def selected_version(version: int) -> Extension:
    """supported_versions of a ServerHello."""
    return Extension(ExtensionType.SUPPORTED_VERSIONS, uint(2, version))


def supported_groups(groups: Sequence[int]) -> Extension:
    """supported_groups (RFC 8446 section 4.2.7)."""
    return Extension(ExtensionType.SUPPORTED_GROUPS, uints(2, 2, tuple(groups)))


def signature_algorithms(schemes: Sequence[int]) -> Extension:
    """signature_algorithms (RFC 8446 section 4.2.3)."""
    return Extension(ExtensionType.SIGNATURE_ALGORITHMS, uints(2, 2, tuple(schemes)))


def key_shares(shares: Iterable[tuple[int, bytes]]) -> Extension:
    """key_share of a ClientHello: pairs of group and public value (RFC 8446 section 4.2.8)."""
    return Extension(ExtensionType.KEY_SHARE, vector(2, b"".join(_share(*share) for share in shares)))


def server_key_share(group: int, public: bytes) -> Extension:
    """key_share of a ServerHello."""
    return Extension(ExtensionType.KEY_SHARE, _share(group, public))


def retry_key_share(group: int) -> Extension:
    """key_share of a HelloRetryRequest."""
    return Extension(ExtensionType.KEY_SHARE, uint(2, group))


def _share(group: int, public: bytes) -> bytes:
    return uint(2, group) + vector(2, public)


def psk_modes(modes: Sequence[int] = (1,)) -> Extension:
    """psk_key_exchange_modes; 1 is psk_dhe_ke (RFC 8446 section 4.2.9)."""
    return Extension(ExtensionType.PSK_KEY_EXCHANGE_MODES, uints(1, 1, tuple(modes)))


def pre_shared_keys(identities: Sequence[tuple[bytes, int]], binders: Sequence[bytes]) -> Extension:
    """pre_shared_key of a ClientHello: pairs of identity and obfuscated age, and binders (RFC 8446 section 4.2.11)."""
    offered = b"".join(vector(2, identity) + uint(4, age) for identity, age in identities)
    proofs = b"".join(vector(1, binder) for binder in binders)
    return Extension(ExtensionType.PRE_SHARED_KEY, vector(2, offered) + vector(2, proofs))


def selected_psk(index: int) -> Extension:
    """pre_shared_key of a ServerHello."""
    return Extension(ExtensionType.PRE_SHARED_KEY, uint(2, index))


def renegotiation_info(verify_data: bytes = b"") -> Extension:
    """renegotiation_info (RFC 5746 section 3.2)."""
    return Extension(ExtensionType.RENEGOTIATION_INFO, vector(1, verify_data))


def early_data(limit: int | None = None) -> Extension:
    """early_data; with `limit` the form of a NewSessionTicket (RFC 8446 section 4.2.10)."""
    return Extension(ExtensionType.EARLY_DATA, b"" if limit is None else uint(4, limit))


def point_formats() -> Extension:
    """ec_point_formats: uncompressed only (RFC 8422 section 5.1.2)."""
    return Extension(ExtensionType.EC_POINT_FORMATS, b"\x01\x00")


# Parsing. All raise `DecodeError`.


def parse_server_name(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Pairs of name type and name."""
    reader = Reader(data, "server_name")
    entries = reader.inner(2, 1)
    reader.end()
    names = []
    while entries.left:
        names.append((entries.uint(1), entries.vector(2, 1)))
    return tuple(names)


def parse_alpn(data: bytes) -> tuple[bytes, ...]:
    """Protocol names; an empty list or an empty name is malformed."""
    reader = Reader(data, "alpn")
    entries = reader.inner(2, 2)
    reader.end()
    names = []
    while entries.left:
        names.append(entries.vector(1, 1))
    return tuple(names)


def _parse_uints(data: bytes, what: str, size: int, each: int) -> tuple[int, ...]:
    reader = Reader(data, what)
    numbers = reader.uints(size, each, each)
    reader.end()
    return numbers


def parse_supported_versions(data: bytes) -> tuple[int, ...]:
    """Versions of a ClientHello, in order."""
    return _parse_uints(data, "supported_versions", 1, 2)


def parse_supported_groups(data: bytes) -> tuple[int, ...]:
    """Groups in order."""
    return _parse_uints(data, "supported_groups", 2, 2)


def parse_signature_algorithms(data: bytes) -> tuple[int, ...]:
    """Schemes in order."""
    return _parse_uints(data, "signature_algorithms", 2, 2)


def parse_psk_modes(data: bytes) -> tuple[int, ...]:
    """Modes in order."""
    return _parse_uints(data, "psk_key_exchange_modes", 1, 1)


def parse_uint16(data: bytes, what: str) -> int:
    """The single number of selected_version, a retry's key_share or a selected PSK."""
    reader = Reader(data, what)
    number = reader.uint(2)
    reader.end()
    return number


def parse_key_shares(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Pairs of group and public value of a ClientHello."""
    reader = Reader(data, "key_share")
    entries = reader.inner(2)
    reader.end()
    shares = []
    while entries.left:
        shares.append((entries.uint(2), entries.vector(2, 1)))
    return tuple(shares)


def parse_server_key_share(data: bytes) -> tuple[int, bytes]:
    """Group and public value of a ServerHello."""
    reader = Reader(data, "key_share")
    share = (reader.uint(2), reader.vector(2, 1))
    reader.end()
    return share


@dataclass(frozen=True, slots=True)
class OfferedPsks:
    """pre_shared_key of a ClientHello: `identities` are pairs of identity and obfuscated age."""

    identities: tuple[tuple[bytes, int], ...]
    binders: tuple[bytes, ...]

    @property
    def binders_length(self) -> int:
        """Octets of the binder list with its length; what the binders do not cover (RFC 8446 section 4.2.11.2)."""
        return 2 + sum(1 + len(binder) for binder in self.binders)


def parse_pre_shared_keys(data: bytes) -> OfferedPsks:
    """pre_shared_key of a ClientHello."""
    reader = Reader(data, "pre_shared_key")
    identities, binders = reader.inner(2, 7), reader.inner(2, 33)
    reader.end()
    offered = []
    while identities.left:
        offered.append((identities.vector(2, 1), identities.uint(4)))
    proofs = []
    while binders.left:
        proofs.append(binders.vector(1, 32))
    return OfferedPsks(tuple(offered), tuple(proofs))


def parse_renegotiation_info(data: bytes) -> bytes:
    """The renegotiated_connection field."""
    reader = Reader(data, "renegotiation_info")
    verify_data = reader.vector(1)
    reader.end()
    return verify_data
