"""How a client's HTTP/2 connection begins (RFC 9113 sections 3.3, 3.4 and 6.5)."""

from __future__ import annotations

from typing import Any

from hyperframe.frame import SettingsFrame

from conformance.http2._faults import head
from conformance.http2._steps import H2, ended_by, judge_end, judge_works, nothing_whole, works
from conformance.http2._steps import PROTOCOL as ANY_END
from harness.model.case import case
from harness.model.spec import http
from harness.peer.http import ConnectionEnd
from harness.scene import Scene
from harness.wire.http2 import Flag, FrameType, Setting, frames


@case("h2-preface-01", checks=["RFC9113-3.2-2", "RFC9113-3.4-1", "RFC9113-6.5.2-2"], publish=http(), features=H2)
async def test_the_edge_begins_with_settings(scene: Scene) -> None:
    """The first frame of the edge is SETTINGS, which is no acknowledgement and does not announce push.

    One client says nothing behind its preface, another one asks for something at once (RFC 9113 sections 3.2, 3.4 and
    6.5.2).
    """
    upstream = scene.http_upstream()
    for asks in (False, True):
        client = await scene.http_client(version="h2")
        with scene.judging("RFC9113-3.4-1", "RFC9113-3.2-2", ends=True):
            if asks:
                await works(scene, client, upstream)
            await client.settled()
        first = client.seen[0]
        fine = first.kind == FrameType.SETTINGS and not first.has(Flag.ACK)
        told = ", ".join(first.describe())
        scene.expect("RFC9113-3.4-1", fine, expected="SETTINGS without ACK first", actual=told)
        scene.expect("RFC9113-3.2-2", fine, expected="SETTINGS without ACK first", actual=told)
        pushes = [value for seen in client.seen for name, value in seen.pairs if seen.kind == FrameType.SETTINGS
                  and name == Setting.ENABLE_PUSH]  # fmt: skip
        scene.expect("RFC9113-6.5.2-2", not any(pushes), expected="ENABLE_PUSH 0, or none", actual=f"{pushes}")


SAID = (
    (Setting.INITIAL_WINDOW_SIZE, 1),
    *((0xF000 + number, number) for number in range(16)),
    (Setting.INITIAL_WINDOW_SIZE, 65535),
)
"""The last value of a setting counts, and unknown ones are none."""


@case(
    "h2-preface-02",
    checks=["RFC9113-3.4-2", "RFC9113-6.5.3-1", "RFC9113-6.5.2-7", "RFC9113-5.5-1"],
    publish=http(),
    features=H2,
)
async def test_settings_are_acknowledged_and_obeyed(scene: Scene) -> None:
    """SETTINGS is acknowledged, its values apply in their order, and unknown ones are ignored.

    The initial window is 1 and then 65535 in one frame, with sixteen unknown settings in between: a response of 1,000
    octets comes without any more credit (RFC 9113 sections 3.4, 5.5, 6.5.2 and 6.5.3).
    """
    rows = ("RFC9113-3.4-2", "RFC9113-6.5.3-1", "RFC9113-6.5.2-7", "RFC9113-5.5-1")
    upstream = scene.http_upstream()
    client = await scene.http_client(version="h2", settings=SAID, hold=True)
    with scene.judging("RFC9113-3.4-2", "RFC9113-6.5.2-7", ends=True):
        await client.acknowledged()
    nonce = scene.nonce().hex()
    with scene.judging(*rows, ends=True):
        exchange = await client.begin("GET", f"/{nonce}", nonce=nonce)
        request = await upstream.request(nonce)
        await request.respond(200, body=b"x" * 1000)
        response = await exchange.response()
    told = response.describe()
    for row in rows:
        scene.expect(row, response.complete, expected="the acknowledgement, and a whole response", actual=told)


@case(
    "h2-preface-03",
    checks=["RFC9113-3.4-3", "RFC9113-5.4.1-2"],
    publish=http(),
    features=H2,
    over={"begins": ("corrupt", "no-settings", "http1")},
)
async def test_a_preface_that_is_none(scene: Scene) -> None:
    """A connection that does not begin with the preface and SETTINGS ends, and nothing of it is at the upstream.

    One octet of the preface is another one; HEADERS comes where SETTINGS should; an HTTP/1.1 request comes, which an
    edge may answer in its version (RFC 9113 section 3.4).
    """
    row, upstream = "RFC9113-3.4-3", scene.http_upstream()
    host = scene.endpoint().host.encode()
    options: dict[str, Any] = {
        "corrupt": {"preface": b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n", "first": frames.settings() + head(1)},
        "no-settings": {"first": head(1)},
        "http1": {"preface": b"GET /http1 HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", "first": b""},
    }[scene.variant["begins"]]
    client = await scene.http_client(version="h2", **options)
    end: ConnectionEnd | None = None
    with scene.judging(row, "RFC9113-5.4.1-2", ends=True):
        end = await client.closed()
    assert end is not None
    http1 = any(item.octets.startswith(b"HTTP/1.") for item in (client.unreadable,) if item)
    branch = "HTTP/1.1 error text then close" if http1 else "close with or without GOAWAY"
    scene.expect(row, True, expected="the end of the connection", actual=str(end), branch=branch)
    scene.expect("RFC9113-5.4.1-2", True, expected="the end of the connection", actual=str(end))
    await scene.settle()
    nothing_whole(scene, row, upstream)


@case("h2-preface-04", checks=["RFC9113-6.5.3-1"], publish=http(), features=H2)
async def test_the_first_settings_need_no_answer(scene: Scene) -> None:
    """A client whose acknowledgement is not there yet is served (RFC 9113 section 6.5.3)."""
    client = await scene.http_client(version="h2", acknowledge=False)
    await judge_works(scene, client, scene.http_upstream(), "RFC9113-6.5.3-1")
    assert any(isinstance(frame, SettingsFrame) for frame in client.frames)


@case("h2-preface-05", checks=["RFC9113-3.4-3"], publish=http(), features=H2)
async def test_settings_that_are_an_acknowledgement(scene: Scene) -> None:
    """SETTINGS with ACK is no beginning: the connection ends (RFC 9113 section 3.4)."""
    row, upstream = "RFC9113-3.4-3", scene.http_upstream()
    client = await scene.http_client(version="h2", first=frames.settings(ack=True))
    end: ConnectionEnd | None = None
    with scene.judging(row, ends=True):
        end = await ended_by(client)
    item = "close with or without GOAWAY"
    judge_end(scene, row, end, type(ANY_END)(item, ANY_END.codes, other=item, none=item))
    await scene.settle()
    nothing_whole(scene, row, upstream)
