"""The client's first words: the ClientHello, its binders, and early data."""

from __future__ import annotations

import dataclasses
import ipaddress

from harness.wire.tls import extensions as ext
from harness.wire.tls.codec import DecodeError
from harness.wire.tls.crypto import KeyExchange
from harness.wire.tls.endpoint import Endpoint
from harness.wire.tls.events import Session, Violation
from harness.wire.tls.extensions import Extension, Extensions
from harness.wire.tls.messages import ClientHello
from harness.wire.tls.numbers import (
    GREASE,
    RENEGOTIATION_SCSV,
    SUITES,
    TLS12,
    TLS13,
    AlertDescription,
    ExtensionType,
    extension_name,
)
from harness.wire.tls.options import ClientOptions, default_share
from harness.wire.tls.records import Aead13
from harness.wire.tls.schedule import KeySchedule, digest, finished_mac


class ClientBase(Endpoint):
    """State of a client, and its ClientHello. `hello` is the latest one, as it was sent except for `tamper`."""

    role = "client"

    def __init__(self, options: ClientOptions) -> None:
        super().__init__(options)
        self.client_options = options
        self.client_random = options.random(32)
        self.hello: ClientHello
        self.early_data_accepted = False
        self._session_id = self._choose_session_id()
        self._exchanges = (
            {group: KeyExchange(group, options.random) for group in default_share(options)} if self._offers_13 else {}
        )
        self._cookie: Extension | None = None
        self._early_sent = False

    @property
    def _offers_13(self) -> bool:
        return TLS13 in self.options.versions

    @property
    def _psk_session(self) -> Session | None:
        session = self.client_options.session
        return session if session is not None and session.version == TLS13 and self._offers_13 else None

    @property
    def _session_12(self) -> Session | None:
        session = self.client_options.session
        return session if session is not None and session.version == TLS12 else None

    def _choose_session_id(self) -> bytes:
        options = self.client_options
        if options.session_id is not None:
            return options.session_id
        session = self._session_12
        if session is not None:
            # With a ticket any id shows, echoed, that it was taken (RFC 5077 section 3.4).
            return session.session_id or options.random(32)
        return options.random(32) if self._offers_13 else b""

    def start(self) -> bytes:
        """The ClientHello (and early data): call once, first."""
        self.record_version = self.client_options.record_version
        self._say_hello()
        early = self.client_options.early_data
        if early and self._psk_session is not None:
            self._say_early_data(early)
        return self.outgoing()

    def _say_hello(self) -> None:
        hello = self._with_binder(self._shaped(self._build_hello()))
        self.hello = hello
        self.client_random = hello.random
        self._say("client_hello", hello)
        self._flush()
        self.record_version = TLS12

    def _shaped(self, hello: ClientHello) -> ClientHello:
        return self.client_options.hello(hello) if self.client_options.hello else hello

    def _build_hello(self) -> ClientHello:
        options = self.client_options
        wanted_12 = any(version < TLS13 for version in options.versions)
        suites = tuple(
            number
            for number in options.suites
            if number not in SUITES
            or SUITES[number].version in options.versions
            or (wanted_12 and SUITES[number].version == TLS12)
        )
        if options.renegotiation == "scsv":
            suites += (RENEGOTIATION_SCSV,)
        legacy = options.legacy_version
        if legacy is None:
            legacy = TLS12 if self._offers_13 else max(options.versions)
        found = self._common_extensions()
        if wanted_12:
            found += self._extensions_12()
        if self._offers_13:
            found += self._extensions_13()
        found += options.extra_extensions
        found += self._psk_extension()
        return ClientHello(legacy, self.client_random, self._session_id, suites, b"\0", tuple(found))

    def _common_extensions(self) -> list[Extension]:
        options = self.client_options
        found = []
        if options.server_name is not None and not _is_address(options.server_name):
            found.append(ext.server_name([options.server_name]))
        found.append(ext.supported_groups(options.groups))
        found.append(ext.signature_algorithms(options.signature_schemes))
        if options.alpn:
            found.append(ext.alpn(options.alpn))
        return found

    def _extensions_12(self) -> list[Extension]:
        options = self.client_options
        found = [ext.point_formats()]
        if options.extended_master_secret:
            found.append(Extension(ExtensionType.EXTENDED_MASTER_SECRET))
        if options.renegotiation == "extension":
            found.append(ext.renegotiation_info())
        if options.offer_tickets:
            session = self._session_12
            found.append(Extension(ExtensionType.SESSION_TICKET, session.ticket if session else b""))
        return found

    def _extensions_13(self) -> list[Extension]:
        options = self.client_options
        found = [
            ext.supported_versions(options.versions),
            ext.key_shares((group, exchange.public) for group, exchange in self._exchanges.items()),
        ]
        if options.offer_tickets:
            found.append(ext.psk_modes())
        if self._cookie is not None:
            found.append(self._cookie)
        if options.early_data and self._psk_session is not None and not self._transcript:
            found.append(ext.early_data())
        return found

    def _psk_extension(self) -> list[Extension]:
        session = self._psk_session
        if session is None or (self.suite is not None and SUITES[session.suite].hash != self.suite.hash):
            return []
        age = int((self.options.clock() - session.received_at) * 1000)
        placeholder = bytes(SUITES[session.suite].hash_length)
        return [ext.pre_shared_keys([(session.ticket, (age + session.age_add) % (1 << 32))], [placeholder])]

    def _with_binder(self, hello: ClientHello) -> ClientHello:
        """Fill in the first binder over everything before the binder list (RFC 8446 section 4.2.11.2)."""
        session = self._psk_session
        data = hello.extension(ExtensionType.PRE_SHARED_KEY)
        if session is None or data is None:
            return hello
        try:
            offered = ext.parse_pre_shared_keys(data)
        except DecodeError:
            return hello
        suite = SUITES[session.suite]
        schedule = KeySchedule(suite.hash, session.secret)
        covered = len(hello.encode()) - offered.binders_length - _octets_after_psk(hello)
        transcript = digest(suite.hash, bytes(self._transcript) + hello.encode()[:covered])
        binder = finished_mac(suite.hash, schedule.binder_key(), transcript)
        filled = ext.pre_shared_keys(offered.identities, (binder, *offered.binders[1:]))
        extensions = tuple(
            filled if extension.type == filled.type else extension for extension in hello.extensions or ()
        )
        return dataclasses.replace(hello, extensions=extensions)

    def _say_early_data(self, data: bytes) -> None:
        session = self._psk_session
        assert session is not None
        suite = SUITES[session.suite]
        secret = KeySchedule(suite.hash, session.secret).early("c e traffic", digest(suite.hash, self._transcript))
        self._log("CLIENT_EARLY_TRAFFIC_SECRET", secret)
        self._say_ccs()
        self._write_keys(Aead13(suite, secret))
        self._early_sent = True
        self._say_data(data)

    def _not_offered(self, value: int | str, attribute: str) -> bool:
        """Whether `value` is missing in that list of our hello. A list that the script broke says nothing: the other
        side's answer to it is no fault of its own that TLS could name."""
        try:
            listed: tuple[int | str, ...] | None = getattr(self.hello, attribute)
        except DecodeError:
            return False
        return value not in (listed or ())

    def _take_alpn(self, data: bytes | None) -> None:
        """The server's choice: exactly one, of those offered (RFC 7301 section 3.1)."""
        if data is None:
            return
        names = ext.parse_alpn(data)
        if len(names) != 1:
            raise Violation(f"{len(names)} protocols selected", "RFC 7301 section 3.1", AlertDescription.DECODE_ERROR)
        self.alpn = names[0].decode("latin-1")
        if self._not_offered(self.alpn, "alpn"):
            what = f"ALPN {self.alpn!r} selected, not offered"
            raise Violation(what, "RFC 7301 section 3.2", AlertDescription.ILLEGAL_PARAMETER)

    def _check_extensions(self, extensions: Extensions | None, also: frozenset[int], where: str) -> None:
        double = ext.duplicates(extensions)
        if double:
            raise Violation(
                f"{extension_name(double[0])} twice in {where}",
                "RFC 8446 section 4.2",
                AlertDescription.ILLEGAL_PARAMETER,
            )
        offered = set(self.hello.extension_types) | also
        for extension in extensions or ():
            if extension.type not in offered:
                what = f"{extension_name(extension.type)} in {where} was not offered"
                raise Violation(what, "RFC 8446 section 4.2", AlertDescription.UNSUPPORTED_EXTENSION)

    @property
    def verify_name(self) -> str:
        """The name that the server's certificate must cover."""
        return self.client_options.verify_name or self.client_options.server_name or ""


