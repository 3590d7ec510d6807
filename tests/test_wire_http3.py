"""HTTP/3 without I/O: split anywhere, any octets, the RFC's vectors, and aioquic as an independent other side."""

from __future__ import annotations

import itertools
import random

import pytest
from aioquic.h3.events import DataReceived, HeadersReceived
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.wire.http3 import (
    CancelPushFrame,
    DataFrame,
    Frame,
    GoawayFrame,
    HeadersFrame,
    Http3Options,
    MaxPushIdFrame,
    PriorityUpdateFrame,
    PushPromiseFrame,
    SettingsFrame,
    UnknownFrame,
    qpack,
)
from harness.wire.http3 import message as seen
from harness.wire.http3.compression import Blocked, Compression, Decompression
from harness.wire.http3.frames import KEPT, MAX_PAYLOAD, BadFrame, DataPiece, FrameBegun, FrameReader, encode_all
from harness.wire.http3.qpack import (
    Duplicate,
    Indexed,
    Insert,
    InsertByName,
    InsertCountIncrement,
    InstructionReader,
    NamedByIndex,
    Section,
    SectionAcknowledgment,
    SetCapacity,
    StreamCancellation,
)
from harness.wire.http3.qpack_static import STATIC
from harness.wire.quic.codec import DecodeError, QuicUsageError, varint
from tests.http3_wire_support import OK, POST, REQUEST, Other, Pair, Side, plain

NUMBERS = st.integers(0, (1 << 62) - 1)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.binary(max_size=300).map(DataFrame),
    st.binary(max_size=300).map(HeadersFrame),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5).map(lambda pairs: SettingsFrame(tuple(pairs))),
    NUMBERS.map(GoawayFrame),
    NUMBERS.map(MaxPushIdFrame),
    NUMBERS.map(CancelPushFrame),
    st.builds(PushPromiseFrame, NUMBERS, st.binary(max_size=50)),
    st.builds(PriorityUpdateFrame, NUMBERS, st.binary(max_size=50), st.booleans()),
    st.builds(UnknownFrame, st.integers(0x21, 0xFFFF), st.binary(max_size=300)),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at those places."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:stop] for start, stop in itertools.pairwise(places)] or [b""]


class TestFrames:
    """RFC 9114 section 7.1."""

    @given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 5000), max_size=8))
    def test_whole_frames_whatever_the_pieces(self, frames: list[Frame], cuts: list[int]) -> None:
        reader = FrameReader(0)
        data = b"".join(frame.encode() for frame in frames)
        found = [piece for part in pieces(data, cuts) for piece in reader.feed(part)]
        whole = [piece for piece in found if isinstance(piece, Frame)]
        assert [frame.encode() for frame in whole] == [frame.encode() for frame in frames]
        assert [each.kind for each in found if isinstance(each, FrameBegun)] == [frame.type for frame in frames]
        content = b"".join(each.data for each in found if isinstance(each, DataPiece))
        assert content == b"".join(frame.data for frame in frames if isinstance(frame, DataFrame))
        assert not reader.inside

    @given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=4))
    def test_any_octets(self, data: bytes, cuts: list[int]) -> None:
        reader = FrameReader(0)
        for part in pieces(data, cuts):
            for piece in reader.feed(part):
                str(piece)

    @pytest.mark.parametrize(
        "octets", ["0400", "0401", "070401", "0702000000", "0d00", "0300", "05", "0401 06", "800f0700 00", "0702 4000 "]
    )
    def test_fields_must_fill_the_frame(self, octets: str) -> None:
        found = list(FrameReader(0).feed(bytes.fromhex(octets)))
        legal = octets in ("0400", "0702 4000 ")
        assert any(isinstance(each, Frame) for each in found) == legal
        if len(found) > 1 and not legal:
            assert isinstance(found[1], BadFrame)

    def test_what_is_too_long_is_not_kept(self) -> None:
        reader = FrameReader(0)
        for kind in (0x00, 0x01, 0x21):
            header = varint(kind) + varint(MAX_PAYLOAD + 1)
            found = list(reader.feed(header + bytes(MAX_PAYLOAD + 1)))
            assert len(reader._kept) == 0
            last = found[-1]
            if kind == 0x01:
                assert isinstance(last, BadFrame)
                assert last.too_long
            else:
                assert isinstance(last, DataFrame | UnknownFrame)
                assert (len(last.data), last.length) == (KEPT, MAX_PAYLOAD + 1)

    def test_frames_read_as_words(self) -> None:
        assert str(SettingsFrame(((6, 4096), (0x21, 0)))) == "SETTINGS (MAX_FIELD_SECTION_SIZE=4096, 0x21=0)"
        assert str(UnknownFrame(0x21, b"x")) == "0x21 (1 octets, reserved)"
        assert str(HeadersFrame(b"", ((b"a", b"b"),))) == "HEADERS (a: b)"
        assert UnknownFrame(0x06).name == "PING"
        assert DataFrame(b"abc", 10).encode() == b"\x00\x0aabc"


