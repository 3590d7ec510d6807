"""The scripted HTTP/3 peers: exchanges of every shape, frame by frame, and what they say of a departure."""

from __future__ import annotations

import asyncio

import pytest

from harness.errors import DeadlineExpired, PeerMismatch
from harness.evidence.transcript import DOWNSTREAM, UPSTREAM
from harness.peer.http import ExchangeEnd, Response
from harness.wire.http3 import (
    DataFrame,
    ErrorCode,
    GoawayFrame,
    HeadersFrame,
    SettingId,
    SettingsFrame,
    StreamType,
    UnknownFrame,
)
from harness.wire.http3.qpack import Literal, SetCapacity, read_section
from tests.http3_support import ground, run

GET = [(":method", "GET"), (":scheme", "https"), (":authority", "peer.test"), (":path", "/")]


class TestExchanges:
    """The neutral API."""

    def test_one_exchange_with_everything(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin(
                    "POST", "/a?b", [("X-One", "1")], b"question", nonce="n1", trailers=[("x-sum", "9")]
                )
                request = await ends.upstream.request("n1")
                assert (request.method, request.target, request.scheme) == ("POST", "/a?b", "https")
                assert (request.authority, request.version, request.id) == ("peer.test", "h3", 0)
                assert request.headers == [("x-one", "1"), ("edgecase-nonce", "n1")]
                assert await request.body() == b"question"
                assert request.trailers == [("x-sum", "9")]
                assert request.complete
                await request.informational(103, [("Link", "</x>")])
                await request.respond(200, [("X-Two", "2")], b"answer", trailers=[("x-end", "0")])
                interim = await asked.informational()
                assert (interim.status, interim.get("link")) == (103, "</x>")
                response = await asked.response()
                assert (response.status, response.get("X-Two"), response.body) == (200, "2", b"answer")
                assert response.trailers == [("x-end", "0")]
                assert response.complete
                assert response.end is None
                assert [each.status for each in response.informational] == [103]
                assert not response.violations
                assert await request.ended() == ExchangeEnd("complete")
                assert not client.violations
                assert ends.upstream.unexpected == []

        run(script())

    def test_lengths_are_told_unless_unknown(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                for length, told in ((True, "3"), (False, None)):
                    asked = await client.begin("PUT", body=b"abc", length=length)
                    request = await ends.upstream.request()
                    assert request.get("content-length") == told
                    await request.respond(body=b"defg", length=length)
                    response = await asked.response()
                    assert response.get("content-length") == ("4" if length else None)
                for status, method, told in ((204, "GET", None), (304, "GET", None), (200, "HEAD", "5")):
                    asked = await client.begin(method)
                    await (await ends.upstream.request()).respond(status, body=b"" if status != 200 else b"12345")
                    response = await asked.response()
                    assert (response.status, response.get("content-length"), response.body) == (status, told, b"")
                    assert response.complete
                    assert not response.violations

        run(script())

    def test_content_in_pieces_both_ways(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                await asked.send_content(b"one")
                assert await request.read_exactly(3) == b"one"
                await request.begin_response(200)
                response = await asked.response_head()
                await request.send_content(b"two")
                assert await asked.read_some(response) == b"two"
                await asked.send_content(b"three")
                await asked.finish([("t", "1")])
                assert await request.body() == b"onethree"
                await request.finish([("u", "2")])
                assert await asked.read_some(response) == b""
                assert response.trailers == [("u", "2")]

        run(script())

    def test_what_nobody_reads_is_not_credited(self) -> None:
        async def script() -> None:
            async with ground(max_stream_data=1 << 16) as ends:
                client = await ends.client()
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                sending = asyncio.create_task(asked.send_content(b"x" * 400_000))
                await client.ping()
                await client.ping()
                assert not sending.done()
                assert request.received <= 1 << 16
                reading = asyncio.create_task(request.body())
                await sending
                await asked.finish()
                assert await reading == b"x" * 400_000
                await request.respond()

        run(script())

    def test_large_bodies_and_many_streams(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()

                async def one(number: int) -> None:
                    asked = await client.begin("POST", f"/{number}", body=bytes([number]) * 50_000)
                    assert (await asked.response()).body == bytes([number]) * 90_000

                async def serve(number: int) -> None:
                    request = await ends.upstream.request(str(number))
                    body = await request.body()
                    await request.respond(body=body[:1] * 90_000)

                await asyncio.gather(*(one(number) for number in range(20)), *(serve(number) for number in range(20)))

        run(script())

    def test_a_reset_is_an_end_on_both_sides(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                request.break_off()
                end = await asked.outcome()
                assert isinstance(end, ExchangeEnd)
                assert (end.kind, end.code) == ("reset", ErrorCode.H3_INTERNAL_ERROR)
                with pytest.raises(PeerMismatch, match="RESET_STREAM H3_INTERNAL_ERROR"):
                    await asked.response()
                with pytest.raises(PeerMismatch, match="STOP_SENDING H3_INTERNAL_ERROR"):
                    await asked.send_content(b"more")
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                asked.cancel()
                end = await request.ended()
                assert (end.kind, end.code) == ("reset", ErrorCode.H3_REQUEST_CANCELLED)
                assert request.aborted
                with pytest.raises(PeerMismatch, match="the whole body"):
                    await request.body()
                asked = await client.begin()
                assert (await ends.upstream.request()).complete

        run(script())

    def test_a_response_that_breaks_off_keeps_what_came(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin()
                request = await ends.upstream.request()
                await request.begin_response(200, [("content-length", "10")])
                await request.send_content(b"12345")
                response = await asked.response_head()
                assert await asked.read_some(response) == b"12345"
                request.break_off(ErrorCode.H3_REQUEST_CANCELLED)
                got = await asked.outcome()
                assert isinstance(got, Response)
                assert (got.complete, got.body) == (False, b"12345")
                assert got.end is not None
                assert got.end.code == ErrorCode.H3_REQUEST_CANCELLED

        run(script())

    def test_an_early_answer_with_a_stop(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                await request.respond(413)
                request.connection.stop_sending(request.id, ErrorCode.H3_NO_ERROR)
                assert (await asked.response()).status == 413
                await client.until(lambda: asked.stopped is not None, "STOP_SENDING")
                assert asked.stopped == ErrorCode.H3_NO_ERROR
                assert not await asked.offer_content(b"more")
                assert (await request.ended()).code == ErrorCode.H3_NO_ERROR

        run(script())

    def test_goaway_ends_what_it_does_not_cover(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                first, second = await client.begin(), await client.begin()
                request = await ends.upstream.request()
                request.connection.goaway(4)
                end = await second.outcome()
                assert isinstance(end, ExchangeEnd)
                assert end.kind == "goaway"
                await request.respond()
                assert (await first.response()).status == 200

        run(script())

    def test_the_end_of_the_connection_ends_all(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin("POST", end=False)
                request = await ends.upstream.request()
                await client.quic.close(ErrorCode.H3_INTERNAL_ERROR)
                end = await request.ended()
                assert (end.kind, end.code) == ("connection", ErrorCode.H3_INTERNAL_ERROR)
                over = await request.connection.closed()
                assert (over.clean, over.code) == (True, ErrorCode.H3_INTERNAL_ERROR)
                assert isinstance(await asked.outcome(), ExchangeEnd)
                with pytest.raises(PeerMismatch, match="our own CONNECTION_CLOSE"):
                    await client.begin()

        run(script())

    def test_closing_says_goaway(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                await client.begin()
                connection = (await ends.upstream.request()).connection
                await client.close()
                await client.close()
                end = await connection.closed()
                assert end.code == ErrorCode.H3_NO_ERROR
                assert isinstance(connection.frames[-1], GoawayFrame)

        run(script())

    def test_in_vain_is_named(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                asked = await client.begin("GET", "/slow")
                with pytest.raises(DeadlineExpired, match="the response to 'GET /slow'"):
                    await asked.response()
                with pytest.raises(DeadlineExpired, match="the request with nonce other"):
                    await ends.upstream.request("other")

        run(script(), 0.2)


class TestFrames:
    """The frame by frame API."""

    def test_what_both_say_at_first(self) -> None:
        async def script() -> None:
            async with ground(max_field_section_size=1000) as ends:
                client = await ends.client(table_capacity=100, blocked_streams=2)
                settings = await client.settings()
                assert settings.get(SettingId.MAX_FIELD_SECTION_SIZE) == 1000
                connection = await ends.upstream.connection(1)
                assert (await connection.settings()).get(SettingId.QPACK_MAX_TABLE_CAPACITY) == 100
                assert isinstance(await client.frame(SettingsFrame), SettingsFrame)
                assert isinstance(await client.frame(UnknownFrame), UnknownFrame)

        run(script())

    def test_any_frames_on_a_stream_of_ours(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                stream = await client.open_stream()
                client.headers(stream, [*GET, ("x", "y")], never=[b"x"])
                client.say(stream, UnknownFrame(0x21, b"grease"), DataFrame(b"abc"), fin=True)
                request = await ends.upstream.request()
                assert await request.body() == b"abc"
                frame = await request.connection.frame(HeadersFrame)
                assert read_section(frame.section).find(b"x") == (Literal(b"x", b"y", never=True),)
                assert frame.stream_id == stream
                await request.respond(204)
                assert (await client.exchange(stream).response()).status == 204
                assert [frame.name for frame in request.connection.frames][-3:] == ["HEADERS", "0x21", "DATA"]

        run(script())

    def test_steps_are_in_the_transcript(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client(grease=False)
                asked = await client.begin("POST", body=b"x")
                request = await ends.upstream.request()
                await request.respond(body=b"y")
                await asked.response()
                assert ends.told(DOWNSTREAM, "client")[-5:] == ["SETTINGS", "stream opened", "HEADERS", "DATA", "FIN"]
                assert ends.told(UPSTREAM, "engine")[-3:] == ["HEADERS", "DATA", "FIN"]
                assert ends.told(DOWNSTREAM, "engine")[-3:] == ["HEADERS", "DATA", "FIN"]

        run(script())

    def test_a_connection_error_is_answered_and_raised(self) -> None:
        async def script() -> None:
            async with ground(first_frames=DataFrame(b"x").encode()) as ends:
                client = await ends.client()
                with pytest.raises(PeerMismatch, match=r"RFC 9114 section 6.2.1.*DATA in front of SETTINGS"):
                    await client.settings()
                end = await (await ends.upstream.connection(1)).closed()
                assert end.code == ErrorCode.H3_MISSING_SETTINGS

        run(script())

    def test_a_script_may_not_mind(self) -> None:
        async def script() -> None:
            async with ground(streams=(StreamType.CONTROL, StreamType.CONTROL)) as ends:
                client = await ends.client(answer_violations=False)
                client.strict = False
                asked = await client.begin()
                await (await ends.upstream.request()).respond(200)
                assert (await asked.response()).status == 200
                await client.until(lambda: client.violations, "the second control stream")
                assert "a second control stream" in str(client.violations[0])

        run(script())

    def test_a_malformed_message_is_told_with_its_rules(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                stream = await client.open_stream()
                client.headers(stream, [*GET, ("Bad Name", "x"), ("connection", "close")], literal=True, end=True)
                request = await ends.upstream.request()
                assert [each.section for each in request.violations] == ["9114 section 10.3", "9114 section 4.2"]
                stream = await client.open_stream()
                client.data(stream, b"no head", end=True)
                connection = request.connection
                await connection.closed()
                assert connection.violations[0].what == "DATA in front of the header section"
                assert [each.raw_head for each in connection.fragments()] == [b"no head"]

        run(script())

    def test_instructions_of_a_script(self) -> None:
        async def script() -> None:
            async with ground() as ends:
                client = await ends.client()
                client.instruct(SetCapacity(100))
                connection = await ends.upstream.connection(1)
                end = await connection.closed()
                assert "QPACK_ENCODER_STREAM_ERROR" not in str(end)
                assert connection.broken is not None
                assert connection.broken.section == "9204 section 4.3.1"
                assert list(connection.instructions) == [("encoder", SetCapacity(100))]
                assert (await client.quic.closed()).code == ErrorCode.QPACK_ENCODER_STREAM_ERROR

        run(script())

    def test_the_dynamic_table_works_where_both_want_it(self) -> None:
        async def script() -> None:
            async with ground(table_capacity=4096, blocked_streams=4, encoder_capacity=4096) as ends:
                client = await ends.client(table_capacity=4096, blocked_streams=4, encoder_capacity=4096)
                await client.settings()
                for _ in range(5):
                    asked = await client.begin(fields=[("x-long", "value")])
                    request = await ends.upstream.request()
                    assert request.get("x-long") == "value"
                    await request.respond(fields=[("y-long", "other")])
                    assert (await asked.response()).get("y-long") == "other"
                used = [each for each in request.connection.frames if isinstance(each, HeadersFrame)]
                assert read_section(used[-1].section).insert_count > 0

        run(script())
