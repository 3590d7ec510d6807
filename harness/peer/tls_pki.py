"""Certificates for the scripted peers, made at first use and kept for the process."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.wire.tls.crypto import Identity, PrivateKey

DAY = timedelta(days=1)
ROOT = "Edgecase test CA"
EDGE_ROOT = "Edgecase edge CA"
UPSTREAM_ROOT = "Edgecase upstream CA"
UPSTREAM_NAMES = ("upstream.test", "*.upstream.test", "localhost", "127.0.0.1")
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
class Leaf(Identity):
    """A chain with its key, and the root that it leads to (itself, when self-signed)."""

    root: x509.Certificate | None = None

    def write(self, folder: Path) -> dict[str, Path]:
        """Put PEM files into `folder`: `chain`, `key`, `ca`, and `combined` (chain and key in one file)."""
        chain, key = chain_pem(self), key_pem(self)
        ca = self.root.public_bytes(Encoding.PEM) if self.root else chain
        contents = {"chain": chain, "key": key, "ca": ca, "combined": chain + key}
        paths = {}
        for name, content in contents.items():
            paths[name] = folder / f"{name}.pem"
            paths[name].touch(mode=0o600)
            paths[name].write_bytes(content)
        return paths


@dataclass(frozen=True)
class Authority:
    """A certificate authority. `above` are those between it and `top`, the root; `top` is None for a root."""

    certificate: x509.Certificate
    key: PrivateKey
    above: tuple[x509.Certificate, ...] = ()
    top: x509.Certificate | None = None

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
    ) -> Leaf:
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
        chain = (certificate, *self._sent)
        return Leaf(chain, key, root=self.root)

    def expired(self, *names: str) -> Leaf:
        """A leaf that ended yesterday."""
        now = datetime.now(UTC)
        return self.issue(*names, not_before=now - 30 * DAY, not_after=now - DAY)

    def intermediate(self, name: str = "Edgecase test intermediate") -> Authority:
        """An authority below this one; its leaves bring it along in their chain."""
        made = _authority(name, self)
        # The root itself is not sent along; what stands between it and a leaf is.
        return Authority(made.certificate, made.key, (*self._sent,), self.root)

    @property
    def root(self) -> x509.Certificate:
        """The certificate to trust."""
        return self.top or self.certificate

    @property
    def _sent(self) -> tuple[x509.Certificate, ...]:
        return (self.certificate, *self.above) if self.top else ()


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
def _cached_identity(names: tuple[str, ...], ca: str, kind: str, usage: str | None, expired: bool) -> Leaf:
    if expired:
        return authority(ca).expired(*names)
    return authority(ca).issue(*names, kind=kind, usage=usage)


def identity(*names: str, ca: str = ROOT, kind: str = "ecdsa", usage: str | None = SERVER) -> Leaf:
    """A valid leaf for `names` below the root `ca`: the same one for the whole process."""
    return _cached_identity(names, ca, kind, usage, False)


def expired_identity(*names: str, ca: str = ROOT) -> Leaf:
    """A leaf that ended yesterday: the same one for the whole process."""
    return _cached_identity(names, ca, "ecdsa", SERVER, True)


def edge_identity(domain: str, *, kind: str = "ecdsa") -> Leaf:
    """What an engine under test shows at its edge: `domain`, `*.domain` and `*.t.domain`, below a root of its own."""
    return identity(domain, f"*.{domain}", f"*.t.{domain}", ca=EDGE_ROOT, kind=kind)


def upstream_identity(*names: str, kind: str = "ecdsa") -> Leaf:
    """What a TLS upstream shows, below a root that is not the edge's; `names` default to `UPSTREAM_NAMES`."""
    return identity(*(names or UPSTREAM_NAMES), ca=UPSTREAM_ROOT, kind=kind)


def agent_identity(name: str) -> Leaf:
    """What an agent shows that proves itself by the client certificate `name`: self-signed, as the service's own are,
    and known to an engine by its fingerprint."""
    return self_signed(name, kind="ecdsa-p384")


def self_signed(*names: str, kind: str = "ecdsa") -> Leaf:
    """A leaf that signs itself and that nobody trusts: the same one for the whole process."""
    return _cached_self_signed(names, kind)


@functools.cache
def _cached_self_signed(names: tuple[str, ...], kind: str) -> Leaf:
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
    return Leaf((certificate,), key, root=certificate)


def chain_pem(identity: Identity) -> bytes:
    """The chain as PEM, leaf first."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in identity.chain)


def key_pem(identity: Identity) -> bytes:
    """The key as PKCS #8 PEM, without a password."""
    return identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
