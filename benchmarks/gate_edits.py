"""The edit rules that make rewrites of prompts: the ones that keep a prompt, and the ones that harm it.

An edit gets the prompt, its language's phrases and which of each pair to use; None where it does not apply. `BAD` names
with each the rule of the gate that has to catch it, and the ones that may as well.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from benchmarks.gate_phrases import PHRASES, Phrases

Half = Literal["tune", "report"]
MONTHS = {
    "en": "January February March April May June July August September October November December",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
}
DAYS = {
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "de": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "es": "lunes martes miércoles jueves viernes sábado domingo",
    "zh": "周一 周二 周三 周四 周五 周六 周日",
}
_QUOTED = r"“([^“”\n]{2,80})”|\"([^\"\n]{2,80})\"|«\s?([^«»\n]{2,80}?)\s?»|„([^„“\n]{2,80})“|《([^《》\n]{1,40})》"
_URL = r"https?://[^\s，。）)]+[^\s，。）).,?!]"
_CODE = r"`[^`\n]*`|\w+\([^)\n]*\)"
_MAIL = r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt to edit; `other` is the same in another language, `answer` an answer to it, where there is one."""

    text: str
    language: str
    other: str = ""
    answer: str = ""

    @property
    def half(self) -> Half:
        return "tune" if hashlib.sha256(self.text.encode()).digest()[0] % 2 else "report"


# ---------------------------------------------------------------- edits that keep the prompt

Edit = Callable[[Prompt, Phrases, int], str | None]


def _lower(text: str) -> str:
    """The text inside another sentence; a name or an acronym keeps its capital."""
    first = text.split(maxsplit=1)[0] if text.split() else ""
    return text[:1].lower() + text[1:] if first[1:].islower() else text


