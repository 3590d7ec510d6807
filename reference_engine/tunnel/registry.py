"""Which tunnels and agents there are, and which names they hold.

Everything is in memory and in one loop; nothing here waits. A tunnel is *live* while its control channel is, *leased*
after that was lost (`open` is False: its names stay held, new streams are refused), and gone after that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reference_engine.tunnel.model import Client, Tunnel


@dataclass(frozen=True, slots=True)
class Change:
    """One event of the inventory: `kind` is `tunnel` or `client`, `what` is `created`, `updated` or `deleted`."""

    kind: str
    what: str
    subject: Tunnel | Client


Listener = Callable[[Change], None]


class Registry:
    """The engine's inventory."""

    def __init__(self) -> None:
        self._tunnels: dict[str, Tunnel] = {}
        self._hostnames: dict[str, Tunnel] = {}
        self._names: dict[tuple[str, str], Tunnel] = {}
        self._clients: dict[str, Client] = {}
        self._listeners: dict[int, Listener] = {}
        self._next = 0

    # -- asking ----------------------------------------------------------------------------------------------------

    def by_hostname(self, name: str) -> Tunnel | None:
        """The live or leased published tunnel of this host name, in any case of letters."""
        return self._hostnames.get(name.lower())

    def by_id(self, tunnel_id: str) -> Tunnel | None:
        """The live or leased tunnel of this id."""
        return self._tunnels.get(tunnel_id)

    def by_name(self, name: str, project: str) -> Tunnel | None:
        """The live or leased tunnel of the project with this name."""
        return self._names.get((project, name))

    def name_is_held(self, name: str, project: str) -> bool:
        """Whether a live or leased tunnel of the project has this name."""
        return self.by_name(name, project) is not None

    def tunnels(self) -> tuple[Tunnel, ...]:
        """All live and leased tunnels, oldest first."""
        return tuple(self._tunnels.values())

    def clients(self) -> tuple[Client, ...]:
        """All agents with an open control channel, oldest first."""
        return tuple(self._clients.values())

    # -- changing --------------------------------------------------------------------------------------------------

    def add(self, tunnel: Tunnel) -> None:
        """Make the tunnel live, in one step (EDGE-028). The caller has seen that its names are free."""
        self._tunnels[tunnel.id] = tunnel
        if tunnel.properties.hostname is not None:
            self._hostnames[tunnel.properties.hostname] = tunnel
        if tunnel.properties.name is not None:
            self._names[tunnel.project, tunnel.properties.name] = tunnel
        self._tell(Change("tunnel", "created", tunnel))

    def lease(self, tunnel: Tunnel) -> None:
        """Stop new streams, hold the names: the control channel is lost (EDGE-014, EDGE-026)."""
        if tunnel.open:
            tunnel.open = False
            self._tell(Change("tunnel", "updated", tunnel))

    def remove(self, tunnel: Tunnel) -> None:
        """Forget the tunnel and free its names. Safe to call twice."""
        tunnel.open = False
        if self._tunnels.pop(tunnel.id, None) is None:
            return
        if tunnel.properties.hostname is not None:
            self._hostnames.pop(tunnel.properties.hostname, None)
        if tunnel.properties.name is not None:
            self._names.pop((tunnel.project, tunnel.properties.name), None)
        self._tell(Change("tunnel", "deleted", tunnel))

    def add_client(self, client: Client) -> None:
        """An agent opened its control channel."""
        self._clients[client.id] = client
        self._tell(Change("client", "created", client))

    def remove_client(self, client_id: str) -> None:
        """An agent's control channel is over. Safe to call twice."""
        client = self._clients.pop(client_id, None)
        if client is not None:
            self._tell(Change("client", "deleted", client))

    # -- listening -------------------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` at once on every change, until the returned function is called."""
        number = self._next
        self._next += 1
        self._listeners[number] = listener

        def stop() -> None:
            self._listeners.pop(number, None)

        return stop

    def _tell(self, change: Change) -> None:
        listeners: Iterable[Listener] = tuple(self._listeners.values())
        for listener in listeners:
            listener(change)


def end_sessions(tunnel: Tunnel, reason: str) -> None:
    """End every live session of the tunnel at once (EDGE-027)."""
    for end in tuple(tunnel.sessions):
        end(reason)
