"""UDP flows: whole packets in order, bounded queues, refusals told, one flow per remote address."""

from __future__ import annotations

import asyncio
import socket

import pytest

from harness.link import udp
from harness.link.stream import LinkReset
from harness.link.udp import UdpFlow, UdpLink, UdpListener, connect_udp


async def joined(listener: UdpListener, first: bytes = b"hello") -> tuple[UdpLink, UdpFlow]:
    """A client and its flow at `listener`, after `first` went over."""
    client = await connect_udp(listener.host, listener.port)
    client.send(first)
    flow = await listener.accept()
    assert await flow.receive() == first
    return client, flow


async def started(host: str = "127.0.0.1") -> UdpListener:
    listener = UdpListener()
    await listener.start(host)
    return listener


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_packets_go_both_ways_whole_and_in_order(host: str) -> None:
    async def script() -> None:
        listener = await started(host)
        client, flow = await joined(listener)
        assert (flow.local, flow.remote) == (client.remote, client.local)
        packets = [b"a", b"", bytes(udp.MAX_SENT), b"b"]
        for packet in packets:
            client.send(packet)
        assert [await flow.receive() for _ in packets] == packets
        for packet in packets:
            flow.send(packet)
        assert [await client.receive() for _ in packets] == packets
        assert client.receive_now() is None
        assert flow.receive_now() is None
        await client.close()
        await listener.stop()

    asyncio.run(script())


