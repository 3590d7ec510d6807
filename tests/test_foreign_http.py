"""HTTP clients and servers that others made, on both sides of the reference engine: libcurl, curl, nghttp, h2load;
nginx, hypercorn."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.foreign.lock import program
from tests.foreign_http_support import (
    LARGE,
    SECONDS,
    Edge,
    curl,
    digest,
    engine,
    hypercorn,
    needs,
    nginx,
    octets,
    pycurl,
    tunnel,
)

SPOKEN = {"h1": "1.1", "h2": "2", "h3": "3"}
SEEN = {"http/1.1": "1.1", "h2c": "2", "h3": "3"}
"""What hypercorn says of the version that it was spoken to in."""
MANY = 12
down = pytest.mark.parametrize("version", SPOKEN)


@pytest.fixture(scope="module")
def ready() -> Iterator[dict[str, Any]]:
    """The reference engine."""
    with engine() as line:
        yield line


@pytest.fixture(scope="module", params=SEEN)
def to_hypercorn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ready: dict[str, Any]
) -> Iterator[tuple[Edge, str]]:
    """A tunnel, and what hypercorn calls the version that it is spoken to in."""
    with (
        hypercorn(tmp_path_factory.mktemp("upstream")) as ports,
        tunnel(ready, ports[request.param], request.param) as edge,
    ):
        yield edge, SEEN[request.param]


@pytest.fixture(scope="module", params=["http/1.1", "h2c"])
def to_nginx(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ready: dict[str, Any]
) -> Iterator[tuple[Edge, str]]:
    """A tunnel, and what nginx calls the version that it is spoken to in."""
    with nginx(tmp_path_factory.mktemp("upstream")) as port, tunnel(ready, port, request.param) as edge:
        yield edge, {"http/1.1": "HTTP/1.1", "h2c": "HTTP/2.0"}[request.param]


class TestLibcurlToHypercorn:
    """Every pair: libcurl (nghttp2, ngtcp2, nghttp3), the engine, hypercorn (h11, h2, aioquic)."""

    pytestmark = needs("pycurl", "hypercorn")

    @down
    def test_content_comes_whole(self, to_hypercorn: tuple[Edge, str], version: str) -> None:
        edge, seen = to_hypercorn
        (got,) = pycurl(edge, version, f"/octets/{LARGE}")
        assert (got.version, got.status, got.fields["x-version"]) == (SPOKEN[version], 200, seen)
        assert got.digest == digest(octets(LARGE))

    @down
    @pytest.mark.parametrize("words", [[], ["--unknown-length"]], ids=["length", "unknown-length"])
    def test_content_goes_whole(self, to_hypercorn: tuple[Edge, str], version: str, words: list[str]) -> None:
        edge, seen = to_hypercorn
        (got,) = pycurl(edge, version, "/", post=LARGE, words=words)
        assert (got.status, got.fields["x-version"], got.fields["x-octets"]) == (200, seen, str(LARGE))
        assert got.fields["x-digest"] == got.digest == digest(octets(LARGE))

    @down
    def test_many_side_by_side(self, to_hypercorn: tuple[Edge, str], version: str) -> None:
        edge, _ = to_hypercorn
        counts = [1000 * number for number in range(MANY)]
        answers = pycurl(edge, version, *(f"/octets/{count}" for count in counts))
        assert sorted(got.octets for got in answers) == counts
        assert all(got.digest == digest(octets(got.octets)) for got in answers)

    @down
    def test_head_has_no_content(self, to_hypercorn: tuple[Edge, str], version: str) -> None:
        edge, _ = to_hypercorn
        (got,) = pycurl(edge, version, "/octets/10", words=["--head"])
        assert (got.status, got.octets, got.fields["x-method"]) == (200, 0, "HEAD")

    @down
    def test_an_interim_response(self, to_hypercorn: tuple[Edge, str], version: str) -> None:
        edge, seen = to_hypercorn
        if seen == "1.1":
            pytest.skip("not run: hypercorn sends no 103 on HTTP/1.1")
        (got,) = pycurl(edge, version, "/interim")
        assert (got.interim, got.status) == ((103,), 200)

    @down
    def test_trailers(self, to_hypercorn: tuple[Edge, str], version: str) -> None:
        edge, seen = to_hypercorn
        if seen != "2":
            pytest.skip("not run: hypercorn drops trailers on HTTP/1.1, and never ends a response with some on HTTP/3")
        (got,) = pycurl(edge, version, "/trailers", post=1000, words=["--field", "TE: trailers"])
        assert got.trailers == {"x-sum": digest(octets(1000))}


class TestToNginx:
    """nginx behind the engine, over HTTP/1.1 and h2c; curl and libcurl before it."""

    pytestmark = needs("nginx")

    @pytest.mark.parametrize("version", [pytest.param(name, marks=needs("pycurl")) for name in SPOKEN])
    def test_libcurl(self, to_nginx: tuple[Edge, str], version: str) -> None:
        edge, seen = to_nginx
        (got,) = pycurl(edge, version, "/large")
        assert (got.version, got.status, got.fields["x-version"]) == (SPOKEN[version], 200, seen)
        assert got.digest == digest(octets(LARGE))
        (got,) = pycurl(edge, version, "/echo", post=LARGE)
        assert (got.status, got.fields["x-octets"]) == (200, str(LARGE))
        (got,) = pycurl(edge, version, "/nothing")
        assert got.status == 404

    @pytest.mark.parametrize("version", [pytest.param(name, marks=needs("curl")) for name in ("h1", "h2")])
    def test_curl(self, to_nginx: tuple[Edge, str], version: str, tmp_path: Path) -> None:
        edge, seen = to_nginx
        got = curl(edge, version, "/large", tmp_path)
        assert (got.version, got.status, got.fields["x-version"]) == (SPOKEN[version], 200, seen)
        assert got.digest == digest(octets(LARGE))
        got = curl(edge, version, "/echo", tmp_path, post=octets(LARGE))
        assert (got.status, got.fields["x-octets"]) == (200, str(LARGE))


class TestNghttp2:
    """nghttp and h2load, of a family that is nobody's here, with nginx behind the engine."""

    pytestmark = needs("nghttp2", "nginx")

    def nghttp(self, edge: Edge, path: str, *words: str) -> bytes:
        """What it printed. The name goes into SNI and `:authority`."""
        command = [str(program("nghttp")), "-y", "-t", str(SECONDS), "-H", f":authority: {edge.host}", *words]
        done = subprocess.run(
            [*command, f"https://{edge.tcp}{path}"], capture_output=True, check=False, timeout=SECONDS
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def test_content_comes_whole(self, to_nginx: tuple[Edge, str]) -> None:
        assert self.nghttp(to_nginx[0], "/large") == octets(LARGE)

    def test_small_windows(self, to_nginx: tuple[Edge, str]) -> None:
        """Streams of 2^10-1 octets, and of the connection 2^16-1: a WINDOW_UPDATE for every piece."""
        assert self.nghttp(to_nginx[0], "/large", "-w", "10", "-W", "16") == octets(LARGE)

    def test_streams_on_one_connection(self, to_nginx: tuple[Edge, str]) -> None:
        told = self.nghttp(to_nginx[0], "/large", "-nv", "-m", str(MANY)).decode()
        assert len(re.findall(r"recv \(stream_id=\d+\) :status: 200", told)) == MANY
        assert "RST_STREAM" not in told

    def test_content_goes_whole(self, to_nginx: tuple[Edge, str], tmp_path: Path) -> None:
        (tmp_path / "post").write_bytes(octets(LARGE))
        # Trailers are for HTTP/1.1 alone: behind DATA nginx takes a HEADERS frame of the same stream for an error.
        trailers = ("--trailer", "x-sum: 1") if to_nginx[1] == "HTTP/1.1" else ()
        words = ("-nv", "-d", str(tmp_path / "post"), *trailers)
        told = self.nghttp(to_nginx[0], "/echo", *words).decode()
        assert re.search(rf"x-octets: {LARGE}\b", told), told

    @pytest.mark.parametrize("words", [[], ["--h1"]], ids=["h2", "h1"])
    def test_load(self, to_nginx: tuple[Edge, str], words: list[str]) -> None:
        command = [str(program("h2load")), "-n", "400", "-c", "4", *(words or ["-m", "10"])]
        done = subprocess.run(
            [*command, f"--connect-to={to_nginx[0].tcp}", to_nginx[0].url("/large")],
            capture_output=True,
            text=True,
            check=False,
            timeout=2 * SECONDS,
        )
        assert done.returncode == 0, done.stderr
        assert "400 done, 400 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout
        assert "400 2xx" in done.stdout
