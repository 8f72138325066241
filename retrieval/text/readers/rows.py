"""Rows with named fields: JSONL, a JSON array, YAML. Each row is a passage; a bad one is reported and left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from retrieval.text.encoding import decode
from retrieval.text.labels import column, named
from retrieval.text.outline import distinct_key, slug
from retrieval.text.piece import Piece, Unreadable
from retrieval.text.readers.plain import split

INHERITED = frozenset({"source", "url", "region", "language", "kind", "in_force_from", "in_force_to", "version"})
TEXTS = ("passages", "principles", "rules")  # what stands in these are texts, even below a row that has a text
LISTS = (*TEXTS, "documents", "articles", "items", "data", "rows")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")


def read_jsonl(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """One JSON object a line, read line by line: the file may be larger than memory."""
    del name
    for number, line in enumerate(_text_lines(stream), 1):
        if not line.strip():
            yield Piece(number, problem="empty row")
            continue
        try:
            fields = _load(line.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            yield Piece(number, problem=bytes_wrong(line) or f"not JSON: {error}")
            continue
        if isinstance(fields, Doubled):
            yield Piece(number, problem=fields.problem)
        elif isinstance(fields, dict):
            yield Piece(number, fields)
        else:
            yield Piece(number, problem=f"not a JSON object but {type(fields).__name__}")


def _text_lines(stream: IO[bytes]) -> Iterator[str]:
    """UTF-8 as the format demands, with bytes that are none as lone surrogates; UTF-16 where a mark says so."""
    first = stream.readline()
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield from split(decode(first + stream.read()))
        return
    if first:
        yield first.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    for line in stream:
        yield line.decode("utf-8", errors="surrogateescape")


def read_json(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """A JSON array of objects, an object that holds one, or an object from ids to texts; JSONL under this name too."""
    data = stream.read()
    text = decode(data)
    try:
        found = _load(text)
    except RecursionError:
        raise Unreadable("not JSON: nested too deeply") from None
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):
            import io

            yield from read_jsonl(io.BytesIO(text.encode("utf-8", "surrogateescape")), name)
            return
        raise Unreadable(bytes_wrong(text) or f"not JSON: {error}") from None
    yield from _objects(found, name)


def read_yaml(stream: IO[bytes], name: str) -> Iterator[Piece]:
    """YAML documents that hold what a JSON file may hold."""
    import yaml

    try:
        found = [part for part in yaml.load_all(decode(stream.read()), text_loader()) if part is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise Unreadable(f"not YAML: {' '.join(str(error).split())}") from None
    yield from _objects(found[0] if len(found) == 1 else found, name)


def _objects(found: Any, name: str) -> Iterator[Piece]:
    """Rows numbered from 1; a place in such a file is a row and not a line."""
    rows = _rows(found)
    if rows is None:
        raise Unreadable(f"holds no list of rows with a text: {name} may be a configuration and no rules")
    keys: dict[str, int] = {}
    if isinstance(found, Doubled):
        yield Piece(1, problem=found.problem)
    for number, (fields, trail) in enumerate(rows, 1):
        if isinstance(fields, Doubled):
            yield Piece(number, problem=fields.problem)
        elif isinstance(fields, dict):
            yield _piece(number, {str(key): value for key, value in fields.items()}, trail, keys)
        else:
            yield Piece(number, problem=f"row {number} is no object but {type(fields).__name__}")


def _piece(number: int, fields: dict[str, Any], trail: list[str], keys: dict[str, int]) -> Piece:
    """A row's piece. One without an id is known by its number, below what it stands in."""
    counted = next((str(value) for name, value in fields.items() if column(name) == "row" and value), "")
    title = next((str(value) for name, value in fields.items() if column(name) == "title" and value), "")
    if trail:
        own = " ".join(part for part in (counted, title) if part)
        fields = {name: value for name, value in fields.items() if column(name) != "title"}
        fields["title"] = " › ".join([*trail, own] if own else trail)
    ours = named(fields)
    has_id = any(ours.get(name) not in (None, "") for name in ("_id", "id"))
    if not counted or has_id or not str(ours.get("text") or "").strip():
        return Piece(number, fields)
    return Piece(number, ours, distinct_key(slug(counted), [*trail, counted], keys))


