"""A chat as the model's own template writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Environment
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Unrenderable(ValueError):
    """The template refuses the chat, or there is none."""


class Template:
    """A GGUF file's chat template, in Jinja's sandbox: it comes from a file that somebody downloaded."""

    def __init__(self, meta: Mapping[str, Any]) -> None:
        tokens: Sequence[str] = meta.get("tokenizer.ggml.tokens", ())
        self._marks = {
            name: tokens[at] if isinstance(at := meta.get(f"tokenizer.ggml.{key}"), int) else ""
            for name, key in (("bos_token", "bos_token_id"), ("eos_token", "eos_token_id"))
        }
        source = meta.get("tokenizer.chat_template")
        self._template = _environment().from_string(source) if source else None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt, up to where the assistant's answer begins. Raises Unrenderable, saying why."""
        if self._template is None:
            raise Unrenderable("the model has no chat template: use /v1/completions")
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._marks)
        except TemplateError as error:
            raise Unrenderable(f"the chat template refuses this chat: {error}") from error


class _Generation(Extension):
    """`{% generation %}`: in transformers it marks what a loss counts; the text stays as it is."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    it = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    it.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    it.globals["raise_exception"] = _refuse
    it.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return it


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
