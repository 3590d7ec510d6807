"""The open session from an HTTP/1.1 client to an http/1.1 upstream: a byte stream that nobody in between rewrites."""

from __future__ import annotations

import asyncio
from typing import Any

from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage

from conformance.http._steps import meanwhile
from conformance.websocket._steps import Session, WebSocket, acceptance, ends, handshake, opened
from harness.link.stream import End, EndKind
from harness.model.case import case
from harness.model.spec import http
from harness.peer.raw import RawPeer
from harness.scene import Scene
from harness.wire import http1_write as write
from harness.wire import websocket as ws

UPGRADES = ("http.upgrade",)
MASK = b"\x12\x34\x56\x78"


async def _next(end: WebSocket, kind: type[Event]) -> Event:
    while True:
        for event in await end.events():
            if isinstance(event, kind):
                return event


async def _message(end: WebSocket) -> str | bytes | bytearray:
    """The next whole message at `end`."""
    parts: list[Message[Any]] = []
    while True:
        for event in await end.events():
            if isinstance(event, Message):
                parts.append(event)
                if event.message_finished:
                    data = [part.data for part in parts]
                    return "".join(data) if isinstance(data[0], str) else b"".join(data)


@case("ws-h1-21", checks=["HTTP-WS-001", "RFC6455-10.6-1"], publish=http(), features=UPGRADES)
async def test_messages_both_ways(scene: Scene) -> None:
    """Text, binary, a ping, 1 MiB and a close travel both ways over TLS to the edge, read by wsproto at both ends."""
    with scene.judging("HTTP-WS-001", "RFC6455-10.6-1"):
        client, server = ends(await opened(scene))
        large = scene.nonce() * (1 << 16)
        for message in (TextMessage("grüße"), BytesMessage(b"\x00\xff"), BytesMessage(large)):
            for one, other in ((client, server), (server, client)):
                async with meanwhile(one.send(message)):
                    got = await _message(other)
                scene.expect("HTTP-WS-001", got == message.data, expected="the message", actual=f"{len(got)} octets")
        await client.send(Ping(b"p"))
        ping = await _next(server, Ping)
        assert isinstance(ping, Ping)
        await server.send(ping.response())
        pong = await _next(client, Pong)
        assert isinstance(pong, Pong)
        scene.expect("HTTP-WS-001", bytes(pong.payload) == b"p", expected="the pong", actual=f"{pong}")
        await client.send(CloseConnection(1000, "bye"))
        close = await _next(server, CloseConnection)
        assert isinstance(close, CloseConnection)
        fine = (close.code, close.reason) == (1000, "bye")
        scene.expect("HTTP-WS-001", fine, expected="Close 1000 `bye`", actual=f"{close}")
        scene.expect("RFC6455-10.6-1", fine, expected="a whole session over TLS", actual=f"{close}")


FRAMES: dict[str, tuple[tuple[int, bytes, dict[str, Any]], ...]] = {
    "fragments": (
        (ws.TEXT, b"one", {"fin": False}),
        (ws.PING, b"between", {}),
        (ws.CONTINUATION, b"two", {"fin": False}),
        (ws.CONTINUATION, b"three", {}),
    ),
    "reserved-bits": ((ws.TEXT, b"deflated?", {"rsv": 4}), (ws.BINARY, b"x", {"rsv": 3})),
    "reserved-opcodes": ((0x3, b"?", {}), (0xB, b"!", {})),
    "long-lengths": ((ws.BINARY, b"short", {"length_octets": 3}), (ws.BINARY, b"short", {"length_octets": 9})),
    "invalid-utf-8": ((ws.TEXT, b"\xff\xfe\xc0\x80", {}),),
    "control": ((ws.PING, b"", {}), (ws.PONG, b"unasked", {}), (ws.CLOSE, ws.close_payload(4001, "bye"), {})),
}


def _wire(form: str, mask: bytes | None) -> bytes:
    return b"".join(ws.frame(opcode, payload, mask=mask, **how) for opcode, payload, how in FRAMES[form])


