"""The line to an adapter: late answers, floods, ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from harness.engine.rpc import AdapterError, RpcProcess, one_line

LATE = """
import sys
first, second = sys.stdin.readline(), sys.stdin.readline()
for number in (1, 2):
    print('{"jsonrpc": "2.0", "id": %d, "result": {"for": %d}}' % (number, number), flush=True)
sys.stdin.read()
"""
GONE = "import sys; print('out of paper', file=sys.stderr)"


def run(code: str, script: Callable[[RpcProcess], Coroutine[Any, Any, None]], seconds: float = 30) -> None:
    async def whole() -> None:
        rpc = RpcProcess([sys.executable, "-c", code], call_timeout=seconds)
        await rpc.start()
        try:
            await script(rpc)
        finally:
            await rpc.stop()
            await rpc.stop()

    asyncio.run(whole())


def test_a_late_answer_is_dropped_and_the_next_one_counts() -> None:
    async def script(rpc: RpcProcess) -> None:
        with pytest.raises(AdapterError, match=r"no answer to 'first' within 0\.2 s"):
            await rpc.call("first", timeout=0.2)
        assert await rpc.call("second") == {"for": 2}
        assert list(rpc.log) == ["(a late answer to 'first' was dropped)"]
        assert rpc.broken is None

    run(LATE, script)


def test_an_end_is_told_to_whoever_asks_then() -> None:
    async def script(rpc: RpcProcess) -> None:
        assert await rpc.ends(30)
        for _ in range(2):
            with pytest.raises(AdapterError, match="ended with status 0: out of paper"):
                await rpc.call("anything")
        assert rpc.end == "ended with status 0"

    run(GONE, script)


def test_lines_of_stderr_are_kept_from_the_end_and_cut() -> None:
    async def script(rpc: RpcProcess) -> None:
        with pytest.raises(AdapterError):
            await rpc.call("anything")
        assert rpc.log[-1] == "y" * 2000
        assert rpc.log[-2] == "4999"
        assert len(rpc.log) == 400

    run("import sys\nfor n in range(5000): print(n, file=sys.stderr)\nsys.stderr.write('y' * 100000)", script)


@pytest.mark.parametrize(
    ("text", "line"), [("a\nb\x1b[31m", "a b [31m"), ("x" * 400, "x" * 300), ("\ud800", ""), (None, "None")]
)
def test_an_adapters_words_are_one_printable_line(text: object, line: str) -> None:
    assert one_line(text) == line
