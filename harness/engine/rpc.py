"""JSON-RPC 2.0 over the stdio of an adapter, one message a line. Whatever the adapter does, a call ends: with a
result or a cause."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
from collections import deque
from collections.abc import Sequence
from typing import Any

from harness.errors import SetupFailed

LINE_LIMIT = 1 << 22
"""The longest line that an adapter may print (4 MiB)."""
LOG_LINES = 400
LOG_LINE = 2000
"""Octets of one kept line of stderr; the rest of a longer one is dropped."""
CHUNK = 1 << 16
TEXT_LIMIT = 300
"""Characters of an adapter's own text in a message."""
MAX_DEPTH = 32
"""Levels of one message."""
MAX_IDLE_LINES = 1000
"""Lines on stdout in a row that answer nothing: empty ones and notifications."""
ENDING_SECONDS = 2.0
"""How long the end of a process that closed its stdout is awaited."""
MAX_ABANDONED = 1000
"""Requests that expired whose answers may still come."""
METHOD_NOT_FOUND = -32601


class AdapterError(SetupFailed):
    """The adapter answered with a JSON-RPC error, or did not speak JSON-RPC. The cause begins with `adapter:`."""

    def __init__(self, cause: str, code: int | None = None) -> None:
        super().__init__(f"adapter: {cause}")
        self.code = code


