"""The engine's command: its ready line, its end, and one line with exit code 2 for whatever is wrong."""

from __future__ import annotations

import json
import logging
import select
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from reference_engine.log import OneLine

DEADLINE = 30
ENGINE = [sys.executable, "-W", "error", "-m", "reference_engine"]


def start(*flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*ENGINE, "serve", "--listen", "127.0.0.1:0", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ready_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    readable, _, _ = select.select([process.stdout], [], [], DEADLINE)
    assert readable, "the engine said nothing"
    return process.stdout.readline()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_and_clean_shutdown(number: signal.Signals) -> None:
    with start("--json", "--http-listen", "127.0.0.1:0", "--edition", "community") as process:
        try:
            ready = json.loads(ready_line(process))
            assert list(ready) == ["agent", "https", "udp", "dtls", "http", "metrics", "domain", "ca_file", "edition"]
            assert ready["agent"] == ready["https"] != ready["http"]
            assert (ready["udp"], ready["dtls"], ready["metrics"]) == (None, None, None)
            assert (ready["domain"], ready["edition"]) == ("edgecase.localhost", "community")
            host, port = ready["https"].rsplit(":", 1)
            context = ssl.create_default_context(cafile=ready["ca_file"])
            with (
                socket.create_connection((host, int(port)), DEADLINE) as raw,
                context.wrap_socket(raw, server_hostname=ready["domain"]) as tls,
            ):
                assert tls.version() == "TLSv1.3"
            process.send_signal(number)
            out, log = process.communicate(timeout=DEADLINE)
            assert (process.returncode, out) == (0, b"")
            assert b"Traceback" not in log
            assert log.endswith(b"engine closed\n")
            assert not Path(ready["ca_file"]).exists(), "the temporary state directory stays behind"
        finally:
            process.kill()


def test_a_second_signal_does_not_wait_for_idle_peers() -> None:
    with start("--json", "--drain-ms", "86400000") as process:
        try:
            host, port = json.loads(ready_line(process))["https"].rsplit(":", 1)
            with socket.create_connection((host, int(port)), DEADLINE):
                process.send_signal(signal.SIGTERM)
                assert process.stderr is not None
                while b"engine closing" not in process.stderr.readline():
                    assert process.poll() is None
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=DEADLINE)
                assert process.returncode == 0
        finally:
            process.kill()


def test_without_json_a_line_for_people() -> None:
    with start("--domain", "edge.test") as process:
        try:
            assert ready_line(process).startswith(b"engine edge.test on 127.0.0.1:")
            process.terminate()
            process.communicate(timeout=DEADLINE)
            assert process.returncode == 0
        finally:
            process.kill()


def refused(*arguments: str) -> str:
    """The one line that this is answered with."""
    done = subprocess.run([*ENGINE, *arguments], capture_output=True, timeout=DEADLINE, check=False, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("reference_engine: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the following arguments are required: serve"),
        (("serve", "--no-such-flag", "1"), "unrecognized arguments: --no-such-flag 1"),
        (("serve", "--http-idle-ms", "soon"), "--http-idle-ms: found 'soon'; allowed: an integer from 1 to"),
        (("serve", "--config", "/nonexistent.toml"), "--config: cannot read /nonexistent.toml: No such file"),
        (("serve", "--certificate-file", "/nonexistent.pem"), "--certificate-file: cannot read /nonexistent.pem"),
        (
            ("serve", "--edition", "community", "--project-tls-min-version", "tls1.3"),
            "project_tls_min_version: not part",
        ),
        (("serve", "--metrics-listen", "127.0.0.1:0"), "metrics_listen: this engine has no metrics listener"),
        (("serve", "--listen", "192.0.2.1:0"), "listen: cannot listen on 192.0.2.1:0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(*arguments)


def test_an_occupied_port_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"listen: cannot listen on {address}" in refused("serve", "--listen", address)
        assert f"http_listen: cannot listen on {address}" in refused(
            "serve", "--listen", "127.0.0.1:0", "--http-listen", address
        )


def test_a_certificate_that_does_not_parse_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "edge.pem"
    file.write_text("no certificate")
    line = refused("serve", "--certificate-file", str(file), "--key-file", str(file))
    assert f"certificate_file: {file}" in line


def test_a_log_record_stays_on_one_line() -> None:
    def line(text: str) -> str:
        return OneLine("%(message)s").format(logging.LogRecord("x", logging.INFO, "", 0, "got %s", (text,), None))

    assert line("a\nb\r\x1b[2J\u2028c é") == "got a\\nb\\r\\x1b[2J\\u2028c é"


def test_help_lists_every_key() -> None:
    done = subprocess.run([*ENGINE, "serve", "--help"], capture_output=True, timeout=DEADLINE, check=True, text=True)
    assert "--agent-connect-timeout-ms VALUE" in done.stdout
    assert "default 127.0.0.1:9443" in done.stdout.replace("\n", " ").replace("  ", "")
