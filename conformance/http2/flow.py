"""Flow control on a client's connection: credit is never exceeded (RFC 9113 sections 5.2 and 6.9)."""

from __future__ import annotations

import random

from conformance.http._steps import meanwhile
from conformance.http2._steps import H2, works
from harness.errors import DeadlineExpired, PeerMismatch
from harness.link.deadline import deadline
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http2 import Http2Client
from harness.scene import Scene
from harness.wire.http1_message import Violation
from harness.wire.http2 import ErrorCode, Setting, error_name, frames

MEBIBYTE = 1 << 20
CHUNK = 16384


def _overruns(violations: list[Violation]) -> str:
    return "; ".join(str(item) for item in violations if "6.9.1" in str(item)) or "none"


@case("h2-flow-01", checks=["RFC9113-5.2.1-1", "RFC9113-6.9.1-1"], publish=http(), features=H2)
async def test_a_small_window_is_kept_to(scene: Scene) -> None:
    """With an initial window of 10 and no credit the edge sends 10 octets of a response.

    Another stream that gets credit is served meanwhile.

    Then credit comes in small pieces at random, and never is there more content than credit (RFC 9113 sections 5.2.1
    and 6.9.1).
    """
    rows = ("RFC9113-5.2.1-1", "RFC9113-6.9.1-1")
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2", settings={Setting.INITIAL_WINDOW_SIZE: 10}, hold=True)
    slow, quick = scene.nonce().hex(), scene.nonce().hex()
    with scene.judging(*rows, ends=True):
        await client.acknowledged()
        stalled = await client.begin("GET", f"/{slow}", nonce=slow)
        await (await upstream.request(slow)).respond(200, body=bytes(4000))
        served = await client.begin("GET", f"/{quick}", nonce=quick)
        client.say(frames.window_update(served.id, 10_000))
        await (await upstream.request(quick)).respond(200, body=b"quick" * 1000)
        response = await served.response()
    got = client.wire.streams[stalled.id].heard
    scene.expect(rows[0], got <= 10 and response.complete, expected="10 octets at most", actual=f"{got} octets")
    chance, given = random.Random(scene.nonce()), 10
    scene.transcript.note("seed", "increments of 1 to 300 octets, by the nonce of the run")
    with scene.judging(*rows, ends=True):
        while given < 4000:
            increment = chance.randint(1, 300)
            client.say(frames.window_update(stalled.id, increment))
            given += increment
            expected = min(given, 4000)
            await _brings(client, stalled.id, expected)
            got = client.wire.streams[stalled.id].heard
            scene.expect(rows[1], got <= given, expected=f"{given} octets at most", actual=f"{got} octets")
        response = await stalled.response()
    told = _overruns([*client.violations, *response.violations])
    scene.expect(rows[1], response.complete and told == "none", expected="a whole response by credit", actual=told)


async def _brings(client: Http2Client, stream: int, octets: int) -> None:
    await client.until(lambda: _heard(client, stream) >= octets, f"{octets} octets by credit")


@case("h2-flow-02", checks=["RFC9113-6.9.2-1"], publish=http(), features=H2)
async def test_a_window_that_goes_below_zero(scene: Scene) -> None:
    """The initial window goes from 65535 to 0 during a response: the edge stops until the window is above zero again.

    It is counted from the acknowledgement. Credit that only brings the window back to zero brings no octet; one more
    brings one (RFC 9113 section 6.9.2).
    """
    row, upstream = "RFC9113-6.9.2-1", scene.http_upstream()
    client = await scene.http_client(version="h2", hold=True)
    nonce = scene.nonce().hex()
    with scene.judging(row, ends=True):
        exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
        request = await upstream.request(nonce)
        await request.begin_response(200, [("content-length", "200000")])
        await request.send_content(bytes(40_000))
        await client.until(lambda: _heard(client, exchange.id) == 40_000, "the first 40,000 octets")
        client.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 0)]))
        await client.acknowledged()
        async with meanwhile(request.send_content(bytes(160_000))):
            await _stays(scene, client, exchange.id, 40_000)
            client.say(frames.window_update(exchange.id, 40_000))
            await _stays(scene, client, exchange.id, 40_000)
            client.say(frames.window_update(exchange.id, 1))
            await client.until(lambda: _heard(client, exchange.id) >= 40_001, "one octet for one octet of credit")
            await _stays(scene, client, exchange.id, 40_001)
            client.say(frames.settings([(Setting.INITIAL_WINDOW_SIZE, 200_000)]))
            response = await exchange.response()
    told = _overruns([*client.violations, *response.violations])
    fine = response.complete and told == "none"
    scene.expect(row, fine, expected="a whole response, by credit", actual=f"{response.describe()}; {told}")


def _heard(client: Http2Client, stream: int) -> int:
    return client.wire.streams[stream].heard


async def _stays(scene: Scene, client: Http2Client, stream: int, octets: int) -> None:
    """Behind the barrier the stream has brought exactly so many octets."""
    await scene.settle()
    got = _heard(client, stream)
    scene.expect("RFC9113-6.9.2-1", got == octets, expected=f"{octets} octets", actual=f"{got} octets")


@case("h2-flow-03", checks=["RFC9113-6.9.1-3"], publish=http(), features=H2)
async def test_content_beyond_the_credit(scene: Scene) -> None:
    """10 MiB more than the edge gave credit for, toward an upstream that does not read: refused, or bounded.

    RFC 9113 section 6.9.1, ruling C-46. Where the edge goes on reading all of it, that is buffering without bound.
    """
    row, upstream = "RFC9113-6.9.1-3", scene.http_upstream()
    client = await scene.http_client(version="h2")
    nonce = scene.nonce().hex()
    with scene.judging(row, ends=True):
        exchange = await client.begin("POST", f"/{nonce}", nonce=nonce, end=False)
        request = await upstream.request(nonce)
        request.connection.pause()
        await client.ping()
    beyond = max(client.wire.send_window, client.wire.streams[exchange.id].send_window) + 10 * MEBIBYTE
    said, taken = 0, True
    while said < beyond and not (client.over or client.wire.goaways or exchange.reset_code is not None):
        client.say(frames.data(exchange.id, bytes(CHUNK)))
        said += CHUNK
        try:
            async with deadline("the edge to take content beyond the credit"):
                await client.flushed()
        except DeadlineExpired:
            taken = False
            break
    told = f"{said} octets were said; "
    if taken and not client.over:
        try:
            await client.ping()
        except DeadlineExpired:
            taken = False
        except PeerMismatch:
            pass  # the connection has ended, which is judged below
    code = exchange.reset_code if exchange.reset_code is not None else client.end_code
    if code is not None:
        codes = {ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.PROTOCOL_ERROR, ErrorCode.ENHANCE_YOUR_CALM, 2}
        branch = "RST_STREAM or GOAWAY with FLOW_CONTROL_ERROR"
        scene.expect(row, code in codes, expected=branch, actual=told + error_name(code), branch=branch)
    elif client.over:
        scene.expect(row, True, expected="", actual=told, branch="close without GOAWAY")
    elif not taken:
        scene.allow(row, "excess tolerated within a fixed bound")
    else:
        scene.depart(row, expected="FLOW_CONTROL_ERROR, or a bound", actual=told + "all of them were taken")
    await works(scene, await scene.http_client(version="h2"), upstream)
