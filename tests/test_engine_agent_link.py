"""The agent link over real TLS: what each first frame, each answer and each kind of end does."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.agent.framing import encode
from reference_engine.config import PERMISSION_STREAMS, PERMISSION_TUNNELS, CertificateGrant, TokenGrant
from reference_engine.tunnel.model import Tunnel
from tests import engine_agent_support
from tests.engine_agent_support import DOMAIN, Agent, Link, Site, Watch, on_site, opening
from tests.engine_tls_support import Client, trusting


@pytest.fixture(params=["tls", "quic"], autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both links, the same tests (TRANS-001)."""
    monkeypatch.setattr(engine_agent_support, "TRANSPORT", request.param)
    return str(request.param)


# -- first frames ------------------------------------------------------------------------------------------------------


def test_a_connection_that_says_nothing_is_no_event() -> None:
    async def script(site: Site) -> None:
        await (await site.link()).close()
        (await site.link()).cut()
        await site.agent()

    on_site(script)


def test_the_first_frame_has_a_deadline() -> None:
    async def script(site: Site) -> None:
        link = await site.link()
        await link.raw(b"\0\0")
        assert await link.ended() == b""

    on_site(script, first_frame_timeout_ms=50)


@pytest.mark.parametrize(
    "octets",
    [
        bytes(4),
        bytes.fromhex("00010000"),
        bytes.fromhex("00000001ff"),
        bytes.fromhex("000000027a00"),
        bytes.fromhex("000000021a00"),
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["empty", "too-long", "no-message", "heartbeat", "close", "http"],
)
def test_any_other_first_frame_is_closed_without_a_word(octets: bytes) -> None:
    async def script(site: Site) -> None:
        link = await site.link()
        await link.raw(octets)
        assert await link.ended() == b""

    on_site(script)


# -- opening -----------------------------------------------------------------------------------------------------------


def test_versions_then_credentials_then_capacity() -> None:
    async def script(site: Site) -> None:
        for version, code in ((None, 2010), ("x", 2020), ("99.0", 2030)):
            assert (await site.refused(opening(version=version))).code == code
        error = await site.refused(opening())
        assert (error.code, error.message.value) == (1000, "Unauthorized")
        await site.agent(token="tok")
        assert (await site.refused(opening("tok"))).code == 7000

    on_site(script, tokens=(TokenGrant("tok", "p"),), max_control_channels=1)


def test_ok_has_an_id_details_and_liveness_only_when_asked() -> None:
    async def script(site: Site) -> None:
        plain, lively = await site.agent(), await site.agent(interval=1000)
        assert len(plain.ok.client_id) == 24
        assert plain.ok.client_id != lively.ok.client_id
        assert plain.ok.server_details.agent.value == "edgecase-reference-engine"
        assert not plain.ok.HasField("liveness")
        assert lively.ok.liveness == pb.ControlChannelLiveness(heartbeat_interval_ms=1000, heartbeat_timeout_ms=15_000)

    on_site(script)


def test_a_permission_is_needed_for_tunnels_and_for_dialling() -> None:
    async def script(site: Site) -> None:
        assert (await site.refused(opening("dials"))).code == 1000
        agent = await site.agent(token="opens")
        tunnel = await agent.private()
        link = await site.dial(tunnel, token="opens")
        assert (await link.receive()).stream_rsp.error.code == 1000
        link = await site.dial(tunnel, token="dials")
        await agent.connect(await agent.asked())
        assert (await link.receive()).stream_rsp.stream_id

    tokens = (TokenGrant("opens", "p", (PERMISSION_TUNNELS,)), TokenGrant("dials", "p", (PERMISSION_STREAMS,)))
    on_site(script, tokens=tokens)


def client_certificate(folder: Path) -> tuple[tuple[Path, Path], str]:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "agent")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "agent.pem", folder / "agent.key"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files, hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def test_client_certificates(tmp_path: Path) -> None:
    files, fingerprint = client_certificate(tmp_path)

    async def script(site: Site) -> None:
        agent = await site.agent(certificate=files)
        assert (await agent.open(protocol="tls")).tunnel_properties.hostname.value.endswith("-robots.t.edge.test")
        assert (await site.refused(opening("tok"), certificate=files)).code == 1000
        assert (await site.refused(opening())).code == 1000

    on_site(script, agent_certificates=(CertificateGrant(fingerprint, "robots"),))

    async def unknown(site: Site) -> None:
        assert (await site.refused(opening(), certificate=files)).code == 1000

    on_site(unknown, tokens=(TokenGrant("tok", "p"),))


# -- tunnels -----------------------------------------------------------------------------------------------------------


