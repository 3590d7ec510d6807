"""A complete adapter, with nothing but the standard library. Its engine is a TLS endpoint in the same process: TLS ends
here, and plain TCP goes to the upstream. Replace what `start`, `publish`, `unpublish` and `shutdown` do.
"""

import asyncio
import json
import os
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from typing import Any

Json = dict[str, Any]

FEATURES = ["tls.1.2", "tls.terminated"]
KNOWN = {"protocol": ("tls",), "publish": (True,), "tls_mode": ("terminated",)}  # property: values that are understood
certificate: dict[str, str] = {}
servers: dict[str, asyncio.Server] = {}  # key of a spec: its listener


def lacking(properties: Json) -> str | None:
    """The feature that is needed and not there. What is not understood is never left out in silence."""
    for name, value in {"protocol": "http", **properties}.items():
        if value not in KNOWN.get(name, ()):
            return {"protocol": f"protocol {value}", "tls_mode": "tls.passthrough"}.get(name, name)
    return None


async def pump(reader: StreamReader, writer: StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def carry(reader: StreamReader, writer: StreamWriter, upstream: Json) -> None:
    try:
        far_reader, far_writer = await asyncio.open_connection(upstream["address"], upstream["port"])
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def publish_one(spec: Json) -> Json:
    missing = lacking(spec["properties"])
    if missing:
        return {"unsupported": missing}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate["chain"], certificate["key"])
    server = await asyncio.start_server(lambda r, w: carry(r, w, spec["upstream"]), "127.0.0.1", 0, ssl=context)
    servers[spec["key"]] = server
    return {"endpoint": {"host": spec["host"], "address": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}}


async def hello(_: Json) -> Json:
    version = ssl.OPENSSL_VERSION
    return {"protocol": 1, "name": "minimal", "version": version, "features": FEATURES, "can_refuse": False}


async def start(params: Json) -> Json:
    if params["settings"]:
        return {"unsupported": list(params["settings"])}
    certificate.update(params["certificate"])
    return {}


async def publish(params: Json) -> Json:
    return {"results": [await publish_one(spec) for spec in params["specs"]]}


async def unpublish(params: Json) -> Json:
    for key in params["keys"]:
        if key in servers:
            servers.pop(key).close()
    return {}


async def status(_: Json) -> Json:
    return {"running": True, "pid": os.getpid()}  # the engine is this process: when it dies, that is a crash


async def restart(_: Json) -> Json:
    return {}  # nothing to restart; an engine of its own is stopped and started, with everything that was published


async def log(_: Json) -> Json:
    return {"lines": []}


async def shutdown(_: Json) -> Json:
    return await unpublish({"keys": list(servers)})


METHODS = {call.__name__: call for call in (hello, start, publish, unpublish, status, restart, log, shutdown)}


async def main() -> None:
    """One JSON-RPC message a line. stdout is the protocol's alone: anything else goes to stderr."""
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        request = json.loads(line)
        answer: Json = {"jsonrpc": "2.0", "id": request["id"]}
        method = METHODS.get(request["method"])
        if method is None:
            answer["error"] = {"code": -32601, "message": f"no method {request['method']}"}
        else:
            try:
                answer["result"] = await method(request.get("params") or {})
            except (OSError, KeyError, ValueError) as error:
                answer["error"] = {"code": -32000, "message": f"{request['method']}: {error}"}
        print(json.dumps(answer), flush=True)
        if request["method"] == "shutdown":
            break


if __name__ == "__main__":
    asyncio.run(main())
