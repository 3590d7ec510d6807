"""Mutants of tunnels on a channel, of dialling them, and of how tunnels and channels end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fixtures.agent import edgecase_agent_pb2 as pb
from reference_engine.edge.rules import Front, Route
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.refusal import Refusal

CUT = 64
DAY_MS = 86_400_000
UNRECOGNIZED_NAME = 112


# -- answers --------------------------------------------------------------------------------------------------------


def _tells(parts: Parts, reached: Reached, change: Any) -> None:
    """OpenTunnelRsp goes out as `change(answer)` leaves it; true where it changed something."""

    def broken(original: Any, message: pb.Message) -> bytes:
        if message.WhichOneof("payload") == "open_tunnel_rsp" and change(message.open_tunnel_rsp):
            reached()
        return original(message)  # type: ignore[no-any-return]

    swap(parts.agent, "encode", broken)


@mutant("agent-request-id-tidied", ("AGENT-026",), "tidies a request_id before it repeats it")
def _(parts: Parts, reached: Reached) -> None:
    def change(answer: pb.OpenTunnelRsp) -> bool:
        before = answer.request_id
        answer.request_id = before[:CUT].strip().lower()
        return answer.request_id != before

    _tells(parts, reached, change)


@mutant("agent-request-answered-twice", ("AGENT-026",), "answers a refused request twice")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        data: bytes = original(message)
        if not message.open_tunnel_rsp.HasField("error"):
            return data
        reached()
        return data + data

    swap(parts.agent, "encode", broken)


@mutant("agent-id-blank", ("AGENT-044",), "answers with an id that is blank where a tunnel has no name")
def _(parts: Parts, reached: Reached) -> None:
    def change(answer: pb.OpenTunnelRsp) -> bool:
        if not answer.HasField("tunnel_properties") or answer.tunnel_properties.name.value:
            return False
        answer.tunnel_properties.id.value = " "
        return True

    _tells(parts, reached, change)


@mutant("agent-answer-repeats-nothing", ("AGENT-045",), "answers with what it chose, and not with what was asked for")
def _(parts: Parts, reached: Reached) -> None:
    def change(answer: pb.OpenTunnelRsp) -> bool:
        told = answer.tunnel_properties
        known = bool(told.labels or told.tls_alpns or told.tls_mode.value or told.http_version.value)
        for name in ("labels", "tls_alpns", "tls_mode", "http_version", "upstream_tls"):
            told.ClearField(name)
        return known

    _tells(parts, reached, change)


@mutant("agent-answer-without-type", ("AGENT-045",), "leaves the type out of its answer unless it was asked for")
def _(parts: Parts, reached: Reached) -> None:
    def change(answer: pb.OpenTunnelRsp) -> bool:
        known = answer.tunnel_properties.HasField("type")
        answer.tunnel_properties.ClearField("type")
        return known

    _tells(parts, reached, change)


@mutant("agent-private-with-a-name", ("AGENT-046",), "answers a private tunnel with a host name")
def _(parts: Parts, reached: Reached) -> None:
    def change(answer: pb.OpenTunnelRsp) -> bool:
        told = answer.tunnel_properties
        if not told.HasField("publish") or told.publish.value:
            return False
        told.hostname.value = f"{told.id.value}.private"
        return True

    _tells(parts, reached, change)


@mutant("agent-private-takes-a-name", ("PRIV-004",), "passes over a host name that a private tunnel asks for")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, asked: Any) -> Any:
        if original(asked) is not None:
            reached()
        return None

    swap(parts.tunnel, "private_has_no_public_name", broken)


@mutant("agent-remembers-nobody", ("AGENT-049",), "goes on refusing a host name that nobody had once")
def _(parts: Parts, reached: Reached) -> None:
    missed: set[str] = set()

    def broken(original: Any, hello: Any, *arguments: Any) -> Route:
        route: Route = original(hello, *arguments)
        if route.front is Front.REFUSED:
            missed.add(hello.server_name)
        elif hello.server_name in missed:
            reached()
            return Route(Front.REFUSED, alert=UNRECOGNIZED_NAME, reason="nobody had the name")
        return route

    swap(parts.edge, "route", broken)


@mutant("agent-refusal-hits-the-next", ("AGENT-047",), "refuses the good tunnel behind a bad one")
def _(parts: Parts, reached: Reached) -> None:
    refused: list[Refusal] = []

    def broken(original: Any, properties: Any) -> Refusal | None:
        refusal: Refusal | None = original(properties)
        if refusal is not None:
            refused.append(refusal)
        elif refused:
            reached()
            return refused.pop()
        return refusal

    swap(parts.tunnel, "validate", broken)


# -- dialling -------------------------------------------------------------------------------------------------------


@mutant("agent-dial-by-id-only", ("AGENT-078",), "knows tunnels by their ids alone")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names)
        if tunnel is None or tunnel.id == key:
            return tunnel
        reached()
        return None

    swap(parts.agent, "meant", broken)


@mutant("agent-dial-by-name-first", ("AGENT-078",), "takes a key for a name before it takes it for an id")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = names.by_name(key, project)
        if tunnel is None:
            return original(key, project, names)  # type: ignore[no-any-return]
        if tunnel is not original(key, project, names):
            reached()
        return tunnel

    swap(parts.agent, "meant", broken)


@mutant("agent-dial-any-project", ("AGENT-079",), "finds a tunnel by its id in every project")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names) or names.by_id(key)
        if tunnel is not None and tunnel.project != project:
            reached()
        return tunnel

    swap(parts.agent, "meant", broken)


@mutant("agent-dial-names-of-all", ("AGENT-079",), "looks a name up in every project")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names)
        others: list[Tunnel] = [row for row in names.tunnels() if row.properties.name == key and row.project != project]
        if tunnel is not None or not others:
            return tunnel
        reached()
        return others[0]

    swap(parts.agent, "meant", broken)


@mutant("agent-dial-falls-back", ("AGENT-082",), "takes a dialler of an unknown tunnel to the newest one")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names)
        own: list[Tunnel] = [row for row in names.tunnels() if row.project == project and row.open]
        if tunnel is not None or not own:
            return tunnel
        reached()
        return own[-1]

    swap(parts.agent, "meant", broken)


@mutant("agent-name-lost-in-conflict", ("AGENT-087",), "forgets a name when a second tunnel asks for it")
def _(parts: Parts, reached: Reached) -> None:
    conflicts: list[str] = []

    def free(original: Any, held: bool) -> Refusal | None:
        refusal: Refusal | None = original(held)
        if refusal is not None:
            conflicts.append(refusal.message)
        return refusal

    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names)
        if not conflicts or tunnel is None or tunnel.id == key:
            return tunnel
        reached()
        return None

    swap(parts.tunnel, "name_is_free", free)
    swap(parts.agent, "meant", broken)


@mutant("agent-private-by-server-name", ("PRIV-001",), "serves private tunnels at a public name like their own")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, hello: Any, names: Any, domain: str) -> Route:
        route: Route = original(hello, names, domain)
        name = hello.server_name or ""
        hidden = [row for row in names.tunnels() if row.open and row.properties.publish is False]
        for row in hidden:
            if row.properties.name and name.startswith(f"{row.properties.name}.") and route.front is not Front.AGENTS:
                reached()
                return Route(Front.TLS, row)
        return route

    swap(parts.edge, "route", broken)


@mutant("agent-community-without-names", ("PRIV-006",), "dials by name in paid editions only")
def _(parts: Parts, reached: Reached) -> None:
    editions: set[str] = set()

    def gate(original: Any, properties: Any, *, edition: str, udp: bool) -> Refusal | None:
        editions.add(edition)
        return original(properties, edition=edition, udp=udp)  # type: ignore[no-any-return]

    def broken(original: Any, key: str, project: str, names: Any) -> Tunnel | None:
        tunnel: Tunnel | None = original(key, project, names)
        if tunnel is None or tunnel.id == key or "community" not in editions:
            return tunnel
        reached()
        return None

    swap(parts.editions, "gate", gate)
    swap(parts.agent, "meant", broken)


# -- the end of a tunnel and of a channel ---------------------------------------------------------------------------


@mutant("agent-close-keeps-the-tunnel", ("AGENT-050", "AGENT-051", "AGENT-028"), "answers a close and goes on serving")
def _(parts: Parts, reached: Reached) -> None:
    def broken(_: Any, cause: str) -> bool:
        reached()
        return False

    swap(parts.agent, "withdraws", broken)


@mutant("agent-close-anybodys", ("AGENT-052",), "lets any channel close any tunnel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, tunnel_id: str, own: Mapping[str, Tunnel]) -> bool:
        if not original(tunnel_id, own):
            reached()
        return True

    swap(parts.agent, "may_close", broken)


@mutant("agent-close-cuts", ("AGENT-054",), "ends the streams of a closed tunnel at once")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, cause: str) -> bool:
        if original(cause):
            reached()
        return False

    swap(parts.agent, "lets_finish", broken)


@mutant("agent-close-keeps-waiting", ("AGENT-050", "AGENT-028", "AGENT-068"), "lets clients of a closed tunnel wait")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, *, taken: bool) -> bool:
        if original(taken=taken):
            reached()
        return False

    swap(parts.agent, "gives_up", broken)


@mutant("agent-goodbye-unanswered", ("AGENT-027",), "closes without an answer to a goodbye")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        if message.WhichOneof("payload") != "close_control_channel_rsp":
            return original(message)  # type: ignore[no-any-return]
        reached()
        return b""

    swap(parts.agent, "encode", broken)


@mutant("agent-goodbye-by-request", ("AGENT-030", "AGENT-027"), "says goodbye by a request that only agents send")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, message: pb.Message) -> bytes:
        if message.WhichOneof("payload") != "close_control_channel_rsp":
            return original(message)  # type: ignore[no-any-return]
        reached()
        wrong: bytes = original(pb.Message(close_control_channel_req=pb.CloseControlChannelReq()))
        return wrong

    swap(parts.agent, "encode", broken)


@mutant("agent-lease-for-ever", ("AGENT-028",), "never ends the lease of a lost channel")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Any, **given: Any) -> float:
        reached()
        return float(DAY_MS)

    swap(parts.agent, "lease_ms", broken)
