"""Driver kind `launch`: starts an engine as a process, reads its ready line, goes on over the agent protocol.

The ready line is one JSON object on stdout: `agent`, `https`, `udp`, `dtls`, `http`, `metrics` (host:port or null),
`domain`, `ca_file`, `edition`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes

from harness.engine.agent_driver import ProtocolDriver, split_address
from harness.engine.process import EngineProcess
from harness.errors import DeadlineExpired, NotSupported, SetupFailed
from harness.link.agent import EngineAccess
from harness.model.profile import Profile
from harness.model.spec import Settings, SettingValue
from harness.peer.tls_pki import EDGE_ROOT, agent_identity, authority
from harness.wire.tls.crypto import Identity

START_TIMEOUT_MS = 20_000
STOP_SECONDS = 10.0
FIRST_LISTEN = "127.0.0.1:0"
TRANSPORT = "agent.transport"


class LaunchDriver(ProtocolDriver):
    """One engine process. Keys of the profile's driver table: `command` (`{python}` is this interpreter), `settings`
    (per setting the arguments that say it, with `{value}`, or `{tokens}` and `{certificates}` for a TOML list of tokens
    and of the fingerprints of `agent_identity`), `settings_off` (the arguments for `false`), `listen` (arguments for
    the public listener: any free port at first, the same one after a restart), `start_timeout_ms`, `project`, `census`
    (the name of a signal that the engine answers with what it holds, see `harness.soak.census`). With the
    setting `certificate.reload` or `certificate.key` the engine's certificate for the setting `domain` lies in
    `{folder}`: `chain.pem`, `key.pem`, `ca.pem`, and `combined.pem` (chain and key)."""

    tells_addresses = True

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile)
        self._process: EngineProcess | None = None
        self._settings = Settings()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.ready: dict[str, Any] = {}

    async def start(self, settings: Settings) -> None:
        """Start the engine with `settings`. Raises `SetupFailed`, and `NotSupported` for a setting without
        arguments."""
        self._settings = settings
        if settings.get("certificate.reload") or settings.get("certificate.key"):
            self._folder = tempfile.TemporaryDirectory(prefix="edgecase-edge-")
            self.exchange_certificate()
        await self._start(FIRST_LISTEN)

    async def restart(self) -> None:
        """Stop and start again on the same public port. Raises `SetupFailed`."""
        address = str(self.ready.get("https") or FIRST_LISTEN)
        await self._end()
        await self._start(address)

    def exchange_certificate(self) -> int:
        """See `Driver.exchange_certificate`; each file is replaced in one step, the key before the chain."""
        domain = self._settings.get("domain")
        if self._folder is None or domain is None:
            raise NotSupported("setting certificate.reload or certificate.key without domain")
        names = (str(domain), f"*.{domain}", f"*.t.{domain}")
        leaf = authority(EDGE_ROOT).issue(*names, kind=str(self._settings.get("certificate.key", "ecdsa")))
        folder = Path(self._folder.name)
        with tempfile.TemporaryDirectory(prefix="new-", dir=folder) as new:
            written = leaf.write(Path(new))
            for name in ("ca", "key", "chain", "combined"):
                written[name].replace(folder / written[name].name)
        return leaf.chain[0].serial_number

    async def _start(self, listen: str) -> None:
        command = self._command(listen)
        tokens = parse_tokens(str(self._settings.get("auth.tokens", "")))
        self._process = EngineProcess(command, secrets=[token.word for token in tokens])
        await self._process.start()
        try:
            self._take_ready(await self._ready_line(self._process), tokens)
            self._process.drain()
            await self._greet()
        except BaseException:
            await self._process.stop(0)
            raise

    def _command(self, listen: str) -> list[str]:
        table = self.profile.driver
        command = [str(word).replace("{python}", sys.executable) for word in table["command"]]
        command += [str(word).replace("{value}", listen) for word in table.get("listen", ())]
        for key, value in self._settings.items:
            if key == TRANSPORT:
                continue  # what our agents do, of which no engine is told
            command += arguments_for(table, key, value)
        folder = self._folder.name if self._folder else ""
        return [word.replace("{folder}", folder) for word in command]

    async def _ready_line(self, process: EngineProcess) -> bytes:
        seconds = int(self.profile.driver.get("start_timeout_ms", START_TIMEOUT_MS)) / 1000
        try:
            return await process.read_line("its ready line", seconds)
        except DeadlineExpired as error:
            raise SetupFailed(f"engine: no ready line within {seconds:g} s{process.last_words()}") from error

    def _take_ready(self, line: bytes, tokens: Sequence[Credential]) -> None:
        try:
            ready = json.loads(line)
            self.addresses = {
                kind: split_address(ready[name])
                for kind, name in (("tcp", "https"), ("udp", "udp"), ("dtls", "dtls"), ("redirect", "http"))
                if ready.get(name)
            }
            address, port = split_address(ready["agent"])
            self.domain = str(ready["domain"])
            missing = "https" if "tcp" not in self.addresses else ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            shown = line[:120].decode("utf-8", "replace")
            raise SetupFailed(f"engine: its ready line is not as agreed: {shown!r} ({error})") from error
        if missing:
            raise SetupFailed("engine: its ready line names no https listener")
        self.ready = ready
        own = next(iter(tokens), None)
        named = own.project if own and own.project else self._settings.get("project.name")
        self.project = str(named or self.profile.driver.get("project", "default"))
        self.access = EngineAccess(
            address,
            port,
            server_name=self.domain,
            ca_file=ready.get("ca_file"),
            token=own.word if own else None,
            transport=self._transport(),
            udp=self.addresses.get("udp"),
        )

    def _transport(self) -> str:
        """What our agents reach the engine over. Raises `SetupFailed` when the engine has no ground for it."""
        transport = str(self._settings.get(TRANSPORT, "tls"))
        if transport == "quic" and "udp" not in self.addresses:
            raise SetupFailed("engine: its ready line names no udp listener, which agents need that speak QUIC")
        return transport

    async def stop(self) -> None:
        """Stop the engine; safe to call twice and after a crash."""
        await self._end()
        if self._folder:
            self._folder.cleanup()

    async def _end(self) -> None:
        if self._process:
            await self._process.stop(STOP_SECONDS)

    def crashed(self) -> str | None:
        """How the engine's process ended, if nobody asked it to."""
        return self._process.crashed() if self._process else None

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """The last lines that the engine wrote, on stdout or stderr."""
        return self._process.tail(lines) if self._process else ()

    @property
    def pid(self) -> int:
        """The engine's process id: for cases that kill it."""
        return self._process.pid if self._process else 0


