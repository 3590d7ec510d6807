"""`edgecase forward`: publish a local TCP service or QUIC server through any engine that speaks the agent protocol."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.agent_driver import TROUBLE, is_literal, split_address
from harness.engine.driver import Incoming, UpstreamQueue
from harness.errors import PeerMismatch, UsageError
from harness.link.agent import EngineAccess
from harness.link.datagram import DatagramLink
from harness.link.stream import Link, LinkReset
from harness.link.tcp import TcpLink, connect_tcp
from harness.link.udp import UdpLink, connect_udp
from harness.model.spec import TunnelSpec
from harness.peer.agent import Agent, EngineRefused
from harness.wire import agent as wire

if TYPE_CHECKING:
    from fixtures.agent import edgecase_agent_pb2 as pb

TOKEN_VARIABLE = "EDGECASE_TOKEN"
CONNECT_SECONDS = 5.0
MAX_STREAMS = 1024
INVALID_STREAM, SERVICE_UNAVAILABLE, CAPACITY_EXHAUSTED = 4000, 6000, 7000
"""Codes of refused streams."""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "forward", help="publish a local service through an engine", description=__doc__
    )
    parser.add_argument("service", metavar="[HOST:]PORT", help="the local service; the host is 127.0.0.1")
    parser.add_argument("--engine", required=True, metavar="HOST[:PORT]", help="the engine; the port is 443")
    parser.add_argument("--protocol", choices=("http", "tls", "tcp", "quic"), default="http", help="default: http")
    parser.add_argument("--hostname", metavar="NAME", help="ask for this public host name")
    parser.add_argument("--name", metavar="N", help="the tunnel's name, by which it can be dialled")
    parser.add_argument("--no-publish", action="store_true", help="a private tunnel: no public endpoint")
    parser.add_argument("--tls-mode", choices=("terminated", "passthrough"))
    parser.add_argument("--tls-alpn", action="append", default=[], metavar="PROTOCOL", help="may be repeated")
    parser.add_argument("--http-version", choices=("http/1.1", "h2c", "h3"), help="what the service speaks")
    parser.add_argument("--upstream-tls", action="store_true", help="the service speaks TLS")
    parser.add_argument(
        "--transport", choices=("tls", "quic"), default="tls", help="how the engine is reached (default: tls)"
    )
    parser.add_argument("--token", help=f"the agent's token; default: the variable {TOKEN_VARIABLE}")
    parser.add_argument("--certificate", metavar="FILE", help="PEM chain of the agent, instead of a token")
    parser.add_argument("--key", metavar="FILE", help="PEM private key of --certificate")
    parser.add_argument("--ca-file", metavar="FILE", help="PEM of the CA that signs the engine's certificate")
    parser.add_argument("--server-name", metavar="NAME", help="the engine's name in TLS; default: its host")
    parser.add_argument("--insecure", action="store_true", help="do not check the engine's certificate")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Forward until interrupted (0), or until the engine refuses or goes away (1). Raises `UsageError`."""
    service = _service(args.service)
    access, spec = _access(args), _spec(args)
    return asyncio.run(Forwarder(access, spec, service).run())


def _service(text: str) -> tuple[str, int]:
    try:
        host, port = split_address(text if ":" in text else f"127.0.0.1:{text}")
    except ValueError:
        raise UsageError(f"[HOST:]PORT: found {text!r}, allowed is a port from 1 to 65535, or host:port") from None
    return host, port


