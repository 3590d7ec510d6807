"""qlog files: every frame by its name there, packets and ends of our QUIC peers, nothing of what streams carried."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.engine.driver import Endpoint
from harness.engine.factory import make_driver
from harness.evidence import qlog
from harness.evidence.captures import Captures, remove_stale
from harness.evidence.qlog import Qlog, frame_fields
from harness.evidence.transcript import UPSTREAM as UPSTREAM_LEG
from harness.ledger import Ledger
from harness.link import tap
from harness.link.faults import TO_ENGINE, Drop, FaultPlan
from harness.link.udp import UdpListener
from harness.model.case import MARK, case
from harness.model.event import AGENT, DOWNSTREAM, UPSTREAM
from harness.model.record import CaseResult, from_json, to_json
from harness.model.spec import quic as quic_tunnel
from harness.model.verdict import Verdict
from harness.peer.quic import QuicPeer
from harness.pool import EnginePool, Planned
from harness.profiles import load
from harness.runner import Runner
from harness.scene import Scene
from harness.wire.quic import ClientOptions, PacketInfo, PacketKind, QuicEnd
from harness.wire.quic import frames as quic
from tests.evidence_support import Capture
from tests.fake_engine import FakeDriver
from tests.fake_engine import profile as fake_profile
from tests.quic_peers import both, client_options, server_options

CHECKED = "TLS-001"
SECRET = b"what only the stream knows"

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="not run: needs tshark")

# frames

ID = bytes(range(8))
FRAMES: list[tuple[quic.Frame, dict[str, Any]]] = [
    (quic.Padding(7), {"frame_type": "padding", "length": 7}),
    (quic.Ping(), {"frame_type": "ping"}),
    (quic.Ack(((5, 9), (1, 2)), 3), {"frame_type": "ack", "acked_ranges": [[5, 9], [1, 2]]}),
    (quic.Ack(((0, 0),), 0, (4, 5, 6)), {"frame_type": "ack", "acked_ranges": [[0, 0]], "ect0": 4, "ect1": 5, "ce": 6}),
    (
        quic.ResetStream(4, 7, 100),
        {"frame_type": "reset_stream", "stream_id": 4, "error_code": 7, "final_size": 100},
    ),
    (quic.StopSending(4, 7), {"frame_type": "stop_sending", "stream_id": 4, "error_code": 7}),
    (quic.Crypto(10, b"abc"), {"frame_type": "crypto", "offset": 10, "length": 3}),
    (quic.NewToken(b"abc"), {"frame_type": "new_token", "length": 3}),
    (
        quic.Stream(4, 10, SECRET, fin=True),
        {"frame_type": "stream", "stream_id": 4, "offset": 10, "length": len(SECRET), "fin": True},
    ),
    (quic.MaxData(9), {"frame_type": "max_data", "maximum": 9}),
    (quic.MaxStreamData(4, 9), {"frame_type": "max_stream_data", "stream_id": 4, "maximum": 9}),
    (quic.MaxStreams(9), {"frame_type": "max_streams", "maximum": 9, "stream_type": "bidirectional"}),
    (quic.MaxStreams(9, False), {"frame_type": "max_streams", "maximum": 9, "stream_type": "unidirectional"}),
    (quic.DataBlocked(9), {"frame_type": "data_blocked", "limit": 9}),
    (quic.StreamDataBlocked(4, 9), {"frame_type": "stream_data_blocked", "stream_id": 4, "limit": 9}),
    (
        quic.StreamsBlocked(9, False),
        {"frame_type": "streams_blocked", "limit": 9, "stream_type": "unidirectional"},
    ),
    (
        quic.NewConnectionId(2, 1, ID, bytes(16)),
        {
            "frame_type": "new_connection_id",
            "sequence_number": 2,
            "retire_prior_to": 1,
            "connection_id": ID.hex(),
            "stateless_reset_token": bytes(16).hex(),
        },
    ),
    (quic.RetireConnectionId(2), {"frame_type": "retire_connection_id", "sequence_number": 2}),
    (quic.PathChallenge(ID), {"frame_type": "path_challenge", "data": ID.hex()}),
    (quic.PathResponse(ID), {"frame_type": "path_response", "data": ID.hex()}),
    (
        quic.ConnectionClose(10, 6, b"why\xff"),
        {
            "frame_type": "connection_close",
            "error_space": "transport",
            "error_code": 10,
            "reason": "why\ufffd",
            "trigger_frame_type": 6,
        },
    ),
    (
        quic.ConnectionClose(10, application=True),
        {"frame_type": "connection_close", "error_space": "application", "error_code": 10, "reason": ""},
    ),
    (quic.HandshakeDone(), {"frame_type": "handshake_done"}),
    (quic.Datagram(SECRET), {"frame_type": "datagram", "length": len(SECRET)}),
    (quic.Raw(b"\x40\x21\x00"), {"frame_type": "unknown", "length": 3}),
]


@pytest.mark.parametrize(
    ("frame", "expected"), FRAMES, ids=[f"{frame.name}-{n}" for n, (frame, _) in enumerate(FRAMES)]
)
def test_a_frame_by_its_names_there(frame: quic.Frame, expected: dict[str, Any]) -> None:
    assert frame_fields(frame) == expected


def test_every_frame_is_in_the_table() -> None:
    made = {kind for kind in vars(quic).values() if isinstance(kind, type) and issubclass(kind, quic.Frame)}
    assert {type(frame) for frame, _ in FRAMES} == made - {quic.Frame}
    assert set(qlog.PACKET_TYPES) == set(PacketKind)


# one case


@pytest.fixture
def log() -> Qlog:
    clock = itertools.count(100)
    return Qlog(lambda: next(clock) / 8)


def packet(**facts: Any) -> PacketInfo:
    return PacketInfo(**{"time": 1.0, "kind": PacketKind.SHORT, "size": 100, "number": 3, "destination": ID, **facts})


def traces(log: Qlog, leg: str = DOWNSTREAM) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(log.files("case")[leg])["traces"]
    return told


def events(log: Qlog) -> list[dict[str, Any]]:
    (told,) = traces(log)
    return [{key: value for key, value in event.items() if key != "time"} for event in told["events"]]


def test_a_packet_with_its_header_and_frames(log: Qlog) -> None:
    hook = log.trace(DOWNSTREAM, "client", "client-1").hooked(ClientOptions()).on_packet
    assert hook is not None
    hook("sent", packet(kind=PacketKind.INITIAL, version=1, source=b"\x01", number=0, frames=(quic.Ping(),)))
    hook("received", packet(phase=1, frames=(quic.Padding(2),)))
    assert events(log) == [
        {
            "name": "transport:packet_sent",
            "data": {
                "header": {
                    "packet_type": "initial",
                    "packet_number": 0,
                    "version": "00000001",
                    "scid": "01",
                    "dcid": ID.hex(),
                },
                "raw": {"length": 100},
                "frames": [{"frame_type": "ping"}],
            },
        },
        {
            "name": "transport:packet_received",
            "data": {
                "header": {"packet_type": "1RTT", "packet_number": 3, "dcid": ID.hex(), "key_phase": 1},
                "raw": {"length": 100},
                "frames": [{"frame_type": "padding", "length": 2}],
            },
        },
    ]


@pytest.mark.parametrize(
    ("facts", "name", "trigger"),
    [
        ({"trouble": "duplicate"}, "packet_dropped", "duplicate"),
        ({"trouble": "version", "number": None}, "packet_dropped", "unsupported_version"),
        ({"trouble": "cannot be decrypted", "number": None}, "packet_dropped", None),
        ({"trouble": "frame of unknown type 0x21"}, "packet_received", None),
        ({"number": None, "kind": PacketKind.RETRY}, "packet_received", None),
    ],
)
def test_what_became_of_a_packet(log: Qlog, facts: dict[str, Any], name: str, trigger: str | None) -> None:
    hook = log.trace(DOWNSTREAM, "client", "client-1").hooked(ClientOptions()).on_packet
    assert hook is not None
    hook("received", packet(**facts))
    (event,) = events(log)
    assert event["name"] == f"transport:{name}"
    assert event["data"].get("details") == facts.get("trouble")
    assert event["data"].get("trigger") == trigger


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (QuicEnd("transport", 10, 6, "why"), {"owner": "remote", "reason": "why", "connection_code": 10}),
        (QuicEnd("application", 7, by_peer=False), {"owner": "local", "reason": "", "application_code": 7}),
        (QuicEnd("idle"), {"owner": "remote", "reason": "", "trigger": "idle_timeout"}),
        (QuicEnd("reset"), {"owner": "remote", "reason": "", "trigger": "stateless_reset"}),
        (QuicEnd("negotiation"), {"owner": "remote", "reason": "", "trigger": "error"}),
    ],
)
def test_how_a_connection_ended(log: Qlog, end: QuicEnd, expected: dict[str, Any]) -> None:
    trace = log.trace(DOWNSTREAM, "client", "client-1")
    for told in (None, end, QuicEnd("idle")):
        trace.closed(told)
    assert events(log) == [{"name": "connectivity:connection_closed", "data": expected}]


def test_a_hook_of_the_script_is_called_too(log: Qlog) -> None:
    heard: list[str] = []
    options = ClientOptions(on_packet=lambda direction, info: heard.append(direction))
    hook = log.trace(DOWNSTREAM, "client", "client-1").hooked(options).on_packet
    assert hook is not None
    hook("sent", packet())
    assert heard == ["sent"]
    assert len(events(log)) == 1


def test_each_leg_is_a_file_and_each_connection_a_trace(log: Qlog) -> None:
    for leg, us, name in ((DOWNSTREAM, "client", "client-1"), (UPSTREAM, "server", "up"), (DOWNSTREAM, "client", "c2")):
        log.trace(leg, us, name).closed(QuicEnd("idle"))
    log.trace(AGENT, "client", "agent")
    assert list(log.files("case")) == [DOWNSTREAM, UPSTREAM], "a leg on which nothing went has no file"
    assert [trace["title"] for trace in traces(log)] == ["client-1", "c2"]
    assert [trace["vantage_point"] for trace in traces(log, UPSTREAM)] == [{"name": "up", "type": "server"}]
    log.forget({"client-1", "up"})
    assert list(log.files("case")) == [DOWNSTREAM]
    assert [trace["title"] for trace in traces(log)] == ["c2"]


def test_memory_is_bounded_and_the_file_says_so(log: Qlog) -> None:
    trace = log.trace(DOWNSTREAM, "client", "client-1")
    hook = trace.hooked(ClientOptions()).on_packet
    assert hook is not None
    for _ in range(2 * qlog.LIMIT // 65536):
        hook("sent", packet(size=65536))
    assert len(trace.noted) == qlog.LIMIT // (65536 + qlog.PACKET_COST)
    left = 2 * qlog.LIMIT // 65536 - len(trace.noted)
    assert f"8 MiB of one case are noted, {left} packets that followed are not" in log.files("x")[DOWNSTREAM]


def test_what_is_stopped_takes_nothing_more(log: Qlog) -> None:
    trace = log.trace(DOWNSTREAM, "client", "client-1")
    log.stop()
    trace.closed(QuicEnd("idle"))
    assert log.files("x") == {}


# files


@pytest.fixture
def captures(tmp_path: Path) -> Iterator[Captures]:
    made = Captures(tmp_path / "evidence")
    yield made
    made.close()


def test_files_lie_beside_the_capture_and_none_is_overwritten(captures: Captures, tmp_path: Path) -> None:
    names: list[str] = []
    for _ in range(2):
        captures.begin()
        captures.quic(DOWNSTREAM, "client", "client-1").closed(QuicEnd("idle"))
        names += captures.save_qlog("quic-1[a]")
    assert len(set(names)) == 2
    assert all(name.startswith("evidence/quic-1_a") and name.endswith(".qlog") for name in names)
    assert json.loads((tmp_path / names[1]).read_text())["title"] == "quic-1[a]"
    remove_stale(tmp_path / "evidence")
    assert not (tmp_path / "evidence").exists()


def test_each_case_begins_anew(captures: Captures) -> None:
    assert captures.quic(DOWNSTREAM, "client", "before any") is tap.SILENT_QUIC
    captures.begin()
    captures.quic(DOWNSTREAM, "client", "client-1").closed(QuicEnd("idle"))
    captures.begin()
    assert captures.save_qlog("x") == ()
    captures.stop()
    assert captures.save_qlog("x") == ()


def test_a_token_keeps_its_connections_out(tmp_path: Path) -> None:
    made = Captures(tmp_path / "evidence", hide_token=True)
    made.begin()
    assert made.quic(AGENT, "client", "agent") is tap.SILENT_QUIC
    for name in ("client-1", "client-2"):
        made.quic(DOWNSTREAM, "client", name).closed(QuicEnd("idle"))
    (file,) = made.save_qlog("x", {"client-1"})
    made.close()
    assert [trace["title"] for trace in json.loads((tmp_path / file).read_text())["traces"]] == ["client-2"]


# peers


def test_peers_tell_their_packets_and_the_end(captures: Captures, tmp_path: Path) -> None:
    async def script() -> None:
        tap.use(captures)
        captures.begin()
        async with both() as peers:
            stream = await peers.client.open_stream()
            await stream.send(SECRET, fin=True)
            await (await peers.server.accept_stream()).receive_until_end()
            await peers.client.close(7, "enough")
            await peers.server.closed()

    asyncio.run(script())
    near, far = captures.save_qlog("x")
    assert (near, far) == ("evidence/x.downstream.qlog", "evidence/x.upstream.qlog")
    told = {}
    for name in (near, far):
        text = (tmp_path / name).read_text()
        assert SECRET.decode() not in text
        assert SECRET.hex() not in text
        data = json.loads(text)
        (told[name],) = data["traces"]
        assert (data["qlog_version"], data["qlog_format"]) == ("0.3", "JSON")
    assert told[near]["common_fields"]["ODCID"] == told[far]["common_fields"]["ODCID"]
    for name, first, owner in ((near, "sent", "local"), (far, "received", "remote")):
        seen = told[name]["events"]
        assert seen[0]["name"] == f"transport:packet_{first}"
        assert seen[0]["data"]["header"]["packet_type"] == "initial"
        assert seen[0]["data"]["frames"][0]["frame_type"] == "crypto"
        times = [event["time"] for event in seen]
        assert times == sorted(times)
        assert {"initial", "handshake", "1RTT"} <= {
            event["data"]["header"]["packet_type"] for event in seen if "header" in event["data"]
        }
        frames = [frame for event in seen for frame in event["data"].get("frames", ())]
        assert {"frame_type": "stream", "stream_id": 0, "offset": 0, "length": len(SECRET), "fin": True} in frames
        (end,) = [event["data"] for event in seen if event["name"] == "connectivity:connection_closed"]
        assert end == {"owner": owner, "reason": "enough", "application_code": 7}


async def quic_without_engine(scene: Scene) -> None:
    """A client and a server of ours with nothing but a relay between them."""
    listener = UdpListener()
    await listener.start()
    scene.on_close(listener.stop)
    endpoint = Endpoint("peer.test", listener.host, listener.port, "udp")
    where = await scene.faults(plan=FaultPlan({(TO_ENGINE, 1): Drop()}), endpoint=endpoint)
    client = await scene.quic_client(endpoint=where, handshake=False, alpn=("x",))

    async def serve() -> QuicPeer:
        channel = scene.transcript.channel(UPSTREAM_LEG, "upstream", "upstream-1")
        peer = QuicPeer.server(await listener.accept(), channel, server_options())
        await peer.start()
        await peer.handshake()
        return peer

    _, server = await scene.both(client.handshake(), serve())
    scene.on_close(server.shut)
    stream = await client.open_stream()
    await stream.send(SECRET, fin=True)
    await (await server.accept_stream()).receive_until_end()


Script = Callable[[Scene], Awaitable[None]]


def run_case(tmp_path: Path, script: Script, pool: EnginePool, *, passes: bool = False, **facts: Any) -> CaseResult:
    async def function(scene: Any) -> None:
        """A script of the test."""
        await script(scene)
        scene.expect(CHECKED, passes, expected="it", actual="it")

    chosen = getattr(case("quic-1", checks=(CHECKED,), family="quic", **facts)(function), MARK)
    captures = Captures(tmp_path / "evidence")
    runner = Runner(pool.profile, Ledger.load(), pool, {}, captures=captures)

    async def run() -> CaseResult:
        try:
            return await runner.run(Planned(chosen, chosen.variants[0], chosen.settings))
        finally:
            await pool.close()
            captures.close()

    return asyncio.run(run())


def run(tmp_path: Path, *, passes: bool) -> CaseResult:
    pool = EnginePool(fake_profile(), lambda _: FakeDriver())
    return run_case(tmp_path, quic_without_engine, pool, passes=passes)


def test_a_case_that_passed_has_no_files(tmp_path: Path) -> None:
    result = run(tmp_path, passes=True)
    assert (result.verdict, result.capture, result.qlogs) == (Verdict.PASS, "", ())
    assert not (tmp_path / "evidence").exists()


def test_a_case_that_did_not_pass_has_a_file_per_leg(tmp_path: Path) -> None:
    result = run(tmp_path, passes=False)
    assert result.verdict is Verdict.FAIL, result.cause
    assert result.qlogs == ("evidence/quic-1.downstream.qlog", "evidence/quic-1.upstream.qlog")
    assert from_json(CaseResult, json.loads(json.dumps(to_json(result)))) == result
    capture = Capture((tmp_path / result.capture).read_bytes())
    assert capture.interfaces == ["downstream"], "the relay stands in the place of an engine: both its sides"
    named = {comment for item in capture.datagrams for comment in item.comments}
    assert named == {"client-2", "relay-1/flow-0, upstream-1"}


def stream_data(file: Path, *fields: str) -> list[list[str]]:
    """What Wireshark sees of each packet with a STREAM frame: the data, and further fields."""
    wanted = [word for field in ("quic.stream_data", *fields) for word in ("-e", field)]
    command = ["tshark", "-n", "-r", str(file), "-Y", "quic.stream_data", "-T", "fields", *wanted]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    return [line.split("\t") for line in told.stdout.splitlines()]


async def through_the_engine(scene: Scene) -> None:
    client, upstream = await scene.quic_pair()
    stream = await client.open_stream()
    await stream.send(SECRET, fin=True)
    await (await upstream.accept_stream()).receive_until_end()


@needs_tshark
@pytest.mark.parametrize("transport", ["tls", "quic"])
def test_every_leg_of_quic_through_an_engine_is_there(tmp_path: Path, transport: str) -> None:
    settings = {"agent.transport": transport}
    pool = EnginePool(load("reference"), make_driver)
    result = run_case(tmp_path, through_the_engine, pool, publish=quic_tunnel(), settings=settings)
    assert result.verdict is Verdict.FAIL, result.cause
    legs = ["downstream", *(["agent"] if transport == "quic" else []), "upstream"]
    assert sorted(result.qlogs) == sorted(f"evidence/quic-1.{leg}.qlog" for leg in legs)
    capture = Capture((tmp_path / result.capture).read_bytes())
    assert capture.interfaces == ["downstream", "agent", "upstream (inside agent)"]
    seen = stream_data(tmp_path / result.capture, "frame.interface_name")
    assert {leg for data, leg in seen if SECRET.hex() in data.split(",")} == {"downstream", "upstream (inside agent)"}
    assert ("agent" in {leg for _, leg in seen}) == (transport == "quic")


@needs_tshark
def test_wireshark_decrypts_our_own_quic_in_front_of_the_relay_and_behind_it(tmp_path: Path) -> None:
    file = tmp_path / run(tmp_path, passes=False).capture
    seen = stream_data(file, "udp.dstport")
    assert [bytes.fromhex(data) for data, _ in seen] == [SECRET] * 2
    assert len({port for _, port in seen}) == 2


def test_options_without_a_tap_stay_as_they_are() -> None:
    options = client_options()
    assert tap.current().quic(DOWNSTREAM, "client", "x").hooked(options) is options
