"""The engine's log: one line per event on stderr, never a token, a key, a cookie or a payload."""

from __future__ import annotations

import logging
import sys

NAME = "reference_engine"


def set_up(level: str) -> logging.Logger:
    """The logger of the engine, writing to stderr from `level` up. Calling it again changes the level only."""
    logger = logging.getLogger(NAME)
    logger.setLevel(level.upper())
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    return logger


class OneLine(logging.Formatter):
    """Keeps a record on one line: what a peer sent may hold line breaks and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback keeps its own lines behind it, since it is ours."""
        trace, record.exc_info = record.exc_info, None
        line = "".join(one if one.isprintable() else repr(one)[1:-1] for one in super().format(record))
        record.exc_info = trace
        return f"{line}\n{self.formatException(trace)}" if trace else line