def _rows(found: Any) -> list[tuple[Any, list[str]]] | None:
    """Each row with the titles above it; None where there is none."""
    if isinstance(found, list):
        some = any(isinstance(row, dict | str) for row in found) or not found
        return [pair for row in found for pair in _spread(row, {}, [])] if some else None
    if not isinstance(found, dict):
        return None
    if _holds(found):
        return list(_spread(found, {}, []))
    if found and all(isinstance(value, str) and _worded(value) for value in found.values()):
        return [({"id": str(key), "text": text}, []) for key, text in found.items()]
    return None


def _worded(text: str) -> bool:
    """Whether it is more than a word: in scripts that put no space between words, four letters are."""
    return len(text.split()) > 1 or len(_UNSPACED.findall(text)) > 3


def _holds(found: Any) -> bool:
    """Whether a row with a text is in it, or a list of texts under a name that lists of rules have."""
    if isinstance(found, list):
        return any(_holds(part) for part in found)
    if not isinstance(found, dict):
        return False
    lists = any(name in LISTS and isinstance(value, list) and value for name, value in found.items())
    return lists or any(column(name) == "text" for name in found) or any(map(_holds, found.values()))


def _spread(
    row: Any, labels: dict[str, Any], trail: list[str], *, texts: bool = True
) -> Iterator[tuple[Any, list[str]]]:
    """A row and the rows inside of it, which have its labels where they have none of their own.

    Without `texts`, what is no object is a property of the row that it stands in: the articles that it refers to.
    """
    if not isinstance(row, dict):
        if texts:
            yield {**labels, "text": row} if isinstance(row, str) and row.strip() else row, trail
        return
    nested = {name: value for name, value in row.items() if _is_nested(name, value)}
    own = {name: value for name, value in row.items() if name not in nested}
    told = any(column(name) == "text" for name in own)
    if isinstance(row, Doubled) or not nested or told:
        names = {column(name) for name in own}
        inherited = {name: value for name, value in labels.items() if name not in names}
        yield row if isinstance(row, Doubled) else {**inherited, **own}, trail
    said = {column(name): value for name, value in own.items() if not isinstance(value, dict | list)}
    below = labels | {name: value for name, value in said.items() if name in INHERITED and value not in (None, "")}
    title = " ".join(str(said[name]) for name in ("row", "title") if said.get(name))
    for name, value in nested.items():
        inner = [*trail, title] if title else trail
        if isinstance(value, dict) and any(column(key) == "text" for key in value) and str(name) not in LISTS:
            value = [{"id": str(name), **value}]  # an object from ids to rows
        for part in value if isinstance(value, list) else [value]:
            yield from _spread(part, below, inner, texts=name in TEXTS or (texts and not told))


def _is_nested(name: Any, value: Any) -> bool:
    if column(name) in {"text", "tags", "metadata"}:
        return False
    return _holds(value) or (name in LISTS and isinstance(value, list))


class Doubled(dict[str, Any]):
    """An object that names a key twice: which value counts, nobody can tell."""

    problem = ""


def _load(text: str) -> Any:
    """JSON; NaN and the infinities, which are none, are null."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=lambda name: None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    names = [name for name, _ in pairs]
    found = Doubled(made)
    found.problem = f"duplicate key {next(name for name in names if names.count(name) > 1)!r}"
    return found


def text_loader() -> Any:
    """A safe YAML loader that leaves words as they are written: NO is Norway, 010 is no 8, 1.10 is no 1.1.

    Raises on use:
        yaml.YAMLError: a mapping names a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[str] = set()
            for key, _ in node.value:
                if key.tag.endswith(":str") and key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value if isinstance(key.value, str) and key.tag.endswith(":str") else "")
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag.endswith((":null", ":merge"))]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader


def bytes_wrong(*texts: str) -> str:
    """Which byte of the file is not UTF-8, as `encoding` left it in a text; "" for none."""
    for text in texts:
        found = re.search("[\udc80-\udcff]", text)
        if found:
            return f"not UTF-8: byte 0x{ord(found[0]) - 0xDC00:02x} at character {found.start() + 1}"
    return ""
