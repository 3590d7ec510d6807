"""The attack corpora of `fixtures/attacks/` through every pair of versions: nothing smuggled, nothing misread.

Each case runs one file through one downstream version and judges at its end, by each requirement, the entries that
name it: an entry passes where it was refused and no whole request is at the upstream, or, where the entry permits it,
where exactly one well-formed request is there that means what the entry says. Statuses are judged elsewhere.
"""

from __future__ import annotations

from conformance.http._corpus import attacks, corpus
from harness.scene import Scene


@corpus("http-corpus-01", "framing", "h1")
async def test_framing_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: Content-Length and Transfer-Encoding in the forms that were once read in two ways."""
    await attacks(scene, "framing")


@corpus("http-corpus-02", "chunks", "h1")
async def test_chunks_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: chunk sizes, extensions and ends that were once read in two ways."""
    await attacks(scene, "chunks")


@corpus("http-corpus-03", "lines", "h1")
async def test_lines_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: bare LF, bare CR, NUL, folds, and request lines that are none."""
    await attacks(scene, "lines")


@corpus("http-corpus-04", "authority", "h1")
async def test_authority_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: Host and absolute-form that name more than one host, or none."""
    await attacks(scene, "authority")


@corpus("http-corpus-05", "paths", "h1")
async def test_paths_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: targets that mean another path once they are decoded or resolved."""
    await attacks(scene, "paths")


@corpus("http-corpus-06", "trailers", "h1")
async def test_trailers_through_h1(scene: Scene) -> None:
    """Attacks through HTTP/1.1: fields behind the last chunk that would frame, route or authenticate."""
    await attacks(scene, "trailers")


@corpus("http-corpus-07", "injection", "h2")
async def test_injection_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: CR, LF, NUL and delimiters in names and values."""
    await attacks(scene, "injection")


@corpus("http-corpus-08", "pseudo", "h2")
async def test_pseudo_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: pseudo-header fields that repeat, are unknown, misplaced, or hold more than one thing."""
    await attacks(scene, "pseudo")


@corpus("http-corpus-09", "hop", "h2")
async def test_hop_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: fields of an HTTP/1.1 connection, Transfer-Encoding first of all."""
    await attacks(scene, "hop")


@corpus("http-corpus-10", "lengths", "h2")
async def test_lengths_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: Content-Length against the length that the frames have."""
    await attacks(scene, "lengths")


@corpus("http-corpus-11", "authority", "h2")
async def test_authority_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: `:authority` and Host that name more than one host, or none."""
    await attacks(scene, "authority")


@corpus("http-corpus-12", "paths", "h2")
async def test_paths_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: targets that mean another path once they are decoded or resolved."""
    await attacks(scene, "paths")


@corpus("http-corpus-13", "trailers", "h2")
async def test_trailers_through_h2(scene: Scene) -> None:
    """Attacks through HTTP/2: trailers that would frame, route or authenticate, or that are malformed."""
    await attacks(scene, "trailers")


@corpus("http-corpus-14", "injection", "h3")
async def test_injection_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: CR, LF, NUL and delimiters in names and values."""
    await attacks(scene, "injection")


@corpus("http-corpus-15", "pseudo", "h3")
async def test_pseudo_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: pseudo-header fields that repeat, are unknown, misplaced, or hold more than one thing."""
    await attacks(scene, "pseudo")


@corpus("http-corpus-16", "hop", "h3")
async def test_hop_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: fields of an HTTP/1.1 connection, Transfer-Encoding first of all."""
    await attacks(scene, "hop")


@corpus("http-corpus-17", "lengths", "h3")
async def test_lengths_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: Content-Length against the length that the frames have."""
    await attacks(scene, "lengths")


@corpus("http-corpus-18", "authority", "h3")
async def test_authority_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: `:authority` and Host that name more than one host, or none."""
    await attacks(scene, "authority")


@corpus("http-corpus-19", "paths", "h3")
async def test_paths_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: targets that mean another path once they are decoded or resolved."""
    await attacks(scene, "paths")


@corpus("http-corpus-20", "trailers", "h3")
async def test_trailers_through_h3(scene: Scene) -> None:
    """Attacks through HTTP/3: trailers that would frame, route or authenticate, or that are malformed."""
    await attacks(scene, "trailers")
