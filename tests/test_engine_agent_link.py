"""The agent link over real TLS: first frames, the opening of a control channel, and its tunnels."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.config import PERMISSION_STREAMS, PERMISSION_TUNNELS, CertificateGrant, TokenGrant
from tests.engine_agent_support import DOMAIN, Site, on_site, opening

pytestmark = pytest.mark.usefixtures("agent_transport")

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
