"""Windows of HTTP/2: a stalled stream holds itself alone, and nothing is kept beyond the windows."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, WindowUpdated
from h2.settings import SettingCodes
from hyperframe.frame import DataFrame

from tests.engine_h2_support import (
    H2Peer,
    asked,
    get,
    h2_client,
)
from tests.engine_http_support import OK, Edge, Peer, on_edge, settle

WINDOW = 131_072


async def pump(peer: H2Peer) -> None:
    """Take what is here."""
    await settle()
    while (data := peer.stream.read_now()) is not None and data:
        peer.take(data)
        await peer.flush()
        await settle()


async def in_pieces(upstream: Peer, size: int) -> None:
    """Send `size` octets as a connection would."""
    for _ in range(0, size, 10_000):
        await upstream.send(b"x" * 10_000)


def octets(peer: H2Peer, stream_id: int) -> int:
    return sum(len(e.data) for e in peer.events if isinstance(e, DataReceived) and e.stream_id == stream_id)


class TestToClients:
    def test_a_stalled_response_holds_up_no_other(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            client.h2.increment_flow_control_window(1 << 24)
            await client.headers(1, get(b"/big"))
            first = await edge.upstream()
            await first.head()
            await first.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            sending = asyncio.create_task(in_pieces(first, 1_000_000))
            client.hold = True
            await client.on(ResponseReceived, 1)
            for _ in range(20):
                await pump(client)
            assert octets(client, 1) == 65_535
            assert not sending.done()
            client.hold = False
            await client.headers(3, get(b"/small"))
            second = await edge.upstream()
            await second.head()
            await second.send(OK)
            assert (await client.response(3))[2] == b"ok"
            client.h2.acknowledge_received_data(65_535, 1)
            await client.flush()
            await client.on(StreamEnded, 1)
            assert octets(client, 1) == 1_000_000
            await sending

        on_edge(script)

    def test_the_window_of_the_connection_is_shared(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge, settings={SettingCodes.INITIAL_WINDOW_SIZE: 1 << 20})
            client.hold = True
            senders = []
            for stream_id in (1, 3, 5, 7):
                await client.headers(stream_id, get(b"/%d" % stream_id))
                upstream = await edge.upstream()
                await upstream.head()
                await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n")
                senders.append(asyncio.create_task(in_pieces(upstream, 200_000)))
            for _ in range(20):
                await pump(client)
            assert sum(octets(client, stream_id) for stream_id in (1, 3, 5, 7)) == 65_535
            for _ in range(8):
                client.h2.increment_flow_control_window(16_384 * 4)
                await client.flush()
                for _ in range(5):
                    await pump(client)
            got = [octets(client, stream_id) for stream_id in (3, 5, 7)]
            assert max(got) - min(got) <= 2 * 16_384, got
            client.h2.increment_flow_control_window(1 << 24)
            await client.flush()
            for stream_id in (1, 3, 5, 7):
                await client.on(StreamEnded, stream_id)
            await asyncio.gather(*senders)

        on_edge(script)

    def test_a_smaller_initial_window_stops_and_resumes(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge, settings={SettingCodes.INITIAL_WINDOW_SIZE: 10})
            client.hold = True
            await client.headers(1, get())
            upstream = await edge.upstream()
            await upstream.head()
            await upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"x" * 30)
            await client.on(ResponseReceived, 1)
            await pump(client)
            assert octets(client, 1) == 10
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
            await client.flush()
            await pump(client)
            client.h2.increment_flow_control_window(10, 1)
            await client.flush()
            await pump(client)
            assert octets(client, 1) == 10
            client.h2.increment_flow_control_window(5, 1)
            await client.flush()
            await pump(client)
            assert octets(client, 1) == 15
            client.h2.increment_flow_control_window(100, 1)
            await client.flush()
            await client.on(StreamEnded, 1)

        on_edge(script)


class TestFromClients:
    def test_credit_follows_the_upstream(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=False)
            uploading = asyncio.create_task(client.data(1, b"x" * 2_000_000, end=True))
            upstream = await edge.upstream()
            for _ in range(30):
                await settle()
            # What waits: the stream's window, what the relay and the transport below hold.
            assert not uploading.done()
            assert client.h2.local_flow_control_window(1) == 0
            await client.headers(3, get(b"/other"))
            other = await edge.upstream()
            await other.head()
            await other.send(OK)
            reading = asyncio.create_task(upstream.until(b"\r\n0\r\n\r\n"))
            await uploading
            assert (await reading).count(b"x") == 2_000_000
            assert (await client.response(3))[0] == 200

        on_edge(script)

    def test_padding_is_given_back(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=False)
            upstream = await edge.upstream()
            await upstream.head()
            for _ in range(1_000):
                while client.h2.local_flow_control_window(1) < 257:
                    await client.more()
                client.h2.send_data(1, b"x", pad_length=255)
                await client.flush()
                await settle()
            assert [e for e in client.events if isinstance(e, WindowUpdated) and e.stream_id == 1]

        on_edge(script)

    def test_more_than_the_window_is_an_error(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.headers(1, get(method=b"POST"), end=False)
            await edge.upstream()
            await client.say(*[DataFrame(1, b"x" * 16_384) for _ in range(40)])
            assert (await client.goaway()).error_code == ErrorCodes.FLOW_CONTROL_ERROR
            await client.gone()

        on_edge(script)

    def test_credit_of_the_connection_outlives_reset_streams(self) -> None:
        async def script(edge: Edge) -> None:
            client = await h2_client(edge)
            await client.more()
            window = client.h2.outbound_flow_control_window
            for stream_id in range(1, 80, 2):
                await client.headers(stream_id, get(b"/", (b"connection", b"x"), method=b"POST"), end=False)
                client.h2.send_data(stream_id, b"x" * 16_384)
                await client.flush()
                assert await client.reset(stream_id) == ErrorCodes.PROTOCOL_ERROR
                # Behind the reset, as if the client had not read it yet.
                await client.say(DataFrame(stream_id, b"x" * 16_384))
            client.h2.ping(b"12345678")
            await client.flush()
            await pump(client)
            assert client.end is None
            assert client.h2.outbound_flow_control_window + 40 * 16_384 <= window

        on_edge(script, http2_max_resets=1_000)


class TestWithUpstreams:
    @pytest.mark.parametrize("paused", ["client", "upstream"])
    def test_a_stall_on_one_side_reaches_the_other(self, paused: str) -> None:
        async def script(edge: Edge) -> None:
            client, upstream = await asked(edge, method=b"POST", end=False)
            slow, fast = (client, upstream) if paused == "client" else (upstream, client)
            slow.hold = True
            if paused == "client":
                await upstream.headers(1, [(b":status", b"200")], end=False)
            sending = asyncio.create_task(fast.data(1, b"x" * 1_000_000, end=True))
            for _ in range(40):
                await pump(slow)
            assert octets(slow, 1) == 65_535
            assert not sending.done()
            slow.hold = False
            slow.h2.acknowledge_received_data(65_535, 1)
            await slow.flush()
            await slow.on(StreamEnded, 1)
            assert octets(slow, 1) == 1_000_000
            await sending

        on_edge(script)
