"""The attack corpora: `fixtures/attacks/` read and checked.

Each file is one class of attacks, each entry one request that some implementation was once led astray by, with where
that was published, the requirements that it is judged by, and what may come of it. `load()` gives all of them. Whatever
is wrong with a file is a `LedgerError`: one line that names the file, the entry, the key, what was found and what is
allowed.

An entry says octets as text in which each character is one octet (Latin-1), with these words in it: `{host}` the
tunnel's public name, `{nonce}` what the request is found by at the upstream, `{length}` the size of the body,
`{smuggled}` a whole request that no engine may make of this one, `{smuggled-chunk}` the same as a chunk, `{a*300}` a
character so many times.
"""

from __future__ import annotations

import functools
import importlib.resources
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from harness.ledger import Ledger, LedgerError
from harness.ledger_form import TABLE, TABLES, TEXT, TEXTS, Data, Field, check_table, optional, rows_of, some_of

VERSIONS = ("h1", "h2", "h3")
OUTCOMES = ("refused", "relayed", "waits")
"""What may come of an attack. `refused`: an error or an end, and no whole request at the upstream. `relayed`: exactly
one whole, well-formed request with the meaning stated. `waits`: the engine still waits for the rest."""
SMUGGLED = "smuggled"
"""The first path segment of what no engine may ever send as a request of its own; the nonce follows."""

Pairs = tuple[tuple[str, str], ...]

_WORD = re.compile(r"\{(host|nonce|length|smuggled|smuggled-chunk|.\*\d{1,6})\}", re.DOTALL)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")


def _is_octets(value: Any) -> bool:
    return isinstance(value, str) and all(ord(character) < 256 for character in value)


def _is_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_octets, pair)) for pair in value
    )


OCTETS = Field("a text of characters up to U+00FF", _is_octets)
MANY_OCTETS = Field(
    "a list of such texts, each up to U+00FF",
    lambda value: isinstance(value, list) and bool(value) and all(map(_is_octets, value)),
)
PAIRS = Field('a list of pairs ["name", "value"] up to U+00FF', _is_pairs)

FILE = {"title": TEXT, "attack": TABLES}
ATTACK = {
    "id": Field(
        "words of lower case letters and digits with - between", lambda v: isinstance(v, str) and bool(_NAME.match(v))
    ),
    "title": TEXT,
    "source": TEXT,
    "judged": TABLE,
    "lines": optional(MANY_OCTETS),
    "line_end": optional(OCTETS),
    "pseudo": optional(PAIRS),
    "fields": optional(PAIRS),
    "body": optional(OCTETS),
    "trailers": optional(PAIRS),
    "passes": some_of(OUTCOMES),
    "relayed": optional(TABLE),
}
JUDGED = dict.fromkeys(VERSIONS, optional(TEXTS))
RELAYED = {
    "method": optional(OCTETS),
    "targets": optional(MANY_OCTETS),
    "bodies": optional(MANY_OCTETS),
    "fields": optional(PAIRS),
    "without": optional(TEXTS),
}


