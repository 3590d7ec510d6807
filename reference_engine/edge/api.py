"""The engine's HTTP API on its own host name: inventory, live events, discovery (EDGE-009, OBS-001, OBS-002,
OBS-004)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from reference_engine.agent.rules import Grant, Presented
from reference_engine.config import PERMISSION_READ
from reference_engine.edge import inventory
from reference_engine.edge.openapi import document
from reference_engine.edge.rules import EdgeRules
from reference_engine.http.errors import Fault, fault_of, reason_phrase
from reference_engine.http.events import Data, End, Fields, ResponseHead
from reference_engine.http.events import values as field_values
from reference_engine.http.forward import Target, date, host_name
from reference_engine.http.h1_downstream import H1Connection, H1Downstream
from reference_engine.tunnel.model import Tunnel
from reference_engine.tunnel.refusal import Refusal
from reference_engine.tunnel.registry import Change

if TYPE_CHECKING:
    from reference_engine.engine import Engine
    from reference_engine.tls.stream import TlsStream

WATCH_QUEUE = 1_000
"""Events that wait for a slow watcher; with one more it is dropped, so that it asks for the state again."""
WATCH_COMMENT_S = 15.0
"""Seconds between two comments on a quiet event stream, so that a client that went away is noticed."""
LONGEST_PATH = 4_096


class ApiRequest:
    """One request to the API, split into what the handlers need."""

    def __init__(self, down: H1Downstream, path: str, query: str, authority: str) -> None:
        self.down = down
        self.path = path
        self.query = query
        self.authority = authority
        self.grant = Grant("")


class Api:
    """Serves the API. One per engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connections: set[H1Connection] = set()
        self._watches: set[Watch] = set()
        self._handlers: dict[str, Callable[[ApiRequest], Awaitable[None]]] = {
            "/api/auth": self._auth,
            "/api/clients": self._clients,
            "/api/tunnels": self._tunnels,
            "/api/sse": self._sse,
            "/api/websocket": self._websocket,
            "/api/openapi.json": self._openapi,
            "/.well-known/rstream/engine": self._discovery,
        }

    async def serve(self, stream: TlsStream) -> None:
        """Serve one connection; it is closed when this returns."""
        engine = self._engine
        half_open = engine.parts.tls.keeps_half_open(stream.version)
        connection = H1Connection(stream, engine.parts.http, engine.settings, self._answer, half_open=half_open)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def drain(self) -> None:
        """The engine stops: event streams end, idle connections too, the others after the response at hand."""
        for watch in tuple(self._watches):
            watch.stop()
        for connection in tuple(self._connections):
            connection.drain()

    # -- from request to handler -----------------------------------------------------------------------------------

    async def _answer(self, down: H1Downstream) -> None:
        request = self._request(down)
        if isinstance(request, Fault):
            await down.refuse(request, close=request.status == 400)
            return
        handler = self._handlers.get(request.path)
        if handler is None and request.path.startswith("/api/tunnels/"):
            handler = self._tunnel
        fault = self._admit(request)
        if fault is not None:
            fields = [(b"WWW-Authenticate", b"Bearer")] if fault.status == 401 else []
            await self._refuse(request, fault, fields)
        elif handler is None:
            await self._refuse(request, Fault(404, "no such resource"))
        elif down.head.method not in (b"GET", b"HEAD"):
            await self._refuse(request, Fault(405, "only GET and HEAD are served here"), [(b"Allow", b"GET, HEAD")])
        else:
            await handler(request)

    def _request(self, down: H1Downstream) -> ApiRequest | Fault:
        rules = self._engine.parts.http
        if down.head.method == b"CONNECT":
            return Fault(405, "there is no proxy on this name")
        target: Target | Fault = rules.target(down.head.method, down.head.target)
        if isinstance(target, Fault):
            return target
        hosts = field_values(down.head.fields, b"host")
        authority = target.authority or (hosts[0] if hosts else self._engine.settings.domain.encode("ascii"))
        if not self._own(host_name(authority)):
            return fault_of("misdirected")
        path, _, query = target.upstream.decode("ascii").partition("?")
        if len(path) > LONGEST_PATH:
            return Fault(414, "the path is too long")
        return ApiRequest(down, unquote(path), query, authority.decode("ascii"))

    def _own(self, name: str) -> bool:
        """Whether the engine itself is reached under this name: its own, one of its projects', or an address."""
        domain = self._engine.settings.domain
        label, _, parent = name.partition(".")
        if name == domain or (parent == domain and label != "t"):
            return True
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name.strip("[]"))
            return True
        return name == "localhost"

    def _admit(self, request: ApiRequest) -> Fault | None:
        """Why the request may not read, or None with its grant set."""
        engine = self._engine
        token = engine.parts.http.presented_token(request.path, request.query, request.down.head.fields)
        if not engine.parts.http.needs_token(request.path):
            return None
        if isinstance(token, Fault):
            return token
        grant = engine.parts.agent.credentials(Presented(token=token), engine.settings)
        if isinstance(grant, Refusal):
            return Fault(401, "no valid bearer token")
        request.grant = grant
        if request.path != "/api/auth" and engine.parts.agent.permits(grant, PERMISSION_READ) is not None:
            return Fault(403, "the token may not read the inventory")
        return None

    async def _refuse(self, request: ApiRequest, fault: Fault, fields: Fields | None = None) -> None:
        await self._send(request, fault.status, b"text/plain; charset=utf-8", f"{fault.text}\n".encode(), fields or [])

    async def _json(self, request: ApiRequest, value: Any, fields: Fields | None = None) -> None:
        body = json.dumps(value, separators=(",", ":")).encode()
        await self._send(request, 200, b"application/json", body, fields or [(b"Cache-Control", b"no-store")])

    async def _send(self, request: ApiRequest, status: int, kind: bytes, body: bytes, fields: Fields) -> None:
        down = request.down
        if not down.complete:
            # What is left of the request is not read (RFC 9112 section 9.3).
            down.close_after()
        head = [(b"Date", date()), (b"Content-Type", kind), (b"Content-Length", b"%d" % len(body)), *fields]
        down.put(ResponseHead(status, head, reason_phrase(status)))
        if down.head.method != b"HEAD":
            down.put(Data(body))
        down.put(End())
        await down.flush()

    # -- handlers --------------------------------------------------------------------------------------------------

    async def _auth(self, request: ApiRequest) -> None:
        await self._json(request, {"project_id": request.grant.project, "permissions": list(request.grant.permissions)})

    async def _clients(self, request: ApiRequest) -> None:
        selection = inventory.list_selection(request.query, inventory.CLIENT_FILTERS)
        if isinstance(selection, Fault):
            await self._refuse(request, selection)
        else:
            await self._json(request, selection.of(self._objects("client", request.grant)))

    async def _tunnels(self, request: ApiRequest) -> None:
        selection = inventory.list_selection(request.query, inventory.TUNNEL_FILTERS)
        if isinstance(selection, Fault):
            await self._refuse(request, selection)
        else:
            await self._json(request, selection.of(self._objects("tunnel", request.grant)))

    async def _tunnel(self, request: ApiRequest) -> None:
        found = self._engine.registry.by_id(request.path.removeprefix("/api/tunnels/"))
        if found is None or found.project != request.grant.project:
            await self._refuse(request, Fault(404, "no such tunnel"))
        else:
            await self._json(request, self._engine.parts.edge.listed(found))

    def _objects(self, kind: str, grant: Grant) -> list[inventory.Object]:
        """The project's objects, oldest first."""
        registry, rules = self._engine.registry, self._engine.parts.edge
        subjects = registry.tunnels() if kind == "tunnel" else registry.clients()
        return [rules.listed(one) for one in subjects if one.project == grant.project]

    async def _openapi(self, request: ApiRequest) -> None:
        await self._json(request, document(self._engine.version), [(b"Cache-Control", b"max-age=3600")])

    async def _discovery(self, request: ApiRequest) -> None:
        found = {
            "version": 1,
            "projectEndpoint": host_name(request.authority.encode("ascii")).split(".", 1)[0],
            "mtlsApiUrl": f"https://{request.authority}/api",
            # The API asks for no client certificate, so it announces none.
            "capabilities": [],
        }
        await self._json(request, found, [(b"Cache-Control", b"max-age=3600")])

    async def _websocket(self, request: ApiRequest) -> None:
        await self._refuse(request, Fault(501, "not served by this engine; /api/sse has the same events"))

    async def _sse(self, request: ApiRequest) -> None:
        selection = inventory.watch_selection(request.query)
        if isinstance(selection, Fault):
            await self._refuse(request, selection)
            return
        down = request.down
        fields = [
            (b"Date", date()),
            (b"Content-Type", b"text/event-stream"),
            (b"Cache-Control", b"no-store"),
        ]
        down.put(ResponseHead(200, fields, reason_phrase(200)))
        if down.head.method == b"HEAD":
            down.put(End())
            await down.flush()
            return
        watch = Watch(request.grant.project, selection, self._engine.parts.edge)
        stop = self._engine.registry.listen(watch.changed)
        self._watches.add(watch)
        down.watch(watch)
        try:
            objects = {kind: selection[kind].of(self._objects(kind, request.grant)) for kind in selection}
            rules = self._engine.parts.edge
            first = rules.first_event(request.grant.project, objects["client"], objects["tunnel"])
            await self._stream(down, watch, first)
        finally:
            down.watch(None)
            self._watches.discard(watch)
            stop()

    async def _stream(self, down: H1Downstream, watch: Watch, first: inventory.Object) -> None:
        down.put(Data(_block(first)))
        await down.flush()
        while True:
            found = await watch.next()
            if found is None:
                break
            down.put(Data(_block(found) if found else b":\n\n"))
            await down.flush()
        down.close_after()
        down.put(End())
        await down.flush()


