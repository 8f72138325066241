"""Refusals of ours in the language of the request: one sentence, with the code and the rules beside it.

The English message goes along as `detail`, since operators search for it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from prompt_opt.core import Chat, Policy
from prompt_opt.pipeline import Forbidding, StageFailed
from serve.errors import ApiError, Forbidden, UpstreamFailed
from serve.http.call import Call

_FILE = Path(__file__).with_name("sentences.toml")
_ACCEPTED = re.compile(r"\s*([A-Za-z]{2,3})(?:-[\w-]+)?\s*(?:;\s*q=([\d.]+))?\s*")


def stage_failed(failed: StageFailed, policy: Policy | None) -> ApiError:
    """The refusal of a request whose policy requires a stage that failed, or one of whose rules forbids it."""
    outcome, name = failed.outcome, policy.name if policy else ""
    if isinstance(failed, Forbidding):
        rules = (failed.rule.reference,)
        title = f" ({failed.rule.title})" if failed.rule.title else ""
        return _refusal(
            Forbidden(f"the rule {rules[0]}{title} forbids this request", code="forbidden_by_rule"), "forbidden", rules
        )
    error = UpstreamFailed(f"{failed}, and the policy requires it", code="stage_failed")
    options = policy.options.get(outcome.stage) if policy else None
    rules = tuple(getattr(options, "pinned", ())) if getattr(options, "pinned_on_error", "") == "fail" else ()
    return _refusal(error, "pinned" if rules else "stage", rules, policy=name, stage=outcome.stage)


@cache
def sentences() -> Mapping[str, Mapping[str, str]]:
    """Reason -> language -> sentence; every reason has every language."""
    return tomllib.loads(_FILE.read_text("utf-8"))


def languages() -> frozenset[str]:
    """The languages that refusals are written in."""
    return frozenset(sentences()["forbidden"])


def _refusal(error: ApiError, sentence: str, rules: Sequence[str] = (), **words: str) -> ApiError:
    error.sentence, error.rules, error.words = sentence, tuple(rules), words
    return error


def spoken(error: ApiError, call: Call, chat: Chat | None, asked: str) -> ApiError:
    """The error with its sentence in the language of the request, where it is one of ours and that is not English.

    Args:
        chat: the request's, where it could be read so far.
        asked: the language that the request's `trimtab` field names, or "".
    """
    if not error.sentence:
        return error
    language = _language(call, chat, asked)
    if language == "en":
        return error
    error.detail = error.message
    words = {"rules": ", ".join(error.rules), **error.words}
    error.message = sentences()[error.sentence][language].format_map(words)
    return error


def _language(call: Call, chat: Chat | None, asked: str) -> str:
    """One of `languages`: what the request names, its last user text's, what its client accepts, or English."""
    known = languages()
    if (primary := asked.lower().partition("-")[0]) in known:
        return primary
    text = next((m.text for m in reversed(chat.messages) if m.role == "user"), "") if chat is not None else ""
    if text:
        from retrieval.text.language import detect

        if found := detect(text[-2000:], known):
            return found
    accepted = [_ACCEPTED.fullmatch(part) for part in (call.header(b"accept-language") or "").split(",")]
    ranked = sorted(((-_quality(it[2]), i, it[1].lower()) for i, it in enumerate(accepted) if it is not None))
    return next((language for quality, _, language in ranked if quality and language in known), "en")


def _quality(text: str | None) -> float:
    try:
        return float(text) if text else 1.0
    except ValueError:
        return 0.0
