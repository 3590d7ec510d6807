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


class RpcProcess:
    """An adapter's process: `call` for requests, `exited` for its notification, `log` for what it printed on stderr."""

    def __init__(self, command: Sequence[str], *, call_timeout: float) -> None:
        self._command = list(command)
        self._timeout = call_timeout
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._abandoned: dict[int, str] = {}
        self._broken: AdapterError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._process: asyncio.subprocess.Process | None = None
        self.log: deque[str] = deque(maxlen=LOG_LINES)
        self.exited: str | None = None
        self._exit_told = asyncio.Event()

    async def start(self) -> None:
        """Start the process. Raises `AdapterError`."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=LINE_LIMIT,
                start_new_session=True,
            )
        except OSError as error:
            raise AdapterError(f"cannot be started: {' '.join(self._command)}: {error.strerror}") from error
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
            raise AdapterError(f"closed its stdin before it answered {method!r}") from error
        finally:
            self._waiting.pop(number, None)

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
        try:
            async with asyncio.timeout(ENDING_SECONDS):
                status = await self._process.wait()
                await asyncio.wait(self._tasks[1:])
        except TimeoutError:
            found = self._process.returncode
            if found is None:
                return "closed its stdout"
            status = found
        last = next((line for line in reversed(self.log) if line.strip()), "")[:300]
        return f"{_status(status)}{f': {last}' if last else ''}"

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        message = _parse(line)
        if "method" in message:
            self._notified(message)
            return
        number = message.get("id")
        late = self._abandoned.pop(number, None) if isinstance(number, int) else None
        if late is not None:
            self.log.append(f"(a late answer to {late!r} was dropped)")
            return
        waiting = self._waiting.get(number) if isinstance(number, int) else None
        if number is None and isinstance(message.get("error"), dict):
            raise AdapterError(f"could not read a request: {str(message['error'].get('message'))[:300]}")
        if waiting is None or waiting.done():
            raise AdapterError(f"answered a request that nobody made: {_excerpt(line)}")
        if "error" in message:
            error = message["error"] if isinstance(message["error"], dict) else {}
            code = error.get("code") if isinstance(error.get("code"), int) else None
            waiting.set_exception(AdapterError(str(error.get("message", "error"))[:300], code))
        elif "result" in message:
            waiting.set_result(message["result"])
        else:
            raise AdapterError(f"answered without result or error: {_excerpt(line)}")

    def _notified(self, message: dict[str, Any]) -> None:
        if message["method"] != "exited":
            raise AdapterError(f"sent an unknown notification {str(message['method'])[:80]!r}; there is only 'exited'")
        params = message.get("params")
        status = params.get("status") if isinstance(params, dict) else None
        self.exited = str(status if status is not None else "ended")[:200]
        self._exit_told.set()

    def _fail(self, error: AdapterError) -> None:
        self._broken = self._broken or error
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._broken)

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError):
            while line := await self._process.stderr.readline():
                self.log.append(line.decode("utf-8", "replace").rstrip()[:2000])

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
                await self._process.wait()
                return True
        return False

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
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(grace):
                await process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await process.wait()
        self._signal(signal.SIGKILL)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the group that the adapter leads, which holds the engine that it started."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _status(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"


def _parse(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"printed what is not JSON: {_excerpt(line)}") from error
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise AdapterError(f"printed what is not JSON-RPC 2.0: {_excerpt(line)}")
    return message


def _excerpt(line: bytes) -> str:
    return repr(line[:120].decode("utf-8", "replace"))