def test_each_address_is_a_flow_in_order_of_arrival() -> None:
    async def script() -> None:
        listener = await started()
        clients = [await connect_udp(listener.host, listener.port) for _ in range(3)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        clients[0].send(b"again")
        flows = [await listener.accept() for _ in clients]
        assert [await flow.receive() for flow in flows] == [b"0", b"1", b"2"]
        assert await flows[0].receive() == b"again"
        flows[1].send(b"for 1")
        assert await clients[1].receive() == b"for 1"
        assert clients[0].receive_now() is None
        for client in clients:
            client.abort()
        await listener.stop()

    asyncio.run(script())


def test_a_flow_comes_from_the_address_that_is_asked_for() -> None:
    async def script() -> None:
        listener = await started()
        client = await connect_udp(listener.host, listener.port, local="127.0.0.2")
        client.send(b"hello")
        flow = await listener.accept()
        assert flow.remote == client.local
        assert client.local[0] == "127.0.0.2"
        client.abort()
        await listener.stop()

    asyncio.run(script())


def test_a_port_where_nobody_listens_resets_the_flow_behind_what_arrived() -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        flow.send(b"last words")
        await listener.stop()
        client.send(b"anybody?")
        assert await client.receive() == b"last words"
        with pytest.raises(LinkReset, match="refused"):
            await client.receive()
        with pytest.raises(LinkReset, match="refused"):
            client.send(b"more")
        with pytest.raises(LinkReset, match="refused"):
            client.rebind()
        await client.close()

    asyncio.run(script())


def test_a_sender_hears_of_a_refusal_and_reads_what_came_before_it() -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        flow.send(b"last words")
        await listener.stop()
        client.send(b"anybody?")
        # No step of the loop in between: the refusal waits at the socket.
        with pytest.raises(LinkReset, match="refused"):
            client.send(b"more")
        assert await client.receive() == b"last words"
        with pytest.raises(LinkReset, match="refused"):
            await client.receive()

    asyncio.run(script())


def test_a_flow_goes_on_from_another_port() -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        before = client.local
        client.rebind()
        assert client.local[0] == before[0]
        assert client.local[1] != before[1]
        client.send(b"moved")
        moved = await listener.accept()
        assert moved.remote == client.local
        assert await moved.receive() == b"moved"
        flow.send(b"to the old port")
        moved.send(b"to the new one")
        assert await client.receive() == b"to the new one"
        await client.close()
        await listener.stop()

    asyncio.run(script())


def test_the_ports_that_a_flow_left_are_bounded_and_closed_with_it() -> None:
    async def script() -> None:
        listener = await started()
        client, _ = await joined(listener)
        ports = [client.local[1]]
        for _ in range(udp.MAX_LEFT + 3):
            client.rebind()
            ports.append(client.local[1])
        assert len(client._left) == udp.MAX_LEFT
        left = list(client._left)
        assert [sock.getsockname()[1] for sock in left] == ports[3:-1]
        await client.close()
        assert {sock.fileno() for sock in left} == {-1}
        await listener.stop()

    asyncio.run(script())


def test_a_closed_flow_ends_its_reader_and_is_no_new_flow() -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        reader = asyncio.create_task(flow.receive())
        await asyncio.sleep(0)
        await flow.close()
        await flow.close()
        with pytest.raises(LinkReset, match="closed"):
            await reader
        with pytest.raises(LinkReset, match="closed"):
            flow.send(b"no more")
        client.send(b"late")
        other, _ = await joined(listener)
        assert (listener.waiting, flow.receive_now()) == (0, None)
        for link in (client, other):
            await link.close()
            await link.close()
            with pytest.raises(LinkReset, match="closed"):
                await link.receive()
        await listener.stop()

    asyncio.run(script())


def test_flows_that_nobody_took_are_strays() -> None:
    async def script() -> None:
        listener = await started()
        taken, _ = await joined(listener)
        stray = await connect_udp(listener.host, listener.port)
        stray.send(b"unasked")
        await listener.arrival()
        (found,) = listener.strays()
        assert (await found.receive(), found.remote) == (b"unasked", stray.local)
        assert (listener.waiting, listener.strays()) == (0, [])
        stray.send(b"more")
        assert await found.receive() == b"more"
        for link in (taken, stray):
            link.abort()
        await listener.stop()

    asyncio.run(script())


def test_a_queue_has_a_limit_in_octets_and_in_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        for _ in range(5):
            client.send(bytes(100))
        client.send(b"fits")
        other, _ = await joined(listener)  # has been read when this one has
        assert flow.lost == 2
        assert [flow.receive_now() for _ in range(5)] == [bytes(100)] * 3 + [b"fits", None]
        client.send(bytes(100))
        assert await flow.receive() == bytes(100), "there is room again"
        for _ in range(20):
            client.send(b"")
        again, _ = await joined(listener)
        assert flow.lost == 2 + 20 - 600 // udp.PACKET_COST
        for link in (client, other, again):
            link.abort()
        await listener.stop()

    monkeypatch.setattr(udp, "MAX_UNREAD", 600)
    asyncio.run(script())


def test_a_listener_has_a_limit_of_flows_and_forgets_closed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script() -> None:
        listener = await started()
        first, flow = await joined(listener)
        second, other = await joined(listener)
        third = await connect_udp(listener.host, listener.port)
        third.send(b"no room")
        second.send(b"barrier")
        assert await other.receive() == b"barrier"
        assert (listener.lost, listener.waiting) == (1, 0)
        await flow.close()
        third.send(b"room")
        assert await (await listener.accept()).receive() == b"room"
        for link in (first, second, third):
            link.abort()
        await listener.stop()

    monkeypatch.setattr(udp, "MAX_FLOWS", 2)
    asyncio.run(script())


def test_a_packet_that_udp_cannot_carry_is_a_slip_of_ours() -> None:
    async def script() -> None:
        listener = await started()
        client, flow = await joined(listener)
        for link in (client, flow):
            with pytest.raises(ValueError, match="65508 octets"):
                link.send(bytes(udp.MAX_SENT + 1))
        await client.close()
        await listener.stop()

    asyncio.run(script())


def test_a_name_that_there_is_not_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=r".+"):
        asyncio.run(connect_udp("no-such-name.invalid", 1))


def test_a_listener_binds_a_port_of_its_own() -> None:
    async def script() -> None:
        listener = await started()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match=r".+"):
            other.bind((listener.host, listener.port))
        await listener.stop()
        await listener.stop()

    asyncio.run(script())