def test_published_tunnels_report_their_address_and_private_ones_none() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        made = (await agent.open(protocol="tls", name="n")).tunnel_properties
        assert made.hostname.value.endswith(f"-default.t.{DOMAIN}")
        assert made.port.value == site.address.port
        assert made.host.value == f"{made.hostname.value}:{made.port.value}"
        assert (made.type.value, made.tls_mode.value, made.name.value) == ("bytestream", "terminated", "n")
        assert made.HasField("creation_date")
        asked = (await agent.open(protocol="tls", hostname=f"X-default.t.{DOMAIN}")).tunnel_properties
        assert asked.hostname.value == f"x-default.t.{DOMAIN}"
        private = (await agent.open(publish=False)).tunnel_properties
        assert private.HasField("publish")
        assert not any(private.HasField(name) for name in ("hostname", "port", "host", "protocol"))
        assert len({made.id.value, asked.id.value, private.id.value}) == 3

    on_site(script)


def test_community_takes_a_bare_label() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        assert (await agent.open(hostname="abc")).tunnel_properties.hostname.value == f"abc.t.{DOMAIN}"
        assert (await agent.open(protocol="quic")).error.code == 5000
        assert (await agent.open(protocol="tls", type="datagram")).error.code == 2000
        assert (await agent.open()).tunnel_properties.hostname.value.count("-") == 0

    on_site(script, edition="community")


@pytest.mark.parametrize(
    ("properties", "code", "words"),
    [
        ({"protocol": "quic", "upstream_tls": False}, 2000, "upstream_tls: "),
        ({"publish": False, "type": "datagram", "upstream_tls": True}, 5000, "upstream_tls: "),
        ({"protocol": "tls", "hostname": "x.example"}, 2000, "hostname: "),
        ({"protocol": "tls", "tls_ciphers": ["TLS_NOT_A_SUITE"]}, 2000, "tls_ciphers: the edge does not have"),
    ],
    ids=["shape-before-gate", "gate", "zone", "suite"],
)
def test_a_refusal_leaves_nothing_and_the_channel_open(properties: dict[str, object], code: int, words: str) -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        error = (await agent.open(**properties)).error
        assert error.code == code
        assert error.message.value.startswith(words)
        assert site.engine.registry.tunnels() == ()
        assert (await agent.open()).HasField("tunnel_properties")

    on_site(script)


def test_names_in_use_are_refused_and_free_after_a_close() -> None:
    async def script(site: Site) -> None:
        first, second = await site.agent(), await site.agent()
        name = f"x-default.t.{DOMAIN}"
        tunnel = (await first.open(hostname=name, name="n")).tunnel_properties.id.value
        for taken in ({"hostname": name.upper()}, {"publish": False, "name": "n"}):
            refusal = (await second.open(**taken)).error
            assert refusal.code == 2000
            assert "in use" in refusal.message.value
        await first.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await first.link.receive()).close_tunnel_rsp.tunnel_id == tunnel
        assert (await second.open(hostname=name, name="n")).HasField("tunnel_properties")
        await second.close()
        assert (await first.open(hostname=name, name="n")).HasField("tunnel_properties")

    on_site(script)


def test_only_so_many_tunnels_and_only_so_large() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        large = [f"{number:03}" + "x" * 250 for number in range(240)]
        assert (await agent.open(protocol="tls", tls_alpns=large)).error.code == 2000
        assert (await agent.open()).HasField("tunnel_properties")
        assert (await agent.open()).error.code == 7000

    on_site(script, max_tunnels_per_channel=1)


def test_an_agent_cannot_close_anothers_tunnel() -> None:
    async def script(site: Site) -> None:
        owner, other = await site.agent(), await site.agent(interval=1000)
        tunnel = await owner.private()
        await other.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        await other.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await other.link.receive()).heartbeat.acknowledgement == 1
        assert site.engine.registry.by_id(tunnel) is not None

    on_site(script)


# -- data streams ------------------------------------------------------------------------------------------------------


