"""What the shape of an answer shows: does it end cleanly, are its fences closed, is it JSON, which letter is given?"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_FENCE = re.compile(r"^[ \t]{0,3}(`{3,}|~{3,})(.*)$")
# A turn that the model went on to write for somebody else, and tokens that no answer has.
_RUNAWAY = re.compile(
    r"^# ?(?:Query|Answer|User|Assistant|Human|Instruction):?[ \t]*$"
    r"|<\|[a-z_]+\|>|</s>|\[/?INST\]|<(?:end|start)_of_turn>",
    re.MULTILINE,
)
_TURNS = (
    re.compile(r"^(?:#{2,3} ?(?:Question|Query|User|Human|Instruction)\b:?[ \t]*$|(?:Human|User):[ \t])", re.MULTILINE),
    re.compile(r"^(?:#{2,3} ?(?:Answer|Response|Assistant)\b:?[ \t]*$|(?:Assistant|AI):)", re.MULTILINE),
)
_OPEN = re.compile(
    r"(?:[,;:(\[{–—、，；：（-]|\b(?:a|an|the|and|or|but|of|to|in|with|for|is|are|that|which|der|die|das|und|oder|mit|zu|le|la|les"
    r"|et|ou|de|du|des|el|los|y|o|con|que))$",
    re.IGNORECASE,
)  # fmt: skip
_ENDED = re.compile(r"[.!?…。！？；»\"'”’)\]}*_`~|>）」』】》\d%€$]$|[\U0001F000-\U0001FAFF\u2600-\u27BF\uFE0F]$")
# A list item, a heading, a row of a table, a link: none needs a full stop.
_UNIT = re.compile(r"^\s*(?:[-*•+#|]|\d{1,3}[.)、])|https?://\S+$")
PROSE = 8  # words: a last line as long as this is a sentence, and has to end like one


def fences_balanced(text: str) -> bool:
    """Whether every code fence that a line opens is closed (CommonMark 0.31, section 4.5)."""
    return not _in_code(text)[1]


def _in_code(text: str) -> tuple[str, str]:
    """The text outside code blocks, and the fence that is still open at its end."""
    outside, fence = [], ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        if not fence and match and not (match[1][0] == "`" and "`" in match[2]):
            fence = match[1]
        elif fence and match and match[1].startswith(fence) and not match[2].strip():
            fence = ""
        elif not fence:
            outside.append(line)
    return "\n".join(outside), fence


def cut_off(text: str) -> bool:
    """Whether a text stops in the middle of a sentence or a code block."""
    outside, fence = _in_code(text)
    if fence:
        return True
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    if not last or not outside.strip() or _FENCE.match(last) or not outside.rstrip().endswith(last):
        return False
    if _OPEN.search(last) and not re.fullmatch(r"\W*\w\W*", last):  # a letter by itself is an answer
        return True
    long = len(last.split()) >= PROSE or len(re.findall("[\u3040-\u30ff\u3400-\u9fff]", last)) >= 2 * PROSE
    return long and not _ENDED.search(last) and not _UNIT.match(last)


def runs_away(text: str) -> bool:
    """Whether a text goes on to write the next turn, or leaves a template's markers in."""
    outside, _ = _in_code(text)
    return bool(_RUNAWAY.search(outside)) or all(turn.search(outside) for turn in _TURNS)