def arguments_for(table: Any, key: str, value: SettingValue) -> list[str]:
    """The command-line arguments for one setting. Raises `NotSupported`."""
    settings, off = table.get("settings", {}), table.get("settings_off", {})
    if key not in settings and key not in off:
        raise NotSupported(f"setting {key}")
    if value is False:
        return [str(word) for word in off.get(key, ())]
    text = "true" if value is True else str(value)
    words = [str(word).replace("{value}", text) for word in settings.get(key, ())]
    words = [word.replace("{tokens}", toml_tokens(text)) for word in words]
    return [word.replace("{certificates}", toml_certificates(text)) for word in words]


class Credential(NamedTuple):
    """A token, or the name of a certificate, with its project and permissions; without any it has them all."""

    word: str
    project: str = ""
    permissions: tuple[str, ...] = ()


def parse_tokens(text: str) -> list[Credential]:
    """Each part of `word[@project][:permission[+permission..]],..`."""
    found = []
    for part in text.split(","):
        named, _, permissions = part.strip().partition(":")
        word, _, project = named.partition("@")
        if word:
            found.append(Credential(word, project, tuple(permissions.split("+")) if permissions else ()))
    return found


def toml_tokens(text: str) -> str:
    """The tokens as a TOML list of tables."""
    return _toml_rows("token", parse_tokens(text))


def toml_certificates(text: str) -> str:
    """The SHA-256 fingerprints of the certificates with these names, as a TOML list of tables."""
    named = parse_tokens(text)
    return _toml_rows("fingerprint", [item._replace(word=_fingerprint(agent_identity(item.word))) for item in named])


def _fingerprint(identity: Identity) -> str:
    return identity.chain[0].fingerprint(hashes.SHA256()).hex()


def _toml_rows(key: str, items: Sequence[Credential]) -> str:
    rows = []
    for item in items:
        row = f"{key} = {json.dumps(item.word)}"
        row += f", project = {json.dumps(item.project)}" if item.project else ""
        row += f", permissions = {json.dumps(item.permissions)}" if item.permissions else ""
        rows.append(f"{{{row}}}")
    return f"[{', '.join(rows)}]"
