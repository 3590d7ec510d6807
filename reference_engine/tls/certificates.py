"""The edge's certificate: from files, or from a CA of our own that is made in the state directory.

Configured files are looked at again when their modification time changes (EDGE-020): new handshakes get the new
certificate, open connections keep theirs. A pair that does not load (half written, key and certificate of different
ages) is reported once and the old one stays in use.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from reference_engine.config import ConfigError
from reference_engine.edge.rules import EdgeRules
from reference_engine.tls.endpoint import ServerCertificate

CA_LIFE = dt.timedelta(days=3650)
LEAF_LIFE = dt.timedelta(days=397)
LEAF_RENEWAL = dt.timedelta(days=30)
CLOCK_SKEW = dt.timedelta(hours=1)
CHECK_EVERY = 0.2
"""Seconds between two looks at the files."""
_LOOPBACK = ("127.0.0.1", "::1")
_LOG = logging.getLogger("reference_engine")

CertificateKey = ec.EllipticCurvePrivateKey


class Certificates:
    """What the edge presents. `current()` is asked at each accept; `ca_file` is the CA that clients should trust.

    `clock` (seconds, monotonic) spaces the looks at configured files. Raises ConfigError when nothing usable is there
    at the start.
    """

    def __init__(
        self,
        *,
        domain: str,
        state_dir: Path,
        certificate_file: Path | None = None,
        key_file: Path | None = None,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        rules: EdgeRules | None = None,
    ) -> None:
        self._clock = clock
        self._rules = rules if rules is not None else EdgeRules()
        if certificate_file is not None and key_file is not None:
            self._files: tuple[Path, Path] = (certificate_file, key_file)
            self.ca_file: Path | None = ca_file
        else:
            self._files = make_certificates(state_dir, domain, self._rules.certificate_names(domain))
            self.ca_file = ca_file or state_dir / "ca.pem"
        self._stamp = self._look()
        self._looked = clock()
        self._current = load_certificate(*self._files)

    def current(self) -> ServerCertificate:
        """The certificate for a new handshake."""
        now = self._clock()
        if now - self._looked >= CHECK_EVERY:
            self._looked = now
            stamp = self._look()
            if self._rules.certificate_changed(self._stamp, stamp):
                self._stamp = stamp
                self._reload(*self._files)
        return self._current

    def _reload(self, certificate_file: Path, key_file: Path) -> None:
        try:
            self._current = load_certificate(certificate_file, key_file)
        except ConfigError as problem:
            _LOG.warning("certificate not reloaded reason=%r", str(problem))
        else:
            _LOG.info("certificate reloaded file=%s", certificate_file)

    def _look(self) -> tuple[int | None, ...]:
        return tuple(_modified(file) for file in self._files)


def _modified(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


def load_certificate(certificate_file: Path, key_file: Path) -> ServerCertificate:
    """A chain (PEM, leaf first) and its key (PEM, not encrypted). Raises ConfigError, one line naming key and file."""
    chain = _load_chain(certificate_file)
    key = _load_key(key_file)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public != chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise ConfigError(f"key_file: {key_file} is not the key of the first certificate in {certificate_file}")
    return ServerCertificate(chain, key)


def _read(name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{name}: cannot read {file}: {problem.strerror}") from None


def _load_chain(file: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(_read("certificate_file", file)))
    except ValueError:
        raise ConfigError(
            f"certificate_file: {file} holds no readable certificate; allowed: PEM, the edge's own first"
        ) from None


def _load_key(file: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(_read("key_file", file), password=None)
    except TypeError:
        raise ConfigError(f"key_file: {file} is encrypted; allowed: a PEM private key without a password") from None
    except ValueError:
        raise ConfigError(f"key_file: {file} holds no readable private key; allowed: PEM") from None


def make_certificates(state_dir: Path, domain: str, names: tuple[str, ...]) -> tuple[Path, Path]:
    """Chain and key of the edge below `state_dir`, made where they are missing, near their end or for other `names`.

    The CA (`ca.pem`, `ca.key`) is kept, so that what clients trust survives a restart. Raises ConfigError.
    """
    chain_file, key_file = state_dir / "edge.pem", state_dir / "edge.key"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        ca, ca_key = _own_ca(state_dir)
        if not _still_good(chain_file, key_file, ca, names):
            leaf, key = _issue_leaf(ca, ca_key, domain, names)
            _write_secret(key_file, key)
            chain_file.write_bytes(leaf.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM))
    except OSError as problem:
        raise ConfigError(f"state_dir: cannot write {problem.filename or state_dir}: {problem.strerror}") from None
    return chain_file, key_file


def _own_ca(state_dir: Path) -> tuple[x509.Certificate, CertificateKey]:
    certificate_file, key_file = state_dir / "ca.pem", state_dir / "ca.key"
    if certificate_file.exists() and key_file.exists():
        try:
            loaded = load_certificate(certificate_file, key_file)
        except ConfigError as problem:
            raise ConfigError(f"state_dir: {problem}; remove it to have a new CA made") from None
        if isinstance(loaded.key, ec.EllipticCurvePrivateKey):
            return loaded.chain[0], loaded.key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Edgecase reference engine CA")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_secret(key_file, key)
    certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate, key


def _issue_leaf(
    ca: x509.Certificate, ca_key: CertificateKey, domain: str, dns_names: tuple[str, ...]
) -> tuple[x509.Certificate, CertificateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dns_names]
    # Agents may be pointed at the listener's loopback address instead of a name.
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in _LOOPBACK]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain[:64])])
    leaf = (
        _builder(subject, ca.subject, key, LEAF_LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return leaf, key


def _builder(subject: x509.Name, issuer: x509.Name, key: CertificateKey, life: dt.timedelta) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _still_good(chain_file: Path, key_file: Path, ca: x509.Certificate, dns_names: tuple[str, ...]) -> bool:
    try:
        leaf = load_certificate(chain_file, key_file).chain[0]
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ConfigError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    fresh = leaf.not_valid_after_utc - dt.datetime.now(dt.UTC) > LEAF_RENEWAL
    return fresh and set(dns_names) <= set(names.get_values_for_type(x509.DNSName))


def _write_secret(file: Path, key: CertificateKey) -> None:
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
