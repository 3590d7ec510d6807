"""Mutants of QUIC tunnels: the protocols that the legs agree on, and the octets that cross."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from reference_engine.edge.client_hello import ClientHello
from reference_engine.mutants.registry import Reached, mutant, swap
from reference_engine.parts import Parts
from reference_engine.quic.rules import Offer
from reference_engine.quic.stream import QuicStream

Decide = Callable[[ClientHello, Sequence[str]], Offer]
REQUEST_END = b" HTTP/1.1\r\n"

# -- octets --------------------------------------------------------------------------------------------------------


@mutant("quic-byte-flipped", ("QUIC-001", "APP-002"), "changes the last octet of what crosses")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: QuicStream, data: bytes) -> None:
        reached()
        await original(sink, data[:-1] + bytes((data[-1] ^ 1,)))

    swap(parts.quic, "pass_data", broken)


@mutant("quic-sees-http", ("EDGE-004", "QUIC-002"), "adds a Via line to what looks like a request of HTTP/1.1")
def _(parts: Parts, reached: Reached) -> None:
    async def broken(original: Any, sink: QuicStream, data: bytes) -> None:
        if REQUEST_END in data:
            reached()
            data = data.replace(REQUEST_END, REQUEST_END + b"Via: 1.1 edge\r\n", 1)
        await original(sink, data)

    swap(parts.quic, "pass_data", broken)


# -- protocols -----------------------------------------------------------------------------------------------------


@mutant(
    "quic-offers-list-upstream",
    ("QUIC-004", "RFC9001-8.1-1"),
    "offers the upstream the tunnel's whole list, whatever was negotiated",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        offer = original(hello, configured)
        if offer.answer is None or not configured:
            return offer
        reached()
        return dataclasses.replace(offer, upstream=tuple(configured))

    swap(parts.quic, "offer", broken)


@mutant(
    "quic-first-of-list",
    ("QUIC-004", "ALPN-001", "RFC7301-3.1-3"),
    "knows only the first protocol of a tunnel's list",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        if len(configured) > 1 and configured[0] not in hello.alpns:
            reached()
        return original(hello, configured[:1])

    swap(parts.quic, "offer", broken)


@mutant(
    "quic-alpn-fixed",
    ("QUIC-005", "QUIC-008", "RFC7301-3.1-4"),
    "offers the upstream a name of its own on a tunnel without a list",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        offer = original(hello, configured)
        if configured or offer.answer is None:
            return offer
        reached()
        return dataclasses.replace(offer, upstream=("edgecase",))

    swap(parts.quic, "offer", broken)


@mutant(
    "quic-several-first",
    ("QUIC-005", "QUIC-008"),
    "gives a client the first of its names, and lets the upstream choose another one",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        offer = original(hello, configured)
        if offer.answer is not None or len(offer.upstream) < 2:
            return offer
        reached()
        return dataclasses.replace(offer, answer=offer.upstream[0])

    swap(parts.quic, "offer", broken)


@mutant(
    "quic-alpn-takes-any",
    ("QUIC-007", "RFC9001-8.1-2", "RFC7301-3.2-2", "ALPN-008"),
    "takes a name that is not in the tunnel's list",
)
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        if configured and hello.alpns and not set(configured) & set(hello.alpns):
            reached()
            return original(hello, ())
        return original(hello, configured)

    swap(parts.quic, "offer", broken)


@mutant("quic-alpn-by-case", ("QUIC-007", "RFC7301-3.2-2"), "compares names with the list without their case")
def _(parts: Parts, reached: Reached) -> None:
    _alike(parts, reached, lambda name, known: name.lower() == known)


@mutant("quic-alpn-by-prefix", ("QUIC-007", "RFC7301-3.2-2"), "takes a name that begins with one of the list")
def _(parts: Parts, reached: Reached) -> None:
    _alike(parts, reached, lambda name, known: name.startswith(f"{known}/"))


def _alike(parts: Parts, reached: Reached, same: Callable[[str, str], bool]) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        offer = original(hello, configured)
        if offer.alert is None or not configured:
            return offer
        for name in hello.alpns:
            for known in configured:
                if same(name, known):
                    reached()
                    return Offer(name, (known,))
        return offer

    swap(parts.quic, "offer", broken)


@mutant("quic-alpn-lenient", ("RFC7301-3.1-1",), "takes an ALPN list with an empty name")
def _(parts: Parts, reached: Reached) -> None:
    def broken(original: Decide, hello: ClientHello, configured: Sequence[str]) -> Offer:
        if not hello.alpn_malformed:
            return original(hello, configured)
        reached()
        return Offer(configured[0], tuple(configured[:1]))

    swap(parts.quic, "offer", broken)