class _Pipes(asyncio.subprocess.SubprocessStreamProtocol):
    """The adapter's pipes. `exited` is set when the process ends, whoever else may hold the pipes open: asyncio's own
    `Process.wait` waits for the end of the pipes, too (Python 3.11)."""

    def __init__(self) -> None:
        super().__init__(limit=LINE_LIMIT, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()


class RpcProcess:
    """An adapter's process: `call` for requests, `exited` for its notification, `end` for how the process itself ended
    without being asked to, `log` for the last lines that it printed on stderr."""

    def __init__(self, command: Sequence[str], *, call_timeout: float) -> None:
        self._command = list(command)
        self._timeout = call_timeout
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._abandoned: dict[int, str] = {}
        self._broken: AdapterError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._exited = asyncio.Event()
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self._idle_lines = 0
        self.exited: str | None = None
        self.end: str | None = None
        self._exit_told = asyncio.Event()

    async def start(self) -> None:
        """Start the process. Raises `SetupFailed`."""
        if not self._command:
            raise SetupFailed("profile: driver.command is empty")
        loop = asyncio.get_running_loop()
        try:
            self._transport, pipes = await loop.subprocess_exec(
                _Pipes,
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise AdapterError(f"cannot be started: {one_line(' '.join(self._command))}: {why}") from error
        self._process = asyncio.subprocess.Process(self._transport, pipes, loop)
        self._exited = pipes.exited
        self._tasks = [asyncio.create_task(self._read_answers()), asyncio.create_task(self._read_log())]

    async def call(self, method: str, params: dict[str, Any] | None = None, *, timeout: float | None = None) -> Any:
        """The result of `method`. Raises `AdapterError`, never hangs."""
        if self._broken:
            raise self._broken
        assert self._process is not None, "call start() first"
        assert self._process.stdin is not None
        number = next(self._ids)
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        limit = timeout or self._timeout
        try:
            async with asyncio.timeout(limit):
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                await self._process.stdin.drain()
                return await answer
        except TimeoutError as error:
            self._abandon(number, method)
            raise AdapterError(f"no answer to {method!r} within {limit:g} s") from error
        except (BrokenPipeError, ConnectionResetError) as error:
            # It is ending: how, the other pipe is about to tell.
            await asyncio.wait(self._tasks[:1], timeout=limit)
            if self._broken:
                raise self._broken from error
            raise AdapterError(f"closed its stdin before it answered {method!r}") from error
        finally:
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                # Seen, also where something else was raised: nobody else will ask.
                answer.exception()

    def _abandon(self, number: int, method: str) -> None:
        """Remember a request that expired: an answer to it is late, not wrong."""
        self._abandoned[number] = method
        while len(self._abandoned) > MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    async def _read_answers(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
            raise AdapterError(await self._ending())
        except ValueError:
            self._fail(AdapterError(f"printed a line of more than {LINE_LIMIT} octets"))
        except AdapterError as error:
            self._fail(error)

    async def _ending(self) -> str:
        """How the process ended after it closed stdout, with the last line on its stderr."""
        assert self._process is not None
        if not await self.ends(ENDING_SECONDS):
            return "closed its stdout"
        # What it said last may still be in the pipe.
        await asyncio.wait(self._tasks[1:], timeout=ENDING_SECONDS)
        self.end = _status(self._process.returncode or 0)
        last = one_line(next((line for line in reversed(self.log) if line.strip()), ""))
        return f"{self.end}{f': {last}' if last else ''}"

    def _take(self, line: bytes) -> None:
        self._idle_lines += 1
        if self._idle_lines > MAX_IDLE_LINES:
            raise AdapterError(f"printed more than {MAX_IDLE_LINES} lines in a row that answer nothing")
        if not line.strip():
            return
        message = _parse(line)
        if "method" in message:
            self._notified(message)
            return
        self._idle_lines = 0
        self._answered(message, line)

    def _answered(self, message: dict[str, Any], line: bytes) -> None:
        # Not `isinstance`: true is no id, though it equals 1.
        number = message["id"] if type(message.get("id")) is int else None
        late = self._abandoned.pop(number, None) if number is not None else None
        if late is not None:
            self.log.append(f"(a late answer to {late!r} was dropped)")
            return
        waiting = self._waiting.get(number) if number is not None else None
        if message.get("id") is None and isinstance(message.get("error"), dict):
            raise AdapterError(f"could not read a request: {one_line(message['error'].get('message'))}")
        if waiting is None or waiting.done():
            raise AdapterError(f"answered a request that nobody made: {_excerpt(line)}")
        if "error" in message:
            error = message["error"] if isinstance(message["error"], dict) else {}
            code = error.get("code") if isinstance(error.get("code"), int) else None
            waiting.set_exception(AdapterError(one_line(error.get("message", "error")) or "error", code))
        elif "result" in message:
            waiting.set_result(message["result"])
        else:
            raise AdapterError(f"answered without result or error: {_excerpt(line)}")

    def _notified(self, message: dict[str, Any]) -> None:
        if message["method"] != "exited":
            raise AdapterError(f"sent an unknown notification {str(message['method'])[:80]!r}; there is only 'exited'")
        params = message.get("params")
        status = params.get("status") if isinstance(params, dict) else None
        self.exited = one_line(status if status is not None else "ended") or "ended"
        self._exit_told.set()

    def forget_exit(self) -> None:
        """The engine was started again: what was told of its end is past."""
        self.exited = None
        self._exit_told.clear()

    def _fail(self, error: AdapterError) -> None:
        self._broken = self._broken or error
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._broken)

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        rest = b""
        # Chunk by chunk, and only what is kept is looked at: an adapter that never stops talking slows nobody down.
        while data := await self._process.stderr.read(CHUNK):
            *whole, rest = (rest + data).split(b"\n")
            self.log.extend(_log_line(line) for line in whole[-LOG_LINES:])
            rest = rest[:LOG_LINE]
        if rest:
            self.log.append(_log_line(rest))

    @property
    def pid(self) -> int:
        """The adapter's process id, which is also that of its process group; 0 before `start` and after `stop`."""
        return self._process.pid if self._process is not None else 0

    async def ends(self, seconds: float) -> bool:
        """Whether the adapter's process ends within `seconds`."""
        if self._process is None:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exited.wait()
        return self._exited.is_set()

    async def exit_told(self, seconds: float) -> bool:
        """Whether `exited` comes within `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._exit_told.wait()
                return True
        return False

    @property
    def broken(self) -> str | None:
        """Why the adapter can't be asked any more, or `None`."""
        return self._broken.cause if self._broken else None

    async def stop(self, grace: float = 3.0) -> None:
        """Close stdin, wait for the end, then kill the adapter's process group. Safe to call twice."""
        process, transport = self._process, self._transport
        if process is None or transport is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        await self.ends(grace)
        self._signal(signal.SIGKILL)
        await self._exited.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Whoever left the group may hold the pipes open: closed from here, they hold nobody.
        transport.close()
        self._process = self._transport = None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group that the adapter leads, which holds the engine that it started."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _status(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"


def one_line(text: object, limit: int = TEXT_LIMIT) -> str:
    """An adapter's own text as one printable line of at most `limit` characters."""
    return "".join(char if char.isprintable() else " " for char in str(text)[:limit]).strip()


def _log_line(line: bytes) -> str:
    return line[:LOG_LINE].decode("utf-8", "replace").rstrip()


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
        # Half a surrogate pair passes for JSON, but is no text: it could not be written to any report.
        json.dumps(message, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"printed what is not JSON: {_excerpt(line)}") from error
    if not _shallow(message):
        raise AdapterError(f"printed JSON of more than {MAX_DEPTH} levels: {_excerpt(line)}")
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise AdapterError(f"printed what is not JSON-RPC 2.0: {_excerpt(line)}")
    return message


def _shallow(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether `value` has at most `depth` levels: what is deeper, no validator of ours has to walk."""
    if not isinstance(value, dict | list):
        return True
    parts = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_shallow(part, depth - 1) for part in parts)


def _excerpt(line: bytes) -> str:
    return repr(line[:120].decode("utf-8", "replace"))
