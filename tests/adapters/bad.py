"""Adapters that are wrong in one way each: `python -m tests.adapters.bad WAY`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.adapters._rpc import Adapter, Result
from tests.adapters.simple import Simple, Tunnel

READ_ON = "import sys; sys.stdin.buffer.read()"


class ClaimsUnknown(Simple):
    features = ("tls.terminate", "tls.1.2", "warp.drive")


class ClaimsTooMuch(Simple):
    features = ("tls.terminated", "tls.1.2", "http.h1")


class AnswersUnknownMethods(Simple):
    def _methods(self) -> dict[str, Callable[[Mapping[str, Any]], Result]]:
        class Anything(dict[str, Any]):
            def get(self, key: str, default: Any = None) -> Any:
                return super().get(key, lambda _: {})

        return Anything(super()._methods())


class OtherErrorForUnknownMethods(Simple):
    def _error(self, number: Any, code: int, message: str) -> None:
        super()._error(number, -32000, message)


class IgnoresUnknownMethods(Simple):
    def _error(self, number: Any, code: int, message: str) -> None:
        return


class TakesEverySetting(Simple):
    def start(self, params: Mapping[str, Any]) -> list[str]:
        return super().start({**params, "settings": {}}) if self.process is None else []


class NeverStarts(Simple):
    def start(self, params: Mapping[str, Any]) -> list[str]:
        return super().start(params) or ["domain"]


class ListensNowhere(Simple):
    def addresses(self) -> Result:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            return {"redirect": {"address": "127.0.0.1", "port": gone.getsockname()[1]}}


class PublishesOneLess(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return super().publish(specs)[: max(1, len(specs) - 1)]


class PublishesOneMore(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return [*super().publish(specs), {"unsupported": "tls.mtls"}]


class Reverses(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return super().publish(specs)[::-1]


class SamePlace(Simple):
    """Every tunnel at the endpoint of the first one."""

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        results = super().publish(specs)
        first = next((result for result in results if "endpoint" in result), {})
        return [{"endpoint": {**first["endpoint"], "host": "one.test"}} if "endpoint" in r else r for r in results]


class Misplaced(Simple):
    """Spoils one key of every endpoint."""

    change: tuple[str, object]

    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        result = super().publish_one(spec)
        if "endpoint" in result:
            result["endpoint"].update([self.change])
        return result


class PortZero(Misplaced):
    change = ("port", 0)


class PortInWords(Misplaced):
    change = ("port", "443")


class PortTooHigh(Misplaced):
    change = ("port", 65536)


class OverUdp(Misplaced):
    change = ("transport", "udp")


class HostWithSpace(Misplaced):
    change = ("host", "a b\x00")


class HalfSurrogate(Misplaced):
    change = ("host", "\ud800")


class TellsNoUdpPort(Simple):
    """An HTTP tunnel whose clients are said to speak HTTP/3, nobody knows where."""

    features = (*Simple.features, "http.h1", "http.downstream-h3")

    def lacks(self, properties: Mapping[str, Any]) -> str | None:
        return None if properties == {"protocol": "http"} else super().lacks(properties)


class AddressOfNobody(Misplaced):
    change = ("address", "nobody.invalid")


class MoreKeys(Misplaced):
    change = ("colour", "red")


class LacksWhatItClaims(Simple):
    """Says in hello what it can do, and then that it can't."""

    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        return [{"unsupported": "tls.terminated"} for _ in specs]


class TakesEveryProtocol(Simple):
    def lacks(self, properties: Mapping[str, Any]) -> str | None:
        return None


class DropsUnknownProperties(Simple):
    def lacks(self, properties: Mapping[str, Any]) -> str | None:
        return None if properties.get("protocol") == "tls" else "http.h1"


class Unreachable(Simple):
    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        result = super().publish_one(spec)
        if "endpoint" in result:
            with socket.create_server(("127.0.0.1", 0)) as gone:
                result["endpoint"]["port"] = gone.getsockname()[1]
        return result


class BlackHole(Simple):
    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        result = super().publish_one(spec)
        if "endpoint" in result:
            hole = socket.create_server(("127.0.0.1", 0))
            self.tunnels[spec["key"]].upstream = hole.getsockname()
        return result