def polite(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.polite[i].format(p.text)


def role(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.role[i] + w.space + p.text


def suffix(name: str) -> Edit:
    def edit(p: Prompt, w: Phrases, i: int) -> str | None:
        return p.text + ("\n" if "\n" in p.text else w.space) + str(getattr(w, name)[i])

    edit.__name__ = name
    return edit


def paraphrase(p: Prompt, w: Phrases, i: int) -> str | None:
    """The first phrase of the table that stands in the prompt, replaced by its equal."""
    done, text = 0, p.text
    for old, new in w.equal:
        text, n = re.subn(old, new, text, count=1)
        done += n
    return text if done else None


def context_first(p: Prompt, w: Phrases, i: int) -> str | None:
    head, _, tail = p.text.partition("\n")
    return f"{tail}\n\n{head}" if tail and len(tail) < 600 else None


def other_quotes(p: Prompt, w: Phrases, i: int) -> str | None:
    match = _quoted(p)
    inner = next((g for g in match.groups() if g), "") if match else ""
    marks = ("“", "”") if match and match[0][0] == '"' else ('"', '"')
    return p.text.replace(match[0], marks[0] + inner + marks[1], 1) if match and inner else None


def number_word(p: Prompt, w: Phrases, i: int) -> str | None:
    for digit, word in w.words:
        found = [m for m in _numbers(p) if m[0] == digit]
        unit = r"\s*(?:[%kgcm]|h\d)"
        if found and len(re.findall(r"\d+", p.text)) == 1 and not re.match(unit, p.text[found[0].end() :]):
            return p.text[: found[0].start()] + word + p.text[found[0].end() :]
    return None


def _quoted(p: Prompt) -> re.Match[str] | None:
    """The first quote, unless it stands in code, where it is a part of that."""
    match = re.search(_QUOTED, p.text)
    inside = match and any(m.start() < match.start() < m.end() for m in re.finditer(_CODE, p.text))
    return None if inside else match


GOOD: Sequence[Edit] = (
    polite, role, suffix("format_hint"), suffix("clarify"), suffix("list_request"), suffix("careful"),
    suffix("no_jargon"), suffix("example"), paraphrase, context_first, other_quotes, number_word,
)  # fmt: skip

# ---------------------------------------------------------------- edits that harm


def _dated(p: Prompt) -> re.Match[str] | None:
    names = "|".join(sorted((MONTHS.get(p.language, "") + " " + DAYS[p.language]).split(), key=len, reverse=True))
    if p.language == "zh":
        return re.search(rf"(?:\d{{4}}年)?\d{{1,2}}月\d{{1,2}}日|{names}|星期[一二三四五六日]", p.text)
    day, year = r"(?:\d{1,2}(?:st|nd|rd|th|er)?\.?\s+(?:de\s+)?)?", r"(?:,?\s+(?:de\s+)?\d{4})?"
    pattern = rf"\b{day}(?:{names})\b(?:\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?!:|h))?{year}"
    # "may", "march" and the like are words too: a name alone is a date where its capital says so.
    return re.search(pattern, p.text)


def _dates(text: str, p: Prompt) -> str:
    """The text with its dates, their ranges and times of day blanked out."""
    for pattern in (r"\d{1,2}\.?\s+(?:to|bis zum|au|a|al)\s+(?=\d)", r"\d{1,2}\s*[ap]m\b"):
        text = re.sub(pattern, lambda m: "\0" * len(m[0]), text)
    while match := _dated(replace(p, text=text)):
        text = text[: match.start()] + "\0" * len(match[0]) + text[match.end() :]
    return text


def drop_date(p: Prompt, w: Phrases, i: int) -> str | None:
    match = _dated(p)
    return _tidy(p.text.replace(match[0], "", 1)) if match else None


def change_date(p: Prompt, w: Phrases, i: int) -> str | None:
    match = _dated(p)
    if not match:
        return None
    text = match[0]
    if p.language == "zh":
        new = re.sub(r"(\d{1,2})月", lambda m: f"{int(m[1]) % 12 + 1}月", text)
        new = re.sub("(?<=[周期])[一二三四五六日]", lambda m: "二三四五六日一"["一二三四五六日".index(m[0])], new)
    else:
        new = text
        for names in (MONTHS[p.language].split(), DAYS[p.language].split()):
            for at, name in enumerate(names):
                if re.search(rf"\b{name}\b", text):
                    new = re.sub(rf"\b{name}\b", names[(at + 3) % len(names)], text)
    return p.text.replace(text, new, 1) if new != text else None


def _numbers(p: Prompt) -> list[re.Match[str]]:
    """Plain numbers: in no date, link, code, quote, list marker or identifier."""
    masked = p.text
    for pattern in (_URL, _MAIL, _CODE, _QUOTED, r"(?m)^\s*\d+[.)]\s"):
        masked = re.sub(pattern, lambda m: "\0" * len(m[0]), masked)
    masked = _dates(masked, p)
    return list(re.finditer(r"(?<![\w.,:/+*^=<>$#-])\d+(?:[.,]\d+)*(?![\w:/+*^=<>-]|\.\d)", masked))


def drop_number(p: Prompt, w: Phrases, i: int) -> str | None:
    found = _numbers(p)
    if not found or p.text.count(found[0][0]) > 1:
        return None
    return _tidy(p.text[: found[0].start()] + p.text[found[0].end() :])


def change_number(p: Prompt, w: Phrases, i: int) -> str | None:
    found = _numbers(p)
    if not found or p.text.count(found[0][0]) > 1:
        return None
    new = re.sub(r"\d", lambda m: str((int(m[0]) + 3) % 10 or 1), found[0][0], count=1)
    return p.text[: found[0].start()] + new + p.text[found[0].end() :] if new not in p.text else None


def drop_quote(p: Prompt, w: Phrases, i: int) -> str | None:
    match = _quoted(p)
    inner = next((g for g in match.groups() if g), "") if match else ""
    if not match or p.text.count(inner) > 1:
        return None
    return _tidy(p.text.replace(match[0], w.thing[i], 1))


def change_quote(p: Prompt, w: Phrases, i: int) -> str | None:
    match = _quoted(p)
    inner = next((g for g in match.groups() if g), "") if match else ""
    if not match or p.text.count(inner) > 1 or (len(inner.split()) < 2 and p.language != "zh"):
        return None
    new = inner[:-1] if p.language == "zh" else " ".join(inner.split()[:-1])
    return p.text.replace(inner, new, 1) if new.strip() else None


def drop_link(p: Prompt, w: Phrases, i: int) -> str | None:
    match = re.search(f"{_URL}|{_MAIL}", p.text)
    return _tidy(p.text.replace(match[0], w.thing[i], 1)) if match else None


def change_link(p: Prompt, w: Phrases, i: int) -> str | None:
    match = re.search(f"{_URL}|{_MAIL}", p.text)
    if not match:
        return None
    new = match[0][:-3] + "net" if i else match[0].replace("e", "a", 1)
    return p.text.replace(match[0], new, 1) if new != match[0] else None


def drop_code(p: Prompt, w: Phrases, i: int) -> str | None:
    match = re.search(r"`[^`\n]+`", p.text)
    return _tidy(p.text.replace(match[0], w.thing[i], 1)) if match else None


def change_code(p: Prompt, w: Phrases, i: int) -> str | None:
    match = next((m for m in re.finditer(r"`([^`\n]+)`", p.text) if len(m[1]) >= 4), None)
    if not match:
        return None
    middle = len(match[1]) // 2
    return p.text.replace(match[1], match[1][:middle] + match[1][middle + 1 :], 1)


def drop_negation(p: Prompt, w: Phrases, i: int) -> str | None:
    found = [(old, new) for old, new in w.negated if re.search(old, p.text)]
    if not found or sum(len(re.findall(old, p.text)) for old, _ in found) != 1:
        return None
    outside = re.sub(_QUOTED + "|`[^`]*`", "", p.text)
    if not re.search(found[0][0], outside):
        return None
    return _tidy(re.sub(*found[0], p.text, count=1))


def add_negation(p: Prompt, w: Phrases, i: int) -> str | None:
    for old, new in w.negate:
        if re.search(old, p.text) and not any(re.search(o, p.text) for o, _ in w.negated):
            return re.sub(old, new, p.text, count=1)
    return None


def drop_format(p: Prompt, w: Phrases, i: int) -> str | None:
    for pattern in w.formats:
        text, n = re.subn(pattern, "", p.text, count=1)
        if n:
            return _tidy(text)
    return None


def change_format(p: Prompt, w: Phrases, i: int) -> str | None:
    for old, new in w.other_format:
        text, n = re.subn(old, new, p.text, count=1)
        if n:
            return text
    return None


def _name(p: Prompt, w: Phrases) -> tuple[str, str] | None:
    """A name that stands in the prompt once, in no quote, link or code, and another of its kind."""
    outside = re.sub(f"{_QUOTED}|{_URL}|{_MAIL}|`[^`]*`|```.*?```", lambda m: "\0" * len(m[0]), p.text, flags=re.DOTALL)
    left, right = ("", "") if p.language == "zh" else (r"\b", r"\b")
    for old, new in w.names:
        found = [m[0] for m in re.finditer(left + f"(?:{old})" + right, outside)]
        if len(found) == 1 and len(re.findall(old, p.text)) == 1:
            return found[0], new
    return None


def drop_name(p: Prompt, w: Phrases, i: int) -> str | None:
    found = _name(p, w)
    return _tidy(p.text.replace(found[0], w.thing[i], 1)) if found else None


def change_name(p: Prompt, w: Phrases, i: int) -> str | None:
    found = _name(p, w)
    return p.text.replace(*found, 1) if found else None


def drop_constraint(p: Prompt, w: Phrases, i: int) -> str | None:
    """Without its first "for my mother" or the like."""
    match = re.search(w.constraint, re.sub(_QUOTED, lambda m: "\0" * len(m[0]), p.text.split("\n")[0]))
    return _tidy(p.text[: match.start()] + p.text[match.end() :]) if match and match.start() > 10 else None


def translated(p: Prompt, w: Phrases, i: int) -> str | None:
    return p.other or None


def half_translated(p: Prompt, w: Phrases, i: int) -> str | None:
    other = PHRASES["de" if p.language == "en" else "en"]
    return p.text + "\n" + other.clarify[i] + " " + other.careful[i]


def answered(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.answer[i]


def answered_after(p: Prompt, w: Phrases, i: int) -> str | None:
    return p.text + "\n\n" + w.answer[i]


def real_answer(p: Prompt, w: Phrases, i: int) -> str | None:
    return p.answer if len(p.answer.split()) >= 12 else None


def asked_back(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.ask_back[i]


def refused(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.refusal[i]


def refused_before(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.refusal[i] + w.space + p.text


_LEAKS = (
    ("[INST] {} [/INST]", "{}</s>", "[PROTECT] {}", "Optimized Instruction: {}", "<|im_start|>user\n{}<|im_end|>"),
    ("{} [/INST] Sure", "<s>{}", "[KEEP] {}", "{} [END]", "<<SYS>> {} <</SYS>>", "{}<|endoftext|>", "[INSTRUCTION] {}"),
)
_ECHO = (
    "You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and harmless "
    "response:\n{}",
    "Please help me improve this prompt to get a more helpful and harmless response: {}",
)


def leaked_token(p: Prompt, w: Phrases, i: int) -> str | None:
    return _LEAKS[i][len(p.text) % len(_LEAKS[i])].replace("{}", p.text)


def leaked_template(p: Prompt, w: Phrases, i: int) -> str | None:
    return _ECHO[i].replace("{}", p.text)


def doubled(p: Prompt, w: Phrases, i: int) -> str | None:
    return f"{p.text}{w.space or chr(10)}{p.text}" if i else f"{p.text}\n\n{p.text}"


def looped(p: Prompt, w: Phrases, i: int) -> str | None:
    return p.text + w.space + w.space.join([w.clarify[i]] * 4)


def too_long(p: Prompt, w: Phrases, i: int) -> str | None:
    """More than six times the words (the paper's filter), without repeating itself."""
    pieces = [w.format_hint, w.clarify, w.list_request, w.careful, w.no_jargon, w.example]
    filler = w.space.join([x[i] for x in pieces] + [x[1 - i] for x in pieces] + [*w.filler])
    return p.text + w.space + filler if size(filler) > 5.5 * size(p.text) else None


def too_short(p: Prompt, w: Phrases, i: int) -> str | None:
    """Less than half of the words, cut off at a word."""
    if p.language == "zh":
        return p.text[: int(len(p.text) * 0.4)] if len(p.text) >= 20 else None
    words = p.text.split(" ")
    return " ".join(words[: int(len(words) * 0.4)]) if len(words) >= 10 else None


def empty(p: Prompt, w: Phrases, i: int) -> str | None:
    return " \n" if i else ""


def unchanged(p: Prompt, w: Phrases, i: int) -> str | None:
    return f" {p.text}\n" if i else p.text


def drifted(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.unrelated[i]


FACTS = (
    "number", "date", "quote", "link", "code", "negation", "format", "meaning", "length", "name", "assumed",
    "dropped", "stated",
)  # fmt: skip
BAD: Sequence[tuple[Edit, str, tuple[str, ...]]] = (
    (drop_date, "date", ("length",)),
    (change_date, "date", ()),
    (drop_number, "number", ("format",)),
    (change_number, "number", ("format",)),
    (drop_quote, "quote", ("length", "meaning", "code")),
    (change_quote, "quote", ()),
    (drop_link, "link", ()),
    (change_link, "link", ()),
    (drop_code, "code", ("length", "meaning")),
    (change_code, "code", ()),
    (drop_negation, "negation", ("format",)),
    (add_negation, "negation", ()),
    (drop_format, "format", ("number", "length")),
    (change_format, "format", ("number",)),
    (drop_name, "name", ("length", "meaning", "dropped", "format")),
    (change_name, "name", ("meaning", "format", "dropped")),
    (drop_constraint, "dropped", FACTS),
    (translated, "language", ()),
    (half_translated, "language", ()),
    (answered, "answered", FACTS),
    (answered_after, "answered", ("stated",)),
    (real_answer, "answered", FACTS),
    (asked_back, "answered", FACTS),
    (refused, "refusal", FACTS),
    (refused_before, "refusal", ()),
    (leaked_token, "leak", ()),
    (leaked_template, "leak", ()),
    (doubled, "repeated", ()),
    (looped, "repeated", ("length",)),
    (too_long, "length", ()),
    (too_short, "length", FACTS),
    (empty, "empty", ()),
    (unchanged, "unchanged", ()),
    (drifted, "meaning", FACTS),
)

# ---------------------------------------------------------------- hints (the complement mode)

_BRIEF = {
    "en": r"in one sentence|yes or no|in at most \d+|fewer than \d+|no more than \d+",
    "de": r"in einem Satz|Ja oder Nein|höchstens \d+",
    "fr": r"en une seule phrase|oui ou par non|\d+ mots maximum",
    "es": r"en una sola frase|sí o no|menos de \d+",
    "zh": r"一句话|是或否|不超过\d+",
}


def _hint(name: str) -> Edit:
    def edit(p: Prompt, w: Phrases, i: int) -> str | None:
        return str(getattr(w, name)[i])

    edit.__name__ = f"hint_{name}"
    return edit


def hint_contradicts(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.verbose[i] if re.search(_BRIEF[p.language], p.text) else None


def hint_other_language(p: Prompt, w: Phrases, i: int) -> str | None:
    return PHRASES["fr" if p.language == "en" else "en"].careful[i]


def hint_is_prompt(p: Prompt, w: Phrases, i: int) -> str | None:
    return p.text


def hint_leaks(p: Prompt, w: Phrases, i: int) -> str | None:
    return _LEAKS[i][len(p.text) % len(_LEAKS[i])].replace("{}", w.clarify[i])


def hint_loops(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.space.join([w.careful[i]] * 4)


def hint_too_long(p: Prompt, w: Phrases, i: int) -> str | None:
    return w.space.join([*w.format_hint, *w.clarify, *w.list_request, *w.careful, *w.no_jargon, *w.example, *w.filler])


GOOD_HINTS: Sequence[Edit] = tuple(map(_hint, ("format_hint", "clarify", "careful", "no_jargon", "example")))
BAD_HINTS: Sequence[tuple[Edit, str, tuple[str, ...]]] = (
    (_hint("answer"), "answered", ("length", "stated")),
    (_hint("ask_back"), "answered", ("stated",)),
    (_hint("refusal"), "refusal", ()),
    (_hint("ignore"), "contradiction", ()),
    (hint_contradicts, "contradiction", ()),
    (hint_other_language, "language", ()),
    (hint_is_prompt, "repeated", ("unchanged",)),
    (hint_leaks, "leak", ()),
    (hint_loops, "repeated", ("length",)),
    (hint_too_long, "length", ()),
    (empty, "empty", ()),
)


def size(text: str) -> int:
    return len(re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+", text))


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+([,.;:!?，。？])", r"\1", re.sub(r"[ \t]{2,}", " ", text))
    return re.sub(r"^[\s,;:，：]+", "", text)


def brief(p: Prompt) -> bool:
    """The prompt asks for brevity or a bare answer, which a request for more would contradict."""
    return re.search(_BRIEF[p.language], p.text) is not None
