"""`edgecase doctor`: checks a profile, and whatever stands behind it, in seconds; a line per check.

Each check is a coroutine of an `Exam`. It returns what it found, or raises `Wrong` with what is wrong and what to do.
"""

from __future__ import annotations

import asyncio
import difflib
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.engine.driver import Inexpressible, Refused
from harness.errors import NotSupported, SetupFailed
from harness.model.profile import Profile

Step = tuple[str, Callable[[], Awaitable[str]]]


@dataclass(frozen=True, slots=True)
class Check:
    """One check: `found` is what was seen, `advice` what to do where it is not `ok`."""

    name: str
    ok: bool
    found: str = ""
    advice: str = ""

    def __str__(self) -> str:
        advice = f"\n      -> {self.advice}" if self.advice else ""
        return f"{'ok   ' if self.ok else 'WRONG'} {self.name}{f': {self.found}' if self.found else ''}{advice}"


class Wrong(Exception):  # noqa: N818 - a finding, not an error
    """A check failed. `fatal` ends the exam: nothing after it can be told."""

    def __init__(self, found: str, advice: str, *, fatal: bool = False) -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice
        self.fatal = fatal


class Exam(ABC):
    """Checks of one kind of driver, in their order. `features` are the known names."""

    def __init__(self, profile: Profile, features: frozenset[str], timeout: float) -> None:
        self.profile = profile
        self.features = features
        self.timeout = timeout

    @abstractmethod
    def steps(self) -> Sequence[Step]:
        """Name and coroutine of every check."""

    @abstractmethod
    async def close(self) -> None:
        """End whatever the exam started."""

    def gone(self) -> bool:
        """Whether there is nobody left to ask."""
        return False

    async def check_profile(self) -> str:
        """The profile's features are known names."""
        if not self.profile.features:
            raise Wrong(
                "it claims no feature", "without one no case runs: list what the engine can do under `features`"
            )
        unknown_features(self.profile.features, self.features, "the profile")
        return f"{self.profile.file}: {len(self.profile.features)} features"

    async def run(self, tell: Callable[[Check], None]) -> list[Check]:
        """Run every check until one is fatal."""
        done: list[Check] = []

        def note(check: Check) -> None:
            done.append(check)
            tell(check)

        try:
            for name, step in [("profile", self.check_profile), *self.steps()]:
                try:
                    note(Check(name, True, await step()))
                except Wrong as wrong:
                    note(Check(name, False, wrong.found, wrong.advice))
                    if wrong.fatal:
                        break
                except SetupFailed as failed:
                    note(Check(name, False, failed.cause, advice_for(failed.cause)))
                    if self.gone():
                        break
                except NotSupported as lacking:
                    note(Check(name, False, f"{lacking.feature} cannot be had", "the profile should not need it"))
        finally:
            await self.close()
        return done


_ADVICE = (
    ("no answer to", "answer each request by its id and flush stdout after each line; a slow engine needs longer"),
    ("not JSON", "stdout belongs to the protocol: one JSON-RPC message a line, everything else to stderr"),
    ("is empty", "driver.command is the command line of the adapter, as a list of words"),
    ("cannot be started", "driver.command must name an executable program; ${HERE} is the profile's folder"),
    ("nobody made", "answer each request once, with the id that it carried"),
    ("without result or error", "an answer has the key `result` or the key `error`"),
    ("must stand in the order", "answer with one result per spec, in their order"),
    ("results", "answer with one result per spec, in their order"),
    ("at the same place", "a client must be able to tell two tunnels apart: by name, or by port"),
    ("runs over", "`transport` is udp for DTLS and QUIC tunnels only"),
    ("answer nothing", "print nothing but answers, and `exited` once per end of the engine"),
    ("octets", "one message is one line of at most 4 MiB"),
    ("not installed", "install what the line names, then run doctor again"),
    ("ended with status", "an adapter runs until `shutdown` or the end of its stdin; its stderr says why it ended"),
    ("was killed", "an adapter runs until `shutdown` or the end of its stdin"),
    ("closed its", "an adapter reads stdin and writes stdout until `shutdown`"),
    ("notification", "the only notification is `exited`"),
)


_ENGINE_ADVICE = (
    ("cannot start", "driver.command must name an executable program; ${HERE} is the profile's folder"),
    (
        "is not as agreed",
        "on stdout an engine first prints one JSON line that says where it listens: see docs/engine.md",
    ),
    ("names no https", "the ready line must name the public listener under `https`: see docs/engine.md"),
    ("before its ready line", "its last line says why it ended: run driver.command by hand"),
    (
        "no ready line",
        "the engine prints it once every listener is open; a slow one needs a longer driver.start_timeout_ms",
    ),
    ("refused the control channel", "is driver.token (or the certificate) that of an agent which may publish tunnels?"),
    ("certificate", "driver.ca_file must hold the CA that signed the engine's certificate, and driver.domain its name"),
    (
        "no control channel",
        "does the address lead to the engine's agent listener, and nothing in between that ends TLS?",
    ),
    ("cannot resolve", "driver.address must be a host (or host:port) that this machine can resolve"),
    ("without saying its host name", "a published tunnel's properties must come back with its host name"),
    ("no answer to the tunnel", "the engine must answer the opening of a tunnel, with its properties or an error"),
)


def advice_for(cause: str) -> str:
    """What to do about an adapter's or engine's failure with this cause."""
    if cause.startswith("engine:"):
        return next((advice for part, advice in _ENGINE_ADVICE if part in cause), "its log says more")
    return next((advice for part, advice in _ADVICE if part in cause), "see docs/adapters.md")


def unknown_features(names: Iterable[str], known: frozenset[str], who: str) -> None:
    """Raises `Wrong` for names that nobody knows, with those that look like them."""
    strange = sorted(set(names) - known)
    if not strange:
        return
    near = {name: difflib.get_close_matches(name, known, 1, 0.6) for name in strange}
    told = ", ".join(f"{name!r}{f' (did you mean {near[name][0]!r}?)' if near[name] else ''}" for name in strange[:5])
    raise Wrong(f"{who} claims unknown features: {told}", "the names are those of fixtures/features.toml")


def told(answer: object) -> str:
    """What was said instead of an endpoint, in words."""
    if isinstance(answer, Refused):
        code = f"{answer.code}: " if answer.code is not None else ""
        return f"{code}{answer.message}"
    return f"lacks {answer.feature}" if isinstance(answer, Inexpressible) else str(answer)


def nonsense() -> str:
    """A name that nobody can know."""
    return f"x-{secrets.token_hex(6)}"


def examine(
    profile: Profile, features: frozenset[str], *, timeout: float = 5.0, tell: Callable[[Check], None] = lambda _: None
) -> list[Check]:
    """Check `profile`. `features` are the known names, `timeout` seconds how long an answer may take; `tell` hears of
    each check as soon as it is done."""

    async def run() -> list[Check]:
        with tempfile.TemporaryDirectory(prefix="edgecase-doctor-") as folder:
            return await exam(profile, features, timeout, Path(folder)).run(tell)

    return asyncio.run(run())


def exam(profile: Profile, features: frozenset[str], timeout: float, folder: Path) -> Exam:
    """The exam for the profile's kind of driver; `folder` is empty and may be written."""
    if profile.kind == "adapter":
        from harness.doctor_adapter import AdapterExam

        return AdapterExam(profile, features, timeout, folder)
    from harness.doctor_agent import AgentExam

    return AgentExam(profile, features, timeout)
