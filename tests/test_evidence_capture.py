"""Captures of cases against real engines: every octet is there, and what reads them finds the keys inside."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.engine.driver import Endpoint
from harness.engine.factory import make_driver
from harness.errors import SetupFailed
from harness.evidence.captures import Captures
from harness.ledger import Ledger
from harness.link.tcp import TcpListener
from harness.model.case import MARK, Case, case
from harness.model.profile import Profile
from harness.model.record import CaseResult
from harness.model.spec import TunnelSpec, http, tls
from harness.model.verdict import Verdict
from harness.peer.http1 import probe
from harness.pool import EnginePool, Planned
from harness.profiles import load
from harness.runner import Runner
from harness.scene import Scene
from reports import schema
from tests.evidence_support import RST, Capture, Segment
from tests.fake_engine import FakeDriver
from tests.fake_engine import profile as fake_profile

ROOT = Path(__file__).resolve().parent.parent
CHECKED = "TLS-001"
HELLO = b"the client's own words"
Script = Callable[[Scene], Awaitable[None]]

needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="not run: needs tshark")


def departs(scene: Scene) -> None:
    scene.expect(CHECKED, False, expected="what never comes", actual="something else")


async def tls13(scene: Scene) -> None:
    client, upstream = await scene.pair(versions=(0x0304,))
    await client.send(HELLO)
    await upstream.receive_exactly(len(HELLO))
    await upstream.send(bytes(100_000))
    await client.receive_exactly(100_000)
    await client.close()
    await upstream.end()
    departs(scene)


async def tls12(scene: Scene) -> None:
    client, upstream = await scene.pair(versions=(0x0303,))
    await client.send(HELLO)
    await upstream.receive_exactly(len(HELLO))
    upstream.abort()
    await client.end()
    departs(scene)


async def upstream_tls(scene: Scene) -> None:
    client, upstream = await scene.pair()
    await client.send(HELLO)
    await upstream.receive_exactly(len(HELLO))
    departs(scene)


async def http1(scene: Scene) -> None:
    client = await scene.http_client()
    await probe(client, scene.http_upstream(), scene.nonce().hex())
    await client.close()
    departs(scene)


async def passes(scene: Scene) -> None:
    await scene.pair()
    scene.expect(CHECKED, True, expected="it", actual="it")


async def no_ground(scene: Scene) -> None:
    raise SetupFailed("engine: refused")


async def slips(scene: Scene) -> None:
    await scene.tls_client()
    raise ValueError("a slip of ours")


SCRIPTS: dict[str, tuple[Script, TunnelSpec | None, Verdict]] = {
    "tls-13": (tls13, tls(), Verdict.FAIL),
    "passing": (passes, tls(), Verdict.PASS),
    "tls-12": (tls12, tls(), Verdict.FAIL),
    "upstream-tls": (upstream_tls, tls(upstream_tls=True), Verdict.FAIL),
    "http-1": (http1, http(), Verdict.FAIL),
    "no-ground": (no_ground, tls(), Verdict.SETUP),
    "slip": (slips, tls(), Verdict.HARNESS),
    "no-octets": (no_ground, None, Verdict.SETUP),
}


def declare(name: str, script: Script, spec: TunnelSpec | None, **facts: Any) -> Case:
    async def function(scene: Any) -> None:
        """A script of the test."""
        await script(scene)

    if spec is not None:
        facts["publish"] = spec
    return getattr(case(name, checks=(CHECKED,), family="tls", **facts)(function), MARK)  # type: ignore[no-any-return]


async def run_all(profile: Profile, cases: list[Case], captures: Captures) -> dict[str, CaseResult]:
    planned = [Planned(item, item.variants[0], item.settings) for item in cases]
    pool = EnginePool(profile, make_driver, planned)
    runner = Runner(profile, Ledger.load(), pool, {}, captures=captures)
    try:
        return {item.case.id: await runner.run(item) for item in planned}
    finally:
        await pool.close()


def results_of(profile: Profile, names: list[str], folder: Path, *, hide_token: bool = False) -> dict[str, CaseResult]:
    captures = Captures(folder / "evidence", hide_token=hide_token)
    try:
        cases = [declare(name, *SCRIPTS[name][:2]) for name in names]
        return asyncio.run(run_all(profile, cases, captures))
    finally:
        captures.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, CaseResult]:
    return results_of(load("reference"), list(SCRIPTS), folder)


def capture_of(folder: Path, result: CaseResult) -> Capture:
    return Capture((folder / result.capture).read_bytes())


def streams(capture: Capture) -> dict[frozenset[Any], list[Segment]]:
    found: dict[frozenset[Any], list[Segment]] = {}
    for segment in capture.segments:
        found.setdefault(frozenset((segment.source, segment.target)), []).append(segment)
    return found


def hello_randoms(capture: Capture) -> list[str]:
    """The client random of each stream that begins with a ClientHello."""
    found = []
    for segments in streams(capture).values():
        first = next((segment.payload for segment in segments if segment.payload), b"")
        if first[:1] == b"\x16":
            found.append(first[11:43].hex())
    return found


def test_what_did_not_pass_has_a_capture_and_nothing_else_has(folder: Path, results: dict[str, CaseResult]) -> None:
    assert {name: result.verdict for name, result in results.items()} == {
        name: verdict for name, (_, _, verdict) in SCRIPTS.items()
    }
    kept = {name for name, result in results.items() if result.capture}
    assert kept == set(SCRIPTS) - {"passing", "no-octets"}
    assert {path.name for path in (folder / "evidence").iterdir()} == {f"{name}.pcapng" for name in kept}


@pytest.mark.parametrize("name", ["tls-13", "tls-12", "upstream-tls", "http-1"])
def test_every_leg_is_there_with_its_names_and_keys(folder: Path, results: dict[str, CaseResult], name: str) -> None:
    capture = capture_of(folder, results[name])
    assert capture.interfaces == ["downstream", "agent", "upstream (inside agent)"]
    assert capture.comment.startswith(f"{name}: fail\n")
    named = {comment.partition(",")[0] for segment in capture.segments for comment in segment.comments}
    in_transcript = {event.channel for event in results[name].transcript if event.channel}
    assert named == in_transcript
    assert {"agent", "agent/stream-1"} <= named
    randoms = hello_randoms(capture)
    assert len(randoms) == 3 + (name == "upstream-tls")
    for random in randoms:
        labels = {line.split()[0] for line in capture.secrets if line.split()[1] == random}
        assert labels in ({"CLIENT_RANDOM"}, TLS13_LABELS)
    assert ("CLIENT_RANDOM" in {line.split()[0] for line in capture.secrets}) == (name == "tls-12")


TLS13_LABELS = {
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
    "EXPORTER_SECRET",
}


def test_streams_are_whole_and_their_checksums_right(folder: Path, results: dict[str, CaseResult]) -> None:
    capture = capture_of(folder, results["tls-13"])
    assert all(segment.checksums_right for segment in capture.segments)
    for segments in streams(capture).values():
        expected: dict[Any, int] = {}
        for segment in segments:
            at = expected.setdefault(segment.source, segment.sequence)
            assert segment.sequence == at
            expected[segment.source] = at + len(segment.payload) + bool(segment.flags & 3)
    carried = [item for item in capture.segments if str(item.target[0]) == "192.0.2.2" and item.payload]
    assert b"".join(item.payload for item in carried).endswith(HELLO)
    back = [item for item in capture.segments if str(item.source[0]) == "192.0.2.2" and item.payload]
    assert b"".join(item.payload for item in back) == bytes(100_000)


def test_a_reset_is_told_on_both_legs(folder: Path, results: dict[str, CaseResult]) -> None:
    resets = [segment for segment in capture_of(folder, results["tls-12"]).segments if segment.flags & RST]
    assert [segment.outbound for segment in resets] == [True, True, False], "inside the agent's, on it, at the client"


def test_a_profiles_token_is_nowhere(tmp_path: Path, results: dict[str, CaseResult]) -> None:
    """Neither the agent's connections, nor what they carried is decrypted; the streams inside are still there."""
    capture = capture_of(tmp_path, results_of(load("reference"), ["http-1"], tmp_path, hide_token=True)["http-1"])
    assert capture.interfaces == ["downstream", "upstream (inside agent)"]
    assert len(hello_randoms(capture)) == 1
    assert {line.split()[1] for line in capture.secrets} == set(hello_randoms(capture))
    assert any(segment.payload.startswith(b"GET /") for segment in capture.segments)