def _access(args: argparse.Namespace) -> EngineAccess:
    try:
        host, port = split_address(args.engine)
    except ValueError as error:
        raise UsageError(f"--engine: {error}") from None
    if (args.certificate is None) != (args.key is None):
        given, missing = ("--certificate", "--key") if args.key is None else ("--key", "--certificate")
        raise UsageError(f"{given}: given without {missing}, allowed is both or neither")
    if args.certificate and args.token:
        raise UsageError("--token: given together with --certificate, allowed is one of them")
    for flag, file in (("--certificate", args.certificate), ("--key", args.key), ("--ca-file", args.ca_file)):
        if file is not None:
            _check_readable(flag, file)
    return EngineAccess(
        host,
        port,
        server_name=args.server_name or host,
        ca_file=args.ca_file,
        insecure=args.insecure,
        token=args.token or (None if args.certificate else os.environ.get(TOKEN_VARIABLE) or None),
        certificate=(args.certificate, args.key) if args.certificate else None,
        transport=args.transport,
    )


def _check_readable(flag: str, file: str) -> None:
    try:
        with Path(file).open("rb"):
            return
    except OSError as error:
        raise UsageError(f"{flag}: cannot read {file}: {error.strerror}") from None


def _spec(args: argparse.Namespace) -> TunnelSpec:
    for flag, given, protocols in (
        ("--tls-mode", args.tls_mode, ("tls",)),
        ("--tls-alpn", args.tls_alpn, ("tls", "quic")),
        ("--http-version", args.http_version, ("http",)),
        ("--upstream-tls", args.upstream_tls, ("http", "tls")),
    ):
        if given and args.protocol not in protocols:
            raise UsageError(f"{flag}: found with --protocol {args.protocol}, allowed with {' or '.join(protocols)}")
    if args.no_publish and args.hostname:
        raise UsageError("--hostname: found with --no-publish, allowed for published tunnels")
    private = args.no_publish
    return TunnelSpec(
        # Asked for by name only: a private tunnel without a protocol carries any bytes.
        protocol=None if private and args.protocol == "tcp" else args.protocol,
        publish=not private,
        type="datagram" if args.protocol == "quic" or args.http_version == "h3" else "bytestream",
        name=args.name,
        hostname=args.hostname,
        tls_mode=args.tls_mode,
        tls_alpns=tuple(args.tls_alpn),
        http_version=args.http_version,
        upstream_tls=True if args.upstream_tls else None,
    )


def public_address(properties: pb.TunnelProperties) -> str:
    """How the tunnel is reached, in the form that agents of the service print."""
    told = wire.from_properties(properties)
    host, port, protocol = told.get("hostname") or told.get("host"), told.get("port"), told.get("protocol")
    if not told.get("publish", True) or not host:
        return f"{told.get('name') or told['id']} (private; dial it by name or id {told['id']})"
    if protocol in (None, "http"):
        return f"https://{host}" if port in (None, 443) else f"https://{host}:{port}"
    return f"{host}:{port or 443} ({protocol})"