class Crossed(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        results = super().publish(specs)
        live: list[Tunnel] = list(self.tunnels.values())
        if len(live) > 1:
            live[-1].upstream, live[-2].upstream = live[-2].upstream, live[-1].upstream
        return results


class RefusesAll(Simple):
    def publish_one(self, spec: Mapping[str, Any]) -> Result:
        return {"unsupported": "tls.terminated"}


class NeverWithdraws(Simple):
    def unpublish(self, keys: Sequence[str]) -> None:
        return


class WithdrawsAll(Simple):
    def unpublish(self, keys: Sequence[str]) -> None:
        super().unpublish(list(self.tunnels))


class LogsTooMuch(Simple):
    def log(self, lines: int) -> list[str]:
        return ["line"] * (lines + 1)


class SaysStopped(Simple):
    def status(self) -> Result:
        return {"running": False}


class ForeignPid(Simple):
    def status(self) -> Result:
        return {"running": True, "pid": 1}


class ForgetsOnRestart(Simple):
    def restart(self) -> None:
        super().restart()
        self.unpublish(list(self.tunnels))


class SilentDeath(Simple):
    def exited(self, status: str) -> None:
        return


class DeadRuns(Simple):
    def status(self) -> Result:
        return {**super().status(), "running": True}


class IgnoresShutdown(Simple):
    def serve(self, *_: Any) -> int:
        super().serve()
        threading.Event().wait()
        return 0


class LeavesProcess(Simple):
    def shutdown(self) -> None:
        super().shutdown()
        subprocess.Popen(
            [sys.executable, "-c", "import threading; threading.Event().wait()"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )


class OtherProtocol(Simple):
    def hello(self) -> Result:
        return {**super().hello(), "protocol": 2}


class WrongSchema(Simple):
    def hello(self) -> Result:
        return {**super().hello(), "features": "all of them"}


class NotJsonRpc(Simple):
    def _write(self, message: Mapping[str, Any]) -> None:
        super()._write({key: value for key, value in message.items() if key != "jsonrpc"})


class NoResult(Simple):
    def _write(self, message: Mapping[str, Any]) -> None:
        super()._write({key: value for key, value in message.items() if key != "result"})


class WrongId(Simple):
    def _write(self, message: Mapping[str, Any]) -> None:
        super()._write({**message, "id": 4711})


class AnswersTwice(Simple):
    def _write(self, message: Mapping[str, Any]) -> None:
        super()._write(message)
        super()._write(message)


class AnswersTrue(Simple):
    """`true` is no id, though it equals 1 in many a language."""

    def _write(self, message: Mapping[str, Any]) -> None:
        super()._write({**message, "id": True})


class LagsBehind(Simple):
    """Answers each request when the next one comes."""

    held: Mapping[str, Any] | None = None

    def _write(self, message: Mapping[str, Any]) -> None:
        held, self.held = self.held, message
        if held is not None:
            super()._write(held)


class NestedAnswer(Simple):
    """A name that is a list in a list in a list ..: JSON, but more than most programs can walk."""

    def _write(self, message: Mapping[str, Any]) -> None:
        deep = "[" * 900 + "]" * 900
        sys.stdout.write(f'{{"jsonrpc": "2.0", "id": {message["id"]}, "result": {{"name": {deep}}}}}\n')
        sys.stdout.flush()


class Progress(Simple):
    """Tells over and over of an end that was none."""

    def hello(self) -> Result:
        for _ in range(2000):
            self.exited("not really")
        return super().hello()


class Chatty(Simple):
    def hello(self) -> Result:
        self._write({"jsonrpc": "2.0", "method": "progress", "params": {}})
        return super().hello()


class LongLine(Simple):
    def hello(self) -> Result:
        return {**super().hello(), "name": "x" * (5 << 20)}


class EndsAfterHello(Simple):
    def _answer(self, line: bytes) -> str:
        super()._answer(line)
        print("simple: that is all", file=sys.stderr, flush=True)
        os._exit(7)


class DiesOnPublish(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        os._exit(9)


class HangsOnPublish(Simple):
    def publish(self, specs: Sequence[Mapping[str, Any]]) -> list[Result]:
        threading.Event().wait()
        return []


class HangsOnStart(Simple):
    def start(self, params: Mapping[str, Any]) -> list[str]:
        threading.Event().wait()
        return []


class HangsOnUnpublish(Simple):
    def unpublish(self, keys: Sequence[str]) -> None:
        threading.Event().wait()


class HangsOnShutdown(Simple):
    def shutdown(self) -> None:
        threading.Event().wait()


class DiesAfterPublish(Simple):
    """Ends as soon as it has published what the suite asked for, not the doctor's first questions."""

    def _answer(self, line: bytes) -> str:
        method = super()._answer(line)
        if method == "publish" and len(self.tunnels) > 1:
            print("simple: out of licences", file=sys.stderr, flush=True)
            os._exit(5)
        return method


class SaysNoAtHello(Simple):
    def hello(self) -> Result:
        raise OSError("the licence has expired")


def dead() -> int:
    print("simple: no configuration", file=sys.stderr)
    return 3


def hang() -> int:
    threading.Event().wait()
    return 0


def empty_lines() -> int:
    """Prints nothing, without end."""
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(1, b"\n" * 4096)
    return 0


def leaves_pipes() -> int:
    """Ends at once; what it started holds its pipes open until nobody listens any more."""
    code = "import os\nwhile True: os.write(2, b'still here\\n' * 1000)"
    subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL, start_new_session=True)
    return 4


def garbage() -> int:
    for _ in range(1000):
        print("\x00\xff{]", end="\n")
    sys.stdin.buffer.read()
    return 0


def banner() -> int:
    print("Starting up ...", flush=True)
    return Simple().serve()


def deaf() -> int:
    """Closes stdin and stays."""
    os.close(0)
    threading.Event().wait()
    return 0


def nested() -> int:
    sys.stdin.buffer.readline()
    print("[" * 100_000, flush=True)
    sys.stdin.buffer.read()
    return 0


def array() -> int:
    sys.stdin.buffer.readline()
    print(json.dumps([{"jsonrpc": "2.0", "id": 1, "result": {}}]), flush=True)
    sys.stdin.buffer.read()
    return 0


PROGRAMS: Mapping[str, Callable[[], int]] = {
    "dead": dead,
    "hang": hang,
    "garbage": garbage,
    "banner": banner,
    "deaf": deaf,
    "nested": nested,
    "array": array,
    "empty_lines": empty_lines,
    "leaves_pipes": leaves_pipes,
}
CLASSES: Mapping[str, type[Adapter]] = {
    kind.__name__: kind
    for kind in tuple(globals().values())
    if isinstance(kind, type) and issubclass(kind, Simple) and kind not in (Simple, Misplaced)
}


if __name__ == "__main__":
    way = sys.argv[1]
    sys.exit(PROGRAMS[way]() if way in PROGRAMS else CLASSES[way]().serve())