def test_the_token_of_a_profile_is_its_secret() -> None:
    table = {"address": "x", "domain": "x", "token": "t0ken"}
    assert fake_profile(kind="agent", driver=table).secrets == ("t0ken",)
    assert fake_profile(kind="agent", driver={"address": "x", "domain": "x"}).secrets == ()
    assert fake_profile(kind="launch", driver={"token": "t0ken"}).secrets == ()


def test_what_a_script_says_on_a_connection_with_the_token_is_left_out(tmp_path: Path) -> None:
    """A script that sends the token outside the agent's connections takes that connection out of the capture."""
    profile = fake_profile(kind="agent", driver={"token": "t0ken"}, features=frozenset())

    async def script(scene: Scene) -> None:
        listener = TcpListener()
        await listener.start()
        scene.on_close(listener.stop)
        endpoint = Endpoint("x", listener.host, listener.port)
        for words in (b"Authorization: Bearer t0ken", b"nothing of it"):
            await (await scene.tcp(endpoint=endpoint)).send(words)
        departs(scene)

    captures = Captures(tmp_path / "evidence", hide_token=True)
    result = on_no_engine(profile, declare("token", script, None), captures)
    sent = [segment.payload for segment in capture_of(tmp_path, result).segments if segment.payload]
    assert sent == [b"nothing of it"]
    assert b"t0ken".hex() not in json.dumps([event.sample for event in result.transcript])


