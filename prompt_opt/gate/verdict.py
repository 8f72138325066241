"""The gate of BPO: does this rewrite deserve to take the place of the user's words?

BPO's authors name the failures themselves (arXiv 2311.04155, limitations; the comment on "inappropriate changes" in
their aggressive decoding): passages changed that must not change, dropped context, over-specified demands, answers in
the place of a rewrite. The rules are vetoes; the first that objects is the verdict. With a trained model (`scorer`)
only exact facts veto (numbers, dates, names, links, code, quotes, languages, leaks, refusals, answers); what the
others (`DOUBTS`) object to is the model's input. With a chat model (`opinion`) all veto but `strayed`.
Languages: numbers, dates, negations and demands in en, zh, de, fr and es; everything else in any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prompt_opt.gate import rules
from prompt_opt.gate.facts import facts
from prompt_opt.gate.language import language, lexicon
from prompt_opt.gate.rules import DOUBTS, Limits, Mode, Pair, Rule, Similarity, own


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a rewrite is used; if not, which rule objected and what it saw."""

    accepted: bool
    rule: str = ""
    detail: str = ""


_LIMITS = Limits()
# (original, rewrite, mode, the rules of DOUBTS that object and what they saw) -> what is wrong with it, or "".
Additions = Callable[[str, str, Mode, Mapping[str, str]], str]


def judge(
    original: str,
    rewrite: str,
    mode: Mode = "replace",
    *,
    limits: Limits = _LIMITS,
    similarity: Similarity | None = None,
    instruction: str = "",
    additions: Additions | None = None,
) -> Verdict:
    """Judge a rewrite of `original`, or, in the complement mode, a hint to stand after it.

    Args:
        similarity: of original and rewrite; None leaves that rule out.
        instruction: what the rewriter was told, so that its echo is noticed.
        additions: judges the rewrite where no exact rule objects. It is told what the rules of `DOUBTS` object to, and
            decides. None makes vetoes of these, too.
    """
    if len(rewrite) > 40 * len(original) + 4000:
        return Verdict(False, "length", f"{len(rewrite)} characters for {len(original)}")
    lex = lexicon(language(own(original)) or language(own(rewrite)) or "en")
    pair = Pair(
        original, rewrite, mode, lex, facts(original, lex), facts(rewrite, lex), limits, similarity, instruction
    )
    doubts: dict[str, str] = {}
    for name, rule in (_REPLACE if mode == "replace" else _COMPLEMENT).items():
        if reason := rule(pair):
            if additions is None or name not in DOUBTS:
                return Verdict(False, name, reason[:200])
            doubts[name] = reason
    if additions is not None and (reason := additions(original, rewrite, mode, doubts)):
        return Verdict(False, "added", reason[:200])
    return Verdict(True)


_REPLACE: Mapping[str, Rule] = {
    "empty": rules.empty, "unchanged": rules.unchanged, "leak": rules.leak, "refusal": rules.refusal,
    "language": rules.wrong_language, "repeated": rules.repeated, "length": rules.length,
    "answered": rules.answered, "stated": rules.stated, "link": rules.link, "code": rules.code, "quote": rules.quote,
    "date": rules.date, "number": rules.number, "negation": rules.negation, "format": rules.form,
    "target_language": rules.target_language,
    "contradiction": rules.contradiction, "meaning": rules.meaning, "name": rules.name, "assumed": rules.assumed,
    "strayed": rules.strayed, "dropped": rules.dropped,
}  # fmt: skip
_COMPLEMENT: Mapping[str, Rule] = {
    "empty": rules.empty, "leak": rules.leak, "refusal": rules.refusal, "repeated": rules.repeated,
    "language": rules.wrong_language, "length": rules.length, "contradiction": rules.contradiction,
    "answered": rules.answered, "stated": rules.stated, "negation": rules.negation, "strayed": rules.strayed,
}  # fmt: skip
RULES = (*dict.fromkeys([*_REPLACE, *_COMPLEMENT]), "added")
