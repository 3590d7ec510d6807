"""A driver without an engine: publishes what it is told, dies when asked to. For tests of the runner and the plugin."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.engine.driver import Driver, Endpoint, Inexpressible, Published, Refused, Session, UpstreamQueue
from harness.errors import NotSupported, SetupFailed
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec

Answer = Endpoint | Refused | Inexpressible


class FakeSession(Session):
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def publish(self, specs: Mapping[str, TunnelSpec]) -> dict[str, Published]:
        if self._driver.publish_error:
            raise SetupFailed(self._driver.publish_error)
        return {name: Published(spec, self._driver.answer(spec), UpstreamQueue()) for name, spec in specs.items()}

    async def close(self) -> None:
        self._driver.sessions_closed += 1


class FakeDriver(Driver):
    def __init__(self, profile: Profile | None = None, *, dynamic: bool = True) -> None:
        self.dynamic = dynamic
        self.started_with: list[Settings] = []
        self.planned: list[Mapping[str, TunnelSpec]] = []
        self.stopped = 0
        self.sessions_closed = 0
        self.dead: str | None = None
        self.start_error: Exception | None = None
        self.publish_error = ""
        self.answer: Callable[[TunnelSpec], Answer] = lambda spec: Endpoint("x.t.test", "127.0.0.1", 1)

    async def start(self, settings: Settings) -> None:
        if self.start_error:
            raise self.start_error
        if settings.get("edition") == "unheard-of":
            raise NotSupported("edition")
        self.started_with.append(settings)

    async def plan(self, specs: Mapping[str, TunnelSpec]) -> None:
        self.planned.append(specs)

    async def open_session(self, key: str) -> Session:
        return FakeSession(self)

    async def restart(self) -> None:
        self.dead = None

    async def stop(self) -> None:
        self.stopped += 1

    def crashed(self) -> str | None:
        return self.dead

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        return ("a line of the engine",)

    @property
    def version(self) -> str:
        return "fake 1"


def profile(**values: object) -> Profile:
    chosen: dict[str, object] = {
        "name": "fake",
        "title": "Fake engine",
        "edition": "community",
        "kind": "launch",
        "driver": {},
        "features": frozenset({"tls.terminated"}),
        "file": "fake.toml",
    }
    return Profile(**{**chosen, **values})  # type: ignore[arg-type]
