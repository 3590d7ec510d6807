"""The errors of a running case, by whose fault they are.

`EngineDeparted` and its kin are judged: the scene turns them into an outcome of a requirement. `SetupFailed` is a
verdict of its own and
never the engine's failure under test; everything else that escapes a script is ours (`harness`).
"""

from __future__ import annotations


class EngineDeparted(Exception):  # noqa: N818 - it is judged, not handled as an error
    """The engine did something else than the script awaited. `expected` and `actual` are one line each."""

    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f"expected {expected}; got {actual}")
        self.expected = expected
        self.actual = actual


class PeerMismatch(EngineDeparted):
    """A peer read something else than the script awaited."""


class DeadlineExpired(EngineDeparted):
    """An awaited event did not come in time; `awaited` names it."""

    def __init__(self, awaited: str, seconds: float) -> None:
        super().__init__(awaited, f"nothing within {seconds:g} s")
        self.awaited = awaited
        self.seconds = seconds


class SetupFailed(Exception):  # noqa: N818 - a verdict, see VERDICTS
    """The ground for the case could not be laid. `cause` begins with who is to blame: `adapter:`, `engine:`,
    `profile:`, `sanity:`."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class HelloFailed(SetupFailed):
    """The adapter cannot be talked to, whatever the settings: no start of it is tried again in this run."""


class EngineCrashed(Exception):  # noqa: N818 - a verdict, see VERDICTS
    """The engine's process is gone while a case ran; `cause` gives exit status or signal."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class NotSupported(Exception):  # noqa: N818 - a verdict, see VERDICTS
    """The engine or its adapter does not offer what the case needs; `feature` names it."""

    def __init__(self, feature: str) -> None:
        super().__init__(feature)
        self.feature = feature


class UsageError(Exception):
    """Bad input from the user: one line that names the file or flag, the key, what was found and what is allowed (exit
    2)."""
