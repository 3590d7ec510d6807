"""The scene: the one object that a case receives.

It holds the published tunnels, makes peers, keeps the transcript, judges, and knows the barrier. It closes everything
it made.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from harness.engine.driver import Driver, Endpoint, Inexpressible, Published, Refused, Session
from harness.errors import DeadlineExpired, NotSupported, PeerMismatch, SetupFailed
from harness.evidence.transcript import DOWNSTREAM, Transcript
from harness.judge import Judge, LedgerView
from harness.link.datagram import DatagramLink
from harness.link.deadline import deadline
from harness.link.faults import FaultPlan
from harness.link.relay import TcpRelay, UdpRelay
from harness.link.stream import LinkReset
from harness.link.tcp import connect_tcp
from harness.link.udp import UdpLink, connect_udp
from harness.model.case import Case, Variant
from harness.model.profile import Profile
from harness.model.spec import QUIC_ALPN, TunnelSpec
from harness.peer.raw import RawPeer
from harness.peer.upstream import Stray, UpstreamSide
from harness.scene_http import HttpPeers
from harness.tasks import side_by_side

if TYPE_CHECKING:
    from harness.peer.agent import Agent, ScriptedAgent
    from harness.peer.http import HttpClient
    from harness.peer.http1 import Http1Client, Http1Upstream
    from harness.peer.http2 import Http2Client
    from harness.peer.http2_upstream import Http2Upstream
    from harness.peer.http3 import Http3Client
    from harness.peer.http3_upstream import Http3Upstream
    from harness.peer.http_upstream import HttpUpstream
    from harness.peer.quic import QuicPeer
    from harness.peer.quic_upstream import QuicUpstream
    from harness.peer.tls import TlsPeer

A = TypeVar("A")
B = TypeVar("B")
NONCE_SIZE = 16


@dataclass(frozen=True, slots=True)
class RelayedEndpoint(Endpoint):
    """An endpoint as it is reached through a relay, which a script may ask for more."""

    relay: UdpRelay | TcpRelay | None = None


class Scene:
    """One run of one variant of one case on one engine."""

    def __init__(
        self,
        case: Case,
        variant: Variant,
        *,
        profile: Profile,
        driver: Driver,
        session: Session,
        ledger: LedgerView,
        transcript: Transcript,
        faults: FaultPlan | None = None,
    ) -> None:
        self.case = case
        self.variant = variant
        self.profile = profile
        self.driver = driver
        self.session = session
        self.transcript = transcript
        session.transcript = transcript
        self.judge = Judge(ledger, case, transcript)
        self._published: dict[str, Published] = {}
        self._sides: dict[str, UpstreamSide] = {}
        self._http = HttpPeers(self)
        self._quic: dict[str, QuicUpstream] = {}
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._faults = faults
        self._relayed = 0
        self._serial = 0
        key = f"{case.id}[{variant.label}]"
        self._seed = hashlib.sha256(key.encode() + secrets.token_bytes(8)).digest()

    # publishing

    async def publish_declared(self) -> None:
        """Publish what the case declares. Raises `SetupFailed` or `NotSupported`; a case about refusals publishes by
        itself."""
        specs = self.case.publish(self.variant)
        if not specs:
            return
        for name, answer in (await self.publish(specs)).items():
            if isinstance(answer, Refused):
                raise SetupFailed(f"engine: refused to publish {name!r} ({answer.code}): {answer.message}")
            if isinstance(answer, Inexpressible):
                raise NotSupported(answer.feature)

    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Endpoint | Refused | Inexpressible]:
        """Publish `specs` by name and give the engine's answer to each. Raises `SetupFailed` when there is no
        answer."""
        published = await self.session.publish(specs)
        self._published.update(published)
        for name, item in published.items():
            answer = item.answer
            told = answer.host if isinstance(answer, Endpoint) else str(answer)
            self.transcript.note("published" if isinstance(answer, Endpoint) else "not published", f"{name}: {told}")
        return {name: item.answer for name, item in published.items()}

    def endpoint(self, name: str = "main") -> Endpoint:
        """Where the tunnel `name` is reached."""
        return self._published[name].endpoint

    def udp_endpoint(self, name: str = "main") -> Endpoint:
        """Where the tunnel `name` is reached over UDP: a QUIC tunnel, and an HTTP tunnel by HTTP/3."""
        found = self.endpoint(name).over_udp()
        if found is None:
            who = "adapter" if self.profile.kind == "adapter" else "engine"
            raise SetupFailed(f"{who}: told no UDP port of the tunnel {name!r}")
        return found

    def spec(self, name: str = "main") -> TunnelSpec:
        """What was asked for under `name`."""
        return self._published[name].spec

    @property
    def agent(self) -> Agent:
        """The agent that published this case's tunnels; only in a case with `needs=["dynamic"]`."""
        agent: Agent = self.session.agent  # type: ignore[attr-defined]
        return agent

    async def scripted_agent(self, **options: Any) -> ScriptedAgent:
        """An agent that the case drives frame by frame; only in a case with `needs=["agent"]`."""
        agent: ScriptedAgent = await self.session.scripted_agent(self.transcript, **options)  # type: ignore[attr-defined]
        self._closers.append(agent.shut)
        return agent

    # peers

    def _name(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}-{self._serial}"

    async def tcp(self, name: str = "main", *, endpoint: Endpoint | None = None) -> RawPeer:
        """A plain TCP connection to the endpoint's address."""
        where = endpoint or self.endpoint(name)
        channel = self.transcript.channel(DOWNSTREAM, "client", self._name("client"))
        channel.sent("TCP connect", detail=f"{where.address}:{where.port}")
        try:
            async with deadline(f"the endpoint {where.address}:{where.port} to accept TCP"):
                link = await connect_tcp(where.address, where.port)
        except OSError as error:
            channel.got("TCP refused", detail=str(error))
            raise LinkReset(f"TCP connection refused: {error.strerror}") from error
        peer = RawPeer(link, channel)
        self._closers.append(peer.close)
        return peer

    async def udp(
        self,
        name: str = "main",
        *,
        endpoint: Endpoint | None = None,
        local: str | None = None,
        direct: bool = False,
    ) -> UdpLink:
        """A UDP flow to the endpoint's address; through the faults of the run, where there are any. `local` is the
        address that it comes from (`127.0.0.2`), which the engine then sees: no relay of the run is between. Neither is
        one with `direct`, for what nobody would repeat, or whose order matters."""
        where = endpoint or self.udp_endpoint(name)
        if self._faults and not direct and local is None and not isinstance(where, RelayedEndpoint):
            self._relayed += 1
            plan = self._faults.seeded(f"{self.case.id}[{self.variant.label}]", self._relayed)
            where = await self.faults(name, plan=plan, endpoint=where)
        try:
            link = await connect_udp(where.address, where.port, local=local)
        except OSError as error:
            raise LinkReset(f"UDP: {(error.strerror or str(error)).lower()}") from error
        self._closers.append(link.close)
        return link

    async def faults(self, name: str = "main", *, plan: FaultPlan, endpoint: Endpoint | None = None) -> RelayedEndpoint:
        """A relay in front of the endpoint, and where that is reached: what goes through it suffers what `plan` says.
        To be given to a client as `endpoint`. Its `relay` can do more while the script runs (`harness.link.relay`)."""
        where = endpoint or self.endpoint(name)
        kind = TcpRelay if where.transport == "tcp" else UdpRelay
        relay = kind((where.address, where.port), plan, self.transcript.note, self._name("relay"))
        await relay.start()
        self._closers.append(relay.close)
        self.transcript.note("relay", f"{relay.name}: at {relay.host}:{relay.port} before {name}: {plan}")
        return RelayedEndpoint(
            where.host, relay.host, relay.port, where.transport, where.name, where.properties, relay=relay
        )

    async def tls_client(
        self, name: str = "main", *, handshake: bool = True, endpoint: Endpoint | None = None, **options: Any
    ) -> TlsPeer:
        """A TLS client toward the endpoint. `options` are those of `ClientOptions`; the server name is the endpoint's
        unless given."""
        from harness.peer.tls import TlsPeer
        from harness.wire.tls.client import ClientOptions

        where = endpoint or self.endpoint(name)
        raw = await self.tcp(name, endpoint=where)
        chosen = {"server_name": where.host, "alpn": self.usual_alpn(name), **options}
        peer = TlsPeer.client(raw.link, raw.channel, ClientOptions(**chosen))
        self._closers.append(peer.close)
        if handshake:
            await peer.handshake()
        return peer

    def usual_alpn(self, name: str = "main", *, over: str = "tcp") -> tuple[str, ...]:
        """What an ordinary client of this tunnel offers over TCP or UDP: the first of its list, `http/1.1` for HTTP and
        `h3` over UDP, a name of ours for QUIC, which needs one, else nothing."""
        published = self._published.get(name)
        if published is None:
            return ()
        if published.spec.family == "http":
            return ("h3",) if over == "udp" else ("http/1.1",)
        return published.spec.tls_alpns[:1] or (QUIC_ALPN if published.spec.family == "quic" else ())

    def upstream(self, name: str = "main") -> UpstreamSide:
        """The upstream side of the tunnel `name`: its streams, in the order in which the engine opened them."""
        if name not in self._sides:
            published = self._published[name]
            self._sides[name] = UpstreamSide(published.upstream, published.spec, self.transcript, name)
            self._closers.append(self._sides[name].close)
        return self._sides[name]

    @overload
    async def http_client(
        self,
        name: str = "main",
        *,
        version: Literal["http/1.1"] = "http/1.1",
        endpoint: Endpoint | None = None,
        **options: Any,
    ) -> Http1Client: ...
    @overload
    async def http_client(
        self, name: str = "main", *, version: Literal["h2"], endpoint: Endpoint | None = None, **options: Any
    ) -> Http2Client: ...
    @overload
    async def http_client(
        self, name: str = "main", *, version: Literal["h3"], endpoint: Endpoint | None = None, **options: Any
    ) -> Http3Client: ...
    @overload
    async def http_client(
        self, name: str = "main", *, version: str, endpoint: Endpoint | None = None, **options: Any
    ) -> HttpClient: ...
    async def http_client(
        self, name: str = "main", *, version: str = "http/1.1", endpoint: Endpoint | None = None, **options: Any
    ) -> HttpClient:
        """An HTTP client of `version` (`http/1.1`, `h2`, `h3`) toward the endpoint: over TLS, or over QUIC for h3.

        `options` are the client's own (`OPTIONS` of its class); the rest goes to `tls_client`, or `quic_client`. Raises
        `PeerMismatch` where the engine does not choose the version by ALPN, unless `alpn` is given.
        """
        return await self._http.client(name, version, endpoint, options)

    @overload
    def http_upstream(self, name: str = "main") -> Http1Upstream: ...
    @overload
    def http_upstream(self, name: str = "main", *, version: Literal["h2c"], **options: Any) -> Http2Upstream: ...
    @overload
    def http_upstream(self, name: str = "main", *, version: Literal["h3"], **options: Any) -> Http3Upstream: ...
    @overload
    def http_upstream(self, name: str = "main", *, version: str, **options: Any) -> HttpUpstream: ...
    def http_upstream(self, name: str = "main", *, version: str = "", **options: Any) -> HttpUpstream:
        """The HTTP upstream behind the tunnel `name`; it takes all that the engine opens. The spec says its version:
        `http/1.1`, `h2c`, `h3`, or `tls` where ALPN picks h2 or http/1.1. A `version` that is given must be that one:
        the type checker goes by it, and takes an upstream without one for HTTP/1.1.

        `options` are those of its class: with `tls` they may hold `alpn`, what the upstream takes by preference.
        """
        published = self._published[name]
        if version not in ("", published.spec.upstream_http):
            raise ValueError(f"upstream version {version!r}, the tunnel {name!r} has {published.spec.upstream_http!r}")
        return self._http.upstream(name, published, self.transcript, options)

    async def quic_client(
        self,
        name: str = "main",
        *,
        handshake: bool = True,
        endpoint: Endpoint | None = None,
        link: DatagramLink | None = None,
        **options: Any,
    ) -> QuicPeer:
        """A QUIC client toward the endpoint, or on a `link` of the script's. `options` are those of
        `harness.wire.quic.ClientOptions` and of TLS by keyword; the server name is the endpoint's unless given."""
        from harness.peer.quic import QuicPeer
        from harness.wire.quic import ClientOptions

        where = endpoint or self.udp_endpoint(name)
        channel = self.transcript.channel(DOWNSTREAM, "client", self._name("client"))
        link = link or await self.udp(name, endpoint=where)
        chosen = {"server_name": where.host, "alpn": self.usual_alpn(name, over="udp"), **options}
        peer = QuicPeer.client(link, channel, ClientOptions.of(**chosen))
        self._closers.append(peer.shut)
        if handshake:
            await peer.handshake()
        return peer

    def quic_upstream(self, name: str = "main") -> QuicUpstream:
        """The upstream side of the QUIC tunnel `name`: its connections, in the order in which the engine opened
        them."""
        from harness.peer.quic_upstream import QuicUpstream

        if name not in self._quic:
            published = self._published[name]
            self._quic[name] = QuicUpstream(published.upstream, published.spec, self.transcript, name)
            self._closers.append(self._quic[name].close)
        return self._quic[name]

    # joined peers

    def nonce(self) -> bytes:
        """Sixteen octets that no other exchange of this run carries."""
        self._serial += 1
        return hashlib.sha256(self._seed + self._serial.to_bytes(4, "big")).digest()[:NONCE_SIZE]

    async def pair(
        self,
        name: str = "main",
        *,
        upstream: Mapping[str, Any] | None = None,
        nonce: bytes | None = None,
        **options: Any,
    ) -> tuple[TlsPeer, Any]:
        """A client and an upstream joined through a TLS tunnel, whatever its mode, after a nonce went from one to the
        other.

        `options` are the client's, `upstream` the upstream TLS server's where it speaks TLS. Gives (client, upstream):
        `TlsPeer` and
        `RawPeer`, or two `TlsPeer`. A nonce that arrives on another stream, or changed, is a departure.
        """
        token = nonce or self.nonce()
        spec = self.spec(name)
        side = self.upstream(name)
        if spec.upstream != "tls":
            client = await self.tls_client(name, **options)
            await client.send(token)
            return client, await side.accept_with(token)
        client = await self.tls_client(name, handshake=False, **options)
        if spec.tls_mode == "passthrough":
            _, server = await self.both(client.handshake(), side.accept_tls(**(upstream or {})))
            await client.send(token)
        else:
            _, server = await self.both(self._handshake_and_send(client, token), side.accept_tls(**(upstream or {})))
        await side.check_nonce(server, token)
        return client, server

    async def quic_pair(
        self,
        name: str = "main",
        *,
        upstream: Mapping[str, Any] | None = None,
        nonce: bytes | None = None,
        **options: Any,
    ) -> tuple[QuicPeer, QuicPeer]:
        """A client and an upstream joined through a QUIC tunnel, after a nonce went from one to the other on a stream
        of its own, which both have ended.

        `options` are the client's, `upstream` the upstream server's; it speaks what the client offers unless the tunnel
        has a list or `upstream` says otherwise. A nonce that arrives changed, or elsewhere, is a departure.
        """
        token = nonce or self.nonce()
        side = self.quic_upstream(name)
        offered = options.get("alpn", self.usual_alpn(name))
        chosen = {"alpn": self.spec(name).tls_alpns or offered, **(upstream or {})}
        client = await self.quic_client(name, handshake=False, **options)
        _, server = await self.both(client.handshake(), side.accept(**chosen))
        stream = await client.open_stream()
        await stream.send(token, fin=True)
        await side.check_nonce(server, token)
        _, end = await stream.receive_until_end()
        if end.kind != "fin":
            raise PeerMismatch("FIN of the upstream behind the nonce", str(end))
        return client, server

    async def _handshake_and_send(self, client: TlsPeer, token: bytes) -> None:
        await client.handshake()
        await client.send(token)

    async def both(self, first: Awaitable[A], second: Awaitable[B]) -> tuple[A, B]:
        """Run two coroutines side by side; the first error cancels the other and is raised as it is."""
        one, other = await side_by_side(first, second)
        return one, other

    # barrier

    async def settle(self, name: str = "main") -> None:
        """The barrier: whatever the engine was given before has had its effect when this returns.

        A probe of our own goes through the same tunnel to the upstream and its answer comes back to the client: a
        round trip on both legs, through the engine's ordinary queue. Twice, so that what the first overtook is passed
        by the second.

        A probe that does not come through is `setup`, also behind a stimulus, and no departure: no row of the case says
        that the next connection must be served (an engine may hold back a client that it has just refused), and the
        absence that the case wanted to see is then not shown either way. It is red all the same, and an engine that
        died is a `crash`. A case whose row does promise the next exchange makes it itself, inside `judging`.
        """
        try:
            for _ in range(2):
                await self._probe(name)
        except (LinkReset, DeadlineExpired) as error:
            raise SetupFailed(f"engine: no probe came through {name!r} after the stimulus: {error}") from error
        self.transcript.note("barrier", f"{name}: two probe streams, client to upstream and back")

    async def _probe(self, name: str) -> None:
        if self.spec(name).family == "http":
            await self._http.settle(name)
            return
        if self.spec(name).family == "quic":
            joined, behind = await self._quic_probe(name)
            await self.round_trip(joined, behind)
            await joined.shut()
            await behind.shut()
            return
        token = self.nonce()
        client, server = await self.pair(name, nonce=token)
        await server.send(token[::-1])
        await client.receive_exactly(NONCE_SIZE)
        await client.close()
        await server.close()

    async def _quic_probe(self, name: str) -> tuple[QuicPeer, QuicPeer]:
        """As `quic_pair`, past connections at the upstream that nobody asked for."""
        token = self.nonce()
        alpn = self.usual_alpn(name)
        client = await self.quic_client(name, handshake=False)
        behind = self.quic_upstream(name).accept_with(token, alpn=self.spec(name).tls_alpns or alpn)
        _, server = await self.both(self._ask(client, token), behind)
        return client, server

    async def _ask(self, client: QuicPeer, token: bytes) -> None:
        await client.handshake()
        stream = await client.open_stream()
        await stream.send(token, fin=True)
        _, end = await stream.receive_until_end()
        if end.kind != "fin":
            raise LinkReset(f"the stream of a probe ended: {end}")

    async def settle_on(self, client: QuicPeer, server: QuicPeer) -> None:
        """The barrier on a QUIC connection that goes through the engine: whatever either side was given on it before
        has had its effect. A stream of our own goes to the upstream and back, twice."""
        try:
            for _ in range(2):
                await self.round_trip(client, server)
        except (LinkReset, DeadlineExpired) as error:
            raise SetupFailed(f"engine: no probe came through the connection after the stimulus: {error}") from error
        self.transcript.note("barrier", "two probe streams of the connection, client to upstream and back")

    async def round_trip(self, client: QuicPeer, server: QuicPeer) -> None:
        """One stream of the client with a nonce to the upstream, and back; both have ended it. Raises what a peer
        raises."""
        token = self.nonce()
        asking = await client.open_stream()
        await asking.send(token, fin=True)
        answering = await server.accept_stream_with(token)
        await answering.send(token[::-1], fin=True)
        got, end = await asking.receive_until_end()
        if got != token[::-1]:
            raise PeerMismatch("the upstream's answer to the nonce", f"{got.hex()}, then {end}")

    async def strays(self, name: str = "main") -> tuple[Stray, ...]:
        """Upstream streams that no script asked for, with what they carried. Only after `settle` does their absence
        mean anything."""
        if self.spec(name).family == "http":
            return tuple(
                Stray(data=seen.raw_head, described=seen.describe()) for seen in self.http_upstream(name).unexpected
            )
        if self.spec(name).family == "quic":
            return await self.quic_upstream(name).strays()
        return await self.upstream(name).strays()

    async def untouched(self, requirement: str, name: str = "main", *, branch: str | None = None) -> None:
        """After `settle`: the upstream saw nothing but what the script asked for."""
        strays = await self.strays(name)
        seen = "; ".join(stray.describe() for stray in strays) or "nothing"
        self.judge.expect(
            requirement, not strays, expected=f"nothing to reach the upstream of {name!r}", actual=seen, branch=branch
        )

    # judging: see harness.judge

    def expect(
        self, requirement: str, condition: bool, *, expected: str, actual: str, branch: str | None = None
    ) -> bool:
        """See `Judge.expect`."""
        return self.judge.expect(requirement, condition, expected=expected, actual=actual, branch=branch)

    def allow(self, requirement: str, branch: str) -> None:
        """See `Judge.allow`."""
        self.judge.allow(requirement, branch)

    def record(self, requirement: str, what: str) -> None:
        """See `Judge.record`."""
        self.judge.record(requirement, what)

    def not_run(self, requirement: str, reason: str) -> None:
        """See `Judge.not_run`."""
        self.judge.not_run(requirement, reason)

    def depart(self, requirement: str, *, expected: str, actual: str) -> None:
        """See `Judge.depart`."""
        self.judge.depart(requirement, expected=expected, actual=actual)

    def judging(self, *requirements: str, ends: bool = False) -> AbstractContextManager[None]:
        """See `Judge.judging`."""
        return self.judge.judging(*requirements, ends=ends)

    # end

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Run `closer` when the scene ends."""
        self._closers.append(closer)

    async def close(self) -> None:
        """Close every peer, newest first, then the session."""
        for closer in reversed(self._closers):
            try:
                await closer()
            except (LinkReset, OSError, DeadlineExpired) as error:
                self.transcript.note("closing", f"{type(error).__name__}: {error}")
        await self.session.close()
