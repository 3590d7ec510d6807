"""Datagrams in a capture: packets of UDP, refusals, flows that move, and QUIC that Wireshark decrypts."""

from __future__ import annotations

import asyncio
import io
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from harness.evidence.captures import Captures
from harness.evidence.packets import LONGEST, Flow, Step
from harness.evidence.recorder import ENGINE_SIDE, LIMIT, STEP_COST, UPSTREAM_PORT, UPSTREAM_SIDE, Recording
from harness.link import tap
from harness.link.deadline import deadline
from harness.link.stream import LinkReset
from harness.link.udp import UdpListener, connect_udp
from harness.model.event import AGENT, DOWNSTREAM, UPSTREAM
from harness.peer.tls_pki import upstream_identity
from tests.evidence_support import Capture, Datagram, Unreachable

HERE, THERE, MOVED = ("127.0.0.1", 40001), ("127.0.0.1", 4443), ("127.0.0.1", 40002)
HERE6, THERE6 = ("fe80::1%lo", 40001), ("::1", 4443)

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="not run: needs tshark")


@pytest.fixture
def recording() -> Recording:
    clock = itertools.count(100)
    return Recording(lambda: next(clock) / 8)


def told(recording: Recording, **options: Any) -> Capture:
    capture = Capture(recording.capture("about it", **options))
    assert all(packet.checksums_right for packet in capture.packets)
    return capture


def test_each_packet_of_a_flow_is_one_of_the_capture(recording: Recording) -> None:
    flow = recording.datagrams(DOWNSTREAM, HERE, THERE, dialed=True)
    flow.label("client-1")
    flow.sent(b"ping")
    flow.got(b"")
    flow.got(bytes(LONGEST))
    flow.sent_end()
    flow.got(b"late")
    flow.got_reset()
    capture = told(recording)
    assert [(item.source[1], item.outbound, item.payload) for item in capture.datagrams] == [
        (HERE[1], True, b"ping"),
        (THERE[1], False, b""),
        (THERE[1], False, bytes(LONGEST)),
    ]
    assert capture.packets == capture.datagrams
    assert [item.comments for item in capture.packets] == [["client-1"], [], []]
    assert capture.interfaces == ["downstream"]