class TestQpackByHand:
    """RFC 9204 section 4 and appendix B."""

    def test_the_static_table_is_the_librarys(self) -> None:
        decoder = Decompression(Http3Options())._decoder
        for index, field in enumerate(STATIC):
            assert decoder.feed_header(0, Section((Indexed(index),)).encode())[1] == [field]

    @pytest.mark.parametrize(
        ("octets", "section"),
        [
            ("0000510b2f696e6465782e68746d6c", Section((NamedByIndex(1, b"/index.html"),))),
            ("03811011", Section((Indexed(0, False, True), Indexed(1, False, True)), 3, 1, True)),
            ("050080c181", Section((Indexed(0, False), Indexed(1), Indexed(1, False)), 5, 0)),
        ],
    )
    def test_sections_of_the_appendix(self, octets: str, section: Section) -> None:
        assert qpack.read_section(bytes.fromhex(octets)) == section
        assert section.encode().hex() == octets

    @pytest.mark.parametrize(
        ("kind", "octets", "instructions"),
        [
            (
                "encoder",
                "3fbd01c00f7777772e6578616d706c652e636f6dc10c2f73616d706c652f70617468",
                [SetCapacity(220), InsertByName(0, b"www.example.com"), InsertByName(1, b"/sample/path")],
            ),
            ("encoder", "4a637573746f6d2d6b65790c637573746f6d2d76616c7565", [Insert(b"custom-key", b"custom-value")]),
            ("encoder", "02", [Duplicate(2)]),
            ("encoder", "810d637573746f6d2d76616c756532", [InsertByName(1, b"custom-value2", False)]),
            ("decoder", "84", [SectionAcknowledgment(4)]),
            ("decoder", "01", [InsertCountIncrement(1)]),
            ("decoder", "48", [StreamCancellation(8)]),
        ],
    )
    def test_instructions_of_the_appendix(self, kind: str, octets: str, instructions: list[qpack.Instruction]) -> None:
        assert qpack.encode_instructions(instructions).hex() == octets
        reader = InstructionReader(kind)
        found = [each for octet in bytes.fromhex(octets) for each in reader.feed(bytes([octet]))]
        assert found == instructions

    def test_the_whole_appendix_through_both_ends(self) -> None:
        options = Http3Options(table_capacity=220, blocked_streams=1)
        ours = Decompression(options)
        assert ours.section(0, bytes.fromhex("0000510b2f696e6465782e68746d6c")) == ((b":path", b"/index.html"),)
        assert isinstance(ours.section(4, bytes.fromhex("03811011")), Blocked)
        _, unblocked, _ = ours.feed(
            bytes.fromhex("3fbd01c00f7777772e6578616d706c652e636f6dc10c2f73616d706c652f70617468")
        )
        assert unblocked == [4]
        assert ours.resume(4) == ((b":authority", b"www.example.com"), (b":path", b"/sample/path"))
        assert ours.out.hex() == "84"
        ours.out.clear()
        ours.feed(bytes.fromhex("4a637573746f6d2d6b65790c637573746f6d2d76616c7565"))
        assert isinstance(ours.section(8, bytes.fromhex("050080c181")), Blocked)
        ours.cancel(8)
        assert ours.out.hex() == "48"
        ours.feed(bytes.fromhex("02"))
        assert ours.feed(bytes.fromhex("810d637573746f6d2d76616c756532"))[2] is None

    @given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=200)), max_size=8))
    def test_literals_carry_anything(self, fields: list[tuple[bytes, bytes]]) -> None:
        section = qpack.literal_section(fields, never=[b"x"])
        assert qpack.read_section(section).static_fields == tuple(fields)
        assert Decompression(Http3Options()).section(0, section) == tuple(fields)
        assert Decompression(Http3Options()).section(0, Compression(Http3Options()).section(0, tuple(fields))) == tuple(
            fields
        )

    def test_strings_that_the_library_does_not_take(self) -> None:
        fields = ((b"x", b"v" * 0x10000), (b"n" * 0x10000, b""))
        assert Decompression(Http3Options()).section(0, Compression(Http3Options()).section(0, fields)) == fields

    @given(st.binary(max_size=300))
    def test_any_octets(self, data: bytes) -> None:
        for options in (Http3Options(), Http3Options(table_capacity=4096, blocked_streams=2)):
            Decompression(options).section(0, data)
            Decompression(options).feed(data)
            Compression(options).feed(data)
        InstructionReader("encoder").feed(data)

    def test_limits(self) -> None:
        with pytest.raises(qpack.SectionTooLong):
            qpack.read_section(b"\0\0" + b"\xd1" * 10_001)
        reader = InstructionReader("encoder")
        reader.feed(b"\x5f\xff\xff\xff\x7f" + bytes(70_000))
        assert reader.broken
        with pytest.raises(DecodeError, match="62 bits"):
            qpack.read_section(b"\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f")
        with pytest.raises(QuicUsageError, match="encoder, decoder"):
            InstructionReader("other")


