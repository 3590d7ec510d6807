"""Connection ids: those that the engine gives, takes and retires, and those of a Retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from conformance.quic._steps import echo, ends, joined, listed
from conformance.quic._strangers import a_stranger, filling, first_flight, kinds_of, resealed
from harness.errors import DeadlineExpired, PeerMismatch
from harness.model.case import case
from harness.model.spec import quic
from harness.scene import Scene
from harness.wire.quic import Level, PacketKind, QuicClient, RetryReceived
from harness.wire.quic.frames import NewConnectionId, Ping, RetireConnectionId
from harness.wire.quic.numbers import ErrorCode, ParameterId
from harness.wire.quic.packet import parse_header

CONNECTIONS = 10
IDS = 8
UPLOAD = 64 * 1024
UNFINISHED = 80
"""Half-done handshakes under which an edge may want proof of every address."""
COPIES = 3


@case("quic-cids-01", checks=["RFC9000-5.1-1", "RFC9000-10.3.2-1"], publish=quic())
async def test_ids_and_reset_tokens_do_not_repeat(scene: Scene) -> None:
    """No connection id is given twice on a connection, and no reset token twice at all.

    Ten clients that keep eight ids take all that the engine gives (NEW_CONNECTION_ID, its first id, the token of the
    transport parameters). What the ids of all of them begin with alike is noted: a prefix for routing links nothing.
    """
    tokens: list[bytes] = []
    every: list[bytes] = []
    for _ in range(CONNECTIONS):
        client, _ = await joined(scene, active_connection_id_limit=IDS)
        given = [seen.frame for seen in client.frames if isinstance(seen.frame, NewConnectionId)]
        numbered = {frame.sequence: frame for frame in given}
        ids = [client.wire.initial_source(), *(frame.connection_id for frame in numbered.values())]
        twice = sorted({each.hex() for each in ids if ids.count(each) > 1})
        scene.expect("RFC9000-5.1-1", not twice, expected="ids that differ", actual=f"{', '.join(twice)} twice")
        every += ids
        tokens += [frame.reset_token for frame in numbered.values()]
        first = client.remote_parameters and client.remote_parameters.get(ParameterId.STATELESS_RESET_TOKEN)
        tokens += [first] if first else []
        await client.shut()
    alike = 0
    while alike < min(map(len, every)) and len({each[alike] for each in every}) == 1:
        alike += 1
    scene.transcript.note("recorded", f"{len(every)} ids, of which {alike} octets are the same at the beginning")
    same = sorted({token.hex() for token in tokens if tokens.count(token) > 1})
    told = f"{', '.join(same[:4])} more than once among {len(tokens)}"
    scene.expect("RFC9000-10.3.2-1", not same, expected="reset tokens that differ", actual=told)


@case("quic-cids-02", checks=["RFC9000-5.1.1-1"], publish=quic())
async def test_every_id_that_was_given_is_taken(scene: Scene) -> None:
    """A client may go on under each connection id that the engine has given, in the middle of a transfer.

    During an upload of 64 KiB the client changes to every other id that it has, one after the other, each with a PING
    that is acknowledged. The upload arrives whole, and the connection goes on (B2).
    """
    row = "RFC9000-5.1.1-1"
    client, server = await joined(scene)
    spare = len(client.wire.remote_ids) - 1
    if not spare:
        scene.not_run(row, "the engine gives no further connection ids")
        return
    content = scene.nonce() + filling(scene, UPLOAD)
    step = len(content) // (spare + 1) + 1
    upload = await client.open_stream()
    with scene.judging(row, ends=True):
        for number in range(spare + 1):
            await upload.send(content[number * step : (number + 1) * step], fin=number == spare)
            if number < spare:
                client.channel.sent("another connection id", detail=client.wire.change_connection_id().hex())
            await client.ping()
        there = await server.accept_stream_with(content[:16])
        got, end = await there.receive_until_end()
        if got != content or end.kind != "fin":
            raise PeerMismatch(f"{len(content)} octets and FIN", f"{len(got)} octets, equal: {got == content}, {end}")
    await echo(scene, client, server, row)
    scene.expect(row, client.ended is None, expected="a connection that goes on", actual=str(client.ended))


@case("quic-cids-03", checks=["RFC9000-5.1.2-1"], publish=quic())
async def test_ids_that_are_to_be_retired_are(scene: Scene) -> None:
    """Retire Prior To is obeyed: the engine retires the ids below, and uses the new one.

    The client gives a new connection id and asks for those before it to be retired. RETIRE_CONNECTION_ID comes for each
    of them; behind B2 the engine's packets go to the new id alone.
    """
    row = "RFC9000-5.1.2-1"
    client, server = await joined(scene)
    wire = client.wire
    sequence, token = wire.next_local_id, scene.nonce()
    old = set(range(sequence))
    fresh = wire.new_id()
    client.say(NewConnectionId(sequence, sequence, fresh, token))

    def retired() -> set[int]:
        return {seen.frame.sequence for seen in client.frames if isinstance(seen.frame, RetireConnectionId)}

    with scene.judging(row, ends=True):
        await client.until(lambda: retired() >= old, f"RETIRE_CONNECTION_ID for each of {sorted(old)} at the client")
    await echo(scene, client, server, row)
    seen = len(wire.packets)
    await echo(scene, client, server, row)
    used = {info.destination for way, info in list(wire.packets)[seen:] if way == "received"}
    told = ", ".join(each.hex() for each in used)
    scene.expect(row, used == {fresh}, expected=f"packets to {fresh.hex()} alone", actual=f"packets to {told}")


@case("quic-cids-04", checks=["RFC9000-5.1.1-2"], publish=quic(), over={"by": ("engine", "client")})
async def test_no_more_ids_than_the_other_side_keeps(scene: Scene) -> None:
    """The engine gives no more connection ids than the client keeps, and ends a connection that brings it too many.

    A client that keeps two gets one beside the first; a client that gives two more than active_connection_id_limit of
    the engine allows is closed.
    """
    row, code = "RFC9000-5.1.1-2", ErrorCode.CONNECTION_ID_LIMIT_ERROR
    if scene.variant["by"] == "engine":
        with scene.judging(row, ends=True):
            client, server = await joined(scene, active_connection_id_limit=2)
            await echo(scene, client, server)
        given = {seen.frame.sequence for seen in client.frames if isinstance(seen.frame, NewConnectionId)}
        scene.expect(row, len(given) <= 1, expected="one id at most", actual=f"ids {sorted(given)} beside the first")
        return
    client, _ = await joined(scene)
    limit = client.remote_parameters.active_connection_id_limit if client.remote_parameters else 2
    first = client.wire.next_local_id
    many = [NewConnectionId(number, 0, scene.nonce()[:8], scene.nonce()) for number in range(first, limit + 3)]
    await ends(scene, row, client, *many, named=code, first="CONNECTION_CLOSE CONNECTION_ID_LIMIT_ERROR")


@dataclass
class SecondInitial:
    """Gives our second datagram another source connection id, and holds back those behind it until `released`."""

    source: bytes
    released: bool = False

    def __call__(self, index: int, datagram: bytes) -> bytes | None:
        """See `QuicOptions.tamper_datagram`."""
        if index == 1:
            return resealed(datagram, source=self.source)
        return datagram if self.released or not index else None


@case("quic-second-scid-01", checks=["RFC9000-7.2-1"], publish={"main": listed(), "other": listed()})
async def test_the_first_initial_fixes_the_clients_id(scene: Scene) -> None:
    """What the engine sends goes to the id of the client's first Initial, whatever a later Initial says.

    Right behind the first one comes an Initial with another source connection id, protected as it should be; the client
    says nothing more until the engine has taken it in (B1, on another tunnel of the same port). Then the handshake is
    confirmed, the tunnel works (B2), and no packet has gone to the other id.
    """
    row, other = "RFC9000-7.2-1", scene.nonce()[:8]
    second = SecondInitial(other)
    # Which Initial is the first is what this is about, so no relay of the run may lose or reorder them.
    link = await scene.udp(direct=True)
    client = await scene.quic_client(handshake=False, link=link, tamper_datagram=second)
    await client.start()
    client.say(Ping(), level=Level.INITIAL)
    await scene.settle("other")
    second.released = True
    with scene.judging(row, ends=True):
        await client.confirmed()
        server = await scene.quic_upstream().accept()
    await echo(scene, client, server, row)
    misled = [info for way, info in client.wire.packets if way == "received" and info.destination == other]
    scene.expect(row, not misled, expected="packets to the first id alone", actual=f"{len(misled)} to the other one")


@case(
    "quic-retry-01",
    checks=["RFC9000-8.1.2-1", "RFC9000-17.2.5.1-1"],
    publish=listed(),
    needs=["private-engine"],
    slow=True,
)
async def test_a_retry_waits_for_its_token(scene: Scene) -> None:
    """Behind a Retry there is a connection only for a client that comes back with the token.

    Eighty half-done handshakes make the edge careful. A client whose Initial comes three times without a token gets
    Retry packets alone, not more than it has sent, each with another id than it chose; nothing of it is at the upstream
    (B1). One that follows the Retry is served. Without any Retry nothing is shown.
    """
    rows = ("RFC9000-8.1.2-1", "RFC9000-17.2.5.1-1")
    crowd = await a_stranger(scene)
    for _ in range(UNFINISHED):
        _, flight = first_flight(scene)
        await crowd.send(flight[0])
    wire, flight = first_flight(scene)
    asking = await a_stranger(scene)
    for _ in range(COPIES):
        await asking.send(flight[0])
    try:
        answers = [await asking.receive()]
    except DeadlineExpired:
        answers = []
    if PacketKind.RETRY not in [kind for answer in answers for kind in kinds_of(answer)]:
        for row in rows:
            scene.not_run(row, f"no Retry beside {UNFINISHED} unfinished handshakes")
        return
    _other_ids(scene, rows[1], wire, answers)
    with scene.judging(rows[0], ends=True):
        client, _ = await joined(scene)
    followed = any(isinstance(event, RetryReceived) for event in client.events)
    scene.transcript.note("recorded", f"the client that was served {'got' if followed else 'did not get'} a Retry")
    await scene.settle()
    answers += asking.arrived()
    other = sorted({kind.name.lower() for answer in answers for kind in kinds_of(answer)} - {"retry"})
    told = f"packets: {', '.join(other)}"
    scene.expect(rows[0], not other, expected="Retry packets alone without the token", actual=told)
    await scene.untouched(rows[0])
    _other_ids(scene, rows[1], wire, answers[1:])
    told = f"{len(answers)} for {COPIES} Initials"
    scene.expect(rows[1], len(answers) <= COPIES, expected="one Retry for an Initial at most", actual=told)


def _other_ids(scene: Scene, row: str, wire: QuicClient, answers: Sequence[bytes]) -> None:
    """Each Retry names another id than the client chose."""
    chosen = wire.original_destination
    sources = [parse_header(answer, 0, len(chosen)).source for answer in answers]
    told = f"a Retry with the ids {', '.join(source.hex() for source in sources)}"
    scene.expect(row, chosen not in sources, expected=f"another id than {chosen.hex()}", actual=told)