async def joined(site: Site, agent: Agent, key: str) -> tuple[Link, Link]:
    """A dialled stream and its agent leg, both silent (zero_rtt)."""
    dialer = await site.dial(key, zero_rtt=True)
    return dialer, await agent.connect(await agent.asked())


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("zero_rtt", [False, True])
def test_glued_bytes_arrive_whole_and_in_order(by_name: bool, zero_rtt: bool) -> None:
    """EDGE-029: behind StreamReq and behind ProxyReq, in the same record."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private("n")
        dialer = await site.dial("n" if by_name else tunnel, zero_rtt=zero_rtt, glued=b"down-1 ")
        request = await agent.asked()
        assert request.tunnel_id == tunnel
        assert len(request.stream_id) == 24
        assert request.source_ip.v4 == 0x7F000001
        upstream = await agent.connect(request, zero_rtt=zero_rtt, glued=b"up-1 ")
        if not zero_rtt:
            assert (await upstream.receive()) == pb.Message(proxy_rsp=pb.ProxyRsp())
            stream_id = (await dialer.receive()).stream_rsp.stream_id
            assert len(stream_id) == 24
            assert stream_id != request.stream_id
        await dialer.raw(b"down-2")
        await upstream.raw(b"up-2")
        assert await upstream.data(13) == b"down-1 down-2"
        assert await dialer.data(9) == b"up-1 up-2"

    on_site(script)


def test_replies_of_a_handshake_come_alone() -> None:
    """ProxyRsp and StreamRsp are in a record of their own, also when stream bytes wait behind them."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private(), glued=b"early")
        upstream = await agent.connect(await agent.asked(), zero_rtt=False, glued=b"early")
        assert (await upstream.reader.readexactly(6)).hex() == "000000026200"
        assert await upstream.data(5) == b"early"
        reply = await dialer.reader.readexactly(32)
        assert reply[:6].hex() == "0000001c721a"
        assert await dialer.data(5) == b"early"

    on_site(script)


def test_a_proxy_request_needs_its_secret_and_comes_once() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private(), zero_rtt=True, glued=b"x")
        request = await agent.asked()
        assert len(request.secret.value) >= 16
        for secret in ("wrong", ""):
            link = await agent.connect(request, zero_rtt=False, secret=secret)
            assert (await link.receive()).proxy_rsp.error.code == 1000
            assert await link.ended() == b""
            assert await (await agent.connect(request, secret=secret)).ended() == b""
        unknown = await agent.connect(pb.ProxyConnReq(stream_id="0" * 24), zero_rtt=False)
        assert (await unknown.receive()).proxy_rsp.error.code == 4000
        upstream = await agent.connect(request)
        assert await upstream.data(1) == b"x"
        late = await agent.connect(request, zero_rtt=False)
        assert (await late.receive()).proxy_rsp.error.code == 4000
        assert await (await agent.connect(request)).ended() == b""
        await upstream.raw(b"still there")
        assert await dialer.data(11) == b"still there"

    on_site(script)


def test_what_a_dialer_is_told() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        assert (await (await site.dial("nobody")).receive()).stream_rsp.error.code == 3000
        assert await (await site.dial("nobody", zero_rtt=True)).ended() == b""
        refused = await site.dial(tunnel)
        await agent.refuse((await agent.asked()).stream_id, "no room")
        error = (await refused.receive()).stream_rsp.error
        assert error.code == 6000
        assert "no room" in error.message.value
        link = await site.link()
        channel = pb.StreamReq(tunnel_id_name=tunnel)
        channel.datagram_channel.value = True
        await link.send(pb.Message(stream_req=channel))
        assert (await link.receive()).stream_rsp.error.code == 4000

    on_site(script)


def test_an_agent_that_comes_too_late() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer = await site.dial(await agent.private())
        request = await agent.asked()
        assert (await dialer.receive()).stream_rsp.error.code == 6000
        late = await agent.connect(request, zero_rtt=False)
        assert (await late.receive()).proxy_rsp.error.code == 4000

    on_site(script, agent_connect_timeout_ms=50)


def test_projects_do_not_see_each_other() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent(token="a")
        tunnel = await agent.private("n")
        for key in (tunnel, "n"):
            link = await site.dial(key, token="b")
            assert (await link.receive()).stream_rsp.error.code == 3000

    on_site(script, tokens=(TokenGrant("a", "p"), TokenGrant("b", "q")))


def test_a_refusal_after_the_stream_has_come_cuts_it_but_only_the_agents_own() -> None:
    async def script(site: Site) -> None:
        agent, other = await site.agent(), await site.agent(interval=1000)
        dialer = await site.dial(await agent.private(), zero_rtt=True)
        request = await agent.asked()
        upstream = await agent.connect(request)
        await other.refuse(request.stream_id)
        await other.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await other.link.receive()).HasField("heartbeat")
        await upstream.raw(b"fine")
        assert await dialer.data(4) == b"fine"
        await agent.refuse(request.stream_id)
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""

    on_site(script)