@case(
    "ws-h1-22",
    checks=["HTTP-WS-008", "RFC6455-5.1-1", "RFC6455-5.2-1", "RFC6455-5.4-1", "RFC6455-5.4-2"],
    publish=http(),
    features=UPGRADES,
    over={"frames": tuple(FRAMES)},
)
async def test_frames_arrive_octet_by_octet(scene: Scene) -> None:
    """Frames of any kind, legal or not, arrive as the octets that were sent: masked from the client, unmasked back.

    Each way the frames are followed by one more, so that nothing can be held back unnoticed.
    """
    form = scene.variant["frames"]
    session = await opened(scene)
    up, down = _wire(form, MASK), _wire(form, None)
    with scene.judging("RFC6455-5.2-1", "HTTP-WS-008"):
        await session.client.send(up + ws.frame(ws.BINARY, b"end", mask=MASK))
        at_server = await session.server.receive_exactly(len(up) + 9)
        await session.server.send(down + ws.frame(ws.BINARY, b"end"))
        at_client = await session.client.receive_exactly(len(down) + 5)
    same = at_server[: len(up)] == up and at_client[: len(down)] == down
    told = {"expected": "the same octets at both ends", "actual": f"{at_server[:40].hex()} and {at_client[:40].hex()}"}
    scene.expect("HTTP-WS-008", same, **told)
    scene.expect("RFC6455-5.1-1", same, **told, branch="byte-identical stream")
    scene.expect("RFC6455-5.2-1", same, **told, branch="same octets")
    scene.expect("RFC6455-5.4-1", same, **told, branch="identical order")
    scene.expect("RFC6455-5.4-2", same, **told, branch="same control frames")


@case("ws-h1-23", checks=["RFC6455-5.4-2", "HTTP-WS-008"], publish=http(), features=UPGRADES)
async def test_a_frame_in_many_segments(scene: Scene) -> None:
    """Frames that arrive octet by octet are relayed as the same octets, control frames among them.

    A barrier behind each octet keeps the engine from reading two at once.
    """
    session = await opened(scene)
    wire = ws.frame(ws.PING, b"", mask=MASK) + ws.frame(ws.TEXT, b"x", mask=MASK)
    for octet in wire:
        await session.client.send(bytes([octet]))
        await scene.settle()
    got = await session.server.receive_exactly(len(wire))
    told = {"expected": wire.hex(), "actual": got.hex()}
    scene.expect("RFC6455-5.4-2", got == wire, **told, branch="same control frames")
    scene.expect("HTTP-WS-008", got == wire, **told)


@case("ws-h1-24", checks=["RFC6455-5.4-3", "HTTP-WS-008"], publish=http(), features=UPGRADES)
async def test_fragments_under_an_extension(scene: Scene) -> None:
    """With an extension negotiated that nobody in between knows, frame headers arrive as they were sent."""
    extension = ("Sec-WebSocket-Extensions", "x-made-up")
    session = await opened(scene, extension, answer=[extension])
    fragments = ((ws.BINARY, b"a" * 300, 4, False), (ws.CONTINUATION, b"b", 2, False), (ws.CONTINUATION, b"c", 0, True))
    wire = b"".join(ws.frame(code, data, rsv=rsv, fin=fin, mask=MASK) for code, data, rsv, fin in fragments)
    await session.client.send(wire)
    got = await session.server.receive_exactly(len(wire))
    told = {"expected": f"{len(wire)} octets unchanged", "actual": got[:40].hex()}
    scene.expect("RFC6455-5.4-3", got == wire, **told, branch="identical frame headers")
    scene.expect("HTTP-WS-008", got == wire, **told)


@case("ws-h1-25", checks=["RFC6455-5.5-1"], publish=http(), features=UPGRADES)
async def test_nobody_in_between_answers_a_ping(scene: Scene) -> None:
    """A ping is the other end's to answer: the client gets the upstream's pong alone."""
    session = await opened(scene)
    ping, pong = ws.frame(ws.PING, b"who", mask=MASK), ws.frame(ws.PONG, b"me")
    await session.client.send(ping)
    at_server = await session.server.receive_exactly(len(ping))
    await scene.settle()
    await session.server.send(pong)
    at_client = await session.client.receive_exactly(len(pong))
    fine = at_server == ping and at_client == pong
    told = {"expected": "the ping, then the upstream's pong", "actual": f"{at_server.hex()} and {at_client.hex()}"}
    scene.expect("RFC6455-5.5-1", fine, **told)


