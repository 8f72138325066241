"""HTML from text that nobody vouches for: whatever is not markup by its type is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape

# What HTML cannot hold, and halves of characters, which no encoding can.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY = ("circle", "line", "meta", "path", "rect")


class Html(str):
    """Markup. Only `tag` and `joined` make it."""

    __slots__ = ()


def tag(name: str, /, *children: str | Iterable[Html | str] | None, **attributes: object) -> Html:
    """An element; `class_` is the attribute class, `data_x` data-x; those that are None or False are left out."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{plain(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    # The slash ends an element of SVG, which HTML would leave open; to the empty ones of HTML it is nothing.
    return Html(f"<{name}{given}/>" if name in _EMPTY else f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str | Iterable[Html | str] | None) -> Html:
    """Markup as it is, text escaped, sequences one after the other, None nothing."""
    out = []
    for child in children:
        if isinstance(child, Html):
            out.append(str(child))
        elif isinstance(child, str):
            out.append(plain(child))
        elif child is not None:
            out.append(joined(*child))
    return Html("".join(out))


def plain(text: str) -> str:
    """Text as it may stand in an element or a quoted attribute."""
    return escape(_FORBIDDEN.sub("\ufffd", text), quote=True)


# ---------------------------------------------------------------- what the page is made of


def table(
    name: str, heads: Iterable[tuple[str | Html, str]], rows: Iterable[Html], look: str, *, seen: bool = True
) -> Html:
    """A table with its caption. A head is (text, class); one without text is an empty cell."""
    cells = [tag("th", text, scope="col", class_=kind or None) if text else tag("td") for text, kind in heads]
    caption = tag("caption", name if seen else tag("span", name, class_="hidden"))
    return tag("table", caption, tag("thead", tag("tr", cells)), tag("tbody", list(rows)), class_=look)


def number(name: str, text: str | Html, below: str = "", title: str = "") -> Html:
    """A cell of figures; `name` stands before it where the table has no room for its head."""
    small = tag("small", below) if below else None
    return tag("td", text, small, class_="number", data_name=name, title=title or None)


def chip(text: str, look: str, sign: str = "") -> Html:
    """A small label with a colour and a sign."""
    mark = tag("span", sign, aria_hidden="true", class_="sign") if sign else None
    return tag("span", mark, text, class_=f"chip {look}")


def against(arm: str, baseline: str, more: str = "") -> Html:
    """The heading of what is about one arm."""
    return tag("h3", arm, tag("small", f" against {baseline}{more}"))


def facts(given: Mapping[str, str | Html | None]) -> Html:
    """A list of names and values; those that are None are left out."""
    rows = [tag("div", tag("dt", name), tag("dd", what)) for name, what in given.items() if what is not None]
    return tag("dl", rows, class_="facts")
