"""The rules of the plain HTTP listener: sends everybody to https, forwards nothing (EDGE-010)."""

from __future__ import annotations

from reference_engine.http.errors import Fault
from reference_engine.http.events import RequestHead, values
from reference_engine.http.forward import ABSOLUTE
from reference_engine.http.syntax import HOST

HTTPS_PORT = 443


class RedirectRules:
    """Where the plain listener sends a request, and with which status."""

    def redirect_location(self, head: RequestHead, port: int) -> bytes | Fault:
        """`https://<host>[:port]<target>`: the host that was asked for, the port of the public listener."""
        absolute = ABSOLUTE.fullmatch(head.target)
        hosts = values(head.fields, b"host")
        authority, rest = (absolute[2], absolute[3]) if absolute else (hosts[0] if hosts else b"", head.target)
        host = HOST.fullmatch(authority)
        if host is None or not host[1]:
            return Fault(400, "the request names no valid host")
        if head.method == b"CONNECT" or (rest != b"*" and rest and rest[:1] not in (b"/", b"?")):
            return Fault(400, "the request target is not valid")
        path = rest if rest.startswith(b"/") else b"/" if rest in (b"", b"*") else b"/" + rest
        return b"https://" + host[1] + (b"" if port == HTTPS_PORT else b":%d" % port) + path

    def redirect_status(self, version: bytes) -> int:
        """308 keeps the method; the older 301 is for clients that know no other (RFC 9110 sections 15.4.2 and
        15.4.9)."""
        return 308 if version == b"1.1" else 301
