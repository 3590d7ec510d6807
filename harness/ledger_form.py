"""The form of the ledger's files: which keys a table has and what each may hold, and the check of one table.

A departure is a `LedgerError`: one line, `file: row: key: found .., allowed ..`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.model.requirement import LEVELS

Data = dict[str, Any]

PRIORITIES = (1, 2, 3)
EDITIONS = ("community", "basic", "pro", "enterprise")
PROMISES = ("yes", "no", "listener", "unknown")
"""What an edition says of a feature; `listener`: only where the listener that it needs is switched on."""
REASON_KINDS = (
    "not-observable",
    "deferred",
    "single-instance",
    "not-negotiated",
    "control-plane",
    "agent-side",
    "pointer",
)
# fmt: off
RFC_AREAS = frozenset({
    "tls", "alpn", "dtls", "quic", "http1", "http2", "http3", "websocket", "connect", "datagram", "capsule",
    "connect-udp", "connect-ip", "webtransport",
})
ENGINE_AREAS = frozenset({
    "EDGE", "VAL", "HTTP-VER", "HTTP-HDR", "HTTP-STREAM", "HTTP-WS", "HTTP-CONNECT", "HTTP-421", "HTTP-WT", "HTTP-UDP",
    "HTTP-IP", "HTTP-AUTH", "HTTP-RAUTH", "HTTP-CHAL", "HTTP-ERR", "TLS", "ALPN", "MTLS", "DTLS", "QUIC", "APP",
    "TRANS", "PRIV", "TCP", "POL", "ED", "LIM", "OBS", "REF",
})
AGENT_AREAS = frozenset({"agent"})
SUBJECTS = ("edge-as-server", "edge-as-client", "intermediary", "both")
MARKS = ("SEED", "DOCS", "SDK", "RFC")
KINDS_OF_TUNNEL = frozenset({
    "http:http/1.1", "http:h2c", "http:h3", "tls:terminated", "tls:upstream-tls", "tls:passthrough", "dtls:terminated",
    "dtls:upstream-dtls", "quic",
})
# fmt: on


class LedgerError(ValueError):
    """The ledger cannot be used as it stands; the text is one line."""


@dataclass(frozen=True, slots=True)
class Field:
    """What a key may hold: in words for the error line, and as a predicate."""

    allowed: str
    ok: Callable[[Any], bool]
    required: bool = True


def is_text(value: Any) -> bool:
    """A string with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_texts(value: Any) -> bool:
    """A list of such strings, perhaps none."""
    return isinstance(value, list) and all(is_text(item) for item in value)


def is_int(value: Any) -> bool:
    """An integer; TOML booleans are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(values: Iterable[Any], required: bool = True) -> Field:
    """A key that holds one of `values`."""
    known = tuple(values)
    shown = ", ".join(str(item) for item in (known if isinstance(values, tuple) else sorted(known)))
    return Field(f"one of {shown}", lambda value: type(value) in (int, str) and value in known, required)


def some_of(values: Iterable[str], required: bool = True) -> Field:
    """A key that holds a list of some of `values`."""
    known = frozenset(values)
    return Field(
        f"a list of {', '.join(sorted(known))}", lambda value: is_texts(value) and known.issuperset(value), required
    )


def optional(field: Field) -> Field:
    """The same field, which a table may leave out."""
    return replace(field, required=False)


TEXT = Field("a text that is not empty", is_text)
TEXTS = Field("a list of texts", lambda value: is_texts(value) and bool(value))
BOOL = Field("true or false", lambda value: isinstance(value, bool))
INTS = Field("a list of integers", lambda value: isinstance(value, list) and all(is_int(item) for item in value))
TABLES = Field("an array of tables", lambda value: isinstance(value, list) and all(isinstance(i, dict) for i in value))
TABLE = Field("a table", lambda value: isinstance(value, dict))

COMMON: dict[str, Field] = {
    "id": TEXT,
    "level": one_of(LEVELS),
    "priority": one_of(PRIORITIES),
    "text": TEXT,
    "observable": TEXT,
    "allowed": optional(TEXTS),
    "disputed": optional(TEXT),
    "notes": optional(TEXT),
    "seed": optional(INTS),
}
RFC_ROW = COMMON | {
    "section": TEXT,
    "subject": one_of(SUBJECTS),
    "area": one_of(RFC_AREAS),
    "applies_to": some_of(KINDS_OF_TUNNEL),
    "derived": optional(BOOL),
}
CLAIM_ROW = COMMON | {
    "marks": some_of(MARKS),
    "stated_in": TEXT,
    "rfc": optional(TEXT),
    "rfc_level": one_of(LEVELS, required=False),
}
ENGINE_ROW = CLAIM_ROW | {"area": one_of(ENGINE_AREAS)}
AGENT_ROW = CLAIM_ROW | {"area": one_of(AGENT_AREAS)}
FILE = {
    "source": TEXT,
    "title": TEXT,
    "text_used": optional(TEXT),
    "notes": optional(TEXT),
    "requirement": TABLES,
}
RULING_FILE = {
    "ruling": TABLES,
    "rule": optional(TABLES),
    "disputed": optional(TABLES),
    "draft": optional(TABLES),
}
RULING = {"id": TEXT, "rows": Field("a list of requirement ids", is_texts)} | dict.fromkeys(
    ("conflict", "ruling", "reason"), TEXT
)
RULE = {"id": TEXT, "title": TEXT, "text": TEXT, "rows": optional(TEXTS)}
DISPUTED = {"row": TEXT, "what": TEXT}
DRAFT = {
    "drafts": INTS,
    "protocol": TEXT,
    "setting": TEXT,
    "connect_protocol": BOOL,
    "error_bits": one_of((8, 32)),
    "reset_stream_at": BOOL,
    "flow_control": TEXT,
    "subprotocol": TEXT,
    "intermediary": TEXT,
    "message_error": BOOL,
}
SETTING = {
    "type": one_of(("integer", "string", "boolean", "list")),
    "meaning": TEXT,
    "unit": optional(TEXT),
    "values": optional(TEXTS),
}
PROMISE = {
    "feature": TEXT,
    "title": TEXT,
    "requirements": Field("a list of requirement ids", is_texts),
    "note": optional(TEXT),
} | dict.fromkeys(EDITIONS, one_of(PROMISES))
SENTENCE = {"number": Field("an integer", is_int), "section": TEXT, "gloss": TEXT, "reason": optional(TEXT)}
REASON = {"rows": TEXTS, "kind": one_of(REASON_KINDS), "text": TEXT}


def check_table(file: str, row: str, data: Data, fields: Mapping[str, Field]) -> None:
    """Raise `LedgerError` for the first key of `data` that is unknown, missing or holds something else."""
    for key in data:
        if key not in fields:
            raise LedgerError(f"{file}: {row}: {key}: found an unknown key, allowed are {', '.join(fields)}")
    for key, field in fields.items():
        if key not in data:
            if field.required:
                raise LedgerError(f"{file}: {row}: {key}: found nothing, allowed is {field.allowed}")
        elif not field.ok(data[key]):
            raise LedgerError(f"{file}: {row}: {key}: found {short(data[key])}, allowed is {field.allowed}")


def short(value: Any) -> str:
    """The value as an error line shows it, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def rows_of(file: str, data: Data, array: str, fields: Mapping[str, Field], name: str = "id") -> Iterator[Data]:
    """The tables of `array`, each checked; a row is named by its `name` key, or by its place."""
    for place, row in enumerate(data.get(array, ()), start=1):
        label = row.get(name)
        check_table(file, str(label) if label is not None else f"{array} {place}", row, fields)
        yield row
