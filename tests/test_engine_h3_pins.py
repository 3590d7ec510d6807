"""What the engine takes from aioquic's HTTP/3 beyond its documented API is where it was: an upgrade that moves it fails
here."""

from __future__ import annotations

import importlib.metadata
import inspect
import re

import pytest
from aioquic.h3 import connection as stock
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from reference_engine.http import h3_connection as ours
from reference_engine.http.h3_connection import AIOQUIC, PRIVATE, EngineH3
from reference_engine.http.h3_outlet import BoundedEncoder, Outlet
from reference_engine.http.h3_rules import H3Rules
from tests.engine_h3_support import Codec


def stock_connection() -> stock.H3Connection:
    quic = QuicConnection(configuration=QuicConfiguration(is_client=True))
    quic._remote_max_streams_uni = 3
    return stock.H3Connection(quic)


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("aioquic") == AIOQUIC, "read the new version, then change AIOQUIC"


@pytest.mark.parametrize("owner", PRIVATE)
def test_every_name_is_where_it_was(owner: str) -> None:
    connection = stock_connection()
    objects = {
        "connection": (connection, Codec().h3),
        "stream": (stock.H3Stream(0),),
        "quic": (connection._quic, Outlet(is_client=True, unidirectional=(2, 6, 10), datagrams=None)),
    }
    for one in objects[owner]:
        assert [name for name in PRIVATE[owner] if not hasattr(one, name)] == []


REPLACED = [
    name
    for name, _ in inspect.getmembers(stock.H3Connection, inspect.isfunction)
    if name in vars(EngineH3) and name != "__init__"
]


@pytest.mark.parametrize("name", REPLACED)
def test_what_is_replaced_is_called_as_before(name: str) -> None:
    before, now = (list(inspect.signature(getattr(one, name)).parameters) for one in (stock.H3Connection, EngineH3))
    assert before == now


@pytest.mark.parametrize("name", PRIVATE["quic"])
def test_the_outlet_is_called_as_the_connection_that_it_stands_for(name: str) -> None:
    if callable(method := getattr(QuicConnection, name, None)):
        assert set(inspect.signature(getattr(Outlet, name)).parameters) == set(inspect.signature(method).parameters)


@pytest.mark.parametrize("name", ["apply_settings", "encode", "feed_decoder"])
def test_the_encoder_has_what_the_library_calls(name: str) -> None:
    assert f"self._encoder.{name}(" in inspect.getsource(stock)
    assert callable(getattr(BoundedEncoder(H3Rules()), name))
    assert set(re.findall(r"self\._encoder\.(\w+)", inspect.getsource(stock))) == {
        "apply_settings",
        "encode",
        "feed_decoder",
    }


def test_something_is_replaced() -> None:
    assert {"_init_connection", "_get_local_settings", "_handle_request_or_push_frame", "_decode_headers"} <= set(
        REPLACED
    )


def test_every_private_name_in_the_module_is_in_the_table() -> None:
    """A name of aioquic that the module uses and the table does not name would move unseen."""
    known = {name for names in PRIVATE.values() for name in names}
    source = inspect.getsource(ours)
    of_stock = set(vars(stock_connection())) | set(dir(stock.H3Connection))
    private = {name for name in of_stock if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if re.search(rf"\.{name}\b", source)} - known == set()


def test_every_name_that_the_library_wants_of_its_connection_is_there() -> None:
    wanted = set(re.findall(r"self\._quic\.(\w+)", inspect.getsource(stock)))
    assert wanted - set(PRIVATE["quic"]) == {"send_datagram_frame"}
