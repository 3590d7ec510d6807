"""The TLS endpoint: octets in, events and octets out."""

from __future__ import annotations

import ast
import contextlib
import inspect
import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from harness.wire.tls import ClientOptions, Extension, TlsClient
from reference_engine.tls import endpoint as module
from reference_engine.tls.endpoint import (
    ClientTls,
    Data,
    Ended,
    Event,
    Failed,
    HandshakeDone,
    SelectAlpn,
    ServerTls,
    TlsEndpoint,
    TlsEndpoints,
)
from reference_engine.tls.rules import TLS12, TLS13, Suites, TlsRules
from tests.engine_tls_support import self_signed, trusting, write_pem

CERTIFICATE = self_signed("a.t.edge.test")
RULES = TlsRules()


def choose(*configured: str) -> SelectAlpn:
    return lambda offered: RULES.select_alpn(offered, configured)


def server_tls(
    *configured: str, min_version: int = TLS12, suites: Suites | None = None, request_certificate: bool = False
) -> ServerTls:
    return ServerTls(CERTIFICATE, choose(*configured), min_version, suites or Suites(), request_certificate)


class Wire:
    """Two endpoints and what each has seen."""

    def __init__(self, client: TlsEndpoint, server: TlsEndpoint) -> None:
        self.client, self.server = client, server
        self.client_saw: list[Event] = []
        self.server_saw: list[Event] = []
        client.start()
        server.start()

    def run(self) -> Wire:
        """Carry octets until both are silent."""
        while True:
            up, down = self.client.outgoing(), self.server.outgoing()
            if not up and not down:
                return self
            if up:
                self.server_saw += self.server.receive(up)
            if down:
                self.client_saw += self.client.receive(down)


def pair(server: ServerTls, *alpns: str, endpoints: TlsEndpoints | None = None) -> Wire:
    made = endpoints or TlsEndpoints()
    return Wire(made.client(ClientTls("a.t.edge.test", alpns)), made.server(server)).run()


class Script:
    """The standard library's client on the other end."""

    def __init__(self, server: TlsEndpoint, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        self.server = server
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="a.t.edge.test", session=session)
        self.saw: list[Event] = []

    def carry(self) -> None:
        self.saw += self.server.receive(self._out.read()) if self._out.pending else []
        self._in.write(self.server.outgoing())

    def handshake(self) -> Script:
        for _ in range(10):
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.carry()
                continue
            except ssl.SSLError:
                self.carry()
                raise
            self.carry()
            return self
        raise AssertionError("the handshake did not end")

    def read(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            return self.tls.read(65536)
        return b""


def data_of(events: Sequence[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Data))


def test_the_module_does_no_io() -> None:
    tree = ast.parse(inspect.getsource(module))
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
    }
    assert not imported & {"socket", "asyncio", "ssl", "selectors", "threading"}


def test_data_goes_both_ways_in_any_size() -> None:
    wire = pair(server_tls())
    for size in (1, 16_384, 16_385, 1 << 20):
        wire.client_saw.clear()
        wire.server_saw.clear()
        wire.client.send(bytes(size))
        wire.server.send(memoryview(bytes(size)))
        wire.run()
        assert len(data_of(wire.server_saw)) == len(data_of(wire.client_saw)) == size
    assert wire.server.version == wire.client.version == "TLSv1.3"
    assert wire.server.group == "X25519MLKEM768"
    assert wire.client.peer_chain == (CERTIFICATE.chain[0].public_bytes(Encoding.DER),)
    assert wire.server.peer_chain == ()


@pytest.mark.parametrize(
    ("configured", "offered", "selected"),
    [(("a", "b"), ("b",), "b"), ((), ("x",), None), (("a",), (), None), (("h\udcff2",), ("h\udcff2",), "h\udcff2")],
)
def test_alpn(configured: tuple[str, ...], offered: tuple[str, ...], selected: str | None) -> None:
    wire = pair(server_tls(*configured), *offered)
    assert HandshakeDone() in wire.server_saw
    assert wire.server.alpn == wire.client.alpn == selected


def test_no_common_alpn_is_alert_120_on_both_ends() -> None:
    wire = pair(server_tls("a"), "zzz")
    assert wire.server_saw == [Failed("no application protocol in common", 120, sent=True)]
    assert isinstance(wire.client_saw[-1], Failed)
    assert (wire.client_saw[-1].alert, wire.client_saw[-1].sent) == (120, False)
    # The context serves the next client as if nothing had been.
    endpoints = TlsEndpoints()
    for offer, works in (("zzz", False), ("a", True), ("zzz", False), ("a", True)):
        after = pair(ServerTls(CERTIFICATE, choose("a")), offer, endpoints=endpoints)
        assert (HandshakeDone() in after.server_saw) is works


