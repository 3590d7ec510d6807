"""The engines of one worker: one per settings, started once, checked by a sanity case per family, replaced after a
crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.engine.driver import Driver
from harness.errors import EngineCrashed, HelloFailed, NotSupported, SetupFailed
from harness.model.case import Case, Variant
from harness.model.profile import Profile
from harness.model.spec import Settings, TunnelSpec

DriverFactory = Callable[[Profile], Driver]
MAX_LOST = 3
"""How often an adapter that is lost while the engine runs is started again for the same settings."""


@dataclass
class Held:
    """A running engine with what is known of it: `sane` gives, per family, why it is not (`None`: it is)."""

    driver: Driver
    settings: Settings
    sane: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """One variant that will run, with the settings that it runs under."""

    case: Case
    variant: Variant
    settings: Settings

    @property
    def key(self) -> str:
        """`id` or `id[variant]`."""
        return f"{self.case.id}[{self.variant.label}]" if self.variant.label else self.case.id


class EnginePool:
    """Hands out running engines by settings.

    `plan` is everything that this worker may be asked to run: with planned publishing an engine is given all of it at
    its start.
    """

    def __init__(self, profile: Profile, factory: DriverFactory, plan: Sequence[Planned] = ()) -> None:
        self.profile = profile
        self._factory = factory
        self._plan = plan
        self._held: dict[Settings, Held] = {}
        self._lost: Counter[Settings] = Counter()
        self._impossible: dict[Settings, NotSupported | SetupFailed] = {}
        self._no_hello: HelloFailed | None = None
        self.version = ""

    async def engine(self, settings: Settings) -> Held:
        """The running engine with these settings. Raises `SetupFailed`, `NotSupported`; the same again on the next
        call."""
        if settings in self._impossible:
            raise self._impossible[settings]
        held = self._held.get(settings)
        if held is not None and (held.driver.crashed() or held.driver.lost()):
            await self.drop(held)
            held = None
        if held is None:
            try:
                held = await self._start(settings)
            except (NotSupported, SetupFailed) as error:
                self._impossible[settings] = error
                raise
            self._held[settings] = held
        return held

    async def _start(self, settings: Settings) -> Held:
        if self._no_hello is not None:
            # It is the same adapter under every settings: asked again, it would only cost its timeout again.
            raise self._no_hello
        driver = self._factory(self.profile)
        try:
            await driver.start(settings)
            if not driver.dynamic:
                await driver.plan(self._specs(settings))
        except EngineCrashed as error:
            await driver.stop()
            raise SetupFailed(f"engine: died while starting: {error.cause}") from error
        except HelloFailed as error:
            self._no_hello = error
            await driver.stop()
            raise
        except BaseException:
            await driver.stop()
            raise
        self.version = driver.version
        return Held(driver, settings)

    def _specs(self, settings: Settings) -> Mapping[str, TunnelSpec]:
        return {
            f"{planned.key}/{name}": spec
            for planned in self._plan
            if planned.settings == settings and "dynamic" not in planned.case.needs
            for name, spec in planned.case.publish(planned.variant).items()
        }

    async def private(self, settings: Settings) -> Held:
        """An engine for one case only; the caller drops it."""
        return await self._start(settings)

    async def drop(self, held: Held) -> None:
        """Stop an engine and forget it; after the last of `MAX_LOST` adapters that were lost, the settings, too."""
        lost = held.driver.lost() if held.driver.crashed() is None else None
        if self._held.get(held.settings) is held:
            del self._held[held.settings]
            self._lost[held.settings] += lost is not None
        if lost is not None and self._lost[held.settings] >= MAX_LOST:
            self._impossible[held.settings] = SetupFailed(lost)
        await held.driver.stop()

    @property
    def running(self) -> tuple[Held, ...]:
        """Every engine that is held now."""
        return tuple(self._held.values())

    async def close(self) -> None:
        """Stop every engine."""
        for held in self.running:
            await self.drop(held)
