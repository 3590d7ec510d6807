"""Key exchange groups, signatures and the other side's chain, on `cryptography` primitives."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from harness.wire.tls.codec import TlsUsageError
from harness.wire.tls.numbers import (
    ECDSA_SECP256R1_SHA256,
    ECDSA_SECP384R1_SHA384,
    ED25519,
    RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384,
    RSA_PKCS1_SHA512,
    RSA_PSS_RSAE_SHA256,
    RSA_PSS_RSAE_SHA384,
    RSA_PSS_RSAE_SHA512,
    SECP256R1,
    SECP384R1,
    X25519,
)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Randomness = Callable[[int], bytes]
BAD_CERTIFICATE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises, at loading or later, for a certificate that is none."""

_CURVES: dict[int, tuple[type[ec.EllipticCurve], int]] = {SECP256R1: (ec.SECP256R1, 32), SECP384R1: (ec.SECP384R1, 48)}
GROUPS = (X25519, SECP256R1, SECP384R1)


class KeyExchange:
    """One fresh (EC)DHE key. Raises `TlsUsageError` for a group that we do not speak."""

    def __init__(self, group: int, random: Randomness) -> None:
        self.group = group
        self._x25519: x25519.X25519PrivateKey | None = None
        if group == X25519:
            self._x25519 = x25519.X25519PrivateKey.from_private_bytes(random(32))
            self.public = self._x25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        elif group in _CURVES:
            self._curve, size = _CURVES[group]
            # Below every order of the curves used, and never zero.
            scalar = int.from_bytes(random(size - 1), "big") + 1
            self._ec = ec.derive_private_key(scalar, self._curve())
            self.public = self._ec.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        else:
            raise TlsUsageError(f"group 0x{group:04x}: no key exchange of ours; allowed: x25519, secp256r1, secp384r1")

    def shared(self, public: bytes) -> bytes:
        """The shared secret. Raises `ValueError` where `public` is no valid public value (RFC 8446 section 4.2.8.2)."""
        if self._x25519 is not None:
            return self._x25519.exchange(x25519.X25519PublicKey.from_public_bytes(public))
        if public[:1] != b"\x04":
            raise ValueError("point is not uncompressed")
        return self._ec.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(self._curve(), public))


@dataclass(frozen=True, slots=True)
class Identity:
    """A chain with the leaf first, and the leaf's key. `signing_key` signs in its place where a case wants it wrong."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKey
    signing_key: PrivateKey | None = None

    @property
    def signer(self) -> PrivateKey:
        """The key that signs."""
        return self.key if self.signing_key is None else self.signing_key

    @property
    def auth(self) -> str:
        """`rsa` or `ecdsa`: the TLS 1.2 suites that the leaf fits."""
        return "rsa" if isinstance(self.key, rsa.RSAPrivateKey) else "ecdsa"


@dataclass(frozen=True, slots=True)
class _Scheme:
    kind: str
    hash: hashes.HashAlgorithm | None
    pss: bool = False
    tls13: bool = True


SCHEMES: dict[int, _Scheme] = {
    ECDSA_SECP256R1_SHA256: _Scheme("ec", hashes.SHA256()),
    ECDSA_SECP384R1_SHA384: _Scheme("ec", hashes.SHA384()),
    ED25519: _Scheme("ed25519", None),
    RSA_PSS_RSAE_SHA256: _Scheme("rsa", hashes.SHA256(), pss=True),
    RSA_PSS_RSAE_SHA384: _Scheme("rsa", hashes.SHA384(), pss=True),
    RSA_PSS_RSAE_SHA512: _Scheme("rsa", hashes.SHA512(), pss=True),
    RSA_PKCS1_SHA256: _Scheme("rsa", hashes.SHA256(), tls13=False),
    RSA_PKCS1_SHA384: _Scheme("rsa", hashes.SHA384(), tls13=False),
    RSA_PKCS1_SHA512: _Scheme("rsa", hashes.SHA512(), tls13=False),
}
_CURVE_OF_SCHEME = {ECDSA_SECP256R1_SHA256: "secp256r1", ECDSA_SECP384R1_SHA384: "secp384r1"}


def fitting_schemes(key: PrivateKey, offered: Iterable[int], *, tls13: bool) -> list[int]:
    """The schemes among `offered` that `key` can sign with, in the offered order."""
    return [number for number in offered if number in SCHEMES and _fits(key, number, tls13=tls13)]


def _fits(key: object, number: int, *, tls13: bool) -> bool:
    scheme = SCHEMES[number]
    if tls13 and not scheme.tls13:
        return False
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return scheme.kind == "ec" and (not tls13 or key.curve.name == _CURVE_OF_SCHEME[number])
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return scheme.kind == "rsa"
    return scheme.kind == "ed25519"


def sign(key: PrivateKey, number: int, data: bytes) -> bytes:
    """A signature by scheme `number`, whatever curve the key has."""
    scheme = SCHEMES[number]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    algorithm = scheme.hash or hashes.SHA256()
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(algorithm))
    return key.sign(data, _rsa_padding(scheme, algorithm), algorithm)


def _rsa_padding(scheme: _Scheme, algorithm: hashes.HashAlgorithm) -> padding.AsymmetricPadding:
    if scheme.pss:
        return padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    return padding.PKCS1v15()


def check_signature(
    certificate: x509.Certificate, number: int, data: bytes, signature: bytes, *, tls13: bool
) -> str | None:
    """None where the signature is the leaf's, else the reason."""
    try:
        key = certificate.public_key()
    except BAD_CERTIFICATE as error:
        return f"the leaf's key cannot be read: {error}"
    if number not in SCHEMES or not _fits(key, number, tls13=tls13):
        return f"scheme 0x{number:04x} does not fit the leaf's key"
    scheme = SCHEMES[number]
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and scheme.hash:
            key.verify(signature, data, ec.ECDSA(scheme.hash))
        elif isinstance(key, rsa.RSAPublicKey) and scheme.hash:
            key.verify(signature, data, _rsa_padding(scheme, scheme.hash), scheme.hash)
        else:
            return f"key type {type(key).__name__} is none of ours"
    except InvalidSignature:
        return "signature does not verify with the leaf's key"
    except BAD_CERTIFICATE as error:
        return f"the leaf's key cannot verify: {error}"
    return None


