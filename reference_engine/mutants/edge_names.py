"""Mutants of host names and addresses: which names are made up, given, refused, freed, and what is reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import Tunnel, TunnelProperties
from reference_engine.tunnel.refusal import INVALID_REQUEST, Refusal

IN_USE = Refusal(INVALID_REQUEST, "hostname", "hostname: in use by another tunnel")

# -- names that are made up ----------------------------------------------------------------------------------------


@mutant("names-outside-zone", ("EDGE-011",), "makes names up beside the tunnel zone, directly below its own")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, wanted: str | None, *, zone: str, project: str | None) -> str | Refusal:
        if wanted is not None:
            return original(wanted, zone=zone, project=project)  # type: ignore[no-any-return]
        reached()
        return original(None, zone=zone.removeprefix("t."), project=project)  # type: ignore[no-any-return]

    swap(parts.tunnel, "hostname", broken)


@mutant("names-same-again", ("EDGE-011",), "makes up one name per project instead of one per tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, wanted: str | None, *, zone: str, project: str | None) -> str | Refusal:
        if wanted is not None:
            return original(wanted, zone=zone, project=project)  # type: ignore[no-any-return]
        reached()
        return f"tunnel-{project or 'default'}.{zone}"

    swap(parts.tunnel, "hostname", broken)


# -- names that are asked for --------------------------------------------------------------------------------------


def _asked_for(what: str, row: str, breaks: str, answer: Callable[[str, str, str | None, Any], Any]) -> None:
    """A mutant of how a requested name is answered: `answer(wanted, zone, project, outcome of the rule)`."""

    @mutant(f"names-{what}", (row,), breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, wanted: str | None, *, zone: str, project: str | None) -> str | Refusal:
            outcome: str | Refusal = original(wanted, zone=zone, project=project)
            if wanted is None:
                return outcome
            changed: str | Refusal = answer(wanted, zone, project, outcome)
            if changed != outcome:
                reached()
            return changed

        swap(parts.tunnel, "hostname", broken)


def _refused(what: str) -> Refusal:
    return Refusal(INVALID_REQUEST, "hostname", f"hostname: {what}")


def _label_refused(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
    del zone
    return _refused("not a full name") if project is None and "." not in wanted else outcome


def _capitals_refused(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
    del zone, project
    return _refused("capitals") if wanted != wanted.lower() else outcome


def _label_ignored(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
    if project is not None or isinstance(outcome, Refusal):
        return outcome
    return f"x{abs(hash(wanted)):x}.{zone}"


def _slug_refused(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
    del wanted, zone
    return outcome if project is None else _refused("stable names are not given")


def _slug_ignored(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
    if project is None or isinstance(outcome, Refusal):
        return outcome
    return f"x{abs(hash(wanted)):x}-{project}.{zone}"


_asked_for("label-refused", "EDGE-011", "wants the whole name where a label is enough", _label_refused)
_asked_for("capitals-refused", "EDGE-011", "refuses names in capitals", _capitals_refused)
_asked_for("label-ignored", "EDGE-011", "makes a name up although a label was asked for", _label_ignored)
_asked_for("slug-refused", "EDGE-012", "gives no stable names to projects", _slug_refused)
_asked_for("slug-ignored", "EDGE-012", "gives a project another name than the one it asked for", _slug_ignored)


def _lets_in(what: str, breaks: str, fits: Callable[[str, str, str], bool]) -> None:
    """A mutant that gives names outside the namespace, where `fits(name, zone, project)`."""

    def answer(wanted: str, zone: str, project: str | None, outcome: Any) -> Any:
        name = wanted.lower()
        return name if project is not None and isinstance(outcome, Refusal) and fits(name, zone, project) else outcome

    _asked_for(what, "EDGE-012", breaks, answer)


def _label(name: str, zone: str) -> str:
    label, _, parent = name.partition(".")
    return label if parent == zone else ""


_lets_in("any-project", "gives names of other projects", lambda name, zone, project: bool(_label(name, zone).isalnum()))
_lets_in(
    "any-suffix",
    "looks whether the label ends with something after a hyphen, not whose it is",
    lambda name, zone, project: "-" in _label(name, zone).strip("-*") and " " not in name and "*" not in name,
)
_lets_in(
    "any-domain",
    "looks at the label alone and takes any domain behind it",
    lambda name, zone, project: name.partition(".")[0].endswith(f"-{project}") and not name.endswith(f".{zone}"),
)
_lets_in(
    "engine-name",
    "gives the engine's own name, and that of the tunnel zone",
    lambda name, zone, project: name in (zone, zone.removeprefix("t.")),
)
_lets_in(
    "any-depth",
    "takes any number of labels below the zone",
    lambda name, zone, project: name.removesuffix(f".{zone}").count(".") == 1,
)
_lets_in("no-slug", "gives a name without a slug", lambda name, zone, project: _label(name, zone) == f"-{project}")
_lets_in(
    "any-octet",
    "does not look at the octets of a label",
    lambda name, zone, project: _label(name, zone).endswith(f"-{project}") and _label(name, zone)[:1] != "-",
)

# -- names in use --------------------------------------------------------------------------------------------------


def _taken(
    what: str, rows: tuple[str, ...], breaks: str, gives: Callable[[TunnelProperties, Tunnel, str], bool]
) -> None:
    """A mutant that gives a name that another tunnel holds, where `gives(wanted, holder, client)`."""

    @mutant(f"names-{what}", rows, breaks)
    def _(parts: Parts, reached: Reached) -> None:
        def broken(original: Any, wanted: TunnelProperties, holder: Tunnel | None, client: str) -> Refusal | None:
            if holder is None or not gives(wanted, holder, client):
                return original(wanted, holder, client)  # type: ignore[no-any-return]
            reached()
            return None

        swap(parts.tunnel, "hostname_is_free", broken)


_taken("stolen", ("EDGE-013", "EDGE-031"), "gives a name in use to whoever asks last", lambda *_: True)
_taken(
    "shared-by-agents",
    ("EDGE-013", "EDGE-031"),
    "lets a second agent have a name as well",
    lambda wanted, holder, client: holder.client_id != client,
)
_taken(
    "replaced-by-owner",
    ("EDGE-013",),
    "lets an agent take a name that it holds once more",
    lambda wanted, holder, client: holder.client_id == client,
)
_taken(
    "held-per-family",
    ("EDGE-013",),
    "keeps names in use apart for each protocol",
    lambda wanted, holder, client: holder.properties.protocol != wanted.protocol,
)


@mutant("names-never-free", ("EDGE-014",), "never gives a name a second time")
def _(parts: Parts, reached: Reached) -> None:
    used: set[str] = set()

    def broken(original: Any, wanted: TunnelProperties, holder: Tunnel | None, client: str) -> Refusal | None:
        refusal: Refusal | None = original(wanted, holder, client)
        if refusal is None and wanted.hostname in used:
            reached()
            return IN_USE
        used.add(wanted.hostname or "")
        return refusal

    swap(parts.tunnel, "hostname_is_free", broken)


@mutant("names-outlive-restart", ("EDGE-032",), "remembers the names of its last run, and holds them for their agents")
def _(parts: Parts, reached: Reached) -> None:
    file = (reached.folder / "names") if reached.folder is not None else None
    last_run = set(file.read_text().split()) if file is not None and file.exists() else set()

    def broken(original: Any, wanted: TunnelProperties, holder: Tunnel | None, client: str) -> Refusal | None:
        if wanted.hostname in last_run:
            reached()
            return IN_USE
        if file is not None and wanted.hostname is not None:
            with file.open("a") as names:
                names.write(f"{wanted.hostname}\n")
        return original(wanted, holder, client)  # type: ignore[no-any-return]

    swap(parts.tunnel, "hostname_is_free", broken)


# -- addresses -----------------------------------------------------------------------------------------------------


@mutant("names-host-chooses", ("EDGE-015",), "takes the deprecated host property for the name")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties) -> TunnelProperties:
        effective: TunnelProperties = original(properties)
        if properties.host is None or properties.hostname is not None:
            return effective
        reached()
        return dataclasses.replace(effective, hostname=properties.host.partition(":")[0])

    swap(parts.tunnel, "effective", broken)


@mutant("names-port-443", ("EDGE-015",), "reports port 443 whatever the listener's is")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hostname: str, port: int) -> tuple[int, str]:
        del port
        reached()
        return original(hostname, 443)  # type: ignore[no-any-return]

    swap(parts.tunnel, "address", broken)


@mutant("names-host-without-port", ("EDGE-015",), "reports host without the port that is not the default one")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hostname: str, port: int) -> tuple[int, str]:
        reached()
        return original(hostname, port)[0], hostname

    swap(parts.tunnel, "address", broken)


@mutant("names-for-private", ("EDGE-005",), "gives a public name to tunnels that are not published")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, properties: TunnelProperties) -> bool:
        if not original(properties):
            reached()
        return True

    swap(parts.tunnel, "has_public_name", broken)