def test_a_clean_end_keeps_the_other_direction() -> None:
    wire = pair(server_tls())
    wire.client.send(b"last")
    wire.client.end()
    wire.client.end()
    wire.run()
    assert wire.server_saw[-2:] == [Data(b"last"), Ended()]
    wire.server.send(b"answer")
    wire.server.end()
    wire.run()
    assert wire.client_saw[-2:] == [Data(b"answer"), Ended()]
    assert wire.client.receive_eof() == wire.server.receive_eof() == []


def test_data_behind_close_notify_is_ignored() -> None:
    wire = pair(server_tls())
    wire.client.end()
    closing = wire.client.outgoing()
    assert wire.server.receive(closing) == [Ended()]
    assert wire.server.receive(b"\x17\x03\x03\x00\x05hello") == []


def test_truncation_is_a_failure() -> None:
    wire = pair(server_tls())
    assert wire.server.receive_eof() == [Failed("eof without close_notify")]
    fresh = TlsEndpoints().server(server_tls())
    assert fresh.receive_eof() == [Failed("eof in the handshake")]


def test_a_changed_record_is_alert_20() -> None:
    wire = pair(server_tls())
    wire.client.send(b"secret")
    record = bytearray(wire.client.outgoing())
    record[-1] ^= 1
    failed = wire.server.receive(bytes(record))[-1]
    assert isinstance(failed, Failed)
    assert (failed.alert, failed.sent) == (20, True)
    seen = wire.client.receive(wire.server.outgoing())[-1]
    assert isinstance(seen, Failed)
    assert (seen.alert, seen.sent) == (20, False)
    wire.server.end()
    assert wire.server.outgoing() == b""


def test_what_is_glued_to_the_last_flight_is_delivered() -> None:
    endpoints = TlsEndpoints()
    client, server = endpoints.client(ClientTls("a.t.edge.test")), endpoints.server(server_tls())
    client.start()
    server.receive(client.outgoing())
    assert client.receive(server.outgoing()) == [HandshakeDone()]
    client.send(b"glued")
    client.end()
    assert server.receive(client.outgoing()) == [HandshakeDone(), Data(b"glued"), Ended()]


@pytest.mark.parametrize(
    ("lowest", "client", "works"),
    [
        (TLS12, ssl.TLSVersion.TLSv1_2, True),
        (TLS12, ssl.TLSVersion.TLSv1_3, True),
        (TLS13, ssl.TLSVersion.TLSv1_3, True),
        (TLS13, ssl.TLSVersion.TLSv1_2, False),
    ],
)
def test_versions(lowest: int, client: ssl.TLSVersion, works: bool) -> None:
    script = Script(TlsEndpoints().server(server_tls(min_version=lowest)), trusting(version=client))
    if works:
        script.handshake()
        assert script.server.version == script.tls.version()
        return
    with pytest.raises(ssl.SSLError):
        script.handshake()
    assert isinstance(script.saw[-1], Failed)
    assert (script.saw[-1].alert, script.saw[-1].sent) == (70, True)