def exchange(pair: Pair) -> None:
    """One exchange with everything."""
    client, server = pair.client.wire, pair.server.wire
    fields = (*POST, (b"content-length", b"5"), (b"x-long", b"y" * 30))
    client.remember(0, fields)
    client.say(0, [client.headers_frame(0, fields), DataFrame(b"he"), UnknownFrame(0x40), DataFrame(b"llo")])
    client.say(0, [client.headers_frame(0, [("x-sum", "1")])], fin=True)
    pair.run()
    server.say(0, [server.headers_frame(0, [(":status", "103"), ("link", "a")])])
    server.say(0, [server.headers_frame(0, OK), DataFrame(b""), DataFrame(b"answer")], fin=True)
    pair.run()


class TestConnections:
    """Two of ours."""

    @pytest.mark.parametrize("step", [None, 1, 3])
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_an_exchange_whatever_the_pieces(self, step: int | None, dynamic: bool) -> None:
        chosen = {"table_capacity": 4096, "blocked_streams": 8, "encoder_capacity": 4096} if dynamic else {}
        pair = Pair(Http3Options(**chosen), Http3Options(**chosen), step=step)  # type: ignore[arg-type]
        pair.run()
        exchange(pair)
        assert pair.client.violations == pair.server.violations == []
        [head] = pair.server.heads("request")
        assert head.pseudo(b":method") == b"POST"
        assert [each.headers for each in pair.server.heads("trailers")] == [[("x-sum", "1")]]
        assert [each.status for each in pair.client.heads("informational")] == [103]
        assert [each.status for each in pair.client.heads("response")] == [200]
        ends = [event for event in pair.client.events if isinstance(event, seen.MessageEnd)]
        assert ends == [seen.MessageEnd(0, complete=True)]
        content = b"".join(event.data for event in pair.server.events if isinstance(event, seen.Content))
        assert content == b"hello"

    def test_a_blocked_section_holds_back_what_follows(self) -> None:
        options = Http3Options(table_capacity=220, blocked_streams=1)
        server = Side(options, is_client=False)
        server.feed(2, b"\x00" + SettingsFrame().encode())
        section = Section((Indexed(0, False, True),), 2, 0, True)
        server.feed(0, HeadersFrame(section.encode()).encode() + DataFrame(b"late").encode(), fin=True)
        assert isinstance(server.events[-1], seen.SectionBlocked)
        server.feed(6, b"\x02" + qpack.encode_instructions([SetCapacity(220), Insert(b"x-late", b"1")]))
        [head] = server.heads("request")
        assert head.headers == [("x-late", "1")]
        kinds = [type(event) for event in plain(server.events)]
        assert kinds.index(seen.Head) < kinds.index(seen.Content) < kinds.index(seen.MessageEnd) == len(kinds) - 1
        assert qpack.encode_instructions([SectionAcknowledgment(0)]) in [each.data for each in server.wire.outgoing()]

    @settings(max_examples=150)
    @given(st.data())
    def test_split_anywhere_means_the_same(self, data: st.DataObject) -> None:
        seed = data.draw(st.integers(0, 1 << 30))
        cuts = data.draw(st.lists(st.integers(0, 4000), max_size=12))
        chooser = random.Random(seed)
        more: list[Frame] = [DataFrame(b"d" * 70), UnknownFrame(0x21, b"u" * 80), GoawayFrame(4)]
        frames: list[Frame] = [HeadersFrame(qpack.literal_section([*POST, (b"x", b"y" * 100)]))]
        frames += chooser.choices(more, k=chooser.randrange(5))
        octets = encode_all(frames)
        whole, parts = Side(None, is_client=False), Side(None, is_client=False)
        whole.feed(0, octets, fin=True)
        split = pieces(octets, cuts)
        for index, part in enumerate(split):
            parts.feed(0, part, fin=index == len(split) - 1)
        assert plain(parts.events) == plain(whole.events)

    @settings(max_examples=200)
    @given(
        st.booleans(),
        st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 4, 6, 7, 10, 11]), st.binary(max_size=200)), max_size=12),
    )
    def test_any_octets_on_any_stream(self, is_client: bool, said: list[tuple[int, bytes]]) -> None:
        side = Side(Http3Options(table_capacity=4096, blocked_streams=2), is_client=is_client)
        for stream_id, data in said:
            if is_client or stream_id & 1 == 0:
                side.feed(stream_id, data)
                side.wire.stream_reset(stream_id, 0x10C)
        side.wire.outgoing()

    def test_credit_covers_every_octet_once(self) -> None:
        server = Side(None, is_client=False, step=3)
        octets = HeadersFrame(qpack.literal_section(POST)).encode() + DataFrame(b"x" * 50).encode()
        server.feed(0, octets, fin=True)
        consumed = sum(event.count for event in server.events if isinstance(event, seen.Consumed))
        content = sum(len(event.data) for event in server.events if isinstance(event, seen.Content))
        assert (consumed + content, content) == (len(octets), 50)

    def test_streams_are_forgotten(self) -> None:
        pair = Pair()
        for number in range(50):
            client, server = pair.client.wire, pair.server.wire
            client.remember(number * 4, REQUEST)
            client.say(number * 4, [client.headers_frame(number * 4, REQUEST)], fin=True)
            pair.run()
            server.say(number * 4, [server.headers_frame(number * 4, OK)], fin=True)
            pair.run()
            client.finished(number * 4)
            server.finished(number * 4)
        assert not pair.client.wire._requests
        assert not pair.server.wire._requests
        assert not pair.client.wire._methods


