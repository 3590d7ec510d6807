"""The load programs: `python -m harness.bench.load ROLE`, with one JSON job a line on stdin and its answer on stdout.

| role | job | answer |
| --- | --- | --- |
| upstream | `certificate`, `modes` | `ports` by mode; serves until it is ended |
| agent | `access`, `link`, `specs`, `certificate` | `tunnels` by mode (properties, base64); serves until it is ended |
| client | see `client.sample` | `rate`, `seconds`, `cpu`; then the next job |
| idle | `count`, and `access` with `spec`, or `target` | `seconds`; holds everything until it is ended |

An answer `{"error": text}` says why there is none.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.bench.agent import Agent, AgentFailed, open_idle
from harness.bench.blocks import WrongBytes
from harness.bench.client import sample
from harness.bench.http3 import new_sessions
from harness.bench.quic import UdpUpstream, server_configuration
from harness.bench.quic_agent import QuicAgent
from harness.bench.streams import Target, raise_file_limit
from harness.bench.upstream import QUIC, Listener, in_background
from harness.link.agent import EngineAccess
from harness.model.spec import TunnelSpec

Job = Mapping[str, Any]
_HELD: list[object] = []
"""What the role `idle` keeps open."""


def say(answer: Mapping[str, Any]) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def upstream(job: Job) -> None:
    """Listen in each mode."""
    ports = {}
    sessions = new_sessions(job["certificate"])
    for mode in job["modes"]:
        if mode in sessions:
            datagrams = UdpUpstream(sessions[mode])
            in_background(datagrams.run)
            ports[mode] = datagrams.port
        else:
            listener = Listener(mode, job["certificate"])
            listener.start()
            ports[mode] = listener.port
    say({"ports": ports})


def agent(job: Job) -> None:
    """Publish, and serve the streams."""
    specs = {mode: _spec(spec) for mode, spec in job["specs"].items()}
    access = _access(job["access"])
    publisher: Agent | QuicAgent
    if job["link"] == QUIC:
        publisher = QuicAgent(access, specs, server_configuration(job["certificate"]))
    else:
        publisher = Agent(access, specs, job["certificate"])
    published = publisher.open()
    say({"tunnels": {mode: base64.b64encode(one.SerializeToString()).decode() for mode, one in published.items()}})
    in_background(_run_agent, publisher)


def _run_agent(publisher: Agent | QuicAgent) -> None:
    try:
        publisher.run()
    except (AgentFailed, OSError) as problem:
        sys.stderr.write(f"agent: {problem}\n")


def _access(values: Mapping[str, Any]) -> EngineAccess:
    pairs = {name: tuple(values[name]) if values.get(name) else None for name in ("certificate", "udp")}
    return EngineAccess(**{**values, **pairs})


def _spec(values: Mapping[str, Any]) -> TunnelSpec:
    """A spec without nested pairs; JSON knows no tuples."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return TunnelSpec(**plain)


def client(job: Job) -> None:
    """One sample."""
    say(dataclasses.asdict(sample(job)))


def idle(job: Job) -> None:
    """Open agents with a tunnel each, or, with a target instead of an engine, connections."""
    raise_file_limit()
    if "access" in job:
        links, seconds = open_idle(_access(job["access"]), _spec(job["spec"]), job["count"])
        _HELD.extend(links)
    else:
        target = Target(**job["target"])
        context = target.context()
        start = time.monotonic()
        _HELD.extend(target.connect(context) for _ in range(job["count"]))
        seconds = time.monotonic() - start
    say({"seconds": seconds})


ROLES: dict[str, Callable[[Job], None]] = {"upstream": upstream, "agent": agent, "client": client, "idle": idle}


def main(role: str) -> None:
    """Do the jobs on stdin until it ends."""
    threading.stack_size(1 << 20)
    for line in sys.stdin:
        try:
            ROLES[role](json.loads(line))
        except (AgentFailed, WrongBytes, OSError) as problem:
            say({"error": f"{role}: {problem}"})


if __name__ == "__main__":
    main(sys.argv[1])
