"""An ASGI application for a server of others: it says what it got. Imports nothing of this project.

The answer has the fields `x-version`, `x-method`, `x-octets` and `x-digest` (SHA-256 of the content). The content of a
POST comes back; `/octets/N` gives N octets, the number of each modulo 251. `/interim` sends a 103 first, `/trailers`
a trailer section behind the content.
"""

from __future__ import annotations

import hashlib
from typing import Any

STEP = 16_384


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """One request."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return
    body = bytearray()
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    await _answer(scope, bytes(body), send)


async def _answer(scope: dict[str, Any], body: bytes, send: Any) -> None:
    path = scope["path"]
    trailers = path == "/trailers"
    if path == "/interim":
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
    count = path.removeprefix("/octets/")
    content = bytes(number % 251 for number in range(int(count))) if count.isdigit() else body
    told = {
        "x-version": scope["http_version"],
        "x-method": scope["method"],
        "x-octets": str(len(body)),
        "x-digest": hashlib.sha256(body).hexdigest(),
        **({"trailer": "x-sum"} if trailers else {}),
    }
    headers = [(name.encode(), value.encode()) for name, value in told.items()]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": trailers})
    for place in range(0, len(content), STEP):
        await send({"type": "http.response.body", "body": content[place : place + STEP], "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    if trailers:
        digest = hashlib.sha256(content).hexdigest().encode()
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", digest)], "more_trailers": False})
