"""gRPC's own client and server (grpcio) through the reference engine: HTTP/2 before it, h2c behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from tests.foreign_http_support import SECONDS, engine, tunnel

LARGE = 3_000_000
"""Many windows of a stream and of a connection, below gRPC's own limit of a message (4 MiB)."""
SERVICE = "edgecase.Test"
MANY = 50


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """All four kinds of call, and three that end otherwise. Messages are octets."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.metadata: list[dict[str, Any]] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The handler of a method."""
        self.metadata.append(dict(handler_call_details.invocation_metadata or ()))
        kinds: dict[str, Any] = {
            "One": grpc.unary_unary_rpc_method_handler(self.one),
            "Down": grpc.unary_stream_rpc_method_handler(self.down),
            "Up": grpc.stream_unary_rpc_method_handler(self.up),
            "Both": grpc.stream_stream_rpc_method_handler(self.both),
            "Refuses": grpc.unary_unary_rpc_method_handler(self.refuses),
            "Breaks": grpc.unary_stream_rpc_method_handler(self.breaks),
            "Hangs": grpc.unary_stream_rpc_method_handler(self.hangs),
        }
        return kinds.get(handler_call_details.method.rpartition("/")[2])

    def one(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """The same again, between metadata before and behind it."""
        context.send_initial_metadata((("x-before", "1"),))
        context.set_trailing_metadata((("x-behind", "2"), ("x-octets-bin", bytes(range(256)))))
        return request

    def down(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """As many messages as were asked for."""
        context.set_trailing_metadata((("x-behind", "2"),))
        yield from (bytes([number]) * 1000 for number in range(int(request)))

    def up(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        """How many messages and octets came."""
        sizes = [len(request) for request in requests]
        return f"{len(sizes)} {sum(sizes)}".encode()

    def both(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Each message at once."""
        for request in requests:
            yield request[::-1]

    def refuses(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """A status and nothing else, which is one HEADERS frame."""
        context.set_trailing_metadata((("x-behind", "2"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not this one: ü %")
        raise AssertionError("abort raises")

    def breaks(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A message, then a status."""
        yield b"first"
        context.abort(grpc.StatusCode.DATA_LOSS, "no more")

    def hangs(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        """A message, then nothing until the client has left."""
        context.add_callback(self.left.set)
        yield b"first"
        self.left.wait(SECONDS)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[grpc.Channel, Service]]:
    """A channel through a tunnel, and the service at its end."""
    service = Service()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with engine() as ready, tunnel(ready, port, "h2c") as edge:
            options = (
                ("grpc.ssl_target_name_override", edge.host),
                ("grpc.default_authority", edge.host),
                ("grpc.enable_http_proxy", 0),
            )
            credentials = grpc.ssl_channel_credentials(edge.ca.read_bytes())
            with grpc.secure_channel(edge.tcp, credentials, options) as channel:
                yield channel, service
    finally:
        server.stop(0).wait(SECONDS)


Served = tuple[grpc.Channel, Service]


def method(name: str) -> str:
    return f"/{SERVICE}/{name}"


def metadata(found: Any) -> dict[str, Any]:
    return {key: value for key, value in found or () if key.startswith("x-")}


def test_unary(served: Served) -> None:
    call = served[0].unary_unary(method("One"))
    answer, ended = call.with_call(
        b"hello", timeout=SECONDS, metadata=(("x-asked", "1"), ("x-octets-bin", b"\x00\xff"))
    )
    assert (answer, ended.code()) == (b"hello", grpc.StatusCode.OK)
    assert metadata(ended.initial_metadata()) == {"x-before": "1"}
    assert metadata(ended.trailing_metadata()) == {"x-behind": "2", "x-octets-bin": bytes(range(256))}
    asked = {"x-asked": "1", "x-octets-bin": b"\x00\xff"}
    assert any(asked.items() <= seen.items() for seen in served[1].metadata)


def test_a_message_of_many_windows(served: Served) -> None:
    message = bytes(number % 251 for number in range(LARGE))
    assert served[0].unary_unary(method("One"))(message, timeout=SECONDS) == message


def test_server_streaming(served: Served) -> None:
    call = served[0].unary_stream(method("Down"))(b"100", timeout=SECONDS)
    assert [message[0] for message in call] == list(range(100))
    assert (call.code(), metadata(call.trailing_metadata())) == (grpc.StatusCode.OK, {"x-behind": "2"})


def test_client_streaming(served: Served) -> None:
    call = served[0].stream_unary(method("Up"))
    assert call((b"m" * 5000 for _ in range(100)), timeout=SECONDS) == b"100 500000"


def test_both_streaming_turn_by_turn(served: Served) -> None:
    """The next message goes out once the answer to the one before is here: nothing waits for more octets."""
    turn = threading.Semaphore(1)

    def ask() -> Iterator[bytes]:
        for number in range(20):
            assert turn.acquire(timeout=SECONDS)
            yield f"{number:03}".encode()

    answers = []
    for answer in served[0].stream_stream(method("Both"))(ask(), timeout=SECONDS):
        answers.append(answer)
        turn.release()
    assert answers == [f"{number:03}".encode()[::-1] for number in range(20)]


def test_many_calls_side_by_side(served: Served) -> None:
    call = served[0].unary_unary(method("One"))
    running = [call.future(f"call {number}".encode(), timeout=SECONDS) for number in range(MANY)]
    assert [one.result() for one in running] == [f"call {number}".encode() for number in range(MANY)]


def test_a_status_without_a_message(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        served[0].unary_unary(method("Refuses"))(b"", timeout=SECONDS)
    ended: Any = raised.value
    assert (ended.code(), ended.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not this one: ü %")
    assert metadata(ended.trailing_metadata()) == {"x-behind": "2"}


def test_a_status_behind_a_message(served: Served) -> None:
    call = served[0].unary_stream(method("Breaks"))(b"", timeout=SECONDS)
    assert next(call) == b"first"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details()) == (grpc.StatusCode.DATA_LOSS, "no more")


def test_a_method_that_nobody_has(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        served[0].unary_unary(method("Nobody"))(b"", timeout=SECONDS)
    ended: Any = raised.value
    assert ended.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_that_is_given_up_ends_at_the_server(served: Served) -> None:
    channel, service = served
    service.left.clear()
    call = channel.unary_stream(method("Hangs"))(b"", timeout=SECONDS)
    assert next(call) == b"first"
    call.cancel()
    assert service.left.wait(SECONDS)
    assert call.code() is grpc.StatusCode.CANCELLED