class Watch:
    """One live event stream: what is still to be sent. `client_gone` and `stop` end it."""

    def __init__(self, project: str, selection: dict[str, inventory.Selection], rules: EdgeRules) -> None:
        self._project = project
        self._selection = selection
        self._rules = rules
        self._over = False
        self._events: asyncio.Queue[inventory.Object | None] = asyncio.Queue()

    def changed(self, change: Change) -> None:
        """Queue the event of a change that this watcher may see."""
        if self._over or change.subject.project != self._project or not self._rules.tells(change):
            return
        kind = "tunnel" if isinstance(change.subject, Tunnel) else "client"
        found = inventory.change_event(change, self._rules.listed(change.subject))
        if self._selection[kind].matches(found["object"]):
            if self._events.qsize() >= WATCH_QUEUE:
                self.stop()
            else:
                self._events.put_nowait(found)

    async def next(self) -> inventory.Object | None:
        """The next event; an empty one when it is quiet for long; None at the end."""
        try:
            async with asyncio.timeout(WATCH_COMMENT_S):
                return await self._events.get()
        except TimeoutError:
            return {}

    def stop(self) -> None:
        """End the stream behind what is queued."""
        self._over = True
        self._events.put_nowait(None)

    def client_gone(self) -> None:
        """Nobody listens any more."""
        while not self._events.empty():
            self._events.get_nowait()
        self.stop()


def _block(found: inventory.Object) -> bytes:
    return b"data: " + json.dumps(found, separators=(",", ":")).encode() + b"\n\n"
