"""Write the golden files anew: `python -m tests.golden`, then read the difference."""

from __future__ import annotations

from pathlib import Path

from harness.model.record import write_record
from reports import html, junit, summary
from tests.golden.sample import RECORD, ROWS

FOLDER = Path(__file__).parent


def main() -> None:
    """The record, JUnit and the summary; and the page under `build/`, to look at."""
    write_record(RECORD, FOLDER / "run.json")
    (FOLDER / "junit.xml").write_text(junit.render(RECORD), encoding="utf-8")
    (FOLDER / "summary.txt").write_text(summary.text(RECORD) + "\n", encoding="utf-8")
    page = Path("build/golden/index.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html.render(RECORD, ROWS), encoding="utf-8")


if __name__ == "__main__":
    main()