def test_no_more_requests_are_outstanding_than_allowed() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent(interval=1000)
        tunnel = await agent.private()
        dialers = [await site.dial(tunnel, zero_rtt=True) for _ in range(3)]
        first, second = await agent.asked(), await agent.asked()
        await agent.link.send(pb.Message(heartbeat=pb.Heartbeat(sequence=1)))
        assert (await agent.link.receive()).heartbeat.acknowledgement == 1
        await agent.refuse(first.stream_id)
        third = await agent.asked()
        for request in (second, third):
            await (await agent.connect(request)).raw(b"x")
        await asyncio.gather(*(dialer.ended() for dialer in dialers[:1]))
        for dialer in dialers[1:]:
            assert await dialer.data(1) == b"x"

    on_site(script, max_pending_streams_per_channel=2)


def test_a_dialer_that_leaves_frees_its_place() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        gone = await site.dial(tunnel)
        await agent.asked()
        gone.cut()
        dialer = await site.dial(tunnel, zero_rtt=True)
        await (await agent.connect(await agent.asked())).raw(b"x")
        assert await dialer.data(1) == b"x"

    on_site(script, max_pending_streams_per_channel=1)


@pytest.mark.parametrize("who", ["dialer", "agent"])
def test_half_close(who: str) -> None:
    """PRIV-005: the clean end of one direction passes, and the other direction goes on."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        request = pb.StreamReq(tunnel_id_name=tunnel)
        request.zero_rtt.value = True
        message = pb.Message(stream_req=request)
        with half_closing(site) as dialer, half_closing(site) as upstream:
            await asyncio.to_thread(dialer.handshake, glue=encode(message))
            asked = await agent.asked()
            answer = pb.ProxyReq(stream_id=asked.stream_id)
            answer.client_details.token.value = asked.secret.value
            answer.zero_rtt.value = True
            await asyncio.to_thread(upstream.handshake, glue=encode(pb.Message(proxy_req=answer)))
            first, second = (dialer, upstream) if who == "dialer" else (upstream, dialer)
            first.send(b"all I have")
            first.send_close_notify()
            assert await asyncio.to_thread(second.receive_all) == b"all I have"
            assert second.ending == "close_notify"
            second.send(b"the answer")
            second.send_close_notify()
            assert await asyncio.to_thread(first.receive_all) == b"the answer"
            assert first.ending == "close_notify"

    on_site(script)


def half_closing(site: Site) -> Client:
    """A TLS client that can end one direction, which asyncio's cannot."""
    return Client(site.address, DOMAIN, trusting(alpns=("rstrm/1",), version=ssl.TLSVersion.TLSv1_3))


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_lost_channel_keeps_streams_and_takes_no_new_ones() -> None:
    """EDGE-026."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await dialer.raw(b"0")
        assert await upstream.data(1) == b"0"
        with Watch(site.engine) as watch:
            agent.link.cut()
            await watch.until("tunnel", "updated")
            await dialer.raw(b"a")
            await upstream.raw(b"b")
            assert await upstream.data(1) == b"a"
            assert await dialer.data(1) == b"b"
            assert (await (await site.dial(tunnel)).receive()).stream_rsp.error.code == 6000
            leased = site.engine.registry.by_id(tunnel)
            assert leased is not None
            site.engine.lease(leased, 0)
            await watch.until("tunnel", "deleted")
        assert (await (await site.dial(tunnel)).receive()).stream_rsp.error.code == 3000
        await dialer.raw(b"c")
        assert await upstream.data(1) == b"c"

    on_site(script, lease_ms=60_000)


@pytest.mark.parametrize("how", ["tunnel", "channel", "protocol"])
def test_an_end_on_purpose_takes_the_streams_along(how: str) -> None:
    """EDGE-027."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await dialer.raw(b"a")
        assert await upstream.data(1) == b"a"
        if how == "tunnel":
            await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        elif how == "channel":
            await agent.close()
        else:
            await agent.link.send(pb.Message(stream_rsp=pb.StreamRsp()))
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""
        assert site.engine.registry.tunnels() == ()

    on_site(script)