@case(
    "ws-h1-26",
    checks=["RFC6455-5.5.1-1", "RFC6455-5.5.1-2", "RFC6455-7.1.1-1", "HTTP-WS-012"],
    publish=http(),
    features=UPGRADES,
)
async def test_the_closing_handshake(scene: Scene) -> None:
    """Close 4001 of the upstream reaches the client, its answer the upstream; then the upstream's end the client."""
    session = await opened(scene)
    said = ws.frame(ws.CLOSE, ws.close_payload(4001, "bye"))
    answer = ws.frame(ws.CLOSE, ws.close_payload(4001, "bye"), mask=MASK)
    with scene.judging("RFC6455-5.5.1-1"):
        await session.server.send(said)
        at_client = await session.client.receive_exactly(len(said))
        await session.client.send(answer)
        at_server = await session.server.receive_exactly(len(answer))
    told = {"expected": "Close 4001 both ways", "actual": f"{at_client.hex()} and {at_server.hex()}"}
    scene.expect("RFC6455-5.5.1-1", at_client == said and at_server == answer, **told)
    with scene.judging("RFC6455-5.5.1-2"):
        await session.server.send_end()
        rest, end = await session.client.receive_until_end()
    told = {"expected": "a clean end", "actual": f"{len(rest)} octets, then {_downstream(session, end)}"}
    clean = not rest and _downstream(session, end).clean
    scene.expect("RFC6455-5.5.1-2", not rest, expected="the end", actual=told["actual"])
    scene.expect("RFC6455-7.1.1-1", clean, **told)
    scene.expect("HTTP-WS-012", clean, **told, branch="half-close or full close")


def _downstream(session: Session, end: End) -> End:
    """How the client's connection ended: what TLS knows of it, where it does."""
    return session.http.end or end


@case("ws-h1-27", checks=["HTTP-WS-016"], publish=http(), features=UPGRADES)
async def test_a_frame_glued_to_the_101(scene: Scene) -> None:
    """A frame that the upstream sends in one segment with its 101 reaches the client."""
    client, request, _ = await handshake(scene)
    frame = ws.frame(ws.TEXT, b"glued")
    await request.upgrade(raw=write.response_head(101, acceptance(request)) + frame)
    response = await client.response()
    got = await client.tunnel().receive_exactly(len(frame)) if response.status == 101 else b""
    scene.expect("HTTP-WS-016", got == frame, expected=frame.hex(), actual=f"{response.status}, {got.hex()}")


@case(
    "ws-h1-28",
    checks=["RFC6455-7.1.7-1", "RFC6455-7.4.1-1", "HTTP-WS-012"],
    publish=http(),
    features=UPGRADES,
    over={"side": ("upstream", "client")},
)
async def test_an_abnormal_end(scene: Scene) -> None:
    """A reset of one end ends the other, and the engine makes no Close with 1000, 1005, 1006 or 1015 of it."""
    session = await opened(scene)
    from_client = scene.variant["side"] == "client"
    left, stays = (session.client, session.server) if from_client else (session.server, session.client)
    await left.send(ws.frame(ws.TEXT, b"last", mask=MASK if from_client else None))
    await stays.receive_exactly(6 + (4 if from_client else 0))
    left.abort()
    with scene.judging("RFC6455-7.1.7-1"):
        rest, end = await stays.receive_until_end()
    code = int.from_bytes(rest[2:4], "big") if rest[:1] == b"\x88" else 0
    actual = f"{rest.hex() or 'nothing'}, then {end}"
    made_up = code in (1000, 1005, 1006, 1015)
    branch = "reset" if end.kind is EndKind.RESET else "close without"
    if code and not made_up:
        branch = "a Close with 1001"
    reserved = code in (1005, 1006, 1015)
    scene.expect("RFC6455-7.4.1-1", not reserved, expected="no reserved code in a Close", actual=actual)
    scene.expect("RFC6455-7.1.7-1", not made_up, expected="an end without a made-up Close", actual=actual)
    scene.allow("RFC6455-7.1.7-1", branch)
    abrupt = end.kind is EndKind.RESET or not _downstream(session, end).clean
    scene.allow("HTTP-WS-012", "another reset code" if abrupt else "an abort that the agent leg")