def test_suites_limit_tls_1_2() -> None:
    one, other = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
    context = trusting(version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    script = Script(TlsEndpoints().server(server_tls(suites=RULES.suites((one,)))), context).handshake()
    assert script.tls.cipher() == ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLSv1.2", 128)
    refused = Script(TlsEndpoints().server(server_tls(suites=RULES.suites((other,)))), context)
    with pytest.raises(ssl.SSLError):
        refused.handshake()
    assert isinstance(refused.saw[-1], Failed)
    assert refused.saw[-1].alert == 40


def test_suites_of_tls_1_3_alone_leave_no_tls_1_2() -> None:
    suites = RULES.suites(("TLS_AES_128_GCM_SHA256",))
    script = Script(TlsEndpoints().server(server_tls(suites=suites)), trusting()).handshake()
    assert script.tls.cipher() == ("TLS_AES_128_GCM_SHA256", "TLSv1.3", 128)
    with pytest.raises(ssl.SSLError):
        Script(TlsEndpoints().server(server_tls(suites=suites)), trusting(version=ssl.TLSVersion.TLSv1_2)).handshake()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_asked_for_and_not_verified(tmp_path: Path, version: ssl.TLSVersion) -> None:
    context = trusting(version=version)
    agent = self_signed("agent")
    endpoints = TlsEndpoints()
    without = Script(endpoints.server(server_tls(request_certificate=True)), context).handshake()
    assert without.server.peer_chain == ()
    context.load_cert_chain(*write_pem(agent, tmp_path))
    with_one = Script(endpoints.server(server_tls(request_certificate=True)), context).handshake()
    assert with_one.server.peer_chain[0] == agent.chain[0].public_bytes(Encoding.DER)
    not_asked = Script(endpoints.server(server_tls()), context).handshake()
    assert not_asked.server.peer_chain == ()


def resumed(version: ssl.TLSVersion, *, resume: bool) -> bool:
    """Whether a second connection with the first one's ticket is an abbreviated one."""
    endpoints, context = TlsEndpoints(), trusting(version=version)
    tls = ServerTls(CERTIFICATE, choose(), resume=resume)
    first = Script(endpoints.server(tls), context).handshake()
    first.server.send(b"data brings the ticket along")
    first.carry()
    first.read()
    second = Script(endpoints.server(tls), context, first.tls.session).handshake()
    return second.tls.session_reused is True


def test_resumption_only_where_it_is_allowed() -> None:
    assert resumed(ssl.TLSVersion.TLSv1_3, resume=True)
    assert not resumed(ssl.TLSVersion.TLSv1_3, resume=False)
    assert not resumed(ssl.TLSVersion.TLSv1_2, resume=False)


def test_contexts_are_shared_by_rule_set() -> None:
    endpoints = TlsEndpoints()
    for name in ("a", "b", "c"):
        endpoints.server(ServerTls(CERTIFICATE, choose(name)))
        endpoints.client(ClientTls(f"{name}.test", (name,)))
    assert len(endpoints._contexts) == 2
    endpoints.server(server_tls(min_version=TLS13))
    assert len(endpoints._contexts) == 3
    made = endpoints._contexts["client"]
    for number in range(TlsEndpoints.MOST_CONTEXTS + 10):
        endpoints._context(number, lambda: made)
    assert len(endpoints._contexts) == TlsEndpoints.MOST_CONTEXTS


@pytest.mark.parametrize("asked", [True, False])
def test_a_key_update_is_answered_in_front_of_the_next_data_where_that_is_asked_for(asked: bool) -> None:
    server = TlsEndpoints().server(server_tls())
    client = TlsClient(ClientOptions(server_name="a.t.edge.test"))
    octets = client.start()
    while octets:
        server.receive(octets)
        client.receive(server.outgoing())
        octets = client.outgoing()
    assert server.receive(client.send(b"ping")) == [Data(b"ping")]
    assert server.outgoing() == b"", "nothing was to be said"
    assert server.receive(client.key_update(request=asked) + client.send(b"after")) == [Data(b"after")]
    server.send(b"pong")
    events = client.receive(server.outgoing())
    assert ("KeyUpdateReceived" in [type(event).__name__ for event in events]) is asked
    assert type(events[-1]).__name__ == "Data"
    assert server.outgoing() == b""


def test_key_update_and_renegotiation_free_tls_1_2_stay_usable() -> None:
    script = Script(TlsEndpoints().server(server_tls()), trusting(version=ssl.TLSVersion.TLSv1_2)).handshake()
    script.tls.write(b"ping")
    script.carry()
    assert data_of(script.saw) == b"ping"
    script.server.send(b"pong")
    script.carry()
    assert script.read() == b"pong"


def test_garbage_is_refused_and_nothing_is_read_from_it() -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"):
        server = TlsEndpoints().server(server_tls())
        events = server.receive(garbage)
        assert [type(event) for event in events] == [Failed]
        assert server.receive(b"more") == []


@pytest.mark.parametrize(
    ("versions", "change", "alert"),
    [
        ((TLS13,), Extension(43, b"\x03\x03\x04\x03"), 50),
        ((TLS12,), Extension(0xFF01, b"\x0c" + bytes(12)), 40),
    ],
    ids=["a list of versions that is cut", "renegotiation_info that is not empty"],
)
def test_the_alert_is_the_one_that_the_text_names(versions: tuple[int, ...], change: Extension, alert: int) -> None:
    options = ClientOptions(
        versions=versions, server_name="a.t.edge.test", hello=lambda hello: hello.with_extension(change)
    )
    server = TlsEndpoints().server(server_tls())
    (event,) = server.receive(TlsClient(options).start())
    assert isinstance(event, Failed)
    assert (event.alert, event.sent) == (alert, True)
    assert server.outgoing()[-7:] == bytes((21, 3, 3, 0, 2, 2, alert))
    assert server.outgoing() == b""
