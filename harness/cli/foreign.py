"""`edgecase foreign`: get the engines and peers that others made, see which are here, run a peer."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.cli.arguments import check_name, number
from harness.errors import UsageError
from harness.foreign import peer as foreign_peer
from harness.foreign.install import Installer
from harness.foreign.lock import (
    Foreign,
    Unobtainable,
    everything,
    folder,
    installed_stamp,
    installed_version,
    lock,
    peers,
    program,
)
from harness.peer.tls_pki import upstream_identity

COUNTS = {
    "streams": "bidirectional streams of its own, which the other side must send back",
    "unis": "a client's unidirectional streams, each answered by one",
    "datagrams": "a client's datagrams, which must come back",
    "octets": "the size of each stream's content",
    "seconds": "the time of a client, and the idle timeout",
}


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    command = subparsers.add_parser("foreign", help="install engines and peers of others, list or run what is here")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    get = actions.add_parser("install", help="get what the lock names, into .foreign")
    get.add_argument("names", nargs="*", metavar="NAME", help="only these (default: all)")
    get.add_argument("--strict", action="store_true", help="exit 1 when something could not be had")
    get.add_argument("--folder", type=Path, default=None, help="where to (default: .foreign of the project)")
    get.set_defaults(run=install)
    show = actions.add_parser("list", help="what is here, and in which version")
    show.add_argument("--folder", type=Path, default=None, help="where to look (default: .foreign of the project)")
    show.set_defaults(run=show_list)
    _add_run(actions)


def _add_run(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    go = actions.add_parser("run", help="be a QUIC client at an address, or a QUIC server that sends back what it gets")
    go.add_argument("peer", metavar="PEER", help="a peer of the lock (see `edgecase foreign list`)")
    go.add_argument("role", choices=foreign_peer.ROLES)
    go.add_argument("address", metavar="HOST:PORT", help="where to connect to, or to listen at (port 0: a free one)")
    go.add_argument("--alpn", action="append", required=True, help="application protocol; may be given several times")
    go.add_argument("--server-name", default="localhost", help="the name asked for, or the one of the certificate")
    go.add_argument("--ca", type=Path, help="client: the roots that it trusts, PEM")
    go.add_argument("--certificate", type=Path, help="server: its chain, PEM (default: one of the suite's)")
    go.add_argument("--key", type=Path, help="server: its key, PEM")
    for name, meaning in COUNTS.items():
        go.add_argument(f"--{name}", type=number(0, 1 << 20), default=None, help=meaning)
    go.add_argument(
        "--turn", action="store_true", help="client: hand over at the end, so that the server opens streams"
    )
    go.add_argument("--folder", type=Path, default=None, help="where it lies (default: .foreign of the project)")
    go.set_defaults(run=run_peer)


def install(arguments: argparse.Namespace) -> int:
    """Install everything. 0, or with `--strict` 1 when something is missing."""
    root: Path = arguments.folder or folder()
    installer = Installer(root.absolute())
    known = everything()
    for name in arguments.names:
        check_name("foreign install", name, [one.name for one in known], "a name of the lock")
    wanted = [one for one in known if not arguments.names or one.name in arguments.names]
    missing = 0
    for one in wanted:
        try:
            print(f"{one.name}: {installer.install(one)}", flush=True)
        except Unobtainable as error:
            missing += 1
            print(f"{one.name}: not installed: {error}", flush=True)
            if not one.script and (found := program(one.command, root)) is not None:
                print(f"{one.name}: {found} is used instead: {_told(one, found)}", flush=True)
    if missing:
        print(f"foreign: {missing} of {len(wanted)} could not be had; what needs them reports 'not run'")
    return 1 if missing and arguments.strict else 0


def show_list(arguments: argparse.Namespace) -> int:
    """Print a line per entry of the lock."""
    root: Path = arguments.folder or folder()
    engines, quic = lock(), peers()
    for one in everything():
        kind = "engine" if one in engines else "peer" if one in quic else "http"
        print(f"{one.name}: {kind}: {_state(one, root)}")
    return 0


def _state(foreign: Foreign, root: Path) -> str:
    version = installed_version(foreign, root)
    if version is not None:
        whole = installed_stamp(foreign, root) == foreign.stamp
        other = "" if whole else f" (the lock has another {foreign.version}: run `edgecase foreign install`)"
        return f"{version} in {root / foreign.name}{other}"
    found = None if foreign.script else program(foreign.command, root)
    if found is not None:
        return f"{found}: {_told(foreign, found)}"
    return f"not here (the lock has {foreign.version}: run `edgecase foreign install`)"


def _told(foreign: Foreign, path: str) -> str:
    """The first line that the program prints about its version, which is not empty."""
    flag = "-v" if foreign.name == "haproxy" else "--version"
    done = subprocess.run([path, flag], capture_output=True, text=True, check=False, timeout=10)
    lines = (line.strip() for line in (done.stdout or done.stderr).splitlines())
    return next((line for line in lines if line), "says no version")


def run_peer(arguments: argparse.Namespace) -> int:
    """Run a peer with our stdin and stdout. Its exit code: 0 when everything came back."""
    check_name("foreign run", arguments.peer, [one.name for one in peers()], "a peer of the lock")
    found = foreign_peer.find(arguments.peer)
    assert found is not None, "checked above"
    with tempfile.TemporaryDirectory(prefix="edgecase-peer-") as folder_name:
        try:
            return foreign_peer.run(found, list(_words(arguments, Path(folder_name))), arguments.folder)
        except Unobtainable as error:
            raise UsageError(f"foreign run: {error}") from error


def _words(arguments: argparse.Namespace, scratch: Path) -> Iterator[str]:
    """What the peer's program is told."""
    host, _, port = arguments.address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"foreign run: found {arguments.address!r}, allowed is HOST:PORT")
    yield from (arguments.role, "--address", arguments.address, "--server-name", arguments.server_name)
    for name in arguments.alpn:
        yield from ("--alpn", name)
    yield from _files(arguments, scratch)
    for name in COUNTS:
        if getattr(arguments, name) is not None:
            yield from (f"--{name}", str(getattr(arguments, name)))
    if arguments.turn:
        yield "--turn"


def _files(arguments: argparse.Namespace, scratch: Path) -> Iterator[str]:
    if arguments.role == foreign_peer.CLIENT:
        if arguments.ca is None:
            raise UsageError("foreign run: a client needs --ca, the roots that it trusts")
        files = {"ca": arguments.ca}
    elif arguments.certificate is None:
        written = upstream_identity(arguments.server_name).write(scratch)
        files = {"certificate": written["chain"], "key": written["key"]}
    elif arguments.key is None:
        raise UsageError("foreign run: --certificate needs --key")
    else:
        files = {"certificate": arguments.certificate, "key": arguments.key}
    for name, file in files.items():
        if not file.is_file():
            raise UsageError(f"foreign run: --{name}: found {str(file)!r}, allowed is a file")
        yield from (f"--{name}", str(file.absolute()))