@case(
    "ws-h1-29",
    checks=["RFC6455-6.1-1", "HTTP-WS-012"],
    publish=http(),
    features=UPGRADES,
    over={"side": ("upstream", "client")},
)
async def test_what_was_sent_before_an_end_arrives(scene: Scene) -> None:
    """What one end sends before it ends its direction arrives whole before that end, though the other reads late."""
    session = await opened(scene)
    content = scene.nonce() * (1 << 16)
    up = scene.variant["side"] == "client"
    sender, receiver = (session.client, session.server) if up else (session.server, session.client)

    async def finish() -> None:
        await sender.send(content)
        await sender.send_end()

    async with meanwhile(finish()):
        await scene.settle()
        with scene.judging("RFC6455-6.1-1"):
            got, end = await receiver.receive_until_end()
    told = {"expected": f"{len(content)} octets, then the end", "actual": f"{len(got)} octets, then {end}"}
    scene.expect("RFC6455-6.1-1", got == content, **told)
    scene.expect("HTTP-WS-012", got == content, **told, branch="half-close or full close")


OFFERED = 128 << 20
STALL_BOUND = 96 << 20
"""What an engine and the buffers of four sockets may hold at most: Linux lets each grow to tcp_rmem and tcp_wmem, 32
and 4 MiB on recent kernels, and what lies there is no memory of the engine's choosing."""


@case("ws-h1-30", checks=["RFC6455-10.4-1"], publish=http(), features=UPGRADES)
async def test_a_frame_without_end_is_pushed_back(scene: Scene) -> None:
    """A frame of 2^40 octets, of which 128 MiB are offered, is not swallowed: its sender comes to a stand."""
    session = await opened(scene)
    head = ws.frame(ws.BINARY, b"", mask=MASK, length=1 << 40)
    await session.client.send(head)
    await session.server.receive_exactly(len(head))
    session.request.connection.pause()
    taken = 0

    async def push() -> None:
        nonlocal taken
        while taken < OFFERED:
            await session.http.link.send(bytes(1 << 16))
            taken += 1 << 16

    async with meanwhile(push()):
        before = -1
        while before != taken and taken < OFFERED:
            before = taken
            await scene.settle()
    session.http.abort()
    told = {"expected": f"a stall below {STALL_BOUND} octets", "actual": f"{taken} octets taken"}
    scene.expect("RFC6455-10.4-1", taken < STALL_BOUND, **told)


@case(
    "ws-h1-31",
    checks=["HTTP-WS-013"],
    publish=http(),
    features=UPGRADES,
    settings={"timeout.http-response-ms": 1000},
)
async def test_a_quiet_session_outlives_the_request_timeout(scene: Scene) -> None:
    """A session that is quiet for longer than a request may wait for its response is not cut."""
    session = await opened(scene)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while loop.time() - begun < 2.0:
        await (await scene.tls_client()).close()
    with scene.judging("HTTP-WS-013"):
        for sender, receiver in ((session.client, session.server), (session.server, session.client)):
            await _passes(scene, sender, receiver)


async def _passes(scene: Scene, sender: RawPeer, receiver: RawPeer) -> None:
    await sender.send(b"still here")
    got = await receiver.receive_exactly(10)
    scene.expect("HTTP-WS-013", got == b"still here", expected="the octets", actual=f"{got!r}")


@case("ws-h1-32", checks=["RFC6455-7.4.1-1"], publish=http(), features=UPGRADES, needs=["dynamic"])
async def test_the_end_of_the_tunnel_below_a_session(scene: Scene) -> None:
    """When the tunnel is closed below a session it ends, and a Close that the engine makes holds no reserved code."""
    session = await opened(scene)
    await _passes_both(session)
    await scene.agent.close()
    with scene.judging("RFC6455-7.4.1-1"):
        rest, end = await session.client.receive_until_end()
    code = int.from_bytes(rest[2:4], "big") if rest[:1] == b"\x88" else 0
    actual = f"{rest.hex() or 'nothing'}, then {end}"
    fine = code not in (1005, 1006, 1015)
    scene.expect("RFC6455-7.4.1-1", fine, expected="no reserved code in a Close", actual=actual)


async def _passes_both(session: Session) -> None:
    await session.client.send(b"up")
    await session.server.receive_exactly(2)
    await session.server.send(b"down")
    await session.client.receive_exactly(4)
