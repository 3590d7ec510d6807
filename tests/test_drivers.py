"""Drivers over the agent protocol: the process, its ready line, settings, publishing, crash, restart."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import shutil
import signal
import ssl
import subprocess
import sys
import tomllib
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes

from harness.engine.agent_driver import AgentDriver, property_in, split_address
from harness.engine.driver import Refused
from harness.engine.launch import LaunchDriver, arguments_for, parse_tokens, toml_certificates, toml_tokens
from harness.engine.process import LINE_LIMIT, TAIL_LINES, EngineProcess, LogTail
from harness.errors import NotSupported, SetupFailed
from harness.evidence.transcript import AGENT, Transcript
from harness.link.agent import connect_agent
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec, http, private, tls
from harness.peer.tls_pki import agent_identity
from harness.worker import LoopThread
from tests.agent_support import DOMAIN, MiniEngine, make_certificate

MINI = ["{python}", "-m", "tests.agent_support"]
_RUNNER = """
import sys
from harness.engine.process import EngineProcess
from harness.worker import LoopThread

async def start():
    process = EngineProcess([sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"])
    await process.start()
    await process.read_line("up", 10)
    print(process.pid, flush=True)
    return process

kept = LoopThread().call(start())
sys.stdin.read()
"""
REFERENCE = ["{python}", "-m", "reference_engine", "serve", "--json"]


def run(script: Coroutine[Any, Any, None]) -> None:
    """Run on a loop in another thread, as the worker does."""
    loop = LoopThread()

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script

    try:
        loop.call(bounded())
    finally:
        loop.stop()


def profile(driver: Mapping[str, Any], kind: str = "launch", own: Mapping[str, Any] | None = None) -> Profile:
    return Profile("x", "X", "pro", kind, driver, frozenset(), "x.toml", settings=own or {})


def python(code: str, **options: Any) -> EngineProcess:
    return EngineProcess([sys.executable, "-c", code], **options)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pid: int) -> bool:
    """Whether the process ends within a few seconds, or has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 10)[0])
    finally:
        os.close(watched)