@pytest.mark.parametrize(("local", "remote"), [(HERE, THERE), (HERE6, THERE6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("data", [b"", b"a", b"\xff\xff\xff", bytes(2000)])
def test_a_refused_packet_has_its_message(local: tap.Address, remote: tap.Address, data: bytes) -> None:
    recording = Recording(lambda: 0.0)
    flow = recording.datagrams(DOWNSTREAM, local, remote, dialed=True)
    flow.got(b"before")
    flow.sent(data)
    flow.got_reset()
    flow.sent(b"nothing behind it")
    (_, sent, refusal) = told(recording).packets
    assert isinstance(refusal, Unreachable)
    assert refusal.about == sent.packet[: len(refusal.about)]
    assert len(refusal.about) == (min(len(sent.packet), 1232) if refusal.v6 else 28)
    assert refusal.ends == sent.ends[::-1]
    assert not refusal.outbound


def test_a_checksum_of_nought_is_told_in_its_other_form(recording: Recording) -> None:
    """0 in a UDP header means that there is none (RFC 768): among all values of one word it comes once."""
    flow = Flow(HERE, THERE)
    sums = {packet[26:28] for word in range(0x10000) for packet in flow.step(True, Step.DATA, word.to_bytes(2, "big"))}
    assert bytes(2) not in sums
    assert len(sums) == 0xFFFF


def test_a_flow_that_moves_keeps_its_name(recording: Recording) -> None:
    flow = recording.datagrams(DOWNSTREAM, HERE, THERE, dialed=True)
    flow.label("client-1")
    flow.sent(b"a")
    moved = flow.moved(MOVED)
    flow.got(b"to the old port")
    moved.sent(b"b")
    assert [(item.source[1], item.payload, item.comments) for item in told(recording).datagrams] == [
        (HERE[1], b"a", ["client-1"]),
        (MOVED[1], b"b", ["client-1"]),
    ]
    recording.forget({"client-1"})
    assert recording.empty


def test_tcp_and_udp_may_have_the_same_addresses(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    recording.datagrams(UPSTREAM, THERE, HERE, dialed=False).sent(b"datagram")
    stream.sent(b"octets")
    capture = told(recording)
    assert capture.interfaces == ["downstream", "upstream"]
    assert [item.payload for item in capture.datagrams] == [b"datagram"]
    assert [item.payload for item in capture.segments if item.payload] == [b"octets"]


def test_a_flow_between_two_peers_of_ours_is_told_once(recording: Recording) -> None:
    first = recording.datagrams(DOWNSTREAM, HERE, THERE, dialed=True)
    first.sent(b"once")
    second = recording.datagrams(UPSTREAM, THERE, HERE, dialed=False)
    second.label("upstream-1")
    second.got(b"once")
    first.sent_end()
    recording.datagrams(UPSTREAM, THERE, HERE, dialed=False).got(b"a later flow of the same addresses")
    capture = told(recording)
    assert [item.payload for item in capture.datagrams] == [b"once", b"a later flow of the same addresses"]
    assert capture.datagrams[0].comments == ["upstream-1"]


def test_datagrams_inside_the_agents_connection_are_a_flow(recording: Recording) -> None:
    recording.datagrams(AGENT, HERE, THERE, dialed=True).got(b"ciphertext")
    inner = recording.carried_datagrams(HERE, dialed=False)
    inner.label("upstream-1")
    inner.got(b"one")
    inner.sent(bytes(LONGEST + 1))
    capture = told(recording)
    assert capture.interfaces == ["agent", "upstream (inside agent)"]
    (_, one, cut) = capture.datagrams
    assert (str(one.ends[0]), one.source[1]) == (ENGINE_SIDE, UPSTREAM_PORT + 1)
    assert (str(one.ends[1]), one.target[1]) == (UPSTREAM_SIDE, UPSTREAM_PORT)
    assert one.comments == [f"upstream-1, inside the agent's connection from port {HERE[1]}"]
    assert cut.payload == bytes(LONGEST)


def test_a_flow_that_repeats_an_earlier_one_comes_behind_it(recording: Recording) -> None:
    """On the far side of a relay, or of an engine that forwards QUIC as it is."""
    near = recording.datagrams(DOWNSTREAM, HERE, THERE, dialed=True)
    near.sent(b"hello " * 8)
    far = recording.carried_datagrams(HERE, dialed=False)
    far.got(b"hello " * 8)
    other = recording.datagrams(DOWNSTREAM, MOVED, THERE, dialed=True)
    other.sent(b"short, and the same")
    far.got(b"short, and the same")
    far.sent(b"world " * 8)
    near.got(b"world " * 8)
    capture = told(recording)
    assert [(item.source[1], item.payload[:5]) for item in capture.datagrams] == [
        (HERE[1], b"hello"),
        (MOVED[1], b"short"),
        (THERE[1], b"world"),
        (UPSTREAM_PORT + 1, b"hello"),
        (UPSTREAM_PORT + 1, b"short"),
        (UPSTREAM_PORT, b"world"),
    ]


def test_many_empty_packets_are_bounded_and_the_capture_says_so(recording: Recording) -> None:
    flow = recording.datagrams(DOWNSTREAM, HERE, THERE, dialed=True)
    for _ in range(LIMIT // STEP_COST):
        flow.sent(b"")
    recording.datagrams(DOWNSTREAM, MOVED, THERE, dialed=True).sent(b"no room")
    capture = told(recording)
    assert len(capture.datagrams) == LIMIT // STEP_COST
    assert capture.datagrams[-1].comments == [
        "The recording ends here: 8 MiB of one case are kept, 7 octets that followed are not."
    ]


def test_a_token_keeps_the_agents_flows_and_their_keys_out(tmp_path: Path) -> None:
    made = Captures(tmp_path / "evidence", hide_token=True)
    made.begin()
    assert made.datagrams(AGENT, HERE, THERE, dialed=True) is tap.SILENT
    made.secrets(["EXPORTER_SECRET 01 02"], leg=AGENT)
    made.secrets(["EXPORTER_SECRET 03 04"], leg=DOWNSTREAM)
    made.carried_datagrams(HERE, dialed=False).got(b"inside")
    capture = Capture((tmp_path / made.save("a", "")).read_bytes())
    made.close()
    assert [item.payload for item in capture.datagrams] == [b"inside"]
    assert capture.secrets == ["EXPORTER_SECRET 03 04"]


# links


def test_a_link_tells_packets_moves_and_refusals(tmp_path: Path) -> None:
    async def script(captures: Captures) -> tuple[int, int]:
        tap.use(captures)
        captures.begin()
        listener = UdpListener()
        await listener.start()
        client = await connect_udp(listener.host, listener.port)
        client.tap.label("client-1")
        client.send(b"hello")
        flow = await listener.accept()
        flow.send(b"world")
        assert await client.receive() == b"world"
        first = client.local[1]
        client.rebind()
        client.send(b"moved")
        await listener.accept()
        await listener.stop()
        client.send(b"anybody?")
        with pytest.raises(LinkReset):
            await client.receive()
        return first, client.local[1]

    captures = Captures(tmp_path / "evidence")
    first, second = asyncio.run(script(captures))
    capture = Capture((tmp_path / captures.save("x", "")).read_bytes())
    captures.close()
    *packets, refusal = capture.packets
    assert [(item.source[1], item.payload) for item in packets if isinstance(item, Datagram)] == [
        (first, b"hello"),
        (packets[0].target[1], b"world"),
        (second, b"moved"),
        (second, b"anybody?"),
    ]
    assert isinstance(refusal, Unreachable)
    assert refusal.about == packets[-1].packet[:28]


# Wireshark's own reading


def tshark(file: Path, *options: str) -> list[str]:
    command = ["tshark", "-n", "-r", str(file), "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    told = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


REQUEST, ANSWER = b"what the client says in QUIC", b"what the upstream says in QUIC"


class Spoken:
    """A QUIC connection of a library on a link of ours."""

    def __init__(self, connection: QuicConnection, link: Any) -> None:
        self.connection = connection
        self.link = link
        self.got = bytearray()

    def flush(self) -> None:
        for packet, _ in self.connection.datagrams_to_send(now=asyncio.get_running_loop().time()):
            self.link.send(packet)

    async def until(self, wanted: bytes) -> None:
        """Read until the other side's stream carried `wanted`."""
        while bytes(self.got) != wanted:  # both ends are on one machine: nothing is lost, and no timer is needed
            packet = await self.link.receive()
            self.connection.receive_datagram(packet, self.link.remote, now=asyncio.get_running_loop().time())
            while event := self.connection.next_event():
                if isinstance(event, StreamDataReceived):
                    self.got += event.data
            self.flush()


async def speak_quic() -> None:
    """One request and its answer over QUIC, with the keys told to the tap."""
    listener = UdpListener()
    await listener.start()
    link = await connect_udp(listener.host, listener.port)
    secrets = io.StringIO()
    client = QuicConnection(configuration=QuicConfiguration(alpn_protocols=["x"], secrets_log_file=secrets))
    client.configuration.verify_mode = 0
    spoken = Spoken(client, link)
    client.connect((listener.host, listener.port), now=asyncio.get_running_loop().time())
    client.send_stream_data(0, REQUEST, end_stream=True)
    spoken.flush()

    configuration = QuicConfiguration(is_client=False, alpn_protocols=["x"])
    configuration.certificate, configuration.private_key = upstream_identity().chain[0], upstream_identity().key
    destination = client._peer_cid.cid
    server = QuicConnection(configuration=configuration, original_destination_connection_id=destination)
    answering = Spoken(server, await listener.accept())

    async def answer() -> None:
        await answering.until(REQUEST)
        server.send_stream_data(0, ANSWER, end_stream=True)
        answering.flush()

    await asyncio.gather(spoken.until(ANSWER), answer())
    tap.current().secrets(secrets.getvalue().splitlines())
    await link.close()
    await listener.stop()


@needs_tshark
def test_wireshark_decrypts_quic(tmp_path: Path) -> None:
    async def script() -> None:
        tap.use(captures)
        captures.begin()
        async with deadline("both sides to have said their piece"):
            await speak_quic()

    captures = Captures(tmp_path / "evidence")
    asyncio.run(script())
    file = tmp_path / captures.save("quic", "")
    captures.close()
    assert tshark(file, "-Y", "udp.checksum.status == Bad || ip.checksum.status == Bad || _ws.malformed") == []
    assert tshark(file, "-Y", "udp.checksum.status == Good && quic") != []
    said = tshark(file, "-Y", "quic.stream_data", "-T", "fields", "-e", "quic.stream_data")
    assert [bytes.fromhex(line) for line in said] == [REQUEST, ANSWER]
