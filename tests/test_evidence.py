"""What went over the wire: the pcapng writer, the packets, the recorder, and the files of a run."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.evidence import pcapng
from harness.evidence.captures import Captures, file_name, remove_stale
from harness.evidence.packets import SEGMENT, checksum
from harness.evidence.recorder import LIMIT, STEP_COST, Recording
from harness.evidence.transcript import Transcript
from harness.link import tap
from harness.link.stream import LinkReset
from harness.link.tcp import TcpListener, connect_tcp
from harness.model.event import AGENT, DOWNSTREAM, UPSTREAM
from tests.evidence_support import ACK, FIN, PSH, RST, SYN, Capture, Segment

HERE, THERE = ("127.0.0.1", 40001), ("127.0.0.1", 4443)
HERE6, THERE6 = ("fe80::1%lo", 40001), ("::1", 4443)


# the writer


def test_a_section_with_one_packet_octet_by_octet() -> None:
    written = b"".join(
        (
            pcapng.section(application="A", system="Linux", comment="note"),
            pcapng.interface("up", "x"),
            pcapng.tls_secrets(["CLIENT_RANDOM aa bb"]),
            pcapng.packet(0, (1 << 32) + 2, b"\x45abcd", direction=pcapng.INBOUND, comment="hi"),
        )
    )
    expected = """
      0a0d0d0a 3c000000 4d3c2b1a 0100 0000 ffffffffffffffff
        0100 0400 6e6f7465  0300 0500 4c696e7578000000  0400 0100 41000000  0000 0000 3c000000
      01000000 30000000 6500 0000 00000000
        0200 0200 75700000  0300 0100 78000000  0900 0100 09000000  0000 0000 30000000
      0a000000 28000000 4b534c54 14000000 434c49454e545f52414e444f4d2061612062620a 28000000
      06000000 3c000000 00000000 01000000 02000000 05000000 05000000 4561626364000000
        0100 0200 68690000  0200 0400 01000000  0000 0000 3c000000
    """
    assert written.hex() == "".join(expected.split())


@pytest.mark.parametrize("size", range(9))
def test_blocks_are_padded_and_say_their_length_twice(size: int) -> None:
    for block in (
        pcapng.section(application="a" * size, system="b" * size, comment="c" * size),
        pcapng.interface("d" * size, "e" * size),
        pcapng.tls_secrets(["f" * size]),
        pcapng.packet(1, 2, b"g" * size, comment="h" * size),
    ):
        assert len(block) % 4 == 0
        assert block[4:8] == block[-4:] == len(block).to_bytes(4, "little")


@pytest.mark.parametrize("text", ["nul \0 in it", "\ud800", "ü" * 4000, "\x1b[31m"])
def test_any_text_makes_a_comment(text: str) -> None:
    block = pcapng.packet(0, 0, b"", comment=text)
    length = int.from_bytes(block[30:32], "little")
    comment = block[32 : 32 + length]
    assert 0 < length <= pcapng.COMMENT_LIMIT
    assert b"\0" not in comment
    comment.decode("utf-8")


def test_the_checksum_is_the_one_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert checksum(b"\xff\xff") == 0
    assert checksum(b"\x01") == 0xFFFF - 0x0100


# the recorder


def ticking() -> Any:
    clock = itertools.count(100)
    return lambda: next(clock) / 8


@pytest.fixture
def recording() -> Recording:
    return Recording(ticking())


def told(recording: Recording, **options: Any) -> Capture:
    return Capture(recording.capture("about it", **options))


def flow(capture: Capture) -> list[tuple[int, int, bytes]]:
    """Of each packet: the source port, the flags, the payload."""
    return [(segment.source[1], segment.flags, segment.payload) for segment in capture.segments]


def test_a_connection_from_its_handshake_to_both_ends(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    stream.label("client-1")
    stream.sent(b"ping")
    stream.got(b"pong!")
    stream.got_end()
    stream.sent(b"more")
    stream.sent_end()
    capture = told(recording)
    ours, theirs = HERE[1], THERE[1]
    assert flow(capture) == [
        (ours, SYN, b""),
        (theirs, SYN | ACK, b""),
        (ours, ACK, b""),
        (ours, PSH | ACK, b"ping"),
        (theirs, PSH | ACK, b"pong!"),
        (theirs, FIN | ACK, b""),
        (ours, PSH | ACK, b"more"),
        (ours, FIN | ACK, b""),
    ]
    assert [segment.relative for segment in capture.segments] == [
        (0, None), (0, 1), (1, 1), (1, 1), (1, 5), (6, 5), (5, 7), (9, 7),
    ]  # fmt: skip
    assert [segment.outbound for segment in capture.segments] == [True, False, True, True, False, False, True, True]
    assert capture.segments[0].comments == ["client-1"]
    assert capture.interfaces == ["downstream"]
    assert capture.comment.startswith("about it\n")
    assert capture.application.startswith("Edgecase ")
    at = [segment.at for segment in capture.segments]
    assert at == sorted(at)
    assert at[-1] - at[2] == 5 * 125_000_000, "the clock of the transcript gives the time"


def test_an_accepted_connection_was_opened_by_the_other_side(recording: Recording) -> None:
    recording.stream(UPSTREAM, HERE, THERE, dialed=False)
    capture = told(recording)
    assert flow(capture) == [(THERE[1], SYN, b""), (HERE[1], SYN | ACK, b""), (THERE[1], ACK, b"")]
    assert [segment.outbound for segment in capture.segments] == [False, True, False]


@pytest.mark.parametrize("ours", [True, False])
def test_nothing_comes_behind_a_reset(recording: Recording, ours: bool) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    (stream.sent_reset if ours else stream.got_reset)()
    for late in (stream.got_reset, stream.sent_reset, stream.sent_end, stream.got_end):
        late()
    stream.sent(b"late")
    stream.got(b"late")
    assert flow(told(recording))[3:] == [(HERE[1] if ours else THERE[1], RST | ACK, b"")]


def test_an_end_is_told_once_and_a_reset_may_follow(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    stream.sent_end()
    stream.sent_end()
    stream.sent(b"not any more")
    stream.got_reset()
    assert flow(told(recording))[3:] == [(HERE[1], FIN | ACK, b""), (THERE[1], RST | ACK, b"")]


def test_long_data_is_cut_into_segments(recording: Recording) -> None:
    data = bytes(range(256)) * 512
    recording.stream(DOWNSTREAM, HERE, THERE, dialed=True).sent(data)
    sent = told(recording).segments[3:]
    assert [len(segment.payload) for segment in sent] == [SEGMENT] * 4
    assert b"".join(segment.payload for segment in sent) == data
    assert [segment.relative[0] for segment in sent] == [1 + SEGMENT * index for index in range(4)]


@pytest.mark.parametrize(("local", "remote"), [(HERE, THERE), (HERE6, THERE6)], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("data", [b"a", b"ab", b"\0\0", b"\xff\xff\xff"])
def test_both_families_with_checksums(local: tap.Address, remote: tap.Address, data: bytes) -> None:
    recording = Recording(ticking())
    stream = recording.stream(DOWNSTREAM, local, remote, dialed=True)
    stream.got(data)
    segments = told(recording).segments
    assert [segment.checksums_right for segment in segments] == [True] * 4
    assert (segments[0].source, segments[0].target) == (
        (ipaddress.ip_address(local[0].partition("%")[0]), local[1]),
        (ipaddress.ip_address(remote[0]), remote[1]),
    )


def test_sequence_numbers_wrap(recording: Recording) -> None:
    for _ in range(4094):  # the 4095th begins 512 KiB before the last number
        recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    for _ in range(40):
        stream.got(bytes(SEGMENT))
    last = told(recording).segments[-40:]
    assert last[-1].sequence < last[0].sequence
    assert last[-1].relative == (1 + 39 * SEGMENT, 1)


def test_a_connection_between_two_peers_of_ours_is_told_once(recording: Recording) -> None:
    first = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    second = recording.stream(UPSTREAM, THERE, HERE, dialed=False)
    first.sent(b"once")
    second.got(b"once")
    first.sent_end()
    second.sent_end()
    capture = told(recording)
    assert len(capture.segments) == 5
    assert capture.interfaces == ["downstream"]


@pytest.mark.parametrize("dialed_first", [True, False])
def test_of_two_peers_of_ours_the_one_that_dialed_is_heard(recording: Recording, dialed_first: bool) -> None:
    made = {}
    for dialed in (dialed_first, not dialed_first):
        leg, ends = (DOWNSTREAM, (HERE, THERE)) if dialed else (UPSTREAM, (THERE, HERE))
        made[dialed] = recording.stream(leg, *ends, dialed=dialed)
        if not dialed:
            made[False].got(b"told twice")
    made[True].sent(b"told twice")
    made[False].label("server")
    made[True].label("client")
    capture = told(recording)
    assert capture.interfaces == ["downstream"]
    assert [(item.payload, item.outbound) for item in capture.segments[3:]] == [(b"told twice", True)]
    assert capture.segments[0].comments == ["server, client"]
    recording.forget({"server"})
    assert recording.empty


def test_a_pair_of_addresses_may_come_again(recording: Recording) -> None:
    first = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    first.got_reset()
    recording.stream(UPSTREAM, THERE, HERE, dialed=False)
    segments = told(recording).segments
    assert [segment.flags for segment in segments] == [SYN, SYN | ACK, ACK, RST | ACK, SYN, SYN | ACK, ACK]
    assert segments[0].sequence != segments[4].sequence


def test_a_stream_inside_the_agents_connection_has_addresses_of_its_own(recording: Recording) -> None:
    outer = recording.stream(AGENT, HERE, THERE, dialed=True)
    inner = recording.carried(HERE, dialed=False)
    inner.label("upstream-1")
    outer.got(b"ciphertext")
    inner.got(b"plaintext")
    capture = told(recording)
    assert capture.interfaces == ["agent", "upstream (inside agent)"]
    assert [segment.payload for segment in capture.segments if segment.payload] == [b"ciphertext", b"plaintext"]
    opened = capture.segments[3]
    assert str(opened.source[0]) == "192.0.2.1"
    assert opened.comments == [f"upstream-1, inside the agent's connection from port {HERE[1]}"]


def test_memory_is_bounded_and_the_capture_says_so(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    stream.sent(bytes(LIMIT - 4 * STEP_COST))
    stream.got(b"fits")
    stream.sent(bytes(1000))
    stream.got(b"small, but behind the gap")
    capture = told(recording)
    assert recording.left_out == 1000 + len(b"small, but behind the gap")
    assert capture.segments[-1].payload == b"fits"
    assert [segment.comments for segment in capture.segments if segment.comments] == [
        [f"The recording ends here: 8 MiB of one case are kept, {recording.left_out:,} octets that followed are not."]
    ]


def test_many_small_steps_are_bounded_too(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    for _ in range(2 * LIMIT // STEP_COST):
        stream.sent(b"x")
    assert len(recording._noted) <= LIMIT // STEP_COST
    assert recording.left_out


def test_secrets_stand_before_the_packets_each_line_once(recording: Recording) -> None:
    lines = ["CLIENT_RANDOM 01 02"]
    recording.secrets(lines)
    recording.secrets(["CLIENT_RANDOM 03 04"])
    recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    lines.append("EXPORTER_SECRET 01 05")
    capture = told(recording, secrets=["CLIENT_RANDOM 03 04"])
    assert capture.kinds == ["section", "interface", "secrets", "packet", "packet", "packet"]
    assert capture.secrets == ["CLIENT_RANDOM 01 02", "EXPORTER_SECRET 01 05", "CLIENT_RANDOM 03 04"]


def test_what_is_stopped_takes_nothing_more(recording: Recording) -> None:
    stream = recording.stream(DOWNSTREAM, HERE, THERE, dialed=True)
    recording.stop()
    stream.sent(b"late")
    assert recording.stream(DOWNSTREAM, HERE, ("127.0.0.1", 1), dialed=True) is tap.SILENT
    assert len(told(recording).segments) == 3


# links


async def exchanged(captures: Captures, *, reset: bool) -> None:
    """A client and a server of ours on one TCP connection: five octets there, and then its end."""
    tap.use(captures)
    captures.begin()
    listener = TcpListener()
    await listener.start()
    client = await connect_tcp(listener.host, listener.port)
    server = await listener.accept()
    await client.send(b"hello")
    assert await server.receive() == b"hello"
    if reset:
        client.abort()
        with pytest.raises(LinkReset):
            await server.receive()
    else:
        await client.send_end()
        assert await server.receive() == b""
        await server.close()
        assert await client.receive() == b""
        await client.close()
    await listener.stop()


@pytest.mark.parametrize("reset", [False, True])
def test_a_link_tells_octets_and_ends(tmp_path: Path, reset: bool) -> None:
    captures = Captures(tmp_path / "evidence")
    asyncio.run(exchanged(captures, reset=reset))
    name = captures.save("x", "")
    captures.close()
    segments = Capture((tmp_path / name).read_bytes()).segments
    assert [segment.flags for segment in segments[3:]] == (
        [PSH | ACK, RST | ACK] if reset else [PSH | ACK, FIN | ACK, FIN | ACK]
    )
    assert segments[3].payload == b"hello"


def test_nothing_is_told_where_no_tap_was_put() -> None:
    async def connected() -> Any:
        listener = TcpListener()
        await listener.start()
        link = await connect_tcp(listener.host, listener.port)
        await link.close()
        await listener.stop()
        return link.tap

    assert asyncio.run(connected()) is tap.SILENT


# files


KEYS = ["tls-sanity", "tls-sanity[tls1.3]", "tls-sanity[tls1_3]", "TLS-sanity", "a/../b", "..", "con", "nul.txt", "",
        "x" * 300, "x" * 301, "ü", "\ud800", "a[b@c]", "a_b_c_", ".hidden", "trailing."]  # fmt: skip


def test_file_names_are_safe_and_differ() -> None:
    names = [file_name(key) for key in KEYS]
    assert len({name.lower() for name in names}) == len(KEYS)
    for name in names:
        assert name.isascii()
        assert "/" not in name
        assert len(name) < 120
        assert name.partition(".")[0] not in ("", "con", "nul")
        assert name.endswith(".pcapng")
    assert names[0] == "tls-sanity.pcapng"


@pytest.fixture
def captures(tmp_path: Path) -> Iterator[Captures]:
    made = Captures(tmp_path / "evidence")
    yield made
    made.close()


def test_a_capture_lies_beside_the_record_and_none_is_overwritten(captures: Captures, tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        captures.begin()
        captures.stream(DOWNSTREAM, HERE, THERE, dialed=True)
        names.append(captures.save("tls-1[a]", "about"))
    assert len(set(names)) == 2
    assert all((tmp_path / name).is_file() for name in names)
    assert names[0].startswith("evidence/tls-1_a")


def test_nothing_is_written_when_nothing_went_over_a_wire(captures: Captures, tmp_path: Path) -> None:
    assert captures.save("a", "") == ""
    captures.begin()
    assert captures.save("a", "") == ""
    assert not (tmp_path / "evidence").exists()


def test_each_case_begins_with_an_empty_recording_and_key_log(captures: Captures, tmp_path: Path) -> None:
    assert captures.key_log_file is not None
    for number in (1, 2):
        captures.begin()
        stream = captures.stream(DOWNSTREAM, HERE, THERE, dialed=True)
        with Path(captures.key_log_file).open("a") as file:
            file.write(f"# made by a library\nCLIENT_RANDOM 0{number} 00\n")
        stream.sent(b"%d" % number)
    capture = Capture((tmp_path / captures.save("a", "")).read_bytes())
    assert capture.secrets == ["CLIENT_RANDOM 02 00"]
    assert [segment.payload for segment in capture.segments if segment.payload] == [b"2"]


def test_the_key_log_is_gone_at_the_end() -> None:
    made = Captures(Path("unused"))
    name = made.key_log_file
    assert name is not None
    assert Path(name).stat().st_mode & 0o077 == 0
    made.close()
    assert not Path(name).exists()


def test_a_token_keeps_its_connections_out(tmp_path: Path) -> None:
    made = Captures(tmp_path / "evidence", hide_token=True)
    assert made.key_log_file is None
    made.begin()
    assert made.stream(AGENT, HERE, THERE, dialed=True) is tap.SILENT
    for name, port in (("client-1", 1), ("client-2", 2)):
        stream = made.stream(DOWNSTREAM, ("127.0.0.1", port), THERE, dialed=True)
        stream.label(name)
        stream.sent(name.encode())
    made.carried(HERE, dialed=False).got(b"inside")
    capture = Capture((tmp_path / made.save("a", "", {"client-1"})).read_bytes())
    assert [segment.payload for segment in capture.segments if segment.payload] == [b"client-2", b"inside"]
    made.begin()
    made.stream(DOWNSTREAM, HERE, THERE, dialed=True).label("client-1")
    assert made.save("b", "", {"client-1"}) == "", "a capture of nothing is none"


def test_a_transcript_tells_no_secret_and_on_which_connection_it_was() -> None:
    transcript = Transcript(lambda: 0.0, secrets=("t0ken", ""))
    channel = transcript.channel(DOWNSTREAM, "client", "client-1")
    channel.sent("GET /t0ken", detail="Bearer t0ken", data=b"Authorization: Bearer t0ken")
    transcript.channel(DOWNSTREAM, "client", "client-2").sent("GET", data=b"nothing of it")
    said = transcript.events[0]
    assert (said.what, said.detail) == ("GET /*****", "Bearer *****")
    assert bytes.fromhex(said.sample or "") == b"Authorization: Bearer *****"
    assert transcript.confidential == {"client-1"}


@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_a_secret_in_pieces_is_told_no_more_than_a_whole_one(pieces: int) -> None:
    transcript = Transcript(lambda: 0.0, secrets=("t0ken", "other"))
    channel = transcript.channel(AGENT, "agent", "agent-1")
    said = b"before t0ken behind"
    channel.sent("raw octets", data=b"long before")
    for at in range(0, len(said), pieces):
        channel.sent("raw octets", data=said[at : at + pieces])
        transcript.channel(AGENT, "agent", "agent-2").sent("raw octets", data=b"x")
    ours = [event for event in transcript.events if event.channel == "agent-1"]
    told = b"".join(bytes.fromhex(event.sample or "") for event in ours)
    assert told.startswith(b"long before")
    assert told.endswith(b"behind")
    assert not set(b"t0k") & set(told)
    assert [event.digest is None for event in ours].count(True) >= 5 // pieces
    assert transcript.confidential == {"agent-1"}


def test_stale_captures_go_and_other_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    remove_stale(folder)
    folder.mkdir()
    (folder / "old.pcapng").touch()
    (folder / "notes.txt").touch()
    (folder / "dir.pcapng").mkdir()
    remove_stale(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["dir.pcapng", "notes.txt"]
    (folder / "notes.txt").unlink()
    (folder / "dir.pcapng").rmdir()
    remove_stale(folder)
    assert not folder.exists()


def test_a_segment_that_is_wrong_is_told_apart() -> None:
    """The reader of these tests does judge."""
    recording = Recording(ticking())
    recording.stream(DOWNSTREAM, HERE, THERE, dialed=True).sent(b"abc")
    (data,) = [segment.packet for segment in told(recording).segments if segment.payload]
    assert Segment(data).checksums_right
    assert not Segment(data[:-1] + b"d").checksums_right
