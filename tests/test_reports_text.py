"""Text from peers is shown, never obeyed."""

from __future__ import annotations

import html

import pytest

from reports import ladder, markup, text
from tests.golden.sample import connect_steps, event

HOSTILE = [
    ("\x1b[31mred\x1b]0;title\x07", "\u241b[31mred\u241b]0;title\u2407"),
    ("a\x00b", "a\u2400b"),
    ("\x9b31m", "\u27e8U+009B\u27e931m"),
    ("user\u202etxt.exe", "user\u27e8U+202E\u27e9txt.exe"),
    ("\u2066a\u2069\u200b\ufeff", "\u27e8U+2066\u27e9a\u27e8U+2069\u27e9\u27e8U+200B\u27e9\u27e8U+FEFF\u27e9"),
    ("\udce9", "\u27e8U+DCE9\u27e9"),
    ("\uffff", "\u27e8U+FFFF\u27e9"),
    ("\r\x7f", "\u240d\u2421"),
    ("\U000e0041", "\u27e8U+E0041\u27e9"),
    ("plain \u00e9 \u4e2d", "plain \u00e9 \u4e2d"),
]


@pytest.mark.parametrize(("given", "shown"), HOSTILE)
def test_what_does_not_print_becomes_visible(given: str, shown: str) -> None:
    assert text.block(given) == shown


def test_a_block_keeps_its_lines_and_a_line_does_not() -> None:
    assert text.block("a\n\tb") == "a\n\tb"
    assert text.line("a\n\tb") == "a\u240a b"


def test_a_cut_says_so_and_how_much() -> None:
    shown = text.line("x" * 10_000_000)
    assert shown.endswith("[cut: 400 of 10,000,000 characters]")
    assert len(shown) < 500


def test_clip_ends_in_an_ellipsis_within_the_limit() -> None:
    assert text.clip("short", 10) == "short"
    assert text.clip("x" * 50, 10) == "x" * 9 + "\u2026"
    assert len(text.clip("\x00" * 50, 10)) == 10


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0004, "0 ms"), (0.34, "340 ms"), (12.43, "12.4 s"), (185.2, "3 min 05 s"), (3661, "61 min 01 s")],
)
def test_durations_read_well(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


def test_markup_escapes_every_plain_string() -> None:
    hostile = "</script><img src=x onerror='a' \"b\">&"
    assert markup.el("p", hostile, title=hostile) == f'<p title="{html.escape(hostile)}">{html.escape(hostile)}</p>'
    assert (
        markup.el("p", markup.el("b", "x"), None, class_="k", open=True, hidden=False)
        == '<p class="k" open><b>x</b></p>'
    )
    assert markup.el("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_a_short_transcript_is_drawn_whole() -> None:
    events = connect_steps(10)
    assert [row.number for row in ladder.fold(events) if isinstance(row, ladder.Step)] == list(
        range(1, len(events) + 1)
    )


def test_a_long_transcript_keeps_its_ends_and_the_departed_step() -> None:
    events = connect_steps(5000)
    departed = next(index for index, item in enumerate(events, 1) if item.departed)
    rows = ladder.fold(events)
    steps = [row.number for row in rows if isinstance(row, ladder.Step)]
    assert steps[:9] == list(range(1, 10))
    assert set(range(departed - ladder.BEFORE, departed + ladder.AFTER + 1)) <= set(steps)
    assert steps[-1] == len(events)
    folds = [row for row in rows if isinstance(row, ladder.Fold)]
    assert sum(row.count for row in folds) + len(steps) == len(events)
    assert len(rows) < 40


def test_a_long_transcript_without_a_departed_step_keeps_its_end() -> None:
    events = [event(index / 10, "c>e", f"step {index}") for index in range(100)]
    steps = [row.number for row in ladder.fold(events) if isinstance(row, ladder.Step)]
    assert steps == [*range(1, 10), *range(92, 101)]


def test_the_agent_has_a_column_only_where_it_speaks() -> None:
    quiet = ladder.draw([event(0, "c>e", "a"), event(0, "e>u", "b")], "quiet")
    assert ">upstream<" in quiet
    assert ">agent<" not in quiet
    assert ">agent<" in ladder.draw([event(0, "a>e", "Hello")], "agent")


def test_a_departed_step_is_marked_in_words() -> None:
    drawn = ladder.draw([event(0, "c>e", "a"), event(0, "e>c", "b", departed=True)], "one")
    assert drawn.count("the engine departed here") == 1
    assert drawn.count('class="bad"') == 1


def test_several_connections_on_one_leg_are_told_apart() -> None:
    events = [event(0, "c>e", "a", channel="client-1"), event(0, "c>e", "b", channel="client-2")]
    assert "client-2: b" in ladder.draw(events, "two")
    assert "client-1" not in ladder.draw(events[:1], "one")


def test_nothing_to_draw_is_nothing() -> None:
    assert ladder.draw([], "none") == ""
