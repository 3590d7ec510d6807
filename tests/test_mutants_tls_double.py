"""The endpoints that doubles of TLS stand on: without a flaw they are endpoints like the engine's own."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    # tlslite-ng imports asyncore, which Python 3.11 deprecates.
    warnings.simplefilter("ignore")
    from reference_engine.mutants._tlslite import Connection, Gcm, TlsliteEndpoints

from reference_engine.mutants.registry import Reached
from reference_engine.tls.endpoint import (
    ClientTls,
    Data,
    Ended,
    Event,
    Failed,
    HandshakeDone,
    ServerTls,
    TlsEndpoint,
    TlsEndpoints,
)
from reference_engine.tls.rules import TLS12, TLS13, Suites, TlsRules
from tests.engine_tls_support import self_signed

NAME = "a.t.edge.test"
CERTIFICATE = self_signed(NAME)
PLAIN_12 = Suites(tls13=())
Pair = tuple[TlsEndpoint, TlsEndpoint, list[Event], list[Event]]


def server_tls(*configured: str, lowest: int = TLS12, suites: Suites | None = None) -> ServerTls:
    rules = TlsRules()
    return ServerTls(CERTIFICATE, lambda offered: rules.select_alpn(offered, configured), lowest, suites or Suites())


def carry(pair: Pair) -> None:
    """Move octets until both are silent."""
    client, server, near, far = pair
    while True:
        up, down = client.outgoing(), server.outgoing()
        if not up and not down:
            return
        if up:
            far += server.receive(up)
        if down:
            near += client.receive(down)


def joined(near: TlsEndpoints, far: TlsEndpoints, server: ServerTls, *alpns: str) -> Pair:
    pair: Pair = (near.client(ClientTls(NAME, alpns)), far.server(server), [], [])
    pair[0].start()
    carry(pair)
    return pair


def sides(which: str) -> tuple[TlsEndpoints, TlsEndpoints]:
    """(client's endpoints, server's endpoints), one of them on tlslite-ng."""
    reached = Reached(None)
    if which == "server":
        return TlsEndpoints(), TlsliteEndpoints(reached, server=Connection)
    return TlsliteEndpoints(reached, client=Connection), TlsEndpoints()


@pytest.mark.parametrize("which", ["server", "client"])
@pytest.mark.parametrize("lowest", [TLS12, TLS13])
def test_it_speaks_with_the_engines_own_endpoint(which: str, lowest: int) -> None:
    client, server = sides(which)
    pair = joined(client, server, server_tls("a", "b", lowest=lowest), "b")
    near, far = pair[:2]
    assert pair[2] == [HandshakeDone()]
    assert pair[3] == [HandshakeDone()]
    assert (near.version, near.alpn) == (far.version, far.alpn) == ("TLSv1.3", "b")
    assert near.peer_chain
    data = bytes(range(256)) * 200
    near.send(data)
    far.send(data[::-1])
    carry(pair)
    got = [b"".join(event.data for event in seen if isinstance(event, Data)) for seen in pair[2:]]
    assert got == [data[::-1], data]


def test_it_keeps_half_open_in_tls_13() -> None:
    pair = joined(*sides("server"), server_tls())
    client, server, near, far = pair
    client.end()
    carry(pair)
    assert far[-1] == Ended()
    server.send(b"still here")
    server.end()
    carry(pair)
    assert near[-2:] == [Data(b"still here"), Ended()]


def test_it_refuses_as_the_rule_says() -> None:
    pair = joined(*sides("server"), server_tls("a"), "b")
    assert isinstance(pair[2][-1], Failed)
    assert isinstance(pair[3][-1], Failed)
    assert pair[2][-1].alert == pair[3][-1].alert == 120
    assert pair[3][-1].sent


def test_a_version_that_is_turned_off_is_refused() -> None:
    pair = joined(TlsEndpoints(), sides("server")[1], server_tls(suites=PLAIN_12))
    assert isinstance(pair[3][-1], Failed)
    assert pair[3][-1].sent


def test_agents_get_the_engines_own_endpoint() -> None:
    wanted = ServerTls(CERTIFICATE, lambda offered: None, TLS13, request_certificate=True)
    own = type(TlsEndpoints().server(wanted))
    assert type(sides("server")[1].server(wanted)) is own


def test_a_broken_record_ends_it_unless_the_flaw_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cipher = Gcm(bytes(16))
    sealed = bytes(cipher.seal(bytes(12), b"plaintext", b"data"))
    assert cipher.open(bytes(12), sealed, b"data") == bytearray(b"plaintext")
    sealed = sealed[:-1] + bytes((sealed[-1] ^ 1,))
    assert cipher.open(bytes(12), sealed, b"data") is None
    reached = Reached(None)
    monkeypatch.setattr(Gcm, "on_bad_tag", reached)
    assert cipher.open(bytes(12), sealed, b"data") == bytearray(b"plaintext")
    assert reached.count == 1
