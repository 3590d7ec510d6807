"""What the edge answers on its own account: one table from cause to status, and how such an answer looks.

The body is one line of text for a person; it names no address, no agent, no internal state (HTTP-ERR-013). 502, 503
and 504 are told apart as RFC 9110 sections 15.6.3 to 15.6.5 describe them.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

from reference_engine.http.events import Fields, ResponseHead

CAUSES: dict[str, tuple[int, str]] = {
    # the connector's kinds (agent link)
    "agent-gone": (502, "the agent of this tunnel is not connected"),
    "refused": (502, "the agent could not reach the upstream"),
    "timeout": (504, "the agent did not open a stream in time"),
    "capacity": (503, "too many streams are waiting for the agent of this tunnel"),
    "closed": (503, "the tunnel was closed"),
    # the upstream leg
    "upstream-tls": (502, "the upstream does not speak TLS as this tunnel needs it"),
    "upstream-closed": (502, "the upstream closed the connection before it answered"),
    "upstream-reset": (502, "the connection to the upstream broke"),
    "upstream-malformed": (502, "the upstream sent a response that is not valid HTTP/1.1"),
    "upstream-truncated": (502, "the upstream ended its response early"),
    "upstream-silent": (504, "the upstream did not answer in time"),
    "upstream-h3": (502, "the upstream does not speak HTTP/3 as this tunnel needs it"),
    "upstream-narrow": (431, "the upstream takes no header section of this size"),
    "upstream-switch": (502, "the upstream switched to a protocol that was not asked for"),
    "no-connect": (501, "CONNECT is not served over this version of HTTP"),
    # routing
    "unknown-host": (404, "no tunnel has this name"),
    "misdirected": (421, "Misdirected Request: this connection does not serve that name"),
    "mixed": (421, "Misdirected Request: CONNECT and ordinary requests do not share a connection"),
    # the downstream leg
    "header-timeout": (408, "the request did not arrive in time"),
    "body-timeout": (408, "the content of the request did not arrive in time"),
    "incomplete": (400, "the request ended early"),
    "draining": (503, "the edge is shutting down"),
}
"""Cause -> (status, text)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a message is refused: the status toward a client, and one line of text. Of a response only the fact
    counts."""

    status: int
    text: str


class ProtocolFault(Exception):  # noqa: N818 - the field's word for it
    """A peer's octets are refused; `fault` says with what."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def fault_of(cause: str) -> Fault:
    """The row of `cause` as a Fault; an unknown cause is a bad gateway."""
    status, text = CAUSES.get(cause, (502, "the upstream could not be reached"))
    return Fault(status, text)


def reason_phrase(status: int) -> bytes:
    """The registered reason phrase of `status`, or nothing."""
    try:
        return HTTPStatus(status).phrase.encode("ascii")
    except ValueError:
        return b""


def answer(fault: Fault, *, close: bool) -> tuple[ResponseHead, bytes]:
    """Head and content of the edge's own answer to a refused request."""
    body = f"{fault.status} {fault.text}\n".encode()
    fields: Fields = [
        (b"Date", formatdate(usegmt=True).encode("ascii")),
        (b"Content-Type", b"text/plain; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
    ]
    if close:
        fields.append((b"Connection", b"close"))
    return ResponseHead(fault.status, fields, reason_phrase(fault.status)), body