class TestProcess:
    """One process, watched and ended."""

    def test_lines_then_log(self) -> None:
        async def script() -> None:
            process = python(
                "import sys; sys.stderr.write('said secret-word here\\n'); sys.stderr.flush();"
                "print('one\\ntwo\\nthree', flush=True); sys.stdin.read()",
                stdin=True,
                secrets=["secret-word", ""],
            )
            await process.start()
            assert process.ended() is None
            assert await process.read_line("one", 10) == b"one"
            assert await process.read_line("two", 10) == b"two"
            process.drain()
            await process.stop()
            assert set(process.tail()) == {"three", "said *** here"}
            assert process.tail(0) == ()
            assert process.crashed() is None
            await process.stop()

        run(script())

    def test_stdin_is_written(self) -> None:
        async def script() -> None:
            process = python("print(input()[::-1], flush=True); input()", stdin=True)
            await process.start()
            process.write(b"abc\n")
            assert await process.read_line("an answer", 10) == b"cba"
            await process.stop()
            process.write(b"nobody there\n")

        run(script())

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("raise SystemExit(3)", "engine: exited with status 3 before a word"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was killed by signal 9 (SIGKILL) before"),
            ("import sys; sys.stderr.write('no port\\n'); sys.exit(2)", "its last line: no port"),
        ],
    )
    def test_an_early_end_is_told(self, code: str, told: str) -> None:
        async def script() -> None:
            process = python(code)
            await process.start()
            with pytest.raises(SetupFailed) as failed:
                await process.read_line("a word", 10)
            assert told in failed.value.cause
            assert process.crashed() is not None
            await process.stop()
            assert process.crashed() is not None

        run(script())

    def test_nothing_to_start(self) -> None:
        async def script() -> None:
            with pytest.raises(SetupFailed, match="adapter: cannot start 'no-such-program'"):
                await EngineProcess(["no-such-program"], who="adapter").start()
            with pytest.raises(SetupFailed, match="the command of the engine is empty"):
                await EngineProcess([]).start()

        run(script())

    def test_it_is_killed_when_it_does_not_listen_and_takes_its_children_along(self) -> None:
        async def script() -> None:
            process = python(
                "import signal, subprocess, sys;"
                "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                "child = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'],"
                " stdin=subprocess.PIPE);"
                "print(child.pid, flush=True); signal.pause()"
            )
            await process.start()
            child = int(await process.read_line("the child", 10))
            await process.stop(0.1)
            assert process.ended() == "was killed by signal 9 (SIGKILL)"
            assert not alive(process.pid)
            children.append(child)

        children: list[int] = []
        run(script())
        assert gone(children[0])

    def test_a_death_is_known_at_once(self) -> None:
        async def script() -> None:
            process = python("import sys; print('up', flush=True); sys.stdin.read()", stdin=True)
            await process.start()
            await process.read_line("up", 10)
            os.kill(process.pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                await process.wait()
            assert process.crashed() == "was killed by signal 9 (SIGKILL)"
            await process.stop()

        run(script())

    @pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv (util-linux)")
    def test_it_dies_with_the_runner(self) -> None:
        runner = subprocess.Popen(
            [sys.executable, "-c", _RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert runner.stdin is not None
        assert runner.stdout is not None
        with runner.stdin, runner.stdout:
            pid = int(runner.stdout.readline())
            assert alive(pid)
            runner.kill()
            runner.wait()
            assert gone(pid)

    def test_much_output_is_read_in_turn(self) -> None:
        async def script() -> None:
            process = python("for n in range(5000): print(n)")
            await process.start()
            for number in range(5000):
                assert int(await process.read_line("a number", 10)) == number
            await process.stop()

        run(script())

    def test_the_log_is_bounded(self) -> None:
        tail = LogTail()
        for number in range(TAIL_LINES + 10):
            tail.feed(b"%d\n" % number)
        tail.feed(b"x" * (3 * LINE_LIMIT))
        tail.feed(b"other", source=1)
        tail.feed(b"y" * LINE_LIMIT + b"\nlast")
        assert len(tail.last(10_000)) == TAIL_LINES + 2
        assert tail.last(3) == ("x" * LINE_LIMIT, "other", "last")

    def test_a_flood_in_one_piece_leaves_its_end(self) -> None:
        tail = LogTail()
        tail.feed(b"begun ")
        tail.feed(b"".join(b"%d\n" % number for number in range(3 * TAIL_LINES)))
        assert tail.last(10_000) == tuple(str(number) for number in range(2 * TAIL_LINES, 3 * TAIL_LINES))


class TestWords:
    """Addresses, properties in refusals, arguments of settings."""

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("engine.example", ("engine.example", 443)),
            ("Engine.Example:8443", ("engine.example", 8443)),
            ("[::1]:9", ("::1", 9)),
            ("[::1]", ("::1", 443)),
            ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ],
    )
    def test_addresses(self, text: str, address: tuple[str, int]) -> None:
        assert split_address(text) == address

    @pytest.mark.parametrize("text", ["", ":1", "a:0", "a:65536", "a:b", "https://a", "a/b", "a b", "u@a", "::1", "a:"])
    def test_what_is_no_address(self, text: str) -> None:
        with pytest.raises(ValueError, match="allowed is host"):
            split_address(text)

    @pytest.mark.parametrize(
        ("message", "name"),
        [
            ("tls_mode: 'x' is not one of terminated", "tls_mode"),
            ("name: in use by another tunnel", "name"),
            ("the host name is taken: hostname", "hostname"),
            ("a port is not for you: 'port' is set by the engine", "port"),
            ("the tunnel of this type needs tls_alpns and tls_mode", "tls_alpns"),
            ("this plan has no such thing", None),
            ("", None),
        ],
    )
    def test_the_property_of_a_refusal(self, message: str, name: str | None) -> None:
        assert property_in(message) == name

    def test_arguments(self) -> None:
        table = {
            "settings": {"a.b": ["--ab", "{value}"], "flag": ["--flag"], "auth.tokens": ["--tokens", "{tokens}"]},
            "settings_off": {"only": ["--no-only"]},
        }
        assert arguments_for(table, "a.b", 5) == ["--ab", "5"]
        assert arguments_for(table, "flag", True) == ["--flag"]
        assert arguments_for(table, "flag", False) == []
        assert arguments_for(table, "only", False) == ["--no-only"]
        assert arguments_for(table, "auth.tokens", "x@p") == ["--tokens", '[{token = "x", project = "p"}]']
        with pytest.raises(NotSupported, match=r"setting c\.d"):
            arguments_for(table, "c.d", 1)

    def test_tokens(self) -> None:
        assert parse_tokens("a@p, b ,c:x.y+z") == [("a", "p", ()), ("b", "", ()), ("c", "", ("x.y", "z"))]
        assert toml_tokens('q"') == '[{token = "q\\""}]'
        assert toml_tokens("a@p:x.y+z") == '[{token = "a", project = "p", permissions = ["x.y", "z"]}]'

    def test_certificates(self) -> None:
        [row] = tomllib.loads(f"rows = {toml_certificates('one@p')}")["rows"]
        fingerprint = agent_identity("one").chain[0].fingerprint(hashes.SHA256()).hex()
        assert row == {"fingerprint": fingerprint, "project": "p"}
        assert fingerprint not in toml_certificates("two")


class TestLaunch:
    """An engine as a process."""

    def test_settings_become_arguments_and_the_port_is_kept(self) -> None:
        async def script() -> None:
            table = {"command": MINI, "listen": ["--listen", "{value}"], "settings": {"edition": ["--edition={value}"]}}
            driver = LaunchDriver(profile(table))
            assert driver.crashed() is None
            assert driver.log_tail() == ()
            with pytest.raises(SetupFailed, match="not started"):
                await driver.open_session("c")
            with pytest.raises(NotSupported, match="domain"):
                await driver.start(Settings.of({"domain": "x"}))
            await driver.start(Settings.of({"edition": "pro"}))
            first, port = driver.pid, driver.addresses["tcp"]
            assert driver.version == "mini 1"
            assert driver.domain == DOMAIN
            await driver.restart()
            assert driver.addresses["tcp"] == port
            assert driver.pid != first
            assert not alive(first)
            os.kill(driver.pid, signal.SIGKILL)
            assert driver._process is not None
            await driver._process.wait()
            assert driver.crashed() == "was killed by signal 9 (SIGKILL)"
            await driver.stop()
            await driver.stop()
            assert "'--edition=pro'" in driver.log_tail()[0]

        run(script())

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("print('hello')", "engine: its ready line is not as agreed: 'hello'"),
            ("print('[]')", "engine: its ready line is not as agreed"),
            ("print('{}')", "engine: its ready line is not as agreed"),
            ('print(\'{"agent": "127.0.0.1:1", "domain": "d"}\')', "names no https listener"),
            (
                'print(\'{"agent": "127.0.0.1:1", "https": "127.0.0.1:1", "domain": "d"}\', flush=True); input()',
                "engine: no control channel at 127.0.0.1:1",
            ),
            ("import signal; signal.pause()", "engine: no ready line within 0.5 s"),
            (
                "raise SystemExit('port taken')",
                "engine: exited with status 1 before its ready line; its last line: port",
            ),
        ],
    )
    def test_an_engine_that_does_not_start(self, code: str, told: str) -> None:
        async def script() -> None:
            driver = LaunchDriver(profile({"command": ["{python}", "-c", code], "start_timeout_ms": 500}))
            with pytest.raises(SetupFailed) as failed:
                await driver.start(Settings())
            assert told in failed.value.cause
            assert not driver.pid or not alive(driver.pid)

        run(script())

    def test_a_case_on_the_reference_engine(self) -> None:
        async def script() -> None:
            table = {
                "command": REFERENCE,
                "listen": ["--listen", "{value}"],
                "settings": {"auth.tokens": ["--tokens", "{tokens}"]},
            }
            driver = LaunchDriver(profile(table))
            await driver.start(Settings.of({"auth.tokens": "first@alpha,second"}))
            try:
                await self._case(driver)
                assert not any("first" in line for line in driver.log_tail())
            finally:
                await driver.stop()

        run(script())

    async def _case(self, driver: LaunchDriver) -> None:
        session = await driver.open_session("case[variant]")
        session.transcript = transcript = Transcript(asyncio.get_running_loop().time)
        published = await session.publish(
            {
                "main": tls(hostname="{label}-{project}.t.{domain}", tls_alpns=("a/1",)),
                "bad": tls(tls_mode="sideways"),
                "private": private(),
            }
        )
        await driver.plan({})
        refusal = published["bad"].answer
        assert isinstance(refusal, Refused)
        assert (refusal.code, refusal.property) == (2000, "tls_mode")
        endpoint = published["main"].endpoint
        assert endpoint.host == f"{session.label}-alpha.t.{driver.domain}"
        client = await connect_agent(
            endpoint.address,
            endpoint.port,
            server_name=endpoint.host,
            ca_file=driver.ready["ca_file"],
            alpn=("a/1",),
        )
        await client.send(b"up")
        incoming = await published["main"].upstream.get()
        assert await incoming.link.receive() == b"up"
        assert incoming.source == "127.0.0.1"
        await incoming.link.send(b"down")
        await incoming.link.send_end()
        assert await client.receive() == b"down"
        assert await client.receive() == b""
        await client.close()
        await client.wait_closed()
        assert await incoming.link.receive() == b""
        dialled = await session.agent.dial(published["private"].endpoint.name, zero_rtt=False)
        await dialled.send(b"dialled")
        assert await (await published["private"].upstream.get()).link.receive() == b"dialled"
        scripted = await session.scripted_agent(transcript, token="wrong")
        assert (await scripted.open()).error.code == 1000
        await scripted.shut()
        await session.withdraw("main")
        await session.close()
        steps = [event.what for event in transcript.events if event.leg == AGENT]
        assert steps[0] == "open_control_channel_req"
        assert steps[-1] in ("close_control_channel_rsp", "close_notify")

    def test_a_dead_engine_is_setup_for_the_next_publication(self) -> None:
        async def script() -> None:
            driver = LaunchDriver(profile({"command": MINI}))
            await driver.start(Settings())
            session = await driver.open_session("a")
            await session.publish({"main": tls()})
            late = await driver.open_session("b")
            os.kill(driver.pid, signal.SIGKILL)
            with pytest.raises(SetupFailed, match="engine: no control channel"):
                await late.publish({"main": tls()})
            with pytest.raises(SetupFailed, match="engine: no answer to the"):
                await session.publish({"other": tls()})
            with pytest.raises(SetupFailed, match="engine: no answer to the closing"):
                await session.withdraw("main")
            await late.close()
            await session.close()
            assert "SIGKILL" in str(driver.crashed())
            await driver.stop()

        run(script())