def loops(text: str) -> bool:
    """Whether a text ends by repeating itself (four times and 60 characters or more), or has one line five times."""
    tail = text.rstrip()[-2000:]
    for period in range(2, min(400, len(tail) // 4) + 1):
        size = max(4 * period, 60)
        if size <= len(tail) and tail[-size:-period] == tail[-size + period :] and re.search(r"\w{2}", tail[-period:]):
            return True
    lines = Counter(line.strip() for line in _in_code(text)[0].splitlines() if len(line.strip()) >= 20)
    return any(count >= 5 and re.search(r"\w", line) for line, count in lines.items())


# ---------------------------------------------------------------- JSON


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def read_json(text: str, *, fenced: bool = False) -> Any:
    """The JSON value that a text is; with `fenced`, also one that stands in the text's only code block.

    Raises ValueError where it is none (NaN and Infinity are none either, RFC 8259).
    """
    if fenced:
        blocks = re.findall(r"^```\w*[ \t]*\n(.*?)^```[ \t]*$", text, re.MULTILINE | re.DOTALL)
        text = blocks[0] if len(blocks) == 1 else text
    try:
        return json.loads(text, parse_constant=_constant)
    except RecursionError:
        raise ValueError("too deep") from None


_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "number": (int, float), "integer": (int,),
}  # fmt: skip


def fits(value: Any, schema: Any) -> bool:
    """Whether a JSON value fits a JSON schema, by these keywords; others are not looked at.

    type, enum, const, required, properties, additionalProperties, items, minItems, maxItems, minLength, maxLength,
    minimum, maximum, anyOf, oneOf, allOf. (No schema library is among the dependencies; `$ref` and `pattern` are not
    followed.)
    """
    if isinstance(schema, bool) or not isinstance(schema, Mapping):
        return schema is not False
    types = schema.get("type", [])
    if types and not any(_is(value, name) for name in ([types] if isinstance(types, str) else types)):
        return False
    if ("enum" in schema and not any(_same(value, one) for one in schema["enum"])) or (
        "const" in schema and not _same(value, schema["const"])
    ):
        return False
    for key in ("anyOf", "oneOf", "allOf"):
        fitting = [fits(value, one) for one in schema.get(key, ())]
        if fitting and not {"anyOf": any(fitting), "oneOf": sum(fitting) == 1, "allOf": all(fitting)}[key]:
            return False
    if isinstance(value, dict):
        return _object_fits(value, schema)
    if isinstance(value, list):
        return _within(len(value), schema, "Items") and all(fits(one, schema.get("items", True)) for one in value)
    if isinstance(value, str):
        return _within(len(value), schema, "Length")
    return isinstance(value, bool) or value is None or _within(value, schema, "imum")


def sound(schema: Any) -> bool:
    """Whether `fits` can go by a schema: each keyword that it looks at has a value of the right kind."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, Mapping):
        return False
    types = schema.get("type", [])
    names = [types] if isinstance(types, str) else types
    lists = [schema.get(key, []) for key in ("required", "enum", "anyOf", "oneOf", "allOf")]
    inner = schema.get("properties", {})
    if not all(isinstance(each, list) for each in (names, *lists)) or not isinstance(inner, Mapping):
        return False
    numbers = [schema.get(end + what, 0) for end in ("min", "max") for what in ("Items", "Length", "imum")]
    under = [schema.get("items", True), schema.get("additionalProperties", True), *inner.values()]
    under += [each for some in lists[2:] for each in some]
    return (
        all(isinstance(name, str) and name in _TYPES for name in names)
        and all(isinstance(name, str) for name in lists[0])
        and all(isinstance(number, int | float) for number in numbers)
        and all(map(sound, under))
    )


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if name == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES.get(name, ()))


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _object_fits(value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    known = schema.get("properties", {})
    rest = schema.get("additionalProperties", True)
    return all(key in value for key in schema.get("required", ())) and all(
        fits(one, known.get(key, rest)) for key, one in value.items()
    )


def _within(size: float, schema: Mapping[str, Any], what: str) -> bool:
    return bool(schema.get(f"min{what}", size) <= size <= schema.get(f"max{what}", size))


# ---------------------------------------------------------------- the letter of a choice

_LINK = (
    r"(?:\s|(?:is|are|would be|must be|ist|lautet|est|es|è|é|option|choice|letter|correct[ao]?|richtige?"
    r"|la|el|le|lettre|letra|buchstabe|most likely|probably|clearly|therefore|thus|indeed)\b"
    r"|应该|应当|应|該|是|为|為|择|擇|は|项|項|\\boxed|[:=*_$\"“(\[{])*"
)
_SAYS = r"(?:answer|antwort|lösung|respuesta|réponse|risposta|resposta|答案|正解|答え|选(?!项|擇?項)|選(?!項))" + _LINK
_NAMES = r"(?:option|choice|opción|选项|選項)" + _LINK


def letter_of(text: str, letters: Sequence[str]) -> str:
    """The letter of the choice that an answer takes, or "" where none can be told, or more than one is.

    In this order: the last one that is said to be the answer ("Answer: B", "答案：B"); the one that the answer begins
    with ("B", "(B) because…", not the article of "A good…"); the only one that is named ("option B", "(B)", "B.").
    """
    plain = unicodedata.normalize("NFKC", text).strip()
    one = rf"(?<![A-Za-z0-9'’])([{re.escape(''.join(letters))}])(?![A-Za-z0-9'’])"
    said = list(re.finditer(f"(?i:{_SAYS}){one}", plain))
    first = re.match(rf"[\W_]*{one}(?!\s+[a-zà-ÿ])|[\W_]*{one}(?=\s+(?:is|est|ist|es|because)\b)", plain)
    if found := (said[-1] if said else first):
        more = re.compile(rf"[\s\])*]*(?:,|and|or|und|oder|et|ou|y|o|和|或|与|、|/|&|\+)[\s\[(*]*{one}")
        return "" if more.match(plain, found.end()) else next(group for group in found.groups() if group)
    named = re.finditer(
        rf"(?i:{_NAMES}){one}|[\[(*{{]{one}[\])*}}]|^{one}(?=[.:)]|$)|{one}(?=项|項)|(?:is|是|为)\s*{one}\W*$",
        plain,
        re.MULTILINE,
    )
    every = {group for match in named for group in match.groups() if group}
    return every.pop() if len(every) == 1 else ""