def test_what_was_sent_before_the_close_of_a_tunnel_still_arrives() -> None:
    """AGENT-054: all of it, however long it takes to leave, and then an end that is no orderly one on QUIC."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        dialer, upstream = await joined(site, agent, tunnel)
        await upstream.raw(b"first")
        assert await dialer.data(5) == b"first"
        await upstream.raw(bytes(200_000))
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert len(await dialer.data(200_000)) == 200_000
        assert await dialer.ended() == b""

    on_site(script)


def test_what_is_pending_fails_when_its_tunnel_or_its_agent_goes() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        tunnel = await agent.private()
        waiting = await site.dial(tunnel)
        await agent.asked()
        await agent.link.send(pb.Message(close_tunnel_req=pb.CloseTunnelReq(tunnel_id=tunnel)))
        assert (await waiting.receive()).stream_rsp.error.code == 4000
        assert (await agent.link.receive()).HasField("close_tunnel_rsp")
        waiting = await site.dial(await agent.private())
        await agent.asked()
        agent.link.cut()
        assert (await waiting.receive()).stream_rsp.error.code == 6000

    on_site(script)


def test_names_stay_held_after_a_loss_until_the_lease_is_over() -> None:
    """EDGE-014."""

    async def script(site: Site) -> None:
        name = f"x-default.t.{DOMAIN}"
        lost, other = await site.agent(), await site.agent()
        await lost.open(hostname=name)
        with Watch(site.engine) as watch:
            lost.link.cut()
            await watch.until("tunnel", "updated")
            assert (await other.open(hostname=name)).error.code == 2000
            held = site.engine.registry.by_hostname(name)
            assert isinstance(held, Tunnel)
            assert not held.open

    on_site(script, lease_ms=60_000)


def test_names_are_free_when_the_lease_is_over() -> None:
    async def script(site: Site) -> None:
        name = f"x-default.t.{DOMAIN}"
        lost, other = await site.agent(), await site.agent()
        await lost.open(hostname=name)
        with Watch(site.engine) as watch:
            lost.link.cut()
            await watch.until("tunnel", "deleted")
        assert (await other.open(hostname=name)).HasField("tunnel_properties")

    on_site(script, lease_ms=20)


def test_a_silent_agent_expires_by_its_own_timeout() -> None:
    async def script(site: Site) -> None:
        silent, patient = await site.agent(interval=50), await site.agent(interval=300_000)
        await silent.open()
        await patient.open()
        with Watch(site.engine) as watch:
            await watch.until("tunnel", "deleted")
        assert await silent.link.ended() == b""
        assert len(site.engine.registry.tunnels()) == len(site.engine.registry.clients()) == 1

    on_site(script, heartbeat_timeout_floor_ms=100)


def test_an_agent_without_heartbeats_is_not_answered_and_does_not_expire() -> None:
    async def script(site: Site) -> None:
        quiet, watched = await site.agent(), await site.agent(interval=10)
        await quiet.link.send(pb.Message(heartbeat=pb.Heartbeat()))
        with Watch(site.engine) as watch:
            await watch.until("client", "deleted")
        assert await watched.link.ended() == b""
        assert (await quiet.open()).HasField("tunnel_properties")

    on_site(script, heartbeat_timeout_floor_ms=100)


def test_a_revoked_tunnel_is_announced() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        identity = await agent.private()
        tunnel = site.engine.registry.by_id(identity)
        assert tunnel is not None
        await site.engine.agents.revoke(tunnel)
        assert (await agent.link.receive()).close_tunnel_rsp.tunnel_id == identity
        assert site.engine.registry.tunnels() == ()

    on_site(script)


def test_shutdown_is_announced_and_closes_everything() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer, upstream = await joined(site, agent, await agent.private())
        stopping = asyncio.create_task(site.engine.stop(0.1))
        assert (await agent.link.receive()).HasField("close_control_channel_rsp")
        assert await agent.link.ended() == b""
        assert await dialer.ended() == b""
        assert await upstream.ended() == b""
        await stopping
        assert site.engine.registry.clients() == ()

    on_site(script)


def test_shutdown_waits_for_live_streams() -> None:
    async def script(site: Site) -> None:
        agent = await site.agent()
        dialer, upstream = await joined(site, agent, await agent.private())
        await dialer.raw(b"a")
        assert await upstream.data(1) == b"a"
        stopping = asyncio.create_task(site.engine.stop(5))
        await site.engine.draining.wait()
        await upstream.raw(b"last words")
        assert await dialer.data(10) == b"last words"
        await upstream.close()
        await dialer.close()
        await stopping
        assert (await agent.link.receive()).HasField("close_control_channel_rsp")

    on_site(script)


def test_an_agent_that_stops_reading_is_dropped() -> None:
    """What waits for an agent is bounded: in the end the channel is lost."""

    async def script(site: Site) -> None:
        agent = await site.agent()
        agent.link.pause()
        (channel,) = site.engine.agents.channels()
        notice = pb.Message(server_message=pb.ServerMessage(message="x" * 60_000))
        with Watch(site.engine) as watch:
            while site.engine.registry.clients():
                sending = asyncio.create_task(channel.send(notice))
                await asyncio.wait({sending}, timeout=0)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            await watch.until("client", "deleted")

    on_site(script)