def on_no_engine(profile: Profile, chosen: Case, captures: Captures, *, sanity: Case | None = None) -> CaseResult:
    pool = EnginePool(profile, lambda _: FakeDriver())
    runner = Runner(profile, Ledger.load(), pool, {"tls": sanity} if sanity else {}, captures=captures)
    try:
        return asyncio.run(runner.run(Planned(chosen, chosen.variants[0], chosen.settings)))
    finally:
        captures.close()


def says(words: bytes, then: Callable[[Scene], None]) -> Script:
    """A script whose client says `words` to a listener of its own."""

    async def script(scene: Scene) -> None:
        listener = TcpListener()
        await listener.start()
        scene.on_close(listener.stop)
        await (await scene.tcp(endpoint=Endpoint("x", listener.host, listener.port))).send(words)
        then(scene)

    return script


def fine(scene: Scene) -> None:
    scene.expect(CHECKED, True, expected="it", actual="it")


def test_the_sanity_case_is_captured_where_it_is_the_cause(tmp_path: Path) -> None:
    captures = Captures(tmp_path / "evidence")
    guard = declare("guard", says(b"sanity", departs), None, sanity=True)
    result = on_no_engine(fake_profile(), declare("guarded", says(b"case", fine), None), captures, sanity=guard)
    assert result.verdict is Verdict.SETUP
    assert [item.payload for item in capture_of(tmp_path, result).segments if item.payload] == [b"sanity"]


def test_the_sanity_case_is_not_captured_where_it_passed(tmp_path: Path) -> None:
    captures = Captures(tmp_path / "evidence")
    guard = declare("guard", says(b"sanity", fine), None, sanity=True)
    result = on_no_engine(fake_profile(), declare("guarded", says(b"case", departs), None), captures, sanity=guard)
    assert result.verdict is Verdict.FAIL
    assert [item.payload for item in capture_of(tmp_path, result).segments if item.payload] == [b"case"]


def test_a_capture_that_cannot_be_written_changes_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "evidence").write_text("in the way")
    captures = Captures(tmp_path / "evidence")
    result = on_no_engine(fake_profile(), declare("c", says(b"case", departs), None), captures)
    assert (result.verdict, result.capture) == (Verdict.FAIL, "")
    assert result.transcript[-1].what == "no capture"


def planned_case(name: str) -> Case:
    async def script(scene: Scene) -> None:
        client, upstream = await scene.pair()
        await client.send(name.encode())
        await upstream.receive_exactly(len(name))
        departs(scene)

    return declare(name, script, tls())


def test_with_planned_publishing_the_upstream_leg_is_that_of_the_case(tmp_path: Path) -> None:
    """Its listeners were made before the case began, for all cases at once."""
    command = [sys.executable, "-m", "tests.adapters.simple"]
    driver = {"kind": "adapter", "command": command}
    profile = fake_profile(kind="adapter", driver=driver, features=frozenset({"tls.terminated"}))
    captures = Captures(tmp_path / "evidence")
    found = asyncio.run(run_all(profile, [planned_case("one"), planned_case("two")], captures))
    captures.close()
    for name, result in found.items():
        assert result.verdict is Verdict.FAIL, result.cause
        capture = capture_of(tmp_path, result)
        assert capture.interfaces == ["downstream", "upstream"]
        plain = [item for item in capture.segments if item.payload and item.payload[0] not in range(20, 24)]
        assert b"".join(item.payload for item in plain).endswith(name.encode())
        assert not plain[0].outbound


