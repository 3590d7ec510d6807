"""What a server chooses from a ClientHello: suite, group, identity, protocol."""

from __future__ import annotations

from harness.wire.tls import extensions as ext
from harness.wire.tls.crypto import GROUPS, Identity, fitting_schemes
from harness.wire.tls.endpoint import Endpoint
from harness.wire.tls.events import Refused, Session, Stop
from harness.wire.tls.extensions import Extension, octets
from harness.wire.tls.messages import ClientHello
from harness.wire.tls.numbers import (
    DOWNGRADE_TO_TLS12,
    RENEGOTIATION_SCSV,
    SUITES,
    TLS13,
    AlertDescription,
    ExtensionType,
    Suite,
)
from harness.wire.tls.options import ServerOptions

DEFAULT_SCHEMES_12 = (0x0401, 0x0403)
"""Taken where a TLS 1.2 client names none; RFC 5246 section 7.4.1.4.1 would have SHA-1, which we do not sign with."""


class ServerBase(Endpoint):
    """State of a server, and its choices. `client_hello` is the first one, parsed; `client_hello_raw` as received."""

    role = "server"

    def __init__(self, options: ServerOptions) -> None:
        super().__init__(options)
        self.server_options = options
        self.server_random = options.random(32)
        self.client_hello: ClientHello | None = None
        self.client_hello_raw = b""
        self.latest_hello: ClientHello
        self.server_name: str | None = None

    def _identity(self) -> Identity:
        options = self.server_options
        named = options.identities.get((self.server_name or "").lower())
        identity = named or options.identity
        assert identity is not None
        return identity

    def _refuse(self, alert: int, why: str) -> Stop:
        return Stop(Refused(alert, why), alert)

    def _choose_suite(self, hello: ClientHello, version: int) -> Suite:
        auth = self._identity().auth
        for number in self.options.suites:
            suite = SUITES.get(number)
            if suite and number in hello.cipher_suites and suite.version == version and suite.auth in ("", auth):
                return suite
        raise self._refuse(AlertDescription.HANDSHAKE_FAILURE, "no common cipher suite")

    def _choose_group(self, hello: ClientHello) -> int:
        offered = hello.groups or ()
        for group in self.options.groups:
            if group in offered and group in GROUPS:
                return group
        raise self._refuse(AlertDescription.HANDSHAKE_FAILURE, "no common group")

    def _choose_scheme(self, hello: ClientHello, *, tls13: bool) -> int:
        offered = hello.signature_schemes
        if offered is None:
            offered = DEFAULT_SCHEMES_12
        mine = [scheme for scheme in self.options.signature_schemes if scheme in offered]
        fitting = fitting_schemes(self._identity().signer, mine, tls13=tls13)
        if not fitting:
            raise self._refuse(AlertDescription.HANDSHAKE_FAILURE, "no common signature scheme")
        return fitting[0]

    def _choose_alpn(self, hello: ClientHello) -> Extension | None:
        """The extension to answer with (RFC 7301 section 3.2)."""
        options = self.server_options
        chosen: str | None = None
        if options.select_alpn is not None:
            chosen = octets(options.select_alpn).decode("latin-1")
        elif options.alpn and hello.alpn is not None:
            if callable(options.alpn):
                chosen = options.alpn(hello)
            else:
                chosen = next((name for name in options.alpn if name in hello.alpn), None)
            if chosen is None and not options.alpn_may_miss:
                why = f"no common protocol: offered {', '.join(hello.alpn)}"
                raise self._refuse(AlertDescription.NO_APPLICATION_PROTOCOL, why)
        self.alpn = chosen
        return None if chosen is None else ext.alpn([chosen])

    def _name_answer(self, hello: ClientHello) -> list[Extension]:
        """The empty server_name that says the name was used (RFC 6066 section 3)."""
        return [Extension(ExtensionType.SERVER_NAME)] if hello.server_name is not None else []

    def _sentinel(self) -> None:
        wanted = self.server_options.downgrade_sentinel
        if wanted is None:
            wanted = TLS13 in self.options.versions
        if wanted:
            self.server_random = self.server_random[:24] + DOWNGRADE_TO_TLS12

    def _signals_renegotiation(self, hello: ClientHello) -> bool:
        return ExtensionType.RENEGOTIATION_INFO in hello.extension_types or RENEGOTIATION_SCSV in hello.cipher_suites

    def _known_session(self, ticket: bytes) -> Session | None:
        store = self.server_options.tickets
        session = store.sessions.get(ticket) if store else None
        if session is None or self.options.clock() - session.received_at > session.lifetime:
            return None
        return session
