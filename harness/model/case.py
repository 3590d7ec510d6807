"""A case: one function that scripts both peers around the engine, and the data that it declares."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.model.spec import Settings, SettingValue, TunnelSpec

CaseFunction = Callable[[Any], Awaitable[None]]
Publish = TunnelSpec | Mapping[str, TunnelSpec] | None
MARK = "__edgecase_case__"


@dataclass(frozen=True, slots=True)
class Variant:
    """One point of a case's own axes: `values` by axis, `label` for reports (`tls1.2-passthrough`)."""

    label: str
    values: tuple[tuple[str, str], ...]

    def __getitem__(self, axis: str) -> str:
        return dict(self.values)[axis]


@dataclass(frozen=True, eq=False)
class Case:
    """What a case declares.

    `publish` gives the specs by name for one variant; the scene publishes them before the script starts. `settings`
    says how the engine must be started. `needs` may hold `dynamic` (publishes by itself over the agent protocol),
    `private-engine` (damages its engine), `agent` (speaks the agent protocol itself) and `tls-link` (is about the
    agent's TLS connections, or moves what only they have: no other transport will do). `axes` names the axes of a run
    on which the case runs even where only a subset does. `features` is what the profile must claim for the case to run,
    on top of what the specs need; `refusal` marks a case that runs *only* where a feature is not claimed. `sanity`
    cases guard their family.
    """

    id: str
    requirements: tuple[str, ...]
    function: CaseFunction
    publish: Callable[[Variant], Mapping[str, TunnelSpec]]
    variants: tuple[Variant, ...]
    settings: Settings
    extra_features: Callable[[Variant], frozenset[str]]
    needs: frozenset[str]
    revision: int
    family: str
    sanity: bool
    single_family: bool
    slow: bool
    refusal: str | None
    axes: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.function.__name__).splitlines()[0].strip()

    @property
    def doc(self) -> str:
        """The whole docstring: what the case sends and what it expects."""
        return inspect.getdoc(self.function) or ""

    @property
    def area(self) -> str:
        """The folder under `conformance/` that the case lives in."""
        parts = self.function.__module__.split(".")
        return parts[1] if len(parts) > 1 and parts[0] == "conformance" else parts[-1]

    @property
    def file(self) -> str:
        """The module of the case as a path relative to the project (`conformance/tls/terminated.py`)."""
        return self.function.__module__.replace(".", "/") + ".py"

    @property
    def line(self) -> int:
        """The line where the function starts."""
        return self.function.__code__.co_firstlineno

    def features(self, variant: Variant) -> frozenset[str]:
        """Every feature that an engine must claim for this variant to run."""
        return self.extra_features(variant).union(*(spec.features() for spec in self.publish(variant).values()))

    def refusal_due(self, claimed: frozenset[str]) -> bool:
        """Whether the case is about a refusal that an engine which claims `claimed` owes; true of any other case."""
        return self.refusal is None or self.refusal not in claimed


def case(
    case_id: str,
    *,
    checks: Sequence[str],
    publish: Publish | Callable[[Variant], Publish] = None,
    over: Mapping[str, Sequence[str]] | None = None,
    settings: Mapping[str, SettingValue] | None = None,
    features: Sequence[str] | Callable[[Variant], Sequence[str]] = (),
    needs: Sequence[str] = (),
    family: str | None = None,
    revision: int = 1,
    sanity: bool = False,
    single_family: bool = False,
    slow: bool = False,
    refusal: str | None = None,
    axes: Sequence[str] = (),
) -> Callable[[CaseFunction], CaseFunction]:
    """Declare a case; the decorated coroutine function takes the scene.

    `checks` are requirement ids, the first one is what an unattributed departure is judged under. `publish` is a spec
    (named `main`), a
    mapping of names to specs, or a function of the variant that gives one of these; `features` likewise. `over` are the
    case's axes.
    `revision` is raised when
    the expectation changes. `family` defaults to that of the first spec (`tls`, `http`), or `agent`.
    """
    own = over or {}
    variants = tuple(
        Variant("-".join(values), tuple(zip(own, values, strict=True))) for values in itertools.product(*own.values())
    )

    def specs(variant: Variant) -> Mapping[str, TunnelSpec]:
        chosen = publish(variant) if callable(publish) else publish
        if chosen is None:
            return {}
        return {"main": chosen} if isinstance(chosen, TunnelSpec) else chosen

    def needed(variant: Variant) -> frozenset[str]:
        return frozenset(features(variant) if callable(features) else features)

    def decorate(function: CaseFunction) -> CaseFunction:
        named = family or next((spec.family for spec in specs(variants[0]).values()), "agent")
        declared = Case(
            id=case_id,
            requirements=tuple(checks),
            function=function,
            publish=specs,
            variants=variants,
            settings=Settings.of(settings or {}),
            extra_features=needed,
            needs=frozenset(needs),
            revision=revision,
            family=named,
            sanity=sanity,
            single_family=single_family,
            slow=slow,
            refusal=refusal,
            axes=frozenset(axes),
        )
        setattr(function, MARK, declared)
        return function

    return decorate
