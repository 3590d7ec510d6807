"""`edgecase plan`: what would be published on which engine, without running anything."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict

from harness.collect import collect
from harness.ledger import Ledger
from harness.pool import Planned
from harness.profiles import load


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("plan", help="print what a run would publish, engine by engine")
    command.add_argument("--engine", default="reference", metavar="PROFILE", help="a shipped profile or a TOML file")
    command.add_argument("--json", action="store_true", help="machine-readable")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan: settings, then cases with their specs; last what the profile leaves out."""
    profile = load(arguments.engine, frozenset(Ledger.load().features))
    engines: dict[str, list[Planned]] = defaultdict(list)
    left_out: dict[str, list[str]] = defaultdict(list)
    for case in collect():
        settings = case.settings.with_defaults(profile.settings)
        for variant in case.variants:
            planned = Planned(case, variant, settings)
            missing = sorted(case.features(variant) - profile.features)
            if not case.refusal_due(profile.features):
                left_out[f"claims {case.refusal}"].append(planned.key)
            elif missing and case.refusal is None:
                left_out[f"does not claim {', '.join(missing)}"].append(planned.key)
            else:
                engines[str(settings)].append(planned)
    if arguments.json:
        json.dump(_data(engines, left_out), sys.stdout, indent=1)
        print()
        return 0
    _print(engines, left_out)
    return 0


def _specs(planned: Planned) -> dict[str, dict[str, object]]:
    return {name: dict(spec.properties()) for name, spec in planned.case.publish(planned.variant).items()}


def _data(engines: dict[str, list[Planned]], left_out: dict[str, list[str]]) -> dict[str, object]:
    return {
        "engines": [
            {
                "settings": settings,
                "cases": [
                    {"case": planned.key, "needs": sorted(planned.case.needs), "publish": _specs(planned)}
                    for planned in chosen
                ],
            }
            for settings, chosen in sorted(engines.items())
        ],
        "left_out": left_out,
    }


def _print(engines: dict[str, list[Planned]], left_out: dict[str, list[str]]) -> None:
    for settings, chosen in sorted(engines.items()):
        print(f"engine with settings: {settings} ({len(chosen)} variants)")
        for planned in chosen:
            needs = f"  needs {', '.join(sorted(planned.case.needs))}" if planned.case.needs else ""
            print(f"  {planned.key}{needs}")
            for name, properties in _specs(planned).items():
                told = ", ".join(f"{key}={value}" for key, value in properties.items())
                print(f"    {name}: {told}")
    for reason, keys in sorted(left_out.items()):
        print(f"not run, the profile {reason}: {len(keys)} variants")
