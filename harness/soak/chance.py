"""Plans by chance, the same again for the same seed: legal messages of every shape that HTTP permits."""

from __future__ import annotations

import hashlib
from random import Random

from harness.soak.plan import BODILESS, Answer, Ask, Content, Pairs, Plan

METHODS = ("GET",) * 6 + ("POST",) * 5 + ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "HEAD", "BREW")
WITH_CONTENT = ("POST", "PUT", "PATCH", "BREW", "DELETE")
STATUSES = (200,) * 8 + (201, 202, 204, 206, 301, 302, 304, 307, 400, 403, 404, 409, 410, 418, 422, 429, 500, 501, 599)
SIZES = (0, 1, 2, 100, 1000, 4096, 16383, 16384, 16385, 40_000, 65_535, 65_536, 65_537, 150_000)
"""Sizes of content, in octets: around the frame size and the windows of HTTP/2."""
SEGMENT = "abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-._~!$&'()*+,;=:@"
TRIPLETS = ("%20", "%C3%A9", "%25")
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
BEYOND = "\xa1\xe9\xff"
"""Octets beyond ASCII, which a field value may hold (RFC 9110 section 5.5)."""
NAMES = ("x-a", "x-b", "x-long-name-of-a-field", "accept-language", "x-empty", "x.dot")


def stuff(nonce: str, label: str, size: int) -> bytes:
    """Content of `size` octets that no other exchange has."""
    block = hashlib.sha256(f"{nonce}/{label}".encode()).digest()
    return (block * (size // len(block) + 1))[:size]


class Chance:
    """Makes plans from one source of chance."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def plan(self, nonce: str, *, least: int = 0, most: int = SIZES[-1]) -> Plan:
        """An exchange whose content is between `least` and `most` octets long in each direction that has any."""
        ask = self.ask(nonce, least, most)
        return Plan(ask, self.answer(nonce, least, most))

    def ask(self, nonce: str, least: int = 0, most: int = SIZES[-1]) -> Ask:
        """A request."""
        method = self.random.choice(WITH_CONTENT if least else METHODS)
        with_content = method in WITH_CONTENT and (least > 0 or self.random.random() < 0.8)
        content = self.content(nonce, "request", least, most) if with_content else None
        return Ask(method, self.path(), self.fields(), content)

    def answer(self, nonce: str, least: int = 0, most: int = SIZES[-1]) -> Answer:
        """A response; one that is to have content has a status that permits it."""
        status = self.random.choice(STATUSES)
        while least and status in BODILESS:
            status = self.random.choice(STATUSES)
        content = Content() if status in BODILESS else self.content(nonce, "response", least, most)
        interim = tuple(
            (self.random.choice((102, 103)), (("link", f"</{number}.css>; rel=preload"),))
            for number in range(self.random.choice((0, 0, 0, 1, 2)))
        )
        return Answer(status, self.fields(), interim, content)

    def content(self, nonce: str, label: str, least: int, most: int) -> Content:
        """Content in random pieces."""
        size = min(most, max(least, self.random.choice(SIZES)))
        whole = stuff(nonce, label, size)
        cuts = sorted(self.random.randrange(size) for _ in range(self.random.choice((0, 0, 1, 2, 5)))) if size else []
        pieces = tuple(whole[start:end] for start, end in zip([0, *cuts], [*cuts, size], strict=True) if end > start)
        known = self.random.random() < 0.5
        trailers = () if known or self.random.random() < 0.5 else (("x-sum", label), ("x-more", self.value()))
        return Content(pieces, known, trailers)

    def path(self) -> str:
        """What follows the first segment of the path: segments, dots left out since they may be resolved, and a
        query."""
        segments = [self._segment() for _ in range(self.random.choice((0, 0, 1, 2, 4)))]
        path = "".join(f"/{segment}" for segment in segments)
        query = f"?{self._segment()}&{self._segment()}=/?" if self.random.random() < 0.3 else ""
        return path + query

    def _segment(self) -> str:
        letters = [self.random.choice(SEGMENT) for _ in range(self.random.choice((1, 3, 8, 40)))]
        if self.random.random() < 0.3:
            letters.append(self.random.choice(TRIPLETS))
        return "s" + "".join(letters)

    def fields(self) -> Pairs:
        """Fields in any order; some come more than once, some are empty."""
        names = self.random.choices(NAMES, k=self.random.choice((0, 1, 2, 3, 8)))
        fields = [(name, "" if name == "x-empty" else self.value()) for name in names]
        # An empty member may be lost from a list (RFC 9110 section 5.6.1): it comes once or not at all.
        return tuple(dict.fromkeys(fields)) if "x-empty" in names else tuple(fields)

    def value(self) -> str:
        """A field value without whitespace at its ends."""
        size = self.random.choice((1, 5, 20, 20, 200, 2000))
        inner = "".join(self.random.choice(VISIBLE + "  \t" + BEYOND) for _ in range(size))
        return f"v{inner}v".replace(",", ";")