class TestAioquic:
    """An independent other side."""

    @pytest.mark.parametrize("capacity", [0, 4096])
    def test_our_client_and_its_server(self, capacity: int) -> None:
        ends = Other(
            Http3Options(table_capacity=capacity, blocked_streams=16, encoder_capacity=capacity), ours_is_client=True
        )
        ends.run()
        for stream in (0, 4, 8):
            fields = (*POST, (b"x-a", b"1"))
            ends.ours.wire.remember(stream, fields)
            ends.ours.wire.say(stream, [ends.ours.wire.headers_frame(stream, fields), DataFrame(b"abc")], fin=True)
            ends.run()
            ends.h3.send_headers(stream, [(b":status", b"103")])
            ends.h3.send_headers(stream, [(b":status", b"200"), (b"x-b", b"2")])
            ends.h3.send_data(stream, b"answer", False)
            ends.h3.send_headers(stream, [(b"x-c", b"3")], True)
            ends.run()
        assert ends.below.closed is None
        heads = [event for event in ends.events if isinstance(event, HeadersReceived)]
        assert [each.headers for each in heads] == [[*POST, (b"x-a", b"1")]] * 3
        assert b"".join(event.data for event in ends.events if isinstance(event, DataReceived)) == b"abc" * 3
        assert ends.ours.violations == []
        assert [each.headers for each in ends.ours.heads("trailers")] == [[("x-c", "3")]] * 3
        assert len(ends.ours.heads("informational")) == len(ends.ours.heads("response")) == 3

    @pytest.mark.parametrize("capacity", [0, 4096])
    def test_its_client_and_our_server(self, capacity: int) -> None:
        ends = Other(
            Http3Options(table_capacity=capacity, blocked_streams=16, encoder_capacity=capacity), ours_is_client=False
        )
        ends.run()
        for stream in (0, 4, 8):
            ends.h3.send_headers(stream, [*POST, (b"x-a", b"1")])
            ends.h3.send_data(stream, b"question", True)
            ends.run()
            wire = ends.ours.wire
            wire.say(stream, [wire.headers_frame(stream, [(":status", "100")]), UnknownFrame(0x21, b"g")])
            wire.say(stream, [wire.headers_frame(stream, [*OK, (b"x-b", b"2")]), DataFrame(b"abc")], fin=True)
            ends.run()
        assert ends.below.closed is None
        assert ends.ours.violations == []
        assert [each.headers for each in ends.ours.heads("request")] == [[("x-a", "1")]] * 3
        heads = [event.headers for event in ends.events if isinstance(event, HeadersReceived)]
        assert heads[1::2] == [[*OK, (b"x-b", b"2")]] * 3
