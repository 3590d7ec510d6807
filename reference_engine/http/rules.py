"""The rules of HTTP tunnels: the first place to look. Grammar and framing of HTTP/1.1 are in `syntax`, messages of
HTTP/2 and HTTP/3 in `messages`, connections of HTTP/3 in `h3_rules`, what crosses the edge is in `forward`, the course
of an exchange in `delivery`, what a peer may do too often in `floods`, the engine's API in `access`.

The engine reaches every rule as `parts.http.<rule>(...)` at call time; a mutant is a subclass that overrides one
method.
"""

from __future__ import annotations

from reference_engine.http.access import AccessRules
from reference_engine.http.delivery import DeliveryRules
from reference_engine.http.floods import FloodRules
from reference_engine.http.forward import ForwardRules
from reference_engine.http.h3_rules import H3Rules
from reference_engine.http.messages import MessageRules
from reference_engine.http.syntax import SyntaxRules


class HttpRules(SyntaxRules, MessageRules, H3Rules, ForwardRules, DeliveryRules, FloodRules, AccessRules):
    """All of them; each method names its requirements."""
