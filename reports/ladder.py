"""The ladder diagram of a case: one column per peer, time downwards, one arrow per step, the departed step in red.

The drawing is inline SVG without style attributes (the page's policy forbids them) and without ids, so that many stand
on one page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.model.event import AGENT, HARNESS, UPSTREAM, Event
from reports import text
from reports.markup import Html, el, join

PEERS = ("client", "engine", "agent", "upstream")
"""Columns from left to right: the agent stands where it is, between engine and upstream, and only where it speaks."""
WHOLE = 26
"""A transcript of up to so many steps is drawn whole."""
HEAD, BEFORE, AFTER, TAIL = 9, 7, 4, 2
"""Of a longer one: the first steps, those around each departed step, and the last."""
DEPARTED_SHOWN = 4
"""Departed steps that keep their neighbourhood in a folded drawing."""

_GUTTER, _MARGIN = 92, 52
_SPACING = {2: 420, 3: 330, 4: 250}
_HEADER, _ROW, _DETAIL, _FLAG, _GAP = 38, 26, 15, 17, 28
_BOLD, _PLAIN = 7.7, 6.8
"""Width of a character of a label and of its detail, on the safe side: the reader's font is not known here."""


@dataclass(frozen=True, slots=True)
class Step:
    """One drawn step: its number in the whole transcript (from 1) and the event."""

    number: int
    event: Event


@dataclass(frozen=True, slots=True)
class Fold:
    """Steps left out of the drawing: how many, and the number of the first."""

    count: int
    first: int


def fold(events: Sequence[Event]) -> list[Step | Fold]:
    """The steps to draw: all of a short transcript; of a long one the first, the last, those around what departed."""
    if len(events) <= WHOLE:
        return [Step(index + 1, event) for index, event in enumerate(events)]
    departed = [index for index, event in enumerate(events) if event.departed][:DEPARTED_SHOWN]
    kept = {*range(HEAD), *range(len(events) - TAIL, len(events))}
    for index in departed:
        kept |= set(range(max(0, index - BEFORE), min(len(events), index + AFTER + 1)))
    if not departed:
        kept |= set(range(len(events) - BEFORE - TAIL, len(events)))
    rows: list[Step | Fold] = []
    previous = -1
    for index in sorted(kept):
        if index - previous > 1:
            rows.append(Fold(index - previous - 1, previous + 2))
        rows.append(Step(index + 1, events[index]))
        previous = index
    return rows


def draw(events: Sequence[Event], label: str) -> Html:
    """The ladder of `events` as SVG; `label` is its accessible name. Empty when there is nothing to draw."""
    if not events:
        return Html("")
    columns = _columns(events)
    rows = fold(events)
    spread = _spread(events)
    width = _GUTTER + 2 * _MARGIN + _SPACING[len(columns)] * (len(columns) - 1)
    drawing: list[Html] = []
    top = _HEADER
    for row in rows:
        if isinstance(row, Fold):
            drawing.append(_gap(row, top, width))
            top += _GAP
            continue
        height = _height(row.event)
        drawing.append(_step(row, top, height, columns, width, spread))
        top += height
    bottom = top + 12
    frame = [_lifeline(name, x, bottom) for name, x in columns.items()]
    return el(
        "svg",
        el("title", label),
        *frame,
        *drawing,
        viewBox=f"0 0 {width} {bottom + 4}",
        width=width,
        height=bottom + 4,
        role="img",
        class_="ladder",
    )


def _columns(events: Sequence[Event]) -> dict[str, int]:
    """Each peer's x. Client, engine and upstream always have a column, so that ladders can be compared at a glance."""
    speaks = any("agent" in (event.sender, event.receiver) for event in events)
    names = [name for name in PEERS if name != "agent" or speaks]
    spacing = _SPACING[len(names)]
    return {name: _GUTTER + _MARGIN + spacing * index for index, name in enumerate(names)}


