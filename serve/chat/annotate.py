"""What is added to a request's answer: checked citations and footnotes, the footer and the field that label it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from prompt_opt.citation.marks import Rules
from prompt_opt.citation.scanner import Unknown
from prompt_opt.core import Chat, Policy
from prompt_opt.layout.quotation import shown
from serve.chat.record import Alignment, Record
from serve.config import Config
from serve.dialects.annotation import Annotation, Citing
from serve.dialects.wire import Request


def annotate(
    config: Config, record: Record, policy: Policy, plain: Request, chat: Chat | None = None
) -> Annotation | None:
    """What is to be added to the answer; None for nothing. `plain` has a chat completion's names.

    A structured answer gets the field only: text that is added to it would break its grammar.
    """
    marking, cites = config.marking, record.alignment.advice.cite
    citing = _citing(policy, record.alignment, plain, chat) if cites and chat is not None else None
    if citing is None and not marking.edits:
        return None
    footer = marking.footer if not marking.footer or _prose(plain.fields) else ""
    provenance = _provenance(config, record) if marking.field else None
    if citing is None and not footer and provenance is None:
        return None
    choices = plain.value("n", 1) if "n" in plain.fields else 1
    return Annotation(citing, footer=footer, provenance=provenance, choices=choices)


def _citing(policy: Policy, alignment: Alignment, plain: Request, chat: Chat) -> Citing | None:
    """How the answer's citations are checked; None where no rule had room."""
    advice, prompt = alignment.advice, alignment.prompt
    if prompt is None:
        return None
    quoted = "\n".join([span.text for span in prompt.spans if span.origin in ("pinned", "retrieved")])
    rules = shown(advice.pinned, quoted) + shown(advice.principles, quoted)
    if not rules:
        return None
    options = policy.options["opo"]
    # Log-probabilities go with the tokens of the text: none is taken out of an answer that has them.
    unknown: Unknown = "keep" if plain.value("logprobs") else options.unknown
    given = "\n".join([message.text for message in chat.messages if message.role != "assistant"])
    return Citing(Rules(rules), unknown, options.footnotes, given)


def _provenance(config: Config, record: Record) -> Mapping[str, Any]:
    selection = record.selection
    out = {"ai_generated": True, "model": selection.model if selection else "", "trace": record.ident}
    return out | ({"provider": config.marking.provider} if config.marking.provider else {})


def _prose(fields: Mapping[str, msgspec.Raw]) -> bool:
    from prompt_opt.stages.opo import prose

    return prose(fields)
