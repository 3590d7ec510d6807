"""The doctor's checks of an engine that speaks the agent protocol: reached layer by layer, then one tunnel."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

from harness.doctor import Exam, Step, Wrong, nonsense, told
from harness.engine.agent_driver import ProtocolDriver, split_address
from harness.engine.driver import Endpoint, Published, Session
from harness.engine.factory import make_driver
from harness.engine.probe import carries, reachable
from harness.errors import SetupFailed
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec, quic, tls

ALPN = "rstrm/1"


class AgentExam(Exam):
    """Starts or reaches the engine as the suite would."""

    def __init__(self, profile: Profile, features: frozenset[str], timeout: float) -> None:
        super().__init__(profile, features, timeout)
        driver = make_driver(profile)
        assert isinstance(driver, ProtocolDriver)
        self._driver = driver
        self._session: Session | None = None
        self._address: tuple[str, int] = ("", 0)
        self._published: Published | None = None
        self._ended = False

    def steps(self) -> Sequence[Step]:
        """A process first, where there is one; then TCP, TLS, the control channel, a tunnel."""
        reach: list[Step] = [("TCP", self.check_tcp), ("TLS", self.check_tls)]
        begin: Step = ("control channel", self.check_start)
        first = [begin, *reach] if self.profile.kind == "launch" else [*reach, begin]
        return [
            *first,
            ("publish", self.check_publish),
            ("traffic", self.check_traffic),
            *([("QUIC", self.check_quic)] if "quic" in self.profile.features else []),
            ("unknown protocol", self.check_unknown_protocol),
            ("close", self.check_close),
        ]

    def gone(self) -> bool:
        """Whether there is no engine to ask."""
        return self._ended or self._driver.access is None

    async def close(self) -> None:
        """Close the session and stop the engine."""
        if self._session is not None:
            await self._session.close()
        await self._driver.stop()

    async def check_start(self) -> str:
        """The engine starts, where that is ours to do, and opens a control channel."""
        await self._driver.start(Settings.of({**self.profile.settings}))
        return f"{self._driver.version or 'open'}, domain {self._driver.domain}"

    async def check_tcp(self) -> str:
        """Somebody accepts TCP where agents connect."""
        if self._driver.access is not None:
            self._address = (self._driver.access.address, self._driver.access.port)
        else:
            try:
                self._address = split_address(str(self.profile.driver["address"]))
            except ValueError as error:
                raise Wrong(f"driver.address: {error}", "give host:port", fatal=True) from error
        wrong = await reachable(Endpoint("", *self._address), self.timeout)
        if wrong is not None:
            raise Wrong(wrong, "is the engine running, and the address in the profile its own?", fatal=True)
        return f"{self._address[0]}:{self._address[1]}"

    async def check_tls(self) -> str:
        """TLS 1.3 and the agents' ALPN; whose certificate it is, the control channel checks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols([ALPN])
        name = self._driver.domain or str(self.profile.driver.get("domain", self._address[0]))
        try:
            async with asyncio.timeout(self.timeout):
                _, writer = await asyncio.open_connection(*self._address, ssl=context, server_hostname=name)
        except (OSError, TimeoutError) as error:
            raise Wrong(
                f"no TLS 1.3 at {self._address[0]}:{self._address[1]}: {error or 'silence'}",
                "the address must be the one that agents use, not a plain listener",
                fatal=True,
            ) from error
        found = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.transport.abort()
        if found != ALPN:
            raise Wrong(
                f"ALPN is {found!r} and not {ALPN!r}", "no agent listener there, or a proxy in between", fatal=True
            )
        return f"TLS 1.3, ALPN {ALPN}"

    async def _publish(self, name: str, spec: TunnelSpec) -> Published:
        if self._session is None:
            self._session = await self._driver.open_session("doctor")
        return (await self._session.publish({name: spec}))[name]

    async def check_publish(self) -> str:
        """A plain TLS tunnel gets an endpoint."""
        self._published = await self._publish("tls", tls())
        answer = self._published.answer
        if not isinstance(answer, Endpoint):
            raise Wrong(
                f"a plain TLS tunnel was refused: {told(answer)}",
                "the credential needs the right to publish tunnels",
                fatal=True,
            )
        wrong = await reachable(answer, self.timeout)
        if wrong is not None:
            raise Wrong(
                f"nobody listens at its endpoint: {wrong}", "driver.public_address says where clients go", fatal=True
            )
        return f"{answer.host} at {answer.address}:{answer.port}"

    async def check_traffic(self) -> str:
        """What a client sends comes to the agent."""
        published = self._published
        assert published is not None
        wrong = await carries(published.endpoint, published.spec, published.upstream, self.timeout)
        if wrong is not None:
            raise Wrong(wrong, "is the endpoint's name routed to this engine?")
        return "a client's octets came to the agent"

    async def check_quic(self) -> str:
        """A QUIC tunnel, where the profile claims them: it gets an endpoint, and carries."""
        published = await self._publish("quic", quic())
        if not isinstance(published.answer, Endpoint):
            raise Wrong(
                f"a plain QUIC tunnel was refused: {told(published.answer)}", "the profile claims quic: take it out"
            )
        where = published.answer
        wrong = await carries(where, published.spec, published.upstream, self.timeout)
        if wrong is not None:
            raise Wrong(f"{where.address}:{where.port}: {wrong}", "is the engine's UDP listener on, and reached?")
        return f"a stream came to the agent, {where.host} at {where.address}:{where.port}"

    async def check_unknown_protocol(self) -> str:
        """A protocol that does not exist is refused."""
        protocol = nonsense()
        try:
            published = await self._publish("unknown", TunnelSpec(protocol=protocol))
        except SetupFailed as failed:
            return f"not even sent: {failed.cause}"
        if isinstance(published.answer, Endpoint):
            raise Wrong(f"protocol {protocol!r} got an endpoint", "the engine must refuse what it does not know")
        return f"refused: {told(published.answer)}"

    async def check_close(self) -> str:
        """The control channel closes, and the engine is still there."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
        end = self._driver.crashed()
        if end is not None:
            raise Wrong(f"the engine {end}", "see its log")
        self._ended = True
        return ""
