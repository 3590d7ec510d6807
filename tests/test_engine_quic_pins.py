"""What the engine takes from aioquic beyond its documented API is where it was: an upgrade that moves it fails here."""

from __future__ import annotations

import importlib.metadata
import inspect
import re

import pytest
from aioquic import tls
from aioquic.quic import connection as stock
from aioquic.quic.recovery import QuicPacketPacer
from aioquic.quic.stream import QuicStream

from reference_engine.quic import connection as ours
from reference_engine.quic.configuration import server_configuration
from reference_engine.quic.connection import AIOQUIC, PRIVATE, EngineQuic, Windows
from reference_engine.quic.pacing import TICK, Pacer
from tests.engine_quic_support import HOP, client_configuration
from tests.engine_tls_support import self_signed


def pair() -> tuple[stock.QuicConnection, EngineQuic]:
    """A stock client, and our server with a held ClientHello."""
    client = stock.QuicConnection(configuration=client_configuration("a.test", "x"))
    client.connect(HOP, now=0.0)
    server = EngineQuic(
        configuration=server_configuration(self_signed("a.test"), Windows(), idle=10.0),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    for packet, _ in client.datagrams_to_send(now=0.0):
        server.receive_datagram(packet, HOP, now=0.0)
    return client, server


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("aioquic") == AIOQUIC, "read the new version, then change AIOQUIC"


@pytest.mark.parametrize("owner", PRIVATE)
def test_every_name_is_where_it_was(owner: str) -> None:
    client, server = pair()
    client.send_stream_data(0, b"x")
    stream = client._streams[0]
    objects = {
        "connection": (client, server),
        "tls": (client.tls, server.tls),
        "recovery": (client._loss, server._loss),
        "pacer": (client._loss._pacer, server._loss._pacer),
        "limit": (stock.Limit(0, "", 1),),
        "stream": (stream, QuicStream()),
        "receiver": (stream.receiver,),
        "sender": (stream.sender,),
    }
    for one in objects[owner]:
        assert [name for name in PRIVATE[owner] if not hasattr(one, name)] == []


@pytest.mark.parametrize(
    ("base", "ours_", "name"),
    [
        (stock.QuicConnection, EngineQuic, name)
        for name, _ in inspect.getmembers(stock.QuicConnection, inspect.isfunction)
        if name in vars(EngineQuic) and name != "__init__"
    ]
    + [(tls.Context, ours.HelloContext, "handle_message")],
)
def test_what_is_replaced_is_called_as_before(base: type, ours_: type, name: str) -> None:
    before, now = (list(inspect.signature(getattr(one, name)).parameters) for one in (base, ours_))
    assert before == now


def test_packets_are_paced_faster_than_a_window_in_a_round_trip_and_for_late_timers() -> None:
    _, server = pair()
    pacer = server._loss._pacer
    assert isinstance(pacer, Pacer)
    plain = QuicPacketPacer(max_datagram_size=1_200)
    for one in (plain, pacer):
        one.update_rate(120_000, 0.1)
    assert plain.packet_time == pytest.approx(0.001)
    assert pacer.packet_time == pytest.approx(0.0008)
    assert pacer.bucket_max == pytest.approx(0.8 * plain.bucket_max)  # no more packets at once
    pacer.update_rate(120_000, 0.001)
    assert pacer.bucket_max == TICK


def test_something_is_replaced() -> None:
    replaced = {name for name in vars(EngineQuic) if hasattr(stock.QuicConnection, name) and not name.startswith("__")}
    assert {"_initialize", "_write_stream_limits", "_write_datagram_frame", "_parse_transport_parameters"} <= replaced


def test_every_private_name_in_the_module_is_in_the_table() -> None:
    """A name of aioquic that the module uses and the table does not name would move unseen."""
    client, _ = pair()
    known = {name for names in PRIVATE.values() for name in names}
    source = inspect.getsource(ours)
    of_stock = set(vars(client)) | set(dir(stock.QuicConnection)) | set(vars(client.tls)) | set(dir(tls.Context))
    private = {name for name in of_stock if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if re.search(rf"\.{name}\b", source)} - known == set()