class TestRunning:
    """An engine that already runs."""

    def test_names_endpoints_and_labels(self, tmp_path: Path) -> None:
        async def script() -> None:
            engine = MiniEngine(tmp_path)
            await engine.start()
            table = {
                "address": f"127.0.0.1:{engine.port}",
                "domain": DOMAIN,
                "ca_file": engine.certificate[0],
                "token": "t0ken",
                "project": "p1",
            }
            driver = AgentDriver(profile(table, "agent", {"project.name": "p1"}))
            await driver.start(Settings.of({"edition": "pro", "project.name": "p1"}))
            one, two = await driver.open_session("same"), await driver.open_session("same")
            assert one.label != two.label
            published = await one.publish({"a": http(hostname="{label}-{project}.t.{domain}"), "b": TunnelSpec()})
            assert published["a"].endpoint.host == f"{one.label}-p1.t.{DOMAIN}"
            assert published["a"].spec.hostname == f"{one.label}-p1.t.{DOMAIN}"
            assert (published["b"].endpoint.address, published["b"].endpoint.port) == ("127.0.0.1", engine.public_port)
            assert engine.seen[-1].open_tunnel_req.tunnel_properties.ListFields() == []
            assert engine.seen[0].open_control_channel_req.client_details.token.value == "t0ken"
            assert await one.open() is one.agent
            await one.close()
            await two.close()
            assert driver.crashed() is None
            assert driver.log_tail() == ()
            with pytest.raises(NotSupported):
                await driver.restart()
            with pytest.raises(NotSupported, match="edition=community"):
                await driver.start(Settings.of({"edition": "community"}))
            await driver.stop()
            await engine.stop()

        run(script())

    def test_an_agent_may_prove_itself_by_certificate(self, tmp_path: Path) -> None:
        chain, key = make_certificate(tmp_path, "agent.localhost")
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(Path(chain).read_text())).hexdigest()

        async def script() -> None:
            command = [*REFERENCE, "--listen", "127.0.0.1:0", "--agent-certificates", f'["{fingerprint}"]']
            process = EngineProcess([sys.executable, *command[1:]])
            await process.start()
            try:
                ready = json.loads(await process.read_line("its ready line", 20))
                process.drain()
                table = {"address": ready["agent"], "domain": ready["domain"], "ca_file": ready["ca_file"]}
                with pytest.raises(SetupFailed, match="error 1000"):
                    await AgentDriver(profile(table, "agent")).start(Settings())
                driver = AgentDriver(profile({**table, "certificate": chain, "key": key}, "agent"))
                await driver.start(Settings())
                session = await driver.open_session("c")
                published = await session.publish({"main": tls()})
                incoming = asyncio.ensure_future(published["main"].upstream.get())
                endpoint = published["main"].endpoint
                client = await connect_agent(
                    endpoint.address, endpoint.port, server_name=endpoint.host, ca_file=ready["ca_file"], alpn=()
                )
                await client.send(b"x")
                assert await (await incoming).link.receive() == b"x"
                await client.close()
                await session.close()
                await client.wait_closed()
            finally:
                await process.stop()

        run(script())

    def test_clients_may_go_elsewhere(self, tmp_path: Path) -> None:
        async def script() -> None:
            engine = MiniEngine(tmp_path)
            await engine.start()
            table = {"address": f"localhost:{engine.port}", "domain": DOMAIN, "insecure": True}
            driver = AgentDriver(profile({**table, "public_address": "127.0.0.1:7777"}, "agent"))
            await driver.start(Settings())
            session = await driver.open_session("c")
            assert (await session.publish({"m": tls()}))["m"].endpoint.port == 7777
            await session.close()
            await engine.stop()

        run(script())

    @pytest.mark.parametrize(
        ("table", "told"),
        [
            ({"address": "127.0.0.1:1"}, "engine: no control channel at 127.0.0.1:1"),
            ({"address": "no.such.host.invalid:1"}, "engine: cannot resolve 'no.such.host.invalid'"),
            ({"address": "https://x"}, "profile: x.toml: driver.address: found 'https://x'"),
        ],
    )
    def test_an_engine_that_is_not_there(self, table: dict[str, str], told: str) -> None:
        async def script() -> None:
            driver = AgentDriver(profile({"domain": "d", **table}, "agent"))
            with pytest.raises(SetupFailed) as failed:
                await driver.start(Settings())
            assert told in failed.value.cause

        run(script())

    def test_an_engine_that_refuses_the_agent(self, tmp_path: Path) -> None:
        async def hook(_: Any, connection: Any, __: Any) -> bool:
            connection.send_raw(bytes.fromhex("000000171215121308e807120e0a0c556e617574686f72697a6564"))
            return True

        async def script() -> None:
            engine = MiniEngine(tmp_path, hook=hook)
            await engine.start()
            table = {"address": f"127.0.0.1:{engine.port}", "domain": DOMAIN, "ca_file": engine.certificate[0]}
            with pytest.raises(SetupFailed, match="refused the control channel: error 1000: Unauthorized"):
                await AgentDriver(profile(table, "agent")).start(Settings())
            await engine.stop()

        run(script())