@dataclass(frozen=True, slots=True)
class Words:
    """What stands for the words of an entry in one run of it."""

    host: str
    nonce: str

    @property
    def smuggled(self) -> str:
        """A request that no engine may make of what was sent; it can be told whose it is."""
        return f"GET /{SMUGGLED}/{SMUGGLED}-{self.nonce} HTTP/1.1\r\nHost: {self.host}\r\n\r\n"

    def put(self, text: str, length: int = 0) -> str:
        """`text` with its words filled in."""

        def word(match: re.Match[str]) -> str:
            name = match[1]
            if "*" in name:
                return name[0] * int(name[2:])
            return {
                "host": self.host,
                "nonce": self.nonce,
                "length": str(length),
                "smuggled": self.smuggled,
                "smuggled-chunk": f"{len(self.smuggled):x}\r\n{self.smuggled}\r\n",
            }[name]

        return _WORD.sub(word, text)

    def octets(self, text: str, length: int = 0) -> bytes:
        """As `put`, in octets."""
        return self.put(text, length).encode("latin-1")

    def pairs(self, pairs: Pairs, length: int = 0) -> list[tuple[bytes, bytes]]:
        """Names and values with their words filled in, in octets."""
        return [(self.octets(name, length), self.octets(value, length)) for name, value in pairs]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a request may say at the upstream where it is relayed: one of `targets` and `bodies`; every line of a name
    in `fields` has one of the values given for it; no header field is named as in `without` (lower case)."""

    method: str
    targets: tuple[str, ...]
    bodies: tuple[bytes, ...]
    fields: Mapping[str, tuple[str, ...]]
    without: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attack:
    """One entry. `judged` has the requirement ids by downstream version, and with it the versions that it goes to.

    `lines` and `line_end` are the header section in HTTP/1.1; `pseudo` and `fields` that in HTTP/2 and HTTP/3;
    `body` is content behind both, None where there is none; `trailers` are those of HTTP/2 and HTTP/3.
    """

    id: str
    family: str
    title: str
    source: str
    judged: Mapping[str, tuple[str, ...]]
    passes: tuple[str, ...]
    lines: tuple[str, ...] = ()
    line_end: str = "\r\n"
    pseudo: Pairs = ()
    fields: Pairs = ()
    body: str | None = None
    trailers: Pairs = ()
    relayed: Mapping[str, Any] | None = None

    @property
    def requirements(self) -> frozenset[str]:
        """Every requirement that it is judged by, on whatever version."""
        return frozenset(name for names in self.judged.values() for name in names)

    @property
    def method(self) -> str:
        """The method of the legal request that the attack departs from."""
        start = self.lines[0].partition(" ")[0] if self.lines else ""
        said = dict(self.pseudo).get(":method", start)
        return said if said.isalpha() and said.isupper() else "POST"

    def content(self, words: Words) -> bytes:
        """The octets behind the header section."""
        return words.octets(self.body or "")

    def octets(self, words: Words) -> bytes:
        """The whole request in HTTP/1.1."""
        content = self.content(words)
        head = "".join(f"{line}{self.line_end}" for line in (*self.lines, ""))
        return words.octets(head, len(content)) + content

    def section(self, words: Words) -> list[tuple[bytes, bytes]]:
        """The header section in HTTP/2 and HTTP/3, pseudo-header fields and all."""
        return words.pairs(self.pseudo + self.fields, len(self.content(words)))

    def trailer_section(self, words: Words) -> list[tuple[bytes, bytes]]:
        """The trailer section in HTTP/2 and HTTP/3; empty where there is none."""
        return words.pairs(self.trailers)

    def meaning(self, words: Words) -> Meaning:
        """What a relayed request may say; only of an entry that may be relayed."""
        told = self.relayed or {}
        values: dict[str, tuple[str, ...]] = {}
        for name, value in told.get("fields", ()):
            values[name.lower()] = (*values.get(name.lower(), ()), words.put(value))
        return Meaning(
            told.get("method", self.method),
            tuple(words.put(target) for target in told.get("targets", ("/{nonce}",))),
            tuple(words.octets(body) for body in told.get("bodies", ("",))),
            values,
            frozenset(name.lower() for name in told.get("without", ())),
        )


@functools.cache
def load(folder: Traversable | Path | None = None) -> tuple[Attack, ...]:
    """Every entry of the corpora in `folder`, or of those packaged, by file and place. Raises `LedgerError`."""
    where = importlib.resources.files("fixtures") / "attacks" if folder is None else folder
    ledger = Ledger.load()
    found: dict[str, Attack] = {}
    for item in sorted(where.iterdir(), key=lambda item: item.name):
        if not item.name.endswith(".toml"):
            continue
        for attack in _attacks(f"attacks/{item.name}", item.name.removesuffix(".toml"), item.read_bytes()):
            if attack.id in found:
                first = f"{found[attack.id].family}.toml"
                raise LedgerError(f"attacks/{item.name}: {attack.id}: id: found again, {first} has it, allowed is once")
            for requirement in sorted(attack.requirements):
                if requirement not in ledger:
                    allowed = "allowed is a requirement of the ledger"
                    raise LedgerError(f"attacks/{item.name}: {attack.id}: judged: found {requirement}, {allowed}")
            found[attack.id] = attack
    return tuple(found.values())


def _attacks(file: str, family: str, octets: bytes) -> Iterator[Attack]:
    try:
        data = tomllib.loads(octets.decode("utf-8"))
    except ValueError as error:
        raise LedgerError(
            f"{file}: file: found no valid TOML, allowed is TOML: {' '.join(str(error).split())}"
        ) from None
    check_table(file, "file", data, FILE)
    for row in rows_of(file, data, "attack", ATTACK):
        yield _attack(file, family, row)


def _attack(file: str, family: str, row: Data) -> Attack:
    name, judged, passes = str(row["id"]), row["judged"], row["passes"]
    check_table(file, f"{name}: judged", judged, JUDGED)

    def wrong(key: str, found: str, allowed: str) -> LedgerError:
        return LedgerError(f"{file}: {name}: {key}: found {found}, allowed is {allowed}")

    if not judged:
        raise wrong("judged", "no version", f"some of {', '.join(VERSIONS)}")
    if ("h1" in judged) != ("lines" in row):
        raise wrong(
            "lines", "them without h1" if "lines" in row else "nothing", "lines where h1 is judged, and only there"
        )
    framed = {"h2", "h3"} & judged.keys()
    if not framed and {"pseudo", "fields", "trailers"} & row.keys():
        raise wrong("fields", "a section without h2 or h3", "one where these are judged")
    if framed and not {"pseudo", "fields", "trailers", "body"} & row.keys():
        raise wrong("fields", "nothing", "pseudo, fields, trailers or body where h2 or h3 is judged")
    if not passes:
        raise wrong("passes", "nothing", f"some of {', '.join(OUTCOMES)}")
    if "relayed" in row and "relayed" not in passes:
        raise wrong("relayed", "a meaning of what may not be relayed", "one where passes has relayed")
    check_table(file, f"{name}: relayed", row.get("relayed", {}), RELAYED)
    body = row.get("body")
    pseudo = row.get("pseudo", _usual("POST" if body is not None else "GET") if framed else [])
    return Attack(
        name,
        family,
        row["title"],
        row["source"],
        {version: tuple(judged[version]) for version in VERSIONS if version in judged},
        tuple(passes),
        tuple(row.get("lines", ())),
        row.get("line_end", "\r\n"),
        _pairs(pseudo),
        _pairs(row.get("fields", ())),
        body,
        _pairs(row.get("trailers", ())),
        row.get("relayed"),
    )


def _usual(method: str) -> list[list[str]]:
    """The pseudo-header fields of an entry that says none."""
    return [[":method", method], [":scheme", "https"], [":authority", "{host}"], [":path", "/{nonce}"]]


def _pairs(pairs: Any) -> Pairs:
    return tuple((name, value) for name, value in pairs)
