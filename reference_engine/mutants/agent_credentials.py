"""Mutants of who is let in: tokens, permissions and client certificates of agents and diallers."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from typing import Any

from cryptography import x509

from reference_engine.agent.rules import Grant, Presented
from reference_engine.config import PERMISSION_STREAMS, PERMISSION_TUNNELS, Settings
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.refusal import INVALID_REQUEST, UNAUTHORIZED, Refusal

AGENTS = ("AGENT-088", "TRANS-010")


def _lenient(parts: Parts, reached: Reached, rule: str, accepts: Any) -> None:
    """`rule` lets in whom it refused, where `accepts(shown, settings)` gives a grant."""

    def broken(original: Any, shown: Presented, settings: Settings) -> Grant | Refusal:
        outcome: Grant | Refusal = original(shown, settings)
        if isinstance(outcome, Grant):
            return outcome
        granted: Grant | None = accepts(shown, settings)
        if granted is None:
            return outcome
        reached()
        return granted

    swap(parts.agent, rule, broken)


@mutant("agent-token-prefix", AGENTS, "compares a token only as far as the agent's goes")
def _(parts: Parts, reached: Reached) -> None:
    def accepts(shown: Presented, settings: Settings) -> Grant | None:
        rows = [row for row in settings.tokens if shown.token and row.token.startswith(shown.token)]
        return Grant(rows[0].project, rows[0].permissions) if rows else None

    _lenient(parts, reached, "admit_agent", accepts)


@mutant("agent-token-tidied", AGENTS, "tidies a token before it compares: case, blanks, a scheme in front")
def _(parts: Parts, reached: Reached) -> None:
    def accepts(shown: Presented, settings: Settings) -> Grant | None:
        told = (shown.token or "").strip("\0 \t\r\n").lower().removeprefix("bearer ")
        rows = [row for row in settings.tokens if row.token.lower() == told]
        return Grant(rows[0].project, rows[0].permissions) if rows else None

    _lenient(parts, reached, "admit_agent", accepts)


@mutant("agent-token-unsigned", AGENTS, "believes a JWT whose header says that nobody signed it")
def _(parts: Parts, reached: Reached) -> None:
    def accepts(shown: Presented, settings: Settings) -> Grant | None:
        head = (shown.token or "").partition(".")[0]
        try:
            algorithm = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))).get("alg")
        except (ValueError, binascii.Error, AttributeError):
            return None
        return Grant(settings.project) if algorithm == "none" else None

    _lenient(parts, reached, "admit_agent", accepts)


@mutant("agent-no-token-is-open", ("AGENT-089", "TRANS-010"), "lets an agent in that shows nothing")
def _(parts: Parts, reached: Reached) -> None:
    def accepts(shown: Presented, settings: Settings) -> Grant | None:
        return Grant(settings.project) if not shown.token and not shown.certificate else None

    _lenient(parts, reached, "admit_agent", accepts)


@mutant("agent-open-refuses-tokens", ("AGENT-089",), "refuses a token where none is configured")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, shown: Presented, settings: Settings) -> Grant | Refusal:
        if not (settings.open_mode and shown.token):
            return original(shown, settings)  # type: ignore[no-any-return]
        reached()
        return Refusal(UNAUTHORIZED, "token", "Unauthorized")

    swap(parts.agent, "credentials", broken)


@mutant("agent-token-wrong-code", ("TRANS-010",), "tells a refused credential as an invalid request")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, shown: Presented, settings: Settings) -> Grant | Refusal:
        outcome: Grant | Refusal = original(shown, settings)
        if isinstance(outcome, Grant):
            return outcome
        reached()
        return dataclasses.replace(outcome, code=INVALID_REQUEST)

    swap(parts.agent, "admit_agent", broken)


@mutant("agent-dial-unchecked", ("AGENT-091",), "asks diallers for no token")
def _(parts: Parts, reached: Reached) -> None:
    _lenient(parts, reached, "admit_dialler", lambda shown, settings: Grant(settings.project))


def _without(parts: Parts, reached: Reached, permission: str) -> None:
    def broken(original: Any, grant: Grant, wanted: str) -> Refusal | None:
        refusal: Refusal | None = original(grant, wanted)
        if refusal is None or wanted != permission:
            return refusal
        reached()
        return None

    swap(parts.agent, "permits", broken)


@mutant("agent-permits-dialling", ("AGENT-092", "PRIV-003"), "lets every token dial")
def _(parts: Parts, reached: Reached) -> None:
    _without(parts, reached, PERMISSION_STREAMS)


@mutant("agent-permits-tunnels", ("AGENT-092",), "lets every token create tunnels")
def _(parts: Parts, reached: Reached) -> None:
    _without(parts, reached, PERMISSION_TUNNELS)


@mutant("agent-certificate-by-name", ("AGENT-095",), "knows a client certificate by the name that it bears")
def _(parts: Parts, reached: Reached) -> None:
    names: dict[str, Grant] = {}

    def broken(original: Any, shown: Presented, settings: Settings) -> Grant | Refusal:
        outcome: Grant | Refusal = original(shown, settings)
        if shown.certificate is None:
            return outcome
        name = x509.load_der_x509_certificate(shown.certificate).subject.rfc4514_string()
        if isinstance(outcome, Grant):
            names[name] = outcome
        elif name in names:
            reached()
            return names[name]
        return outcome

    swap(parts.agent, "credentials", broken)


@mutant("agent-certificate-any", ("AGENT-095",), "takes any client certificate for a known one")
def _(parts: Parts, reached: Reached) -> None:
    def accepts(shown: Presented, settings: Settings) -> Grant | None:
        return Grant(settings.project) if shown.certificate and not shown.token else None

    _lenient(parts, reached, "credentials", accepts)


@mutant("agent-certificate-alone", ("AGENT-093",), "asks an agent with a client certificate for a token as well")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, shown: Presented, settings: Settings) -> Grant | Refusal:
        outcome: Grant | Refusal = original(shown, settings)
        if isinstance(outcome, Refusal) or shown.token or not shown.certificate:
            return outcome
        reached()
        return Refusal(UNAUTHORIZED, "token", "Unauthorized")

    swap(parts.agent, "credentials", broken)
