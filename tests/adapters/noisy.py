"""The adapter of tests/adapters/simple.py, which never stops talking on stderr."""

from __future__ import annotations

import os
import sys
import threading

from tests.adapters.simple import Simple

NOISE = b"all is well, and so it is\n" * 100 + b"without an end of a line " * 1000


def talk() -> None:
    """Write until nobody listens."""
    while True:
        os.write(2, NOISE)


if __name__ == "__main__":
    threading.Thread(target=talk, daemon=True).start()
    sys.exit(Simple().serve())
