"""Text from peers made safe to show: nothing that they said can steer the reader's terminal or page.

Control characters become their visible pictures (`␛` for ESC), characters that reorder or hide text become their names
(`⟨U+202E⟩`), and every text has a limit that says so when it cuts.
"""

from __future__ import annotations

import re

LINE_LIMIT = 400
"""Characters shown of one line."""
BLOCK_LIMIT = 4000
"""Characters shown of one text of several lines."""

_PICTURES = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "\u2421"}
# Classes by code point, not by literal characters: a source file that holds bidi controls is what this guards against.
_NAMED_RANGES = (
    (0x0080, 0x009F),  # C1 controls (CSI as one character)
    (0x00AD, 0x00AD),  # soft hyphen
    (0x061C, 0x061C),  # Arabic letter mark
    (0x180E, 0x180E),  # Mongolian vowel separator
    (0x200B, 0x200F),  # zero width, left-to-right and right-to-left marks
    (0x2028, 0x202E),  # line and paragraph separator, embeddings and overrides
    (0x2060, 0x206F),  # word joiner, isolates, deprecated format characters
    (0xD800, 0xDFFF),  # lone surrogates: no encoding can carry them
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFF9, 0xFFFB),  # interlinear annotation
    (0xFFFE, 0xFFFF),  # not characters, and not allowed in XML 1.0
    (0xE0000, 0xE007F),  # tags
)
_NAMED = re.compile("[" + "".join(f"{re.escape(chr(low))}-{re.escape(chr(high))}" for low, high in _NAMED_RANGES) + "]")


def block(text: str, limit: int = BLOCK_LIMIT) -> str:
    """`text` with newlines and tabs kept and all else that does not print made visible; cut visibly at `limit`."""
    shown = _NAMED.sub(lambda found: f"\u27e8U+{ord(found[0]):04X}\u27e9", text[:limit].translate(_PICTURES))
    return shown if len(text) <= limit else f"{shown} \u2026 [cut: {limit:,} of {len(text):,} characters]"


def line(text: str, limit: int = LINE_LIMIT) -> str:
    """`text` as one line: newlines become `\u240a`, tabs a space."""
    return block(text, limit).replace("\n", "\u240a").replace("\t", " ")


def clip(text: str, limit: int) -> str:
    """`text` as one line of at most `limit` characters, ending in an ellipsis when cut; the whole stands elsewhere."""
    shown = line(text, limit + 1)
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "\u2026"


def plural(count: int, noun: str, many: str = "") -> str:
    """`1 case`, `2 cases`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def duration(seconds: float) -> str:
    """Seconds as a reader says them: `340 ms`, `12.4 s`, `3 min 05 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