class Forwarder:
    """One tunnel, and a TCP connection or a UDP flow to the service for each of its streams or datagram channels."""

    def __init__(self, access: EngineAccess, spec: TunnelSpec, service: tuple[str, int]) -> None:
        self._spec = spec
        self._service = service
        self._access = access
        self._agent = Agent(access, name="forward", admit=self._admit, abandoned=self._abandoned)
        self._ready: dict[str, TcpLink | UdpLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Publish and forward; gives the exit code. Raises `UsageError` for files that are no PEM."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
        try:
            return await self._forward(stopped)
        except ssl.SSLError as error:
            # Only a file gives this: what TLS itself says comes as a HandshakeFailed.
            why = getattr(error, "reason", None) or error
            raise UsageError(f"--ca-file, --certificate, --key: a file is no PEM of its kind ({why})") from None
        except EngineRefused as error:
            _say(f"the engine refused: {error}")
        except TROUBLE as error:
            _say(f"no tunnel at {self._access}: {error}{self._hint()}")
        finally:
            await self._close()
        return 1

    def _hint(self) -> str:
        literal = is_literal(self._access.address) and self._access.server_name == self._access.address
        return " (the engine's name in its certificate goes into --server-name)" if literal else ""

    async def _forward(self, stopped: asyncio.Event) -> int:
        await self._agent.open()
        queue = UpstreamQueue()
        properties = await self._agent.open_tunnel(self._spec, queue)
        _say(f"{public_address(properties)} -> {self._service_text()}")
        asked = asyncio.ensure_future(stopped.wait())
        lost = asyncio.ensure_future(self._agent.wait_lost())
        streams = asyncio.ensure_future(self._streams(queue))
        try:
            await asyncio.wait((asked, lost, streams), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (asked, lost, streams):
                waiting.cancel()
            await asyncio.gather(asked, lost, streams, return_exceptions=True)
        if stopped.is_set():
            _say("interrupted: tunnel closed")
            return 0
        _say(f"the engine went away: {self._agent.lost}")
        return 1

    def _service_text(self) -> str:
        host, port = self._service
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def _admit(self, request: pb.ProxyConnReq) -> tuple[int, str] | None:
        """Connect to the service first: an engine can then still tell its client that nobody is there."""
        if request.stream_id in self._ready:
            return INVALID_STREAM, "this stream is being opened already"
        if len(self._tasks) >= MAX_STREAMS:
            return CAPACITY_EXHAUSTED, f"no more than {MAX_STREAMS} streams at one time"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                connect = connect_udp if self._spec.datagrams else connect_tcp
                self._ready[request.stream_id] = await connect(*self._service)
        except (OSError, TimeoutError) as error:
            why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no answer"
            source = wire.address_text(request.source_ip) or "unknown"
            _say(f"stream {request.stream_id} from {source}: refused, {self._service_text()}: {why}")
            return SERVICE_UNAVAILABLE, "the local service does not answer"
        return None

    def _abandoned(self, request: pb.ProxyConnReq) -> None:
        self._ready.pop(request.stream_id).abort()
        _say(f"stream {request.stream_id}: the engine did not take it up")

    async def _streams(self, queue: UpstreamQueue) -> None:
        while True:
            incoming = await queue.get()
            task = asyncio.ensure_future(self._relay(incoming))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _relay(self, incoming: Incoming) -> None:
        service = self._ready.pop(incoming.stream_id)
        start = time.monotonic()
        try:
            if isinstance(service, UdpLink):
                both = pump_packets(incoming.packets, service), pump_packets(service, incoming.packets)
            else:
                both = pump(incoming.link, service), pump(service, incoming.link)
            (came, how), (went, other) = await asyncio.gather(*both)
        except PeerMismatch as wrong:
            came = went = 0
            how, other = f", {wrong}", ""
        finally:
            await service.close()
            await incoming.flow.close()
        seconds = time.monotonic() - start
        unit = "packets" if self._spec.datagrams else "octets"
        _say(
            f"stream {incoming.stream_id} from {incoming.source or 'unknown'}: {came} {unit} in, {went} out, "
            f"{seconds:.2f} s{how or other}"
        )

    async def _close(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._agent.close()
        for link in self._ready.values():
            link.abort()
            await link.close()


async def pump(source: Link, target: Link) -> tuple[int, str]:
    """Carry octets until `source` ends; its end and its reset go on to `target`. Gives the octets, and `""` or how it
    broke."""
    octets = 0
    try:
        while data := await source.receive(1 << 18):
            octets += len(data)
            await target.send(data)
        await target.send_end()
    except LinkReset as end:
        target.abort()
        source.abort()
        return octets, ", " + re.sub(r"^\[Errno \d+\] ", "", end.reason)
    return octets, ""


async def pump_packets(source: DatagramLink, target: DatagramLink) -> tuple[int, str]:
    """Carry packets until one of both is over, which ends the other one. Gives how many, and `""`: an end is nothing
    unusual for packets."""
    packets = 0
    try:
        while True:
            target.send(await source.receive())
            packets += 1
    except LinkReset:
        source.abort()
        target.abort()
    return packets, ""


def _say(line: str) -> None:
    print(line, flush=True)
