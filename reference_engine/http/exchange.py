"""One exchange per request: it applies the rules, and joins a downstream codec to an upstream codec.

    client ──octets──> downstream codec ──events──> Exchange (rules) ──events──> upstream codec ──octets──> agent

A request without content is written in one piece and answered in one task. One with content has a second task for the
request direction, so content streams while the response may already be on its way back. Each side's `await` on the
other side's write is the backpressure. The exchange knows no version: it sees `Downstream`, `Upstream` (`leg`) and
neutral events.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from reference_engine.http.errors import Fault, ProtocolFault, fault_of
from reference_engine.http.events import (
    Data,
    End,
    Event,
    Fields,
    InformationalHead,
    RequestHead,
    Reset,
    ResponseHead,
    members,
)
from reference_engine.http.forward import Origin, Target, host_name
from reference_engine.http.leg import Downstream, Upstream
from reference_engine.http.syntax import NO_CONTENT
from reference_engine.http.upgrade import relay
from reference_engine.relay.stream import StreamReset
from reference_engine.tunnel.model import Tunnel

if TYPE_CHECKING:
    from reference_engine.http.server import HttpTunnels


NOWHERE = Origin("", b"", NO_CONTENT)
"""Of a request that is not admitted yet."""


class ClientGone(Exception):  # noqa: N818 - an event, not a mistake
    """The client left; there is nobody to answer."""


class Exchange:
    """One request from its head to the end of its response. `own` is the tunnel that the connection selected."""

    def __init__(self, edge: HttpTunnels, down: Downstream, own: Tunnel, carried: str | None) -> None:
        self._edge = edge
        self._rules = edge.rules
        self._down = down
        self._head = down.head
        self._own = own
        self._carried = carried
        self._tunnel = own
        self._up: Upstream | None = None
        self._pump: asyncio.Task[None] | None = None
        self._task = asyncio.current_task()
        self._attempts = 0
        self._begun = False
        self._continued = False
        self._gone = False
        self._deaf = False
        self._nominating: Fields = []
        self._fault: Fault | None = None
        self._origin = NOWHERE
        self.forwarded: str | None = None
        """"reverse" or "egress" once the request was on its way to an upstream."""

    async def run(self) -> None:
        """Serve the request. Raises StreamReset when the client is gone; nothing else."""
        target = self._admit()
        if isinstance(target, Fault):
            await self._down.refuse(target, close=target.status == 400)
        elif self._rules.is_last_hop(self._head):
            await self._answer_as_last_hop()
        else:
            await self._forward(target)

    # -- what is decided before anything goes upstream -----------------------------------------------------------

    def _admit(self) -> Target | Fault:
        """The target if the request may go on, with `_tunnel` and `_origin` set; the refusal otherwise."""
        rules, head = self._rules, self._head
        target = rules.switches(head) or rules.scheme(head) or rules.target(head.method, head.target)
        if isinstance(target, Fault):
            return target
        fault = rules.mixing(self._carried, head.method) or rules.trace_content(head.method, self._down.framing)
        if fault is not None:
            return fault
        authority = target.authority or head.authority or (self._own.properties.hostname or "").encode("ascii")
        if target.form != "authority":
            # CONNECT stays with the tunnel of the connection (HTTP-CONNECT-009); everything else names its own.
            found = rules.route(host_name(authority), self._edge.lookup, self._edge.domain)
            if isinstance(found, Fault):
                return found
            self._tunnel = found
        if self._tunnel.properties.protocol != "http":
            return fault_of("misdirected")
        client = self._down.peer.host if self._down.peer is not None else ""
        upgrade = rules.upgrade_offer(head) if target.form != "authority" else ()
        self._origin = Origin(client, authority, self._down.framing, upgrade)
        return target

    async def _answer_as_last_hop(self) -> None:
        fields = [(b"Date", self._edge.date())]
        body = b""
        if self._head.method == b"TRACE":
            body = self._rules.echo(self._head)
            fields.append((b"Content-Type", b"message/http"))
        self._down.put(ResponseHead(200, [*fields, (b"Content-Length", b"%d" % len(body))], b"OK"))
        if body:
            self._down.put(Data(body))
        self._down.put(End())
        if not self._down.complete:
            self._down.close_after()
        await self._down.flush()

    # -- the way up ------------------------------------------------------------------------------------------------

    async def _forward(self, target: Target) -> None:
        reuse = (
            self._rules.repeatable(self._head.method, self._down.framing)
            and target.form != "authority"
            and not self._origin.upgrade
        )
        self._tunnel.sessions.add(self.end)
        self._down.watch(self)
        try:
            trouble = await self._attempt(target, reuse=reuse)
            while trouble is not None and self._repeats():
                trouble = await self._attempt(target, reuse=False)
            if trouble is not None:
                await self._fail(trouble)
        except ClientGone:
            raise StreamReset("the client is gone") from None
        finally:
            self._down.watch(None)
            self._tunnel.sessions.discard(self.end)
            await self._let_go()

    def _repeats(self) -> bool:
        """Whether the request goes out again because its connection ended under it."""
        up = self._up
        if up is None or self._gone or self._fault is not None or not up.over:
            return False
        if up.unprocessed:
            return self._rules.repeats_unprocessed(self._down.framing, self._attempts)
        return self._rules.repeats(self._head.method, self._down.framing, fresh=up.fresh, heard=up.heard)

    async def _attempt(self, target: Target, *, reuse: bool) -> Reset | None:
        """Send the request and relay the answer. A `Reset` says what kept the response from being complete."""
        if self._up is not None:
            await self._up.leave()
            self._up = None
        self._attempts += 1
        self._deaf = False
        try:
            up = self._up = await self._open(target, reuse=reuse)
        except ProtocolFault as problem:
            self._fault = problem.fault
            return Reset("refused")
        self.forwarded = "egress" if target.form == "authority" else "reverse"
        try:
            await self._send_head(up, target)
        except StreamReset:
            # What the upstream said before it went may still be here.
            self._deaf = True
            up.arm(self._edge.response_timeout)
        return await self._relay_response(up, target)

    async def _open(self, target: Target, *, reuse: bool) -> Upstream:
        """A connection to the upstream; a client that leaves meanwhile ends the wait. Raises ProtocolFault."""
        again = self._attempts > 1
        try:
            up = await self._edge.upstreams.acquire(self._tunnel, self._down.peer, reuse=reuse, again=again)
        except asyncio.CancelledError:
            if (self._gone or self._fault is not None) and self._task is not None and self._task.uncancel() == 0:
                if self._fault is not None:
                    raise ProtocolFault(self._fault) from None
                raise ClientGone from None
            raise
        if target.form == "authority" and up.carrier is None:
            up.release()
            raise ProtocolFault(fault_of("no-connect"))
        return up

    async def _send_head(self, up: Upstream, target: Target) -> None:
        head = self._head
        if target.form == "authority":
            fields = self._rules.connect_fields(head, target)
        else:
            fields = self._rules.request_fields(head, self._origin)
        request = RequestHead(head.method, target.upstream, fields, head.version, self._origin.authority)
        if self._down.framing.kind == "none":
            await up.send(request, End())
            up.arm(self._edge.response_timeout)
        else:
            await up.send(request)
            self._pump = asyncio.get_running_loop().create_task(self._relay_content(up))

    async def _relay_content(self, up: Upstream) -> None:
        """The request direction, until its end, until the upstream takes no more, or until the client breaks off."""
        try:
            while True:
                events = await self._down.receive()
                last = events[-1]
                if isinstance(last, Reset):
                    self._give_up(fault_of(last.reason))
                    return
                if isinstance(last, End):
                    events[-1] = End(self._rules.trailers(last.trailers, self._head.fields))
                await up.send(*[event for event in events if not isinstance(event, Reset)])
                if isinstance(last, End):
                    if not self._begun:
                        up.arm(self._edge.response_timeout)
                    return
        except ProtocolFault as problem:
            self._give_up(problem.fault)
        except StreamReset as problem:
            self._deaf = True
            if not self._begun:
                up.arm(self._edge.response_timeout)
            self._edge.log.debug("the upstream takes no more of a request: %s", problem.reason)

    # -- the way down ----------------------------------------------------------------------------------------------

    async def _relay_response(self, up: Upstream, target: Target) -> Reset | None:
        while True:
            event = up.next_event()
            if event is None:
                await self._down.flush()
                event = await up.receive()
            if self._gone:
                raise ClientGone
            if isinstance(event, Data):
                self._down.put(event)
            elif isinstance(event, End):
                self._down.put(End(self._rules.trailers(event.trailers, self._nominating)))
                await self._finish(up)
                return None
            else:
                done, trouble = await self._relay_head(up, target, event)
                if done:
                    return trouble

    async def _relay_head(self, up: Upstream, target: Target, event: Event) -> tuple[bool, Reset | None]:
        """Everything but content: (whether the exchange is over, what went wrong)."""
        if isinstance(event, Reset):
            return True, event
        if isinstance(event, InformationalHead):
            return await self._interim(up, event)
        if not isinstance(event, ResponseHead):
            return True, Reset("upstream-malformed")
        if event.codings and self._head.version == b"1.0":
            return True, Reset("upstream-malformed")
        up.disarm()
        if target.form == "authority" and self._rules.connect_opens(event.status):
            await self._open_tunnel(up, event)
            return True, None
        self._begun = True
        self._nominating = event.fields
        expects = b"100-continue" in members(self._head.fields, b"expect") and not self._continued
        if self._rules.ends_early(complete=self._down.complete, closing=up.closing, expects=expects, deaf=self._deaf):
            self._down.close_after()
        fields = self._rules.response_fields(event, self._head.method)
        fields = self._rules.alternative(fields, self._head.version, self._edge.http3_port, self._edge.alternative_time)
        self._down.put(ResponseHead(event.status, fields, event.reason, event.codings))
        return False, None

    async def _interim(self, up: Upstream, head: InformationalHead) -> tuple[bool, Reset | None]:
        rules = self._rules
        if head.status == 101:
            if not rules.upgrade_accepted(self._origin.upgrade, head) or not self._down.complete:
                return True, Reset("upstream-switch")
            up.disarm()
            self._down.put(InformationalHead(101, rules.switching_fields(head), head.reason))
            await self._switch(up)
            return True, None
        relayed = rules.informational(head, self._head.version)
        if relayed is not None:
            self._continued = self._continued or head.status == 100
            self._down.put(relayed)
        return False, None

    async def _open_tunnel(self, up: Upstream, head: ResponseHead) -> None:
        """A 2xx to CONNECT: no content, no framing, the tunnel begins (RFC 9110 section 9.3.6)."""
        fields = self._rules.response_fields(head, b"CONNECT")
        self._down.put(ResponseHead(head.status, fields, head.reason))
        await self._switch(up)

    async def _switch(self, up: Upstream) -> None:
        await self._down.flush()
        self._begun = True
        self._down.watch(None)
        await relay(
            self._edge.relay,
            self._down.raw(),
            up.raw(),
            client_half_open=self._down.half_open,
            upstream_half_open=self._edge.half_open(up.carrier),
        )

    async def _finish(self, up: Upstream) -> None:
        """The response is complete: let the rest of the request go up while somebody reads it (RFC 9110 section
        7.5)."""
        await self._down.flush()
        if self._pump is None or self._pump.done():
            return
        if up.closing or self._deaf or up.over:
            self._down.close_after()
        else:
            await self._pump

    # -- ends ------------------------------------------------------------------------------------------------------

    async def _fail(self, trouble: Reset) -> None:
        """No complete response: an answer of the edge's own, or a response that visibly breaks off."""
        if self._gone:
            raise ClientGone
        self._edge.log.debug("tunnel %s: %s", self._tunnel.id, trouble.reason)
        if self._begun:
            await self._down.truncate(trouble.reason)
        else:
            fault = self._rules.failure(trouble.reason, self._fault)
            await self._down.refuse(fault, close=fault.status in (400, 408))

    def _give_up(self, fault: Fault) -> None:
        """The request cannot be completed: the upstream must not take it for whole (RFC 9112 section 6.3)."""
        self._fault = fault
        if self._up is not None:
            self._up.abort(fault.text)

    def client_gone(self) -> None:
        """The client left: the upstream hears of it at once (HTTP-STREAM-005)."""
        self._gone = True
        self._interrupt("the client is gone")

    def end(self, reason: str) -> None:
        """The tunnel was closed on purpose (EDGE-027)."""
        self._fault = fault_of("closed")
        self._interrupt(reason)

    def _interrupt(self, reason: str) -> None:
        if self._up is not None:
            self._up.abort(reason)
        elif self._task is not None:
            self._task.cancel()

    async def _let_go(self) -> None:
        try:
            if self._pump is not None and not self._pump.done():
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)
        finally:
            up, self._up = self._up, None
            if up is not None:
                up.release()
