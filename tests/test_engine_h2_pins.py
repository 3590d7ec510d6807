"""What the engine takes from h2 beyond its documented API is where it was: an upgrade that moves it fails here."""

from __future__ import annotations

import importlib.metadata
import inspect

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, RequestReceived
from h2.frame_buffer import FrameBuffer
from h2.stream import H2Stream

from reference_engine.http import h2_connection as ours
from reference_engine.http.floods import H2Limits
from reference_engine.http.h2_connection import H2, PRIVATE, H2Protocol
from reference_engine.http.rules import HttpRules
from tests.engine_h2_support import get

LIMITS = H2Limits(streams=8, window=65_535, resets=50, control=200, header_bytes=16_384)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("h2") == H2, "read the new version, then change H2"


@pytest.mark.parametrize("owner", PRIVATE)
def test_every_name_is_where_it_was(owner: str) -> None:
    config = H2Configuration(client_side=False)
    stock = {
        "connection": H2Connection(config),
        "stream": H2Stream(1, config, 65_535, 65_535),
        "buffer": FrameBuffer(server=True),
    }
    assert [name for name in PRIVATE[owner] if not hasattr(stock[owner], name)] == []


REPLACED = [
    (base, own, name)
    for base, own in ((H2Connection, H2Protocol), (H2Stream, ours._Stream), (FrameBuffer, ours._FrameBuffer))
    for name, _ in inspect.getmembers(base, inspect.isfunction)
    if name in vars(own) and name != "__init__"
]


@pytest.mark.parametrize(("base", "own", "name"), REPLACED)
def test_what_is_replaced_is_called_as_before(base: type, own: type, name: str) -> None:
    before, now = (list(inspect.signature(getattr(one, name)).parameters) for one in (base, own))
    assert before == now


def joined() -> tuple[H2Connection, H2Protocol]:
    """A stock client and our server, past their settings."""
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    server = H2Protocol(HttpRules(), LIMITS, client=False)
    server.start()
    server.feed(client.data_to_send(), 0.0)
    client.receive_data(server.data_to_send())
    server.feed(client.data_to_send(), 0.0)
    return client, server


def test_a_goaway_of_the_peer_lets_streams_go_on() -> None:
    client, server = joined()
    client.send_headers(1, get())
    events = server.feed(client.data_to_send() + b"\x00\x00\x08\x07\x00" + bytes(12), 0.0)
    assert [type(event) for event in events] == [RequestReceived, ConnectionTerminated]
    client.send_data(1, b"x")
    assert [type(event) for event in server.feed(client.data_to_send(), 0.0)] == [DataReceived]
    server.send_fields(1, [(b":status", b"200")], end=True)
    assert server.unsent


def test_the_window_of_a_stream_is_given_back_when_it_was_used_and_of_the_connection_at_once() -> None:
    client, server = joined()
    client.send_headers(1, get())
    for _ in range(3):
        client.send_data(1, b"x" * 16_384)
    server.feed(client.data_to_send(), 0.0)
    stream = server.streams[1]
    assert stream.inbound_flow_control_window == 65_535 - 3 * 16_384
    server.credit(1, 3 * 16_384)
    assert stream.inbound_flow_control_window == 65_535
