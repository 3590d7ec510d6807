"""The factory that hands out every replaceable part of the engine.

A rule, a relay or an endpoint is reached through `Parts` *at call time* (`self.parts.tls.select_alpn(...)`), never by
`from rules import select_alpn`: a mutant replaces one attribute of one `Parts` before the engine starts, and a name
that was imported earlier would escape it silently. Parts are plain objects whose methods are rules; a mutant is a
subclass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from reference_engine.agent.datagram_rules import DatagramRules
from reference_engine.agent.rules import AgentRules
from reference_engine.edge.rules import EdgeRules
from reference_engine.http.endpoints import HttpEndpoints
from reference_engine.http.rules import HttpRules
from reference_engine.quic.endpoints import QuicEndpoints
from reference_engine.quic.rules import QuicRules
from reference_engine.relay.bridge import Bridge
from reference_engine.relay.pump import Relay
from reference_engine.tls.endpoint import TlsEndpoints
from reference_engine.tls.rules import TlsRules
from reference_engine.tunnel.editions import EditionRules
from reference_engine.tunnel.rules import TunnelRules


@dataclass
class Parts:
    """One of each; `Parts()` is the engine as it should be."""

    agent: AgentRules = field(default_factory=AgentRules)
    datagrams: DatagramRules = field(default_factory=DatagramRules)
    editions: EditionRules = field(default_factory=EditionRules)
    tunnel: TunnelRules = field(default_factory=TunnelRules)
    edge: EdgeRules = field(default_factory=EdgeRules)
    tls: TlsRules = field(default_factory=TlsRules)
    tls_endpoints: TlsEndpoints = field(default_factory=TlsEndpoints)
    quic: QuicRules = field(default_factory=QuicRules)
    quic_endpoints: QuicEndpoints = field(default_factory=QuicEndpoints)
    relay: Relay = field(default_factory=Relay)
    bridge: Bridge = field(default_factory=Bridge)
    http: HttpRules = field(default_factory=HttpRules)
    http_endpoints: HttpEndpoints = field(default_factory=HttpEndpoints)
