"""The record layer: protection, sizes, types, fragments, padding, and the update of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conformance.tls._steps import (
    VERSIONS,
    Ending,
    cut_off,
    echo,
    ended,
    ending_12,
    ending_13,
    quiet,
    reached,
    refusal,
    refused,
    works,
)
from harness.model.case import case
from harness.model.spec import tls
from harness.peer.tls import TlsPeer
from harness.scene import Scene
from harness.wire.tls import TLS12, TLS13, ContentType
from harness.wire.tls.messages import KeyUpdate

DATA = int(ContentType.APPLICATION_DATA)
HANDSHAKE = int(ContentType.HANDSHAKE)
CCS = int(ContentType.CHANGE_CIPHER_SPEC)
MOST = 1 << 14
MAC_13 = ending_13(20, item="fatal alert 20")
MAC_12 = ending_12(20, item="fatal alert 20")
OVERFLOW_13 = ending_13(22, item="fatal alert 22")
UNEXPECTED_13 = ending_13(10, item="fatal alert 10")


async def _broken(scene: Scene, row: str, version: int, allowed: Ending, spoil: Callable[[TlsPeer], Any]) -> None:
    """On a joined connection that has relayed, `spoil` sends something broken, then legal data: both legs end, and
    nothing of it is at the upstream."""
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(version,))
        await echo(scene, client, upstream, row)
        await spoil(client)
        await cut_off(scene, row, client, upstream, allowed)
        await client.close()


@case(
    "tls-record-01",
    checks=["RFC8446-5.2-2"],
    publish=tls(),
    over={"form": ("first-bit", "last-bit", "tag", "replayed", "ahead", "short")},
)
async def test_a_record_that_fails_deprotection_ends_it(scene: Scene) -> None:
    """In TLS 1.3 a record that fails deprotection ends the connection, and none of it is at the upstream.

    A bit of the ciphertext or of the tag is flipped, the record carries the number of an earlier or of a later one (a
    replay, a wrong order), or is too short for a tag. Another record, sound by itself, is sent behind it.
    """
    form = scene.variant["form"]
    how: dict[str, dict[str, int]] = {
        "first-bit": {"flip_bit": 0},
        "last-bit": {"flip_bit": 300},
        "tag": {"flip_bit": -1},
        "replayed": {"sequence": 0},
        "ahead": {"sequence": 100},
    }

    async def spoil(client: TlsPeer) -> None:
        if form == "short":
            await client.send_octets(b"\x17\x03\x03\x00\x05short")
        else:
            await client.raw_record(DATA, b"spoiled" * 10, **how[form])

    await _broken(scene, "RFC8446-5.2-2", TLS13, MAC_13, spoil)


@case(
    "tls-record-02",
    checks=["RFC5246-6.2.3.3-1"],
    publish=tls(),
    over={"form": ("first-bit", "last-bit", "tag", "replayed", "ahead")},
    features=["tls.1.2"],
)
async def test_a_record_that_fails_deprotection_ends_it_in_tls_12(scene: Scene) -> None:
    """In TLS 1.2 a record that fails AEAD decryption ends the connection, and none of it is at the upstream.

    A bit of the nonce, of the ciphertext or of the tag is flipped, or the record carries the number of an earlier or of
    a later one.
    """
    form = scene.variant["form"]
    how: dict[str, dict[str, int]] = {
        "first-bit": {"flip_bit": 64},
        "last-bit": {"flip_bit": 300},
        "tag": {"flip_bit": -1},
        "replayed": {"sequence": 0},
        "ahead": {"sequence": 100},
    }

    async def spoil(client: TlsPeer) -> None:
        await client.raw_record(DATA, b"spoiled" * 10, **how[form])

    await _broken(scene, "RFC5246-6.2.3.3-1", TLS12, MAC_12, spoil)


@case("tls-record-03", checks=["RFC8446-5.2-1", "RFC5246-6.2.3-1"], publish=tls(), features=["tls.1.2"])
async def test_a_protected_record_that_is_too_large_ends_it(scene: Scene) -> None:
    """A protected record above 2^14+256 octets (TLS 1.3) or 2^14+2048 (TLS 1.2) ends the connection.

    Nothing of it is at the upstream; records of the largest legal size are relayed.
    """
    for version in (TLS13, TLS12):
        row = "RFC8446-5.2-1" if version == TLS13 else "RFC5246-6.2.3-1"
        size = MOST + (257 if version == TLS13 else 2049)

        async def spoil(client: TlsPeer, size: int = size) -> None:
            await client.send_octets(b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size))

        allowed = OVERFLOW_13 if version == TLS13 else ending_12(22, item="fatal alert 22")
        await _broken(scene, row, version, allowed, spoil)
        with scene.judging(row):
            client, upstream = await scene.pair(versions=(version,))
            await client.send(bytes(MOST), record_size=MOST)
            got = await upstream.receive_exactly(MOST)
            scene.expect(row, got == bytes(MOST), expected="a full record relayed", actual="others")


@case("tls-record-04", checks=["RFC8446-5.1-3", "RFC5246-6.2.1-1"], publish=tls(), features=["tls.1.2"])
async def test_plaintext_fragments_are_bounded(scene: Scene) -> None:
    """A plaintext handshake record of 2^14+1 octets is refused, and the edge sends none of that size.

    The client sends such a record in place of its ClientHello; nothing is at the upstream. In bulk from the upstream,
    each record at the client holds at most 2^14 octets, in TLS 1.3 and 1.2.
    """
    with scene.judging("RFC8446-5.1-3"):
        client = await scene.tls_client(handshake=False, versions=(TLS13,))
        await client.send_octets(b"\x16\x03\x01" + (MOST + 1).to_bytes(2, "big") + b"\x01\x00\x40\x00" + bytes(MOST))
        await ended(scene, "RFC8446-5.1-3", client, await client.end(), OVERFLOW_13)
    await quiet(scene, "RFC8446-5.1-3")
    for version in (TLS13, TLS12):
        row = "RFC8446-5.1-3" if version == TLS13 else "RFC5246-6.2.1-1"
        with scene.judging(row):
            client, upstream = await scene.pair(versions=(version,))
            await upstream.send(bytes(1 << 18))
            await client.receive_exactly(1 << 18)
            largest = max(record.length for record in client.tls.records)
            scene.expect(row, largest <= MOST, expected="records of at most 16384 octets", actual=str(largest))


UNKNOWN_TYPE = Ending(
    {10: "fatal alert 10", 20: "fatal alert 20 for an unprotected"}, reset="connection ended", fin="connection ended"
)


@case(
    "tls-record-05",
    checks=["RFC8446-5-2"],
    publish=tls(),
    over={"form": ("in-handshake", "protected", "unprotected", "data-before-finished")},
)
async def test_an_unexpected_record_type_ends_it(scene: Scene) -> None:
    """In TLS 1.3 a record of an unexpected type ends the connection, and nothing of it is at the upstream.

    An unprotected record of type 99 in the handshake; behind it one whose inner type is 99, and an unprotected one;
    application data under the handshake's keys, in front of Finished.
    """
    row, form = "RFC8446-5-2", scene.variant["form"]
    if form in ("in-handshake", "data-before-finished"):
        kind = 99 if form == "in-handshake" else DATA
        plain = form == "in-handshake"

        def insert(tls_of: Any) -> bytes:
            return bytes(tls_of.build_record(kind, b"early", encrypted=not plain))

        step = "change_cipher_spec" if plain else "client_finished"
        await refused(scene, row, UNEXPECTED_13, versions=(TLS13,), insert={step: insert})
        await quiet(scene, row)
        await works(scene, row, versions=(TLS13,))
        return

    async def spoil(client: TlsPeer) -> None:
        if form == "protected":
            await client.raw_record(99, b"what")
        else:
            await client.raw_record(99, b"what", encrypted=False)

    await _broken(scene, row, TLS13, UNEXPECTED_13 if form == "protected" else UNKNOWN_TYPE, spoil)


@case("tls-record-06", checks=["RFC5246-6-1"], publish=tls(), features=["tls.1.2"])
async def test_an_unexpected_record_type_ends_it_in_tls_12(scene: Scene) -> None:
    """In TLS 1.2 a record of type 99, properly protected, ends the connection, and nothing of it is at the upstream."""

    async def spoil(client: TlsPeer) -> None:
        await client.raw_record(99, b"what")

    allowed = Ending({10: "fatal alert 10", 20: "fatal alert 20"}, reset="TCP reset", fin="FIN without an alert")
    await _broken(scene, "RFC5246-6-1", TLS12, allowed, spoil)


@case(
    "tls-record-07",
    checks=["RFC8446-5-1"],
    publish=tls(),
    over={"form": ("between", "two", "after")},
)
async def test_a_change_cipher_spec_is_dropped_or_ends_it(scene: Scene) -> None:
    """In TLS 1.3 a change_cipher_spec with value 1 is dropped in the handshake; another one, or later, ends it.

    One with value 1 in front of the client's Finished, where our client sends another already, is dropped. One with
    value 2 there, and one with value 1 behind Finished, end the connection with nothing at the upstream.
    """
    row, form = "RFC8446-5-1", scene.variant["form"]
    if form == "after":

        async def spoil(client: TlsPeer) -> None:
            await client.raw_record(CCS, b"\x01", encrypted=False)

        await _broken(scene, row, TLS13, UNEXPECTED_13, spoil)
        return
    value = b"\x01" if form == "between" else b"\x02"
    options: dict[str, Any] = {
        "versions": (TLS13,),
        "insert": {"change_cipher_spec": lambda end: end.build_record(CCS, value, encrypted=False)},
    }
    if form == "between":
        await works(scene, row, **options)
        return
    await refused(scene, row, UNEXPECTED_13, **options)
    await quiet(scene, row)


@case(
    "tls-record-08",
    checks=["RFC8446-5.1-1", "RFC5246-E.1-2"],
    publish=tls(),
    over={"form": ("100-octets", "one-octet", "together", "octets-on-tcp"), "version": tuple(VERSIONS)},
    features=["tls.1.2"],
)
async def test_fragments_and_record_versions(scene: Scene) -> None:
    """Handshake messages over many records, several in one, and any record version {3,x} are accepted.

    The client's messages go in records of 100 octets, of one octet (a refusal is noted), several in one record, or
    octet by octet on TCP; the ClientHello's records say version 0x0301. Then one handshake each with 0x0300, 0x0303 and
    0x03ff there. Octets are relayed each time.
    """
    form, versions = scene.variant["form"], VERSIONS[scene.variant["version"]]
    forms: dict[str, dict[str, Any]] = {
        "100-octets": {"record_size": 100},
        "one-octet": {"record_size": 1},
        "together": {"coalesce": True},
        "octets-on-tcp": {},
    }
    options = forms[form]
    with scene.judging("RFC8446-5.1-1"):
        client = await scene.tls_client(handshake=False, versions=versions, **options)
        if form == "octets-on-tcp":
            _octet_by_octet(client)
        end = await reached(scene, client)
        if end is None:
            scene.allow("RFC8446-5.1-1", "handshake succeeds")
        elif form == "one-octet":
            scene.allow("RFC8446-5.1-1", "1-byte records refused")
        else:
            scene.depart("RFC8446-5.1-1", expected="a handshake", actual=str(end))
    for number in (0x0300, 0x0303, 0x03FF):
        await works(scene, "RFC5246-E.1-2", versions=versions, record_version=number)


def _octet_by_octet(client: TlsPeer) -> None:
    """Let the link below `client` send one octet at a time until the handshake is done."""
    send = client.link.send

    async def slowly(data: bytes) -> None:
        if client.done is not None and len(data) > 4096:
            await send(data)
            return
        for at in range(len(data)):
            await send(data[at : at + 1])

    client.link.send = slowly  # type: ignore[method-assign]


INTERLEAVED = Ending(
    {10: "fatal alert 10"}, alert="another fatal alert", reset="connection ended", fin="connection ended"
)


@case("tls-record-09", checks=["RFC8446-5.1-2"], publish=tls(), over={"form": ("interleaved", "straddling")})
async def test_handshake_messages_stay_in_one_piece(scene: Scene) -> None:
    """In TLS 1.3 a record inside a split handshake message, and a message across a key change, end the connection.

    Half a KeyUpdate, application data, the other half: the connection ends, nothing of it at the upstream. A KeyUpdate
    with the first octets of another message behind it in the same record, the rest under the new keys: likewise.
    """
    row, whole = "RFC8446-5.1-2", KeyUpdate(0).encode()

    async def spoil(client: TlsPeer) -> None:
        if scene.variant["form"] == "interleaved":
            await client.raw_record(HANDSHAKE, whole[:2])
            await client.raw_record(DATA, b"between")
            await client.raw_record(HANDSHAKE, whole[2:])
        else:
            await client.raw_record(HANDSHAKE, whole + whole[:2])

    allowed = INTERLEAVED if scene.variant["form"] == "interleaved" else UNEXPECTED_13
    await _broken(scene, row, TLS13, allowed, spoil)


@case("tls-record-10", checks=["RFC8446-5.4-1"], publish=tls(), over={"form": ("padded", "zeros", "empty-zeros")})
async def test_padding_is_removed_and_padding_alone_ends_it(scene: Scene) -> None:
    """In TLS 1.3 padded records are relayed without their padding; one of padding alone ends the connection.

    Data with 1 and with 1000 octets of padding arrives as it is. A record whose plaintext has no octet but zeros (and
    one with none at all) ends the connection, with nothing at the upstream.
    """
    row, form = "RFC8446-5.4-1", scene.variant["form"]
    if form == "padded":
        for padding in (1, 1000):
            await works(scene, row, versions=(TLS13,), padding=padding)
        return

    async def spoil(client: TlsPeer) -> None:
        await client.raw_record(0, b"", padding=100 if form == "zeros" else 0)

    await _broken(scene, row, TLS13, UNEXPECTED_13, spoil)


@case("tls-record-11", checks=["RFC5246-6.2.1-2"], publish=tls(), features=["tls.1.2"])
async def test_empty_records(scene: Scene) -> None:
    """In TLS 1.2 empty application data is passed over, and the edge sends no empty handshake, alert or CCS record.

    The client sends three empty records of application data between two nonces, which the upstream gets as one stream.
    """
    row = "RFC5246-6.2.1-2"
    with scene.judging(row):
        client, upstream = await scene.pair(versions=(TLS12,))
        one, two = scene.nonce(), scene.nonce()
        await client.send(one)
        for _ in range(3):
            await client.raw_record(DATA, b"")
        await client.send(two)
        got = await upstream.receive_exactly(32)
        scene.expect(row, got == one + two, expected="both nonces", actual=got.hex())
        await echo(scene, client, upstream, row)
        empty = [record for record in client.tls.records if record.length == 0 and record.type != DATA]
        scene.expect(row, not empty, expected="no empty record", actual=f"types {[one.type for one in empty]}")


# Key update


async def _updates(scene: Scene, row: str, near: Any, far: Any) -> None:
    """`near` asks for new keys eight times; before the engine's next application record it must have said its own."""
    for _ in range(8):
        before = len(near.tls.records)
        await near.key_update(request=True)
        token = scene.nonce()
        await near.send(token)
        await far.receive_exactly(16)
        await far.send(token)
        got = await near.receive_exactly(16)
        kinds = [record.type for record in list(near.tls.records)[before:]]
        first = kinds.index(DATA) if DATA in kinds else 0
        right = got == token and HANDSHAKE in kinds[:first]
        scene.expect(row, right, expected="a KeyUpdate, then data under the new keys", actual=f"records {kinds}")


