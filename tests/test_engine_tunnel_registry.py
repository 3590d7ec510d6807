"""The inventory: what is found by which key, and which changes are told."""

from __future__ import annotations

import asyncio
import datetime as dt

from reference_engine.agent.rules import AgentRules
from reference_engine.tunnel.model import Client, ClientInfo, Sessions, Tunnel, TunnelProperties
from reference_engine.tunnel.registry import Change, Registry, end_sessions

RULES = AgentRules()


def tunnel(identity: str, *, project: str = "p", name: str | None = None, hostname: str | None = None) -> Tunnel:
    return Tunnel(identity, TunnelProperties(id=identity, name=name, hostname=hostname), "c", project)


def test_ids_come_before_names_and_stay_in_their_project() -> None:
    registry = Registry()
    first, second = tunnel("one", name="two"), tunnel("two", name="three")
    foreign = tunnel("four", project="q", name="five")
    for one in (first, second, foreign):
        registry.add(one)
    assert RULES.meant("two", "p", registry) is second
    assert RULES.meant("three", "p", registry) is second
    assert RULES.meant("four", "p", registry) is None
    assert RULES.meant("five", "p", registry) is None
    assert RULES.meant("five", "q", registry) is foreign
    # Another project's id does not hide a name of one's own.
    registry.add(tunnel("six", project="p", name="four"))
    found = RULES.meant("four", "p", registry)
    assert found is not None
    assert found.id == "six"


def test_names_are_held_while_live_and_leased_and_free_afterwards() -> None:
    registry = Registry()
    one = tunnel("one", name="n", hostname="h.t.e")
    registry.add(one)
    assert registry.by_hostname("H.T.E") is one
    registry.lease(one)
    assert not one.open
    assert registry.by_hostname("h.t.e") is one
    assert registry.by_name("n", "p") is one
    assert registry.name_is_held("n", "p")
    assert registry.by_name("n", "q") is None
    registry.remove(one)
    assert registry.by_hostname("h.t.e") is None
    assert registry.by_name("n", "p") is None
    assert registry.by_id("one") is None


def test_changes_are_told_once_each_until_the_listener_stops() -> None:
    registry = Registry()
    told: list[Change] = []
    stop = registry.listen(told.append)
    one = tunnel("one")
    client = Client("c", "p", ClientInfo(), dt.datetime.now(dt.UTC))
    registry.add_client(client)
    registry.add(one)
    for _ in range(2):
        registry.lease(one)
    for _ in range(2):
        registry.remove(one)
        registry.remove_client("c")
    assert [(change.kind, change.what) for change in told] == [
        ("client", "created"),
        ("tunnel", "created"),
        ("tunnel", "updated"),
        ("tunnel", "deleted"),
        ("client", "deleted"),
    ]
    stop()
    stop()
    registry.add(one)
    assert len(told) == 5


def test_sessions_end_at_once_and_emptied_waits_for_the_last() -> None:
    async def main() -> None:
        one = tunnel("one")
        reasons: list[str] = []

        def end(reason: str) -> None:
            reasons.append(reason)
            one.sessions.discard(end)

        one.sessions.add(end)
        waiting = asyncio.create_task(one.sessions.emptied())
        await asyncio.wait({waiting}, timeout=0)
        assert not waiting.done()
        end_sessions(one, "closed")
        await waiting
        await Sessions().emptied()
        assert reasons == ["closed"]

    asyncio.run(main())
