"""What a peer of HTTP/2 may not do: broken frames end the connection, floods do, and nothing grows without bound."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from h2.errors import ErrorCodes
from h2.events import PingAckReceived, RemoteSettingsChanged, RequestReceived
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from reference_engine.http.floods import Allowance, H2Limits
from reference_engine.http.h2_connection import H2Protocol
from reference_engine.http.rules import HttpRules
from tests.engine_h2_support import H2Peer, get, h2_client, h2_upstream
from tests.engine_http_support import OK, Edge, make_tunnel, on_edge, pair, settle

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALM = ErrorCodes.ENHANCE_YOUR_CALM
PROTOCOL = ErrorCodes.PROTOCOL_ERROR
SIZE = ErrorCodes.FRAME_SIZE_ERROR


def raw(kind: int, stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    """Any frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def block(*lines: tuple[bytes, bytes]) -> bytes:
    return Encoder().encode(list(lines) or get())


BROKEN: dict[str, tuple[bytes, ErrorCodes]] = {
    "data on 0": (raw(0, 0, b"x"), PROTOCOL),
    "headers on 0": (raw(1, 0, block(), 5), PROTOCOL),
    "data on idle": (DataFrame(5, b"x").serialize(), PROTOCOL),
    "reset of idle": (RstStreamFrame(5, error_code=8).serialize(), PROTOCOL),
    "reset of 0": (raw(3, 0, bytes(4)), PROTOCOL),
    "reset size": (raw(3, 1, bytes(3)), SIZE),
    "window of idle": (WindowUpdateFrame(5, window_increment=1).serialize(), PROTOCOL),
    "window size": (raw(8, 0, bytes(3)), SIZE),
    "window 0": (raw(8, 0, bytes(4)), PROTOCOL),
    "window overflow": (WindowUpdateFrame(0, window_increment=2**31 - 1).serialize(), ErrorCodes.FLOW_CONTROL_ERROR),
    "settings on 1": (raw(4, 1, b""), PROTOCOL),
    "settings size": (raw(4, 0, bytes(5)), SIZE),
    "push on": (SettingsFrame(0, settings={2: 2}).serialize(), PROTOCOL),
    "window setting": (raw(4, 0, b"\x00\x04\x80\x00\x00\x00"), ErrorCodes.FLOW_CONTROL_ERROR),
    "frame setting": (SettingsFrame(0, settings={5: 16_383}).serialize(), PROTOCOL),
    "ping size": (raw(6, 0, bytes(7)), SIZE),
    "ping on 1": (raw(6, 1, bytes(8)), PROTOCOL),
    "goaway on 1": (raw(7, 1, bytes(8)), PROTOCOL),
    "continuation alone": (ContinuationFrame(1, b"").serialize(), PROTOCOL),
    "push promise": (
        PushPromiseFrame(1, promised_stream_id=2, data=block(), flags=["END_HEADERS"]).serialize(),
        PROTOCOL,
    ),
    "too large": (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", SIZE),
    "even stream": (raw(1, 2, block(), 5), PROTOCOL),
    "interleaved": (raw(1, 1, block(), 1) + PingFrame(0, b"12345678").serialize(), PROTOCOL),
    "interleaved unknown": (raw(1, 1, block(), 1) + raw(0xEE, 1, b""), PROTOCOL),
    "block": (raw(1, 1, b"\xff\xff\xff\xff\x0f", 5), PROTOCOL),
    "padding": (raw(0, 1, b"\x05abc", 8), PROTOCOL),
}


class TestBrokenFrames:
    @pytest.mark.parametrize("case", BROKEN)
    def test_ends_the_connection_with_its_code(self, case: str) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            octets, code = BROKEN[case]
            await client.say(octets)
            assert (await client.goaway()).error_code == code
            assert await client.gone() == "clean"
            assert edge.connector.opened == 0

        on_edge(script)

    @pytest.mark.parametrize("octets", [b"GET / HTTP/1.1\r\n\r\n" * 2, PREFACE + raw(1, 1, block(), 5)])
    def test_a_wrong_preface(self, octets: bytes) -> None:
        async def script(edge: Edge) -> None:
            ours, theirs = pair()
            theirs.alpn = "h2"
            edge._tasks.append(asyncio.create_task(edge.front.serve(theirs, edge.a)))  # type: ignore[arg-type]
            client = H2Peer(ours, client=True)
            client.h2.initiate_connection()
            client.h2.data_to_send()
            await client.say(octets)
            assert (await client.goaway()).error_code == PROTOCOL
            await client.gone()
            assert edge.connector.opened == 0

        on_edge(script)

    def test_what_must_not_matter(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.say(
                raw(0xEE, 0, b"x"),
                raw(0xEE, 7, b"x"),
                SettingsFrame(0, settings={0xF000: 1, 1: 0, 6: 1}),
                PriorityFrame(5, depends_on=5),
                PriorityFrame(3, depends_on=9),
                raw(6, 0, b"12345678", 1),
                raw(6, 0x80000000 | 0, b"87654321", 0xFE & ~1),
            )
            await client.headers(1, get())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(OK)
            assert (await client.response(1))[0] == 200
            await client.say(WindowUpdateFrame(1, window_increment=1), RstStreamFrame(1, error_code=0xFFFF))
            client.h2.ping(b"12345678")
            await client.flush()
            assert (await client.event(PingAckReceived, lambda event: event.ping_data == b"12345678")) is not None

        on_edge(script)

    def test_above_the_streams_a_client_is_refused_alone(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            while client.h2.remote_settings.max_concurrent_streams != 2:
                await client.more()
            # As if the settings had not been read.
            client.h2.remote_settings.max_concurrent_streams = 100
            client.h2.remote_settings.acknowledge()
            for stream_id in (1, 3, 5, 7):
                await client.headers(stream_id, get(b"/", (b"x-a", b"%d" % stream_id)))
            for stream_id in (5, 7):
                assert await client.reset(stream_id) == ErrorCodes.REFUSED_STREAM
            for _ in (1, 3):
                upstream = await edge.upstream()
                head = await upstream.head()
                await upstream.send(OK)
            for stream_id in (1, 3):
                assert (await client.response(stream_id))[0] == 200
            await client.headers(9, get(b"/", (b"x-a", b"7")))
            upstream = await edge.upstream()
            head = await upstream.head()
            assert b"x-a: 7" in head

        on_edge(script, http2_max_streams=2, upstream_max_idle=0)


def reset_streams() -> Iterator[bytes]:
    encoder = Encoder()
    for stream_id in range(1, 20_001, 2):
        yield raw(1, stream_id, encoder.encode(get()), 5) + RstStreamFrame(stream_id, error_code=8).serialize()


def malformed_streams() -> Iterator[bytes]:
    encoder = Encoder()
    for stream_id in range(1, 20_001, 2):
        yield raw(1, stream_id, encoder.encode(get(b"x")), 4)


FLOODS: dict[str, Iterator[bytes]] = {
    "rapid reset": reset_streams(),
    "made to reset": malformed_streams(),
    "ping": (PingFrame(0, b"12345678").serialize() for _ in range(10_000)),
    "settings": (SettingsFrame(0).serialize() for _ in range(10_000)),
    "priority": (PriorityFrame(3, depends_on=1).serialize() for _ in range(10_000)),
    "windows": (WindowUpdateFrame(0, window_increment=1).serialize() for _ in range(10_000)),
    "unknown": (raw(0xEE, 0, b"") for _ in range(10_000)),
    "empty data": iter([raw(1, 1, block(), 4), *[raw(0, 1, b"")] * 10_000]),
    "continuations": iter([raw(1, 1, block(), 0), *[raw(9, 1, b"")] * 10_000]),
    "large block": iter([raw(1, 1, block(), 0), *[raw(9, 1, b"\x00" * 16_384)] * 1_000]),
    "bomb": iter(
        [
            raw(1, 1, block((b"x-a", b"a" * 4_000)), 4),
            raw(1, 3, b"\xbe" * 16_000, 4),
            *[PingFrame(0, b"12345678").serialize()] * 5,
        ]
    ),
}


class TestFloods:
    @pytest.mark.parametrize("kind", FLOODS)
    def test_ends_the_connection(self, kind: str) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            for octets in FLOODS[kind]:
                if client.stream._in.data:
                    data = client.stream.read_now()
                    if data and b"\x00\x00\x08\x07\x00\x00\x00\x00\x00" in data:
                        at = data.index(b"\x00\x00\x08\x07\x00\x00\x00\x00\x00")
                        assert int.from_bytes(data[at + 13 : at + 17], "big") == CALM
                        break
                await client.say(octets)
                await settle()
            else:
                raise AssertionError("the flood was taken as a whole")

        on_edge(script)

    def test_of_an_upstream(self) -> None:
        async def script(edge: Edge) -> None:
            edge.engine.registry.remove(edge.a)
            edge.engine.registry.add(make_tunnel("a", http_version="h2c"))
            client = await h2_client(edge)
            await client.headers(1, get())
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            await upstream.say(*[PingFrame(0, b"12345678") for _ in range(1_001)])
            assert (await client.response(1))[0] == 502
            assert (await upstream.goaway()).error_code == CALM

        on_edge(script)

    def test_interim_responses_have_an_end(self) -> None:
        async def script(edge: Edge) -> None:
            edge.engine.registry.remove(edge.a)
            edge.engine.registry.add(make_tunnel("a", http_version="h2c"))
            client = edge.client()
            await client.send(b"GET / HTTP/1.1\r\nHost: a.t.edge.test\r\n\r\n")
            upstream = await h2_upstream(edge)
            await upstream.event(RequestReceived)
            for _ in range(101):
                upstream.h2.send_headers(1, [(b":status", b"103")])
            await upstream.flush()
            assert await upstream.reset(1) == CALM

        on_edge(script)

    def test_an_allowance_refills(self) -> None:
        allowance = Allowance(10)
        assert [allowance.spend(0.0) for _ in range(11)] == [True] * 10 + [False]
        assert allowance.spend(2.0)
        allowance.earn(100)
        assert [allowance.spend(2.0) for _ in range(11)] == [True] * 10 + [False]

    def test_a_large_section_is_431(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(b"/", *[(b"x-%d" % n, b"y" * 1_000) for n in range(80)]))
            assert (await client.response(1))[0] == 431
            await client.headers(3, get(b"/", *[(b"x-%d" % n, b"y") for n in range(200)]))
            assert (await client.response(3))[0] == 431
            assert edge.connector.opened == 0

        on_edge(script)

    def test_a_client_that_never_speaks(self) -> None:
        async def script(edge: Edge) -> None:
            _ours, theirs = pair()
            theirs.alpn = "h2"
            await edge.front.serve(theirs, edge.a)  # type: ignore[arg-type]
            assert theirs.closed

        on_edge(script, http_header_timeout_ms=30)

    def test_a_block_that_never_ends(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.event(RemoteSettingsChanged)
            await client.say(raw(1, 1, block(), 1))
            assert (await client.goaway()).error_code == CALM
            await client.gone()

        on_edge(script, http_header_timeout_ms=30)

    def test_a_client_that_reads_nothing_is_not_read(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            pings = b"".join(PingFrame(0, b"12345678").serialize() for _ in range(1_000))

            async def flood() -> None:
                while True:
                    await client.say(pings)

            flooding = asyncio.create_task(flood())
            sent = -1
            while len(client.stream._in.data) > sent:
                sent = len(client.stream._in.data)
                for _ in range(20):
                    await settle()
            flooding.cancel()
            # What the engine keeps: what the transport takes, and a bound of its own.
            assert sent < 1_000_000

        on_edge(script, http2_max_control_frames=1_000_000)


def limits() -> H2Limits:
    return H2Limits(streams=8, window=65_535, resets=50, control=200, header_bytes=16_384)


@pytest.mark.parametrize("client", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_any_octets_raise_nothing(seed: int, client: bool) -> None:
    """Frames that are changed, cut and mixed: the connection goes on or fails, and keeps within its bounds."""
    chance = random.Random(seed)
    protocol = H2Protocol(HttpRules(), limits(), client=client)
    protocol.start()
    if client:
        for stream_id in (1, 3, 5):
            protocol.send_fields(stream_id, get(), end=False)
    encoder = Encoder()
    frames: list[Frame | bytes] = [SettingsFrame(0)]
    for _ in range(200):
        stream_id = chance.choice((0, 1, 2, 3, 5, 7, 9))
        lines = [(b":status", b"200")] if client else get()
        kinds: list[Frame | bytes] = [
            raw(chance.randrange(12), stream_id, chance.randbytes(chance.randrange(40)), chance.randrange(256)),
            raw(1, stream_id, encoder.encode(lines), chance.choice((4, 5))),
            raw(0, stream_id, b"x" * chance.randrange(300), chance.choice((0, 1))),
            raw(8, stream_id, chance.randrange(1, 1 << 31).to_bytes(4, "big")),
            raw(4, 0, chance.randrange(8).to_bytes(2, "big") + chance.randbytes(4)),
            GoAwayFrame(0, last_stream_id=chance.randrange(9), error_code=chance.randrange(20)),
        ]
        frames.append(chance.choice(kinds))
    octets = bytearray(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))
    for _ in range(chance.choice((0, 0, 1, 3))):
        octets[chance.randrange(len(octets))] = chance.randrange(256)
    octets = bytearray(b"" if client else PREFACE) + octets
    at = 0
    while at < len(octets):
        size = chance.randrange(1, 200)
        protocol.feed(bytes(octets[at : at + size]), at / 1_000)
        at += size
        assert len(protocol.streams) <= 40
    assert protocol.unsent < 100_000
