"""Certificates for the scripted peers, made at first use and kept for the process."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.wire.tls.crypto import Identity, PrivateKey

DAY = timedelta(days=1)
ROOT = "Edgecase test CA"
SERVER = "server"
CLIENT = "client"
_USAGES = {SERVER: ExtendedKeyUsageOID.SERVER_AUTH, CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}


def new_key(kind: str = "ecdsa") -> PrivateKey:
    """A fresh key: `ecdsa` (P-256), `ecdsa-p384` or `rsa` (2048 bits)."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP384R1() if kind == "ecdsa-p384" else ec.SECP256R1())


def _name(common_name: str) -> x509.Name:
    # An empty subject is legal with a critical subjectAltName; a name reads better in reports (at most 64 characters).
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64] or "unnamed")])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Authority:
    """A certificate authority: `certificate`, `key`, and the certificates `above` it that a server sends along."""

    certificate: x509.Certificate
    key: PrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        *names: str,
        kind: str = "ecdsa",
        usage: str | None = SERVER,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Identity:
        """A leaf for `names` (host names, wildcards, addresses). `usage`: `server`, `client`, or None for no EKU."""
        key = new_key(kind)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(names[0] if names else ""))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - DAY)
            .not_valid_after(not_after or now + 30 * DAY)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(ca=False), critical=True)
            .add_extension(_authority_key(self.key), critical=False)
        )
        if usage is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([_USAGES[usage]]), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        chain = (certificate, self.certificate, *self.above) if self.above else (certificate,)
        return Identity(chain, key)

    def expired(self, *names: str) -> Identity:
        """A leaf that ended yesterday."""
        now = datetime.now(UTC)
        return self.issue(*names, not_before=now - 30 * DAY, not_after=now - DAY)

    def intermediate(self, name: str = "Edgecase test intermediate") -> Authority:
        """An authority below this one; its leaves bring it along in their chain."""
        made = _authority(name, self)
        return Authority(made.certificate, made.key, self.above)


def _authority_key(key: PrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _authority(name: str, issuer: Authority | None = None) -> Authority:
    key = new_key()
    now = datetime.now(UTC)
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(name) if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 365 * DAY)
        .not_valid_after(now + 365 * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority_key(signer), critical=False)
    )
    return Authority(builder.sign(signer, hashes.SHA256()), key)


_cached_authority = functools.cache(_authority)


def authority(name: str = ROOT) -> Authority:
    """The root of that name: the same one for the whole process."""
    return _cached_authority(name)


@functools.cache
def _cached_identity(names: tuple[str, ...], ca: str, kind: str, usage: str | None, expired: bool) -> Identity:
    if expired:
        return authority(ca).expired(*names)
    return authority(ca).issue(*names, kind=kind, usage=usage)


def identity(*names: str, ca: str = ROOT, kind: str = "ecdsa", usage: str | None = SERVER) -> Identity:
    """A valid leaf for `names` below the root `ca`: the same one for the whole process."""
    return _cached_identity(names, ca, kind, usage, False)


def expired_identity(*names: str, ca: str = ROOT) -> Identity:
    """A leaf that ended yesterday: the same one for the whole process."""
    return _cached_identity(names, ca, "ecdsa", SERVER, True)


def self_signed(*names: str, kind: str = "ecdsa") -> Identity:
    """A leaf that signs itself and that nobody trusts: the same one for the whole process."""
    return _cached_self_signed(names, kind)


@functools.cache
def _cached_self_signed(names: tuple[str, ...], kind: str) -> Identity:
    key = new_key(kind)
    now = datetime.now(UTC)
    subject = _name(names[0] if names else "")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Identity((certificate,), key)


def chain_pem(identity: Identity) -> bytes:
    """The chain as PEM, leaf first."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in identity.chain)


def key_pem(identity: Identity) -> bytes:
    """The key as PKCS #8 PEM, without a password."""
    return identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
