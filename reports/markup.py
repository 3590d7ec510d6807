"""A few lines to build HTML that is escaped by construction: a plain string is text, only `Html` is markup."""

from __future__ import annotations

import html

from reports import text


class Html(str):
    """Markup that this package wrote."""

    __slots__ = ()


Child = str | None
NOTHING = Html("")
_VOID = frozenset({"meta", "link", "br", "hr", "input"})


def safe(child: Child) -> Html:
    """`child` as markup: `Html` as it is, any other text made visible and escaped."""
    if child is None:
        return NOTHING
    return child if isinstance(child, Html) else Html(html.escape(text.block(child), quote=True))


def el(element: str, /, *children: Child, **attributes: str | bool | float | None) -> Html:
    """One element.

    `class_` is `class`, `_` in a name is `-`; `True` writes a bare attribute, `False` and `None` write none.
    """
    parts = [f"<{element}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        written = key.rstrip("_").replace("_", "-")
        shown = "" if value is True else f'="{html.escape(text.line(str(value)), quote=True)}"'
        parts.append(f" {written}{shown}")
    parts.append(">")
    if element not in _VOID:
        parts.extend(safe(child) for child in children)
        parts.append(f"</{element}>")
    return Html("".join(parts))


def join(*children: Child) -> Html:
    """Children one after the other, without an element around them."""
    return Html("".join(safe(child) for child in children))
