"""The adapter's side of the adapter protocol: JSON-RPC 2.0, one message a line, over stdin and stdout.

An adapter subclasses `Adapter` and calls `serve`. stdout belongs to the protocol: what an engine prints goes to stderr.
"""

from __future__ import annotations

import json
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO

PROTOCOL = 1
LINE_LIMIT = 1 << 22
"""The longest line that is read (4 MiB)."""
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
CANNOT = -32000
"""The engine could not be brought to do it: the message says why."""

Result = dict[str, Any]


class Trouble(Exception):  # noqa: N818 - it becomes the answer's error, not a crash
    """A request cannot be fulfilled; the text is one line for the user."""


class Adapter(ABC):
    """What an adapter answers. Params have the shapes of adapter.schema.json; every method returns its result."""

    name: str
    version: str
    features: Sequence[str]
    can_refuse = False

    def __init__(self) -> None:
        self._out: BinaryIO | None = None
        self._writing = threading.Lock()

    def hello(self) -> Result:
        """Who answers, and what it can do. Raises `Trouble` when the engine is not there."""
        return {
            "protocol": PROTOCOL,
            "name": self.name,
            "version": self.version,
            "features": sorted(self.features),
            "can_refuse": self.can_refuse,
        }

    @abstractmethod
    def start(self, params: Mapping[str, Any]) -> list[str]:
        """Start the engine, or give the keys of `settings` that cannot be had (then it is not started)."""

    def addresses(self) -> Result:
        """Where listeners are that no tunnel is reached at, by name: `redirect`, with address and port."""
        return {}

    @abstractmethod
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        """Publish `specs` next to what is published; one of endpoint, refused, unsupported per spec, in their order."""

    @abstractmethod
    def unpublish(self, keys: Sequence[str]) -> None:
        """Withdraw what was published under `keys`; unknown keys are ignored."""

    @abstractmethod
    def status(self) -> Result:
        """`running`, and `pid` where there is a process."""

    @abstractmethod
    def restart(self) -> None:
        """Stop and start the engine; what was published stays where it was."""

    @abstractmethod
    def log(self, lines: int) -> list[str]:
        """The last lines of the engine's log, oldest first."""

    @abstractmethod
    def shutdown(self) -> None:
        """Stop the engine. Safe to call twice."""

    # the protocol

    def exited(self, status: str) -> None:
        """Tell the suite that the engine ended without being asked to (`was killed by signal 9`). From any thread."""
        self._write({"jsonrpc": "2.0", "method": "exited", "params": {"status": status}})

    def _write(self, message: Mapping[str, Any]) -> None:
        with self._writing:
            if self._out is None:
                return
            try:
                self._out.write(json.dumps(message).encode() + b"\n")
                self._out.flush()
            except (BrokenPipeError, ValueError):
                # Nobody listens any more: the end of stdin ends us.
                self._out = None

    def serve(self, source: BinaryIO | None = None, sink: BinaryIO | None = None) -> int:
        """Answer requests until `shutdown` or the end of stdin, then stop the engine. The number is the exit code."""
        stream = source or sys.stdin.buffer
        self._out = sink or sys.stdout.buffer
        try:
            while line := stream.readline(LINE_LIMIT):
                if not line.strip():
                    continue
                method = self._answer(line)
                if method == "shutdown":
                    break
        finally:
            self.shutdown()
        return 0

    def _answer(self, line: bytes) -> str:
        """Answer one request; its method."""
        number: Any = None
        method = ""
        try:
            request = json.loads(line)
            number, method = request["id"], str(request["method"])
            params = request.get("params") or {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._error(
                number, PARSE_ERROR if isinstance(error, ValueError) else INVALID_REQUEST, f"no request: {error}"
            )
            return ""
        handler = self._methods().get(method)
        if handler is None:
            self._error(number, METHOD_NOT_FOUND, f"no method {method!r}")
            return method
        try:
            result = handler(params)
        except Trouble as error:
            self._error(number, CANNOT, str(error))
        except (KeyError, TypeError, AttributeError) as error:
            self._error(number, INVALID_PARAMS, f"{method}: {type(error).__name__}: {error}")
        except (OSError, ValueError) as error:
            self._error(number, INTERNAL_ERROR, f"{method}: {type(error).__name__}: {error}")
        else:
            self._write({"jsonrpc": "2.0", "id": number, "result": result})
        return method

    def _error(self, number: Any, code: int, message: str) -> None:
        self._write({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}})

    def _methods(self) -> dict[str, Callable[[Mapping[str, Any]], Result]]:
        return {
            "hello": lambda _: self.hello(),
            "start": self._start,
            "publish": lambda params: {"results": self.publish(params["specs"])},
            "unpublish": self._unpublish,
            "status": lambda _: self.status(),
            "restart": self._restart,
            "log": lambda params: {"lines": self.log(int(params["lines"]))},
            "shutdown": self._shutdown,
        }

    def _start(self, params: Mapping[str, Any]) -> Result:
        unsupported = self.start(params)
        if unsupported:
            return {"unsupported": unsupported}
        addresses = self.addresses()
        return {"addresses": addresses} if addresses else {}

    def _unpublish(self, params: Mapping[str, Any]) -> Result:
        self.unpublish(params["keys"])
        return {}

    def _restart(self, _: Mapping[str, Any]) -> Result:
        self.restart()
        return {}

    def _shutdown(self, _: Mapping[str, Any]) -> Result:
        self.shutdown()
        return {}