def key_kind(certificate: x509.Certificate) -> str:
    """`rsa` or `ecdsa` (Ed25519 among them), as the TLS 1.2 suites say it; `unreadable`, or the type's name."""
    try:
        key = certificate.public_key()
    except BAD_CERTIFICATE:
        return "unreadable"
    if isinstance(key, rsa.RSAPublicKey):
        return "rsa"
    return "ecdsa" if isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) else type(key).__name__


def load_chain(ders: Iterable[bytes]) -> tuple[x509.Certificate, ...]:
    """Parse DER. Raises `ValueError` for whatever is no certificate."""
    try:
        with warnings.catch_warnings():
            # Oddities that the library only warns of are the other side's business, not an error of a script.
            warnings.simplefilter("ignore")
            return tuple(x509.load_der_x509_certificate(der) for der in ders)
    except BAD_CERTIFICATE as error:
        raise ValueError(str(error)) from error


def to_der(chain: Iterable[x509.Certificate]) -> tuple[bytes, ...]:
    """Encode as DER."""
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)


def verify_chain(
    chain: Sequence[x509.Certificate],
    trust: Sequence[x509.Certificate],
    name: str | None,
    now: datetime | None = None,
) -> str | None:
    """None where `chain` leads to `trust` and its leaf covers `name`, else the reason.

    `name` None asks for a client's chain. Reasons: `no certificate`, `expired`, `not yet valid`, `name mismatch`,
    `unknown issuer`, `invalid: ..` for what else the path validation of RFC 5280 found.
    """
    if not chain:
        return "no certificate"
    if not trust:
        return "unknown issuer"
    moment = now or datetime.now(UTC)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _verify(chain, trust, name, moment)
    except BAD_CERTIFICATE as error:
        return f"invalid: {error}"


def _verify(
    chain: Sequence[x509.Certificate], trust: Sequence[x509.Certificate], name: str | None, now: datetime
) -> str | None:
    leaf = chain[0]
    if now > leaf.not_valid_after_utc:
        return "expired"
    if now < leaf.not_valid_before_utc:
        return "not yet valid"
    if name is not None and not covers(leaf, name):
        return "name mismatch"
    if leaf in trust:
        return None
    builder = PolicyBuilder().store(Store(list(trust))).time(now)
    try:
        if name is None:
            builder.build_client_verifier().verify(leaf, list(chain[1:]))
        else:
            builder.build_server_verifier(_subject(name)).verify(leaf, list(chain[1:]))
    except VerificationError as error:
        return f"invalid: {error}" if _leads_to(chain, trust) else "unknown issuer"
    return None


def _subject(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def covers(leaf: x509.Certificate, name: str) -> bool:
    """Whether the subjectAltName of `leaf` covers `name` (RFC 6125: a wildcard stands for the first label)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(name) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = name.rstrip(".").lower()
    parent = wanted.partition(".")[2]
    patterns = [pattern.lower() for pattern in names.get_values_for_type(x509.DNSName)]
    return wanted in patterns or (bool(parent) and f"*.{parent}" in patterns)


def _leads_to(chain: Sequence[x509.Certificate], trust: Sequence[x509.Certificate]) -> bool:
    for certificate in chain:
        for anchor in trust:
            if certificate == anchor:
                return True
            try:
                certificate.verify_directly_issued_by(anchor)
            except (InvalidSignature, *BAD_CERTIFICATE):
                continue
            return True
    return False
