"""0-RTT of an HTTP/3 client: what it may do to an upstream, and what the edge may announce behind it (RFC 8470)."""

from __future__ import annotations

import contextlib

from conformance.http3._steps import behind, connected, down_case, told, works
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.link.udp import UdpLink
from harness.peer.http3 import Http3Client
from harness.scene import Scene
from harness.wire.http3 import SettingId

ALL_EARLY = 0xFFFF_FFFF
"""max_early_data_size of a ticket that allows 0-RTT (RFC 9001 section 4.6.1)."""
REPLAYS = 3


async def _heard(link: UdpLink) -> None:
    with contextlib.suppress(DeadlineExpired, LinkReset):
        async with deadline("an answer of the engine"):
            await link.receive()


@down_case("h3-early-01", ["RFC9114-10.9-1", "RFC9114-7.2.4.2-3"])
async def test_early_data_and_its_replay(scene: Scene) -> None:
    """A POST in 0-RTT, and its replay from another port: the edge refuses 0-RTT, or the upstream has the request once,
    or marked with Early-Data. SETTINGS behind accepted 0-RTT take nothing back that the client knew."""
    row, settings_row = "RFC9114-10.9-1", "RFC9114-7.2.4.2-3"
    first = await connected(scene)
    await works(scene, first)
    await first.ping()
    known = first.remote_settings
    tickets = [one for one in first.quic.resumptions if one.session.max_early_data == ALL_EARLY]
    await first.close()
    if not tickets:
        scene.allow(row, "0-RTT refused")
        scene.not_run(settings_row, "the edge gives no tickets for 0-RTT")
        return
    flight: list[bytes] = []

    def keep(index: int, datagram: bytes) -> bytes:
        del index
        flight.append(datagram)
        return datagram

    quic = await scene.quic_client(
        handshake=False, resumption=tickets[-1], early_data=True, tamper_datagram=keep, **Http3Client.BELOW
    )
    client = Http3Client(quic, quic.channel, host=scene.endpoint().host)
    client.strict = False
    await client.start()
    nonce = scene.nonce().hex()
    sent = await client.begin("POST", f"/{nonce}", body=b"once", nonce=nonce)
    replayed = list(flight)
    done = await quic.handshake()
    if not done.early_data_accepted:
        scene.allow(row, "0-RTT refused")
        scene.not_run(settings_row, "the edge refuses 0-RTT")
        return
    settings = await client.settings()
    names = (SettingId.MAX_FIELD_SECTION_SIZE, SettingId.QPACK_MAX_TABLE_CAPACITY, SettingId.QPACK_BLOCKED_STREAMS)
    less = [name.name for name in names if _less(settings.get(name), known.get(name) if known else None, name)]
    scene.expect(settings_row, not less, expected="no setting taken back", actual=f"lower: {less}")
    request = await behind(scene).request(nonce)
    await request.respond(200)
    try:
        told(await sent.response())
    except PeerMismatch as error:
        scene.depart(row, expected="the response", actual=str(error))
    await client.close()
    stranger = await scene.udp()
    for _ in range(REPLAYS):
        for datagram in replayed:
            stranger.send(datagram)
        await _heard(stranger)
    await scene.settle()
    copies = behind(scene).seen(nonce)
    marked = [each for each in copies if each.get("early-data") == "1"]
    once = len(copies) == 1 or len(marked) == len(copies)
    branch = "forwarded with Early-Data: 1" if marked else "forwarded only after"
    actual = f"{len(copies)} copies, {len(marked)} with Early-Data: 1"
    scene.expect(row, once, expected="the POST once at the upstream", actual=actual, branch=branch)


def _less(now: int | None, before: int | None, name: SettingId) -> bool:
    """Whether a setting allows less than before. Without a limit of field sections all are allowed."""
    if name == SettingId.MAX_FIELD_SECTION_SIZE:
        return now is not None and (before is None or now < before)
    return (now or 0) < (before or 0)
