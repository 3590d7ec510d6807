"""The TLS peer on a link: handshake, data, every way to end, and its transcript."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import DOWNSTREAM, UPSTREAM, Transcript
from harness.link.deadline import set_default
from harness.link.stream import End, EndKind, LinkReset
from harness.link.tcp import TcpListener, connect_tcp
from harness.peer import tls_pki
from harness.peer.tls import TlsPeer
from harness.wire.tls import TLS12, TLS13, ClientOptions, KeyUpdateReceived, ServerOptions, TicketStore
from harness.wire.tls.events import CloseNotify, TicketReceived

NAME = "a.t.x"
Script = Callable[[TlsPeer, TlsPeer, Transcript], Awaitable[None]]


def options(**server: Any) -> ServerOptions:
    return ServerOptions(**{"identity": tls_pki.identity(NAME), **server})


def run(script: Script, client: ClientOptions | None = None, server: ServerOptions | None = None) -> Transcript:
    """Both peers on loopback TCP; gives the transcript."""
    clock = itertools.count()
    transcript = Transcript(lambda: float(next(clock)))

    async def main() -> None:
        listener = TcpListener()
        await listener.start()
        ours = await connect_tcp("127.0.0.1", listener.port)
        theirs = await listener.accept()
        one = TlsPeer.client(ours, transcript.channel(DOWNSTREAM, "client", "client-1"), client or usual())
        other = TlsPeer.server(theirs, transcript.channel(UPSTREAM, "upstream", "upstream-1"), server or options())
        try:
            await script(one, other, transcript)
        finally:
            await one.close()
            await other.close()
            await listener.stop()

    asyncio.run(main())
    return transcript


def usual(**more: Any) -> ClientOptions:
    return ClientOptions(**{"server_name": NAME, "trust": [tls_pki.authority().certificate], **more})


async def shake(client: TlsPeer, server: TlsPeer) -> None:
    await asyncio.gather(client.handshake(), server.handshake())


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_data_goes_both_ways_and_close_notify_is_a_clean_end(version: int) -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await client.send(b"ping")
        assert await server.receive_exactly(4) == b"ping"
        await server.send(b"x" * 100_000)
        await server.close_notify()
        assert await client.receive_until_end() == (b"x" * 100_000, End(EndKind.CLOSE_NOTIFY))
        await client.close_notify()
        assert (await server.end()).clean

    run(script, usual(versions=(version,)))


def test_transcript_reads_like_the_handshake() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await client.send(b"ping")
        await server.receive_exactly(4)

    transcript = run(script, usual(alpn=("foo",)), options(alpn=("foo",)))
    lines = [(event.leg, event.sender, event.what, event.detail) for event in transcript.events]
    hello = "SNI a.t.x, ALPN foo, TLS 1.3 TLS 1.2"
    assert (DOWNSTREAM, "client", "ClientHello", hello) in lines
    assert (UPSTREAM, "engine", "ClientHello", hello) in lines
    assert (UPSTREAM, "upstream", "ServerHello", "suite TLS_AES_128_GCM_SHA256") in lines
    assert (DOWNSTREAM, "engine", "Finished", "") in lines
    assert (DOWNSTREAM, "engine", "handshake complete", "TLS 1.3, TLS_AES_128_GCM_SHA256, x25519, ALPN foo") in lines
    data = next(event for event in transcript.events if event.what == "application data")
    assert (data.size, data.sample) == (4, b"ping".hex())


def test_fin_without_close_notify_is_truncation() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.send(b"part")
        await server.send_fin()
        assert await client.receive_until_end() == (b"part", End(EndKind.TRUNCATED))
        assert await client.transport_end() == End(EndKind.FIN)
        assert await client.receive() == b""

    run(script)


def test_reset_is_told_from_the_rest() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        server.abort()
        assert await client.end() == End(EndKind.RESET)
        with pytest.raises(LinkReset):
            await client.receive()

    run(script)


def test_an_alert_is_an_end_with_its_number() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.alert(80)
        end = await client.end()
        assert end == End(EndKind.ALERT, 80)
        assert not end.clean

    run(script)


def test_a_refused_handshake_names_the_alert() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        refusal = asyncio.ensure_future(server.try_handshake())
        with pytest.raises(PeerMismatch, match="alert 120 no_application_protocol"):
            await client.handshake()
        await client.close()
        assert isinstance(await refusal, End)

    run(script, usual(alpn=("bar",)), options(alpn=("foo",)))


def test_a_refusal_may_be_what_the_script_awaits() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        refusal = asyncio.ensure_future(server.try_handshake())
        assert await client.try_handshake() == End(EndKind.ALERT, 112)
        await client.close()
        await refusal

    run(script, server=options(refuse_with_alert=112))


def test_a_broken_rule_is_a_mismatch_with_its_section() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        shaking = asyncio.ensure_future(server.try_handshake())
        with pytest.raises(PeerMismatch, match=r"RFC 8446 section 4.4.4.*wrong Finished"):
            await client.handshake()
        assert await shaking == End(EndKind.ALERT, 51)
        assert client.violations[0].alert == 51

    run(script, server=options(wrong_finished=True))


def test_an_unverified_chain_is_a_fact_and_no_error() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        assert client.peer_verified == "unknown issuer"

    run(script, usual(trust=[tls_pki.authority("another CA").certificate]))


def test_events_can_be_read_one_by_one() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.key_update()
        assert await client.read_until(KeyUpdateReceived) == KeyUpdateReceived(requested=True)
        await client.send(b"answer")
        assert await server.receive_exactly(6) == b"answer"
        await server.close_notify()
        assert isinstance(await client.read_event(), CloseNotify)
        assert await client.read_event() == End(EndKind.CLOSE_NOTIFY)

    run(script)


def test_data_behind_close_notify_is_seen_and_ignored() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.close_notify()
        await server.raw_record(23, b"late")
        await server.send_fin()
        assert await client.receive_until_end() == (b"", End(EndKind.CLOSE_NOTIFY))
        await client.transport_end()
        assert "after close_notify" in client.violations[0].what

    run(script)


def test_what_came_in_vain_is_kept() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.send(b"ab")
        set_default(0.05)
        with pytest.raises(DeadlineExpired):
            await client.receive_exactly(4)
        await server.send(b"cd")
        assert await client.receive_exactly(4) == b"abcd"

    run(script)


def test_waiting_in_vain_names_what_was_awaited() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        set_default(0.05)
        with pytest.raises(DeadlineExpired, match="4 octets at the client"):
            await client.receive_exactly(4)

    run(script)


def test_a_server_that_omits_close_notify_truncates() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await server.close()
        assert await client.end() == End(EndKind.TRUNCATED)

    run(script, server=options(omit_close_notify=True))


def test_a_ticket_resumes_on_the_next_connection() -> None:
    store = TicketStore()
    sessions = []

    async def first(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await client.read_until(TicketReceived)
        sessions.extend(client.sessions)

    async def second(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        assert client.done is not None
        assert client.done.resumed

    run(first, server=options(tickets=store))
    run(second, usual(session=sessions[0]), options(tickets=store))


def test_a_corrupted_record_is_refused_with_bad_record_mac() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await shake(client, server)
        await client.raw_record(23, b"data", flip_bit=0)
        with pytest.raises(PeerMismatch, match="record fails deprotection"):
            await server.receive()
        assert await client.end() == End(EndKind.ALERT, 20)

    run(script)


def test_octets_that_are_no_tls_are_named() -> None:
    async def script(client: TlsPeer, server: TlsPeer, _: Transcript) -> None:
        await client.send_octets(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(PeerMismatch, match="no TLS record: b'GET / HT'"):
            await server.handshake()

    run(script)