def _spread(events: Sequence[Event]) -> frozenset[str]:
    """Legs with several connections, where a step must say which one it belongs to."""
    channels: dict[str, set[str]] = {}
    for event in events:
        if event.channel:
            channels.setdefault(event.leg, set()).add(event.channel)
    return frozenset(leg for leg, names in channels.items() if len(names) > 1)


def _height(event: Event) -> int:
    return _ROW + (_DETAIL if event.detail else 0) + (_FLAG if event.departed else 0)


def _lifeline(name: str, x: int, bottom: int) -> Html:
    return join(
        el("rect", x=x - 46, y=4, width=92, height=22, rx=4, class_="lp"),
        el("text", name, x=x, y=19, class_="lh"),
        el("path", d=f"M{x} 26V{bottom}", class_="ll"),
    )


def _gap(row: Fold, top: int, width: int) -> Html:
    last = row.first + row.count - 1
    which = f"step {row.first}" if row.count == 1 else f"steps {row.first} to {last}"
    return join(
        el("rect", x=_GUTTER, y=top + 3, width=width - _GUTTER - 8, height=_GAP - 8, class_="lg"),
        el("text", f"{which} left out here: see all steps below", x=(_GUTTER + width) // 2, y=top + 17, class_="lm"),
    )


def _step(row: Step, top: int, height: int, columns: dict[str, int], width: int, spread: frozenset[str]) -> Html:
    event = row.event
    start, end = columns.get(event.sender), columns.get(event.receiver)
    pieces = [
        el("text", str(row.number), x=30, y=top + 17, class_="ln"),
        el("text", f"{event.at:.4f} s", x=_GUTTER - 6, y=top + 17, class_="lt"),
    ]
    if start is None or end is None or start == end:
        drawn = _note(event, top, width)
    else:
        drawn = _arrow(event, start, end, top, event.channel if event.leg in spread else "")
    if event.departed:
        band = el("rect", x=2, y=top, width=width - 4, height=height, rx=3, class_="lb")
        centre = (_GUTTER + width) // 2 if start is None or end is None else (start + end) // 2
        flag = el("text", "\u2717 the engine departed here", x=centre, y=top + height - 6, class_="lf")
        return el("g", band, *pieces, drawn, flag, class_="bad")
    return el("g", *pieces, drawn, class_=_LEG_CLASSES.get(event.leg))


_LEG_CLASSES = {UPSTREAM: "up", AGENT: "ag", HARNESS: "hn"}


def _arrow(event: Event, start: int, end: int, top: int, channel: str) -> Html:
    line_at = top + 21
    room = abs(end - start) - 20
    point = -8 if end > start else 8
    pieces = [
        el("text", text.clip(_label(event, channel), int(room / _BOLD)), x=(start + end) // 2, y=top + 16, class_="lw"),
        el("path", d=f"M{start} {line_at}H{end}", class_="la"),
        el("path", d=f"M{end} {line_at}l{point} -4v8z", class_="lk"),
    ]
    if event.detail:
        pieces.append(
            el("text", text.clip(event.detail, int(room / _PLAIN)), x=(start + end) // 2, y=line_at + 14, class_="ld")
        )
    return join(*pieces)


def _note(event: Event, top: int, width: int) -> Html:
    """A step without an arrow: a barrier, a remark of the harness, something that did not come."""
    room = width - _GUTTER - 40
    centre = (_GUTTER + width) // 2
    shown = el("text", text.clip(_label(event, ""), int(room / _BOLD)), x=centre, y=top + 16, class_="lw")
    box = el(
        "rect", x=_GUTTER + 6, y=top + 2, width=width - _GUTTER - 14, height=_note_height(event), rx=9, class_="lo"
    )
    if not event.detail:
        return join(box, shown)
    return join(box, shown, el("text", text.clip(event.detail, int(room / _PLAIN)), x=centre, y=top + 32, class_="ld"))


def _note_height(event: Event) -> int:
    return _ROW - 4 + (_DETAIL if event.detail else 0)


def _label(event: Event, channel: str) -> str:
    size = f" ({text.plural(event.size, 'octet')})" if event.size else ""
    return f"{channel + ': ' if channel else ''}{event.what}{size}"
