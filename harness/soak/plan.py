"""One exchange as data: what a client asks, what the upstream answers, and what each may find at the far side.

`differences` compares by meaning: an intermediary may add fields, join the lines of a list, frame anew, and drop what
the version of a leg cannot carry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.peer.http import Informational, Lines, Response
from harness.peer.http_upstream import UpstreamExchange

Pairs = tuple[tuple[str, str], ...]
SHOWN = 100
"""Characters of a value that a message shows."""
BODILESS = frozenset({204, 304})
"""Statuses whose responses have no content, whatever their fields say (RFC 9110 section 6.4.1)."""


@dataclass(frozen=True, slots=True)
class Content:
    """Content in pieces as they are sent. `known`: its length is told in front. Trailers only follow where it is
    not."""

    pieces: tuple[bytes, ...] = ()
    known: bool = True
    trailers: Pairs = ()

    @property
    def whole(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `path` follows the segment with the nonce; `content` None is a request without any."""

    method: str = "GET"
    path: str = ""
    fields: Pairs = ()
    content: Content | None = None

    def target(self, nonce: str) -> str:
        """The request-target."""
        return f"/{nonce}{self.path}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, with the interim ones before it."""

    status: int = 200
    fields: Pairs = ()
    interim: tuple[tuple[int, Pairs], ...] = ()
    content: Content = Content()


@dataclass(frozen=True, slots=True)
class Plan:
    """One exchange."""

    ask: Ask
    answer: Answer

    @property
    def octets(self) -> int:
        """Content in both directions."""
        return len(self.ask.content.whole if self.ask.content else b"") + len(self.answer.content.whole)


async def request_differences(ask: Ask, seen: UpstreamExchange, *, nonce: str, host: str, whole: bool) -> list[str]:
    """What the upstream has otherwise than the client asked for. `whole`: neither leg is HTTP/1.1, so that trailers
    must arrive (they may be dropped there, RFC 9112 section 7.1.2). Its content must have been read."""
    wanted = ask.content or Content()
    found = [str(violation) for violation in seen.violations]
    found += _same("method", ask.method, seen.method)
    found += _same("target", ask.target(nonce), seen.target)
    name = (seen.authority or "").rpartition(":")[0] or seen.authority or ""
    found += _same("authority", host.lower(), name.lower())
    found += _fields("request", ask.fields, seen)
    found += _content("request", wanted.whole, await seen.body_so_far(), complete=seen.complete)
    found += _trailers("request", wanted.trailers, seen.trailers, whole=whole)
    return found


def response_differences(plan: Plan, got: Response, *, nonce: str, whole: bool) -> list[str]:
    """What the client has otherwise than the upstream answered, the nonce first of all."""
    answer = plan.answer
    if got.get("edgecase-answer") != nonce:
        return [f"crossed or made up: {got.describe()}, its nonce is {got.get('edgecase-answer')!r} and not {nonce!r}"]
    bodiless = plan.ask.method == "HEAD" or answer.status in BODILESS
    content = Content() if bodiless else answer.content
    found = [str(violation) for violation in got.violations]
    found += _same("status", answer.status, got.status)
    found += _fields("response", answer.fields, got)
    found += _content("response", content.whole, got.body, complete=got.complete)
    found += _trailers("response", content.trailers, got.trailers, whole=whole)
    found += _interim(answer.interim, got.informational)
    return found


def _same(what: str, wanted: object, got: object) -> list[str]:
    return [] if wanted == got else [f"{what} {_short(got)} and not {_short(wanted)}"]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.. ({len(text)})"


def _fields(what: str, wanted: Pairs, got: Lines) -> list[str]:
    """Values of a name keep their order and may be joined (RFC 9110 section 5.3); cookies are joined by `; `."""
    found = []
    for name in dict.fromkeys(name for name, _ in wanted):
        joint = "; " if name == "cookie" else ", "
        told = joint.join(value for known, value in wanted if known == name)
        found += _same(f"{what} field {name}", told, joint.join(got.get_all(name)))
    return found


def _content(what: str, wanted: bytes, got: bytes, *, complete: bool) -> list[str]:
    if not complete:
        return [f"{what} content that broke off behind {len(got)} octets of {len(wanted)}"]
    if wanted == got:
        return []
    at = next((at for at, (one, other) in enumerate(zip(wanted, got, strict=False)) if one != other), None)
    where = f"from octet {at} on" if at is not None else f"in length: {len(got)} octets of {len(wanted)}"
    return [f"{what} content that differs {where}"]


def _trailers(what: str, wanted: Pairs, got: Sequence[tuple[str, str]], *, whole: bool) -> list[str]:
    arrived = tuple((name.lower(), value) for name, value in got)
    return [] if arrived == wanted or (not arrived and not whole) else [f"{what} trailers {arrived} and not {wanted}"]


def _interim(wanted: Sequence[tuple[int, Pairs]], got: Sequence[Informational]) -> list[str]:
    """Interim responses arrive in their order, or not at all (HTTP-HDR-014); 100 may be the engine's own."""
    left = list(wanted)
    for each in got:
        if each.status == 100:
            continue
        while left and (left[0][0] != each.status or _fields("interim", left[0][1], each)):
            left.pop(0)
        if not left:
            return [f"an interim response {each.status} that was not sent, or out of order"]
        left.pop(0)
    return []