def _octets_after_psk(hello: ClientHello) -> int:
    types = list(hello.extension_types)
    behind = (hello.extensions or ())[types.index(ExtensionType.PRE_SHARED_KEY) + 1 :]
    return sum(4 + len(extension.data) for extension in behind) + len(hello.trailing)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def with_grease(hello: ClientHello) -> ClientHello:
    """Unknown values everywhere that RFC 8701 puts them: for `ClientOptions(hello=with_grease)`."""
    unknown = GREASE[3]
    changed = dataclasses.replace(hello, cipher_suites=(GREASE[0], *hello.cipher_suites))
    if hello.supported_versions is not None:
        changed = changed.with_extension(ext.supported_versions((GREASE[1], *hello.supported_versions)))
    if hello.groups is not None:
        changed = changed.with_extension(ext.supported_groups((GREASE[2], *hello.groups)))
    if hello.key_shares is not None:
        changed = changed.with_extension(ext.key_shares(((GREASE[2], b"\0"), *hello.key_shares)))
    if hello.alpn is not None:
        changed = changed.with_extension(ext.alpn((b"\x0a\x0a", *hello.alpn)))
    if hello.signature_schemes is not None:
        changed = changed.with_extension(ext.signature_algorithms((unknown, *hello.signature_schemes)))
    extensions = (Extension(unknown), *(changed.extensions or ()))
    return dataclasses.replace(changed, extensions=extensions).with_extension(Extension(GREASE[4], b"\0"))