# the command


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "harness.cli", "run", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def test_a_run_writes_links_and_removes_captures(tmp_path: Path) -> None:
    """The reference engine under a profile that claims less: what it publishes it must refuse, says the suite."""
    text = (ROOT / "fixtures" / "profiles" / "reference.toml").read_text(encoding="utf-8")
    flawed = tmp_path / "flawed.toml"
    flawed.write_text(text.replace('  "http.h1",\n', "").replace('  "tls.passthrough",\n', ""), encoding="utf-8")
    cases = ["ed-missing-http-h1", "ed-missing-tls-passthrough"]
    output = tmp_path / "report"
    (output / "evidence").mkdir(parents=True)
    (output / "evidence" / "of-an-earlier-run.pcapng").touch()
    options = ["--engine", str(flawed), "--output", str(output), *(f"--only={name}" for name in cases)]

    told = run("-n", "2", *options)
    assert told.returncode == 1, told.stderr
    data = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert schema.validate(data) == []
    assert [(case["id"], case["verdict"], case["capture"]) for case in data["cases"]] == [
        (name, "fail", f"evidence/{name}.pcapng") for name in cases
    ]
    assert sorted(path.name for path in (output / "evidence").iterdir()) == [f"{name}.pcapng" for name in cases]
    page = (output / "index.html").read_text(encoding="utf-8")
    for name in cases:
        assert Capture((output / "evidence" / f"{name}.pcapng").read_bytes()).interfaces == ["agent"]
        assert f'href="evidence/{name}.pcapng"' in page
        assert f"wire: {output / 'evidence' / name}.pcapng" in told.stdout

    told = run("--no-capture", *options)
    assert told.returncode == 1, told.stderr
    data = json.loads((output / "run.json").read_text(encoding="utf-8"))
    assert [case["capture"] for case in data["cases"]] == ["", ""]
    assert not (output / "evidence").exists()


# Wireshark's own reading


FIELD = ("-T", "fields", "-e")


def tshark(file: Path, *options: str) -> list[str]:
    """Lines of tshark. Heuristics come first: a free port of this run may be the port of some protocol."""
    prefer = ("tcp.try_heuristic_first:TRUE", "tcp.check_checksum:TRUE", "ip.check_checksum:TRUE")
    command = ["tshark", "-n", "-r", str(file), *(word for item in prefer for word in ("-o", item)), *options]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines()


def decrypted(file: Path, leg: str) -> str:
    """What Wireshark decrypts on one leg, each direction of each stream, as hex."""
    streams = dict.fromkeys(tshark(file, "-Y", f'frame.interface_name == "{leg}"', *FIELD, "tcp.stream"))
    told = []
    for stream in streams:
        lines = tshark(file, "-q", "-z", f"follow,tls,raw,{stream}")
        told += ["".join(line for line in lines if not line.startswith("\t"))]
        told += ["".join(line.strip() for line in lines if line.startswith("\t"))]
    return "\n".join(told)


@needs_tshark
@pytest.mark.parametrize("name", [name for name, (script, *_) in SCRIPTS.items() if script not in (passes, no_ground)])
def test_wireshark_finds_nothing_wrong(folder: Path, results: dict[str, CaseResult], name: str) -> None:
    file = folder / results[name].capture
    wrong = "tcp.analysis.flags || tcp.checksum.status == Bad || ip.checksum.status == Bad"
    assert tshark(file, "-Y", wrong) == []
    assert tshark(file, "-Y", "tcp.checksum.status == Good") != []
    assert tshark(file, "-Y", "tls.handshake.type == 20") != [], "a Finished is never seen undecrypted"
    # Of plaintext that is no protocol of its own (a nonce, the agent's frames) Wireshark guesses, and may guess wrong.
    malformed = [line.rpartition(":")[2] for line in tshark(file, "-Y", "_ws.malformed", *FIELD, "frame.protocols")]
    assert not {"raw", "ip", "ipv6", "tcp", "tls", "http"} & set(malformed)


@needs_tshark
def test_wireshark_shows_the_request_on_every_leg(folder: Path, results: dict[str, CaseResult]) -> None:
    file = folder / results["http-1"].capture
    seen = tshark(file, "-Y", "http.request", *FIELD, "frame.interface_name", "-e", "http.request.uri")
    requests = dict(line.split("\t") for line in seen)
    target = requests["downstream"]
    assert len(target) == 33
    assert requests["upstream (inside agent)"] == target
    assert f"GET {target} HTTP/1.1".encode().hex() in decrypted(file, "agent")
    answered = set(tshark(file, "-Y", "http.response.code == 200", *FIELD, "frame.interface_name"))
    assert answered >= {"downstream", "upstream (inside agent)"}


@needs_tshark
@pytest.mark.parametrize("name", ["tls-13", "tls-12", "upstream-tls"])
def test_wireshark_decrypts_what_a_client_said(folder: Path, results: dict[str, CaseResult], name: str) -> None:
    file = folder / results[name].capture
    assert HELLO.hex() in decrypted(file, "downstream")
    # TLS inside TLS is where the second drawing of a stream is needed.
    on, inside = decrypted(file, "agent"), decrypted(file, "upstream (inside agent)")
    assert HELLO.hex() in (inside if name == "upstream-tls" else on)
    assert HELLO.hex() not in (on if name == "upstream-tls" else inside)
