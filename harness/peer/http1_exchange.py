"""One exchange of an HTTP/1.1 client in the words that all versions share (`harness.peer.http`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import PeerMismatch
from harness.link.stream import End
from harness.peer.http import ClientExchange, ExchangeEnd, Fields, Informational, Response
from harness.wire.http1 import ResponseHead
from harness.wire.http1_write import Field, names

if TYPE_CHECKING:
    from harness.peer.http1_client import Http1Client
    from harness.peer.http1_client import Response as Http1Response


def framing_of(fields: Fields) -> tuple[list[Field], bool]:
    """Fields of a message whose content follows piece by piece, and whether it goes in chunks: unless they frame it
    already (RFC 9112 section 6.3)."""
    said: list[Field] = list(fields)
    known = names(said)
    chunked = "content-length" not in known
    if chunked and "transfer-encoding" not in known:
        said.append(("Transfer-Encoding", "chunked"))
    return said, chunked


def end_of(end: End) -> ExchangeEnd:
    """The end of a connection as that of the exchange on it."""
    return ExchangeEnd("connection", detail=str(end))


class Http1Exchange(ClientExchange):
    """A request on a connection of its own or behind others: responses are read in the order of their requests."""

    def __init__(self, client: Http1Client, method: str, target: str, nonce: str | None, *, chunked: bool) -> None:
        self.client: Http1Client = client
        self.method = method
        self.target = target
        self.nonce = nonce
        self.id = None
        self._chunked = chunked
        self._interim: list[Informational] = []
        self._given = 0
        self._read: Http1Response | None = None
        self._response: Response | None = None

    async def send_content(self, data: bytes) -> None:
        """One chunk, or the octets where the script gave a Content-Length. Raises `PeerMismatch`."""
        if not data:
            return
        if self._chunked:
            await self.client.send_chunk(data)
        else:
            await self.client.send_raw(data)

    async def finish(self, trailers: Fields = ()) -> None:
        """The last chunk with its trailer section; nothing behind a Content-Length. Raises `PeerMismatch`."""
        if self._chunked:
            await self.client.send_last_chunk(trailers)

    def cancel(self) -> None:
        """Reset of the connection: HTTP/1.1 has no other way (RFC 9112 section 9.6)."""
        self.client.abort()

    @property
    def stopped(self) -> int | None:
        """`None`: HTTP/1.1 cannot say it."""
        return None

    async def informational(self) -> Informational:
        """The next interim response. Raises `PeerMismatch` when a final one or the end comes instead."""
        while self._given >= len(self._interim):
            if self._response is not None:
                raise PeerMismatch("an interim response", f"the response {self._response.describe()}")
            got = await self.client.next_head("an interim response", interim=True)
            if isinstance(got, End):
                raise PeerMismatch("an interim response", str(got))
            if isinstance(got, ResponseHead):
                self._interim.append(Informational(got.status, got.headers))
            else:
                self._begin(got)
        self._given += 1
        return self._interim[self._given - 1]

    def _begin(self, got: Http1Response) -> Response:
        self._interim += [Informational(head.status, head.headers) for head in got.informational[len(self._interim) :]]
        self._read = got
        self._response = Response(
            got.status, got.headers, self._interim, content=got.content, violations=got.violations
        )
        return self._response

    async def head_or_end(self) -> Response | ExchangeEnd:
        """The head of the final response, or the end of the connection without one."""
        if self._response is not None:
            return self._response
        got = await self.client.next_head(f"the response to '{self.method} {self.target[:200]}'")
        assert not isinstance(got, ResponseHead), "interim responses were not asked for"
        return end_of(got) if isinstance(got, End) else self._begin(got)

    async def response_head(self) -> Response:
        """The head of the final response. Raises `PeerMismatch` when the connection ends without one."""
        got = await self.head_or_end()
        if isinstance(got, ExchangeEnd):
            raise PeerMismatch(f"the response to '{self.method} {self.target[:200]}'", str(got))
        return got

    async def read_some(self, response: Response) -> bytes:
        """The next octets of the body, `b""` when the response is complete or the connection has ended."""
        read = self._read
        assert read is not None, "there is a response to read on"
        data = await self.client.read_some(read)
        response.complete, response.trailers = read.complete, read.trailers
        if read.end is not None and not read.complete:
            response.end = end_of(read.end)
        return data
