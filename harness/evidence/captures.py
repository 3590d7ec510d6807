"""The captures of one worker: records each case, and keeps the files of those that did not pass: a pcapng, and a qlog
per leg that spoke QUIC."""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from harness.evidence.recorder import Recording
from harness.link.tap import SILENT, SILENT_QUIC, Address, QuicTap, Tap, TapStream
from harness.model.event import AGENT, DOWNSTREAM

if TYPE_CHECKING:
    from harness.evidence.qlog import Qlog

FOLDER = "evidence"
"""Where captures lie, beside `run.json`."""
SUFFIX, QLOG_SUFFIX = ".pcapng", ".qlog"
NAME_LIMIT = 80
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)")
"""Names that Windows keeps for devices, whatever follows the dot."""


def file_name(key: str) -> str:
    """A name for the capture of the case `key` that every file system takes, and that no other key has."""
    plain = re.sub(r"[^a-z0-9._-]+", "_", key.lower()).strip("._")[:NAME_LIMIT]
    special = not plain or _RESERVED.match(plain)
    if plain != key or special:
        plain = f"case-{plain}" if special else plain
        plain = f"{plain}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return plain + SUFFIX


def remove_stale(folder: Path) -> None:
    """Remove the captures that an earlier run left in `folder`, and the folder when nothing else is in it. Raises
    `OSError`."""
    for file in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{QLOG_SUFFIX}")):
        if file.is_file() or file.is_symlink():
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


class Captures(Tap):
    """Records one case after the other. `folder` is where captures are written, made when there is a first one.

    With `hide_token` the agent's connections are left out, since their first frame holds the agent's token. The streams
    inside them are recorded all the same.
    """

    def __init__(self, folder: Path, *, hide_token: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._hide_token = hide_token
        self._clock = clock
        self._recording: Recording | None = None
        self._qlog: Qlog | None = None
        self._key_log: IO[bytes] | None = None
        if not hide_token:
            # OpenSSL writes secrets to a file only. It appends, so each case may begin with an empty one.
            self._key_log = tempfile.NamedTemporaryFile(prefix="edgecase-keys-")  # noqa: SIM115 - closed by `close`

    # Tap

    @property
    def key_log_file(self) -> str | None:
        """See `Tap`."""
        return self._key_log.name if self._key_log else None

    def stream(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """See `Tap`."""
        if self._recording is None or self._hidden(leg):
            return SILENT
        return self._recording.stream(leg, local, remote, dialed=dialed)

    def carried(self, inside: Address, *, dialed: bool) -> TapStream:
        """See `Tap`."""
        return SILENT if self._recording is None else self._recording.carried(inside, dialed=dialed)

    def datagrams(self, leg: str, local: Address, remote: Address, *, dialed: bool) -> TapStream:
        """See `Tap`."""
        if self._recording is None or self._hidden(leg):
            return SILENT
        return self._recording.datagrams(leg, local, remote, dialed=dialed)

    def carried_datagrams(self, inside: Address, *, dialed: bool) -> TapStream:
        """See `Tap`."""
        return SILENT if self._recording is None else self._recording.carried_datagrams(inside, dialed=dialed)

    def quic(self, leg: str, us: str, name: str) -> QuicTap:
        """See `Tap`."""
        return SILENT_QUIC if self._qlog is None or self._hidden(leg) else self._qlog.trace(leg, us, name)

    def secrets(self, lines: Sequence[str], *, leg: str = DOWNSTREAM) -> None:
        """See `Tap`."""
        if self._recording is not None and not self._hidden(leg):
            self._recording.secrets(lines)

    def _hidden(self, leg: str) -> bool:
        return leg == AGENT and self._hide_token

    # life

    def begin(self, start: float | None = None) -> None:
        """Forget what was recorded, and record what comes. `start` is second 0 of the transcript, by the clock."""
        self.stop()
        from harness.evidence.qlog import Qlog

        self._recording = Recording(self._clock, start)
        self._qlog = Qlog(self._clock, start)
        if self._key_log:
            self._key_log.truncate(0)

    def stop(self) -> None:
        """Record nothing any more, and forget what was recorded."""
        if self._recording is not None:
            self._recording.stop()
            self._recording = None
        if self._qlog is not None:
            self._qlog.stop()
            self._qlog = None

    def save(self, key: str, comment: str, confidential: Collection[str] = ()) -> str:
        """Write what was recorded, and stop. `confidential` are the connections that carried the token. The file's path
        relative to the folder's parent; `""` when nothing went over a wire. Raises `OSError`."""
        recording = self._recording
        if recording is None:
            return ""
        recording.stop()
        if self._hide_token:
            recording.forget(confidential)
        if recording.empty:
            return ""
        return self._write(file_name(key), recording.capture(comment, self._agent_secrets()))

    def save_qlog(self, key: str, confidential: Collection[str] = ()) -> tuple[str, ...]:
        """Write what QUIC peers told, a file per leg, as `save` does; their paths."""
        log = self._qlog
        if log is None:
            return ()
        log.stop()
        if self._hide_token:
            log.forget(confidential)
        name = file_name(key).removesuffix(SUFFIX)
        files = log.files(key)
        return tuple(self._write(f"{name}.{leg}{QLOG_SUFFIX}", text.encode()) for leg, text in files.items())

    def _agent_secrets(self) -> list[str]:
        if self._key_log is None:
            return []
        self._key_log.seek(0)
        text = self._key_log.read().decode("ascii", "ignore")
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    def _write(self, name: str, data: bytes) -> str:
        """Write a new file, and give its path; a name that is taken (the same case on several engines) gets a
        number."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        number = 1
        while True:
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                number += 1
                path = self._folder / f"{Path(name).stem}-{number}{path.suffix}"
            except OSError:
                path.unlink(missing_ok=True)
                raise
            else:
                return f"{self._folder.name}/{path.name}"

    def close(self) -> None:
        """Remove the key log."""
        self.stop()
        if self._key_log:
            self._key_log.close()
            self._key_log = None