@case(
    "tls-key-update-01",
    checks=["RFC8446-4.6.3-1"],
    publish=tls(upstream_tls=True),
    over={"leg": ("client", "upstream")},
)
async def test_a_key_update_is_answered(scene: Scene) -> None:
    """A KeyUpdate that asks for one is answered before the next data, on either leg, and no octet is lost.

    Eight times a peer asks and sends a nonce; the answer to it must come behind a KeyUpdate of the edge. Then 1 MiB
    goes both ways, with eight more requests in its midst.
    """
    row = "RFC8446-4.6.3-1"
    versions = {"versions": (TLS13,)}
    with scene.judging(row):
        client, upstream = await scene.pair(upstream=versions, **versions)  # type: ignore[arg-type]
        near, far = (client, upstream) if scene.variant["leg"] == "client" else (upstream, client)
        await _updates(scene, row, near, far)
        data = scene.nonce() * 4096

        async def busy() -> None:
            for _ in range(8):
                await near.send(data)
                await near.key_update(request=True)
            await near.send(data)

        async def answering() -> bytes:
            await far.send(data * 9)
            return bytes(await far.receive_exactly(9 * len(data)))

        async def back() -> bytes:
            _, got = await scene.both(busy(), near.receive_exactly(9 * len(data)))
            return bytes(got)

        got = await scene.both(back(), answering())
        whole = got == (data * 9, data * 9)
        scene.expect(row, whole, expected="both streams whole", actual=f"{[len(one) for one in got]} octets")
        scene.allow(row, "one KeyUpdate per request")


@case("tls-key-update-02", checks=["RFC8446-4.6.3-2"], publish=tls(), over={"form": ("value-2", "before-finished")})
async def test_a_malformed_key_update_ends_it(scene: Scene) -> None:
    """A KeyUpdate with another request value than 0 and 1, or in front of Finished, ends the connection.

    Nothing that is sent behind it is at the upstream.
    """
    row = "RFC8446-4.6.3-2"
    if scene.variant["form"] == "value-2":

        async def spoil(client: TlsPeer) -> None:
            await client.key_update(request=2)
            await client.send(b"behind")

        await _broken(scene, row, TLS13, ending_13(47, item="fatal alert 47"), spoil)
        return
    early = {"client_finished": lambda end: end.build_record(HANDSHAKE, KeyUpdate(0).encode())}
    client = await scene.tls_client(handshake=False, versions=(TLS13,), insert=early)
    with scene.judging(row):
        end = await refusal(client, say=scene.nonce())
        # Before Finished the text names unexpected_message (10); the row's item names 47.
        right = end.alert in (None, 10)
        scene.expect(row, right, expected="alert 10, or an end without one", actual=str(end))
    await quiet(scene, row)
    await works(scene, row, versions=(TLS13,))
