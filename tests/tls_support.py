"""Two TLS endpoints without I/O, one of them ours, talking in memory."""

from __future__ import annotations

import functools
import ssl
import tempfile
from pathlib import Path
from typing import Any

from harness.peer import tls_pki
from harness.wire.tls import ClientOptions, Endpoint, Event, HandshakeDone, ServerOptions, TlsClient, TlsServer

NAME = "a.t.x"


def usual_client(**more: Any) -> ClientOptions:
    return ClientOptions(**{"server_name": NAME, "trust": [tls_pki.authority().certificate], **more})


def usual_server(**more: Any) -> ServerOptions:
    return ServerOptions(**{"identity": tls_pki.identity(NAME), **more})


class Pair:
    """Our client and our server; `client_events` and `server_events` collect."""

    def __init__(self, client: ClientOptions | None = None, server: ServerOptions | None = None) -> None:
        self.client = TlsClient(client or usual_client())
        self.server = TlsServer(server or usual_server())
        self.client_events: list[Event] = []
        self.server_events: list[Event] = []

    def run(self) -> Pair:
        self.flow(self.client.start())
        return self

    def flow(self, to_server: bytes = b"", to_client: bytes = b"") -> None:
        """Carry octets until nobody has any."""
        while to_server or to_client:
            if to_server:
                self.server_events += self.server.receive(to_server)
            if to_client:
                self.client_events += self.client.receive(to_client)
            to_server, to_client = self.client.outgoing(), self.server.outgoing()

    @property
    def done(self) -> tuple[HandshakeDone, HandshakeDone]:
        return only(self.client_events, HandshakeDone), only(self.server_events, HandshakeDone)


def only(events: list[Event], kind: type[Any]) -> Any:
    found = [event for event in events if isinstance(event, kind)]
    assert len(found) == 1, f"{kind.__name__}: {found}"
    return found[0]


def every(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@functools.cache
def files(name: str = NAME, kind: str = "ecdsa", usage: str = "server") -> dict[str, Path]:
    """PEM files of an identity below the test CA; the folder lasts as long as the process."""
    folder = tempfile.TemporaryDirectory()
    _folders.append(folder)
    return tls_pki.identity(name, kind=kind, usage=usage).write(Path(folder.name))


_folders: list[tempfile.TemporaryDirectory[str]] = []


class Foreign:
    """The standard library's TLS in memory, opposite to one of our endpoints."""

    def __init__(self, ours: Endpoint, context: ssl.SSLContext, *, server: bool, session: ssl.SSLSession | None = None):
        self.ours = ours
        self.events: list[Event] = []
        self.complete = False
        self.error: ssl.SSLError | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server else NAME
        self.tls = context.wrap_bio(self._in, self._out, server_side=server, server_hostname=name, session=session)

    def run(self) -> Foreign:
        if isinstance(self.ours, TlsClient):
            self._in.write(self.ours.start())
        self.step()
        return self

    def step(self) -> None:
        """Carry octets until nobody has any."""
        while True:
            self._turn()
            data = self._out.read()
            if data:
                self.events += self.ours.receive(data)
            back = self.ours.outgoing()
            if not data and not back:
                return
            self._in.write(back)

    def _turn(self) -> None:
        if self.complete or self.error:
            return
        try:
            self.tls.do_handshake()
            self.complete = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error

    def give(self, data: bytes) -> None:
        """Octets of ours to the other side."""
        self._in.write(data)

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.step()

    def read(self, count: int = 1 << 20) -> bytes:
        data = self.tls.read(count)
        self.step()
        return data


def server_context(kind: str = "ecdsa", **values: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    paths = files(kind=kind)
    context.load_cert_chain(paths["chain"], paths["key"])
    for key, value in values.items():
        setattr(context, key, value)
    return context


def client_context(**values: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(files()["ca"]))
    for key, value in values.items():
        setattr(context, key, value)
    return context
