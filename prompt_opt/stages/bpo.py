"""The stage `bpo`: a rewriter improves the last user turn (Cheng et al., arXiv 2311.04155), and never harms it.

Four modes: `replace` (the paper's), `complement` (a hint after the user's own words, as PAS, arXiv 2407.06027), `demo`
(the rewrite and its answer become an example, the original stays last: ACL 2025.long-92), `shadow` (computed and
recorded, neither used nor waited for). What the gate rejects is not used either; the outcome says which rule objected.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from prompt_opt.core import Advice, Chat, Context, Exemplar, Policy, Skip, Supplies
from prompt_opt.gate.facts import code_share
from prompt_opt.gate.verdict import judge
from prompt_opt.rewriter.calls import Rewrite, Rewriting
from prompt_opt.rewriter.template import BadAnswer, Form, Template, Turn
from prompt_opt.stages.check import Facts, SettingError, require_known

Mode = Literal["replace", "complement", "demo", "shadow"]
# Fields that bind the answer's form: a rewritten prompt could fight them.
_BINDING = re.compile(r"response_format|structured_outputs|guided_\w+|prediction")


@dataclass(frozen=True, slots=True)
class Options:
    """`[policy.NAME.bpo]`: the settings of the stage."""

    rewriter: str = ""  # a [rewriter.NAME]
    mode: Literal["", "replace", "complement", "demo", "shadow"] = (
        ""  # "": complement with `instruct`, replace with `bpo`
    )
    percent: float = 100.0  # of requests, for A/B; by key and text, so the same request falls on the same side
    max_chars: int = 4000  # a longer prompt holds pasted context
    max_code: float = 0.5  # share of the prompt that is code
    history_chars: int = 2000  # what the rewriter may see of the conversation before; 0: nothing
    multi_turn: bool = False  # rewrite follow-ups even with a template that cannot see the conversation
    demo_tokens: int = 512  # of the answer to the rewrite, in `demo`

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise ValueError("percent must be between 0 and 100")


def form_of(options: Options, template: Template) -> Form:
    """What the rewriter is asked for.

    Raises:
        ValueError: the template cannot do what the mode needs.
    """
    wanted: Form = template.forms[0]
    if options.mode in ("replace", "demo"):
        wanted = "replace"
    elif options.mode == "complement":
        wanted = "complement"
    if wanted not in template.forms:
        raise ValueError(f"mode {options.mode!r} needs a template that can {wanted}; {template.name!r} can't")
    return wanted


def check(options: Options, policy: Policy, facts: Facts) -> None:
    """Check the stage's settings against the configuration.

    Raises:
        SettingError: no such rewriter, or a mode that its template or the policy's render cannot have.
    """
    if options == Options():
        raise SettingError("", 'the stage bpo needs a table with rewriter = "NAME"')
    require_known("rewriter", [options.rewriter], facts.rewriters, "rewriter")
    try:
        form_of(options, facts.rewriters[options.rewriter].template)
    except ValueError as error:
        raise SettingError("mode", str(error)) from None
    if options.mode == "demo" and policy.render != "chat":
        raise SettingError("mode", 'demo needs render = "chat": its example is a chat model\'s answer')


class Bpo:
    """Asks one rewriter, by the policy's options."""

    name, instant, required = "bpo", False, False

    def __init__(self, policy: Policy, supplies: Supplies) -> None:
        assert supplies.rewriting is not None, "the stage bpo is built with the configuration's rewriters"
        self._options: Options = policy.options["bpo"]
        self._rewriting: Rewriting = supplies.rewriting(self._options.rewriter)
        judge("Why?", "Why is it so?")  # what the gate compiles is compiled now, not within a request
        self._form = form_of(self._options, self._rewriting.rewriter.template)
        self._mode: Mode = self._options.mode or self._form
        self._shadows: set[asyncio.Task[Rewrite]] = set()

    async def constant(self, ctx: Context) -> Advice | None:
        """Nothing: every rewrite is of one prompt."""
        return None

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        """The rewrite of the last user turn, in the policy's mode.

        Raises:
            Skip: the chat is not for rewriting, or the gate rejected the rewrite.
        """
        template = self._rewriting.rewriter.template
        if reason := unfit(chat, self._options, template):
            raise Skip(reason)
        prompt = chat.messages[-1].text
        if not chosen(ctx.key, prompt, self._options.percent):
            raise Skip("A/B", self._arm("control"))
        asked = self._rewriting.rewrite(
            prompt,
            self._form,
            history=tail(chat, self._options.history_chars) if template.sees_history else (),
            tenant=ctx.tenant,
            policy=ctx.policy.digest,
            deadline=ctx.deadline,
        )
        if self._mode == "shadow":
            raise Skip("shadow", self._beside(asked, prompt, ctx.deadline))
        rewrite = await asked
        detail = self._detail(prompt, rewrite)
        if not rewrite.verdict.accepted:
            raise Skip(f"rejected: {rewrite.verdict.rule}", detail)
        note = f"{self._mode} cached" if rewrite.cached else self._mode
        if self._mode == "complement":
            return Advice(complement=rewrite.text, note=note, detail=detail)
        if self._mode == "demo":
            answer = await self._answer(rewrite.text, chat, ctx)
            return Advice(demos=(Exemplar(rewrite.text, answer),), note=note, detail=detail)
        return Advice(rewrite=rewrite.text, note=note, detail=detail)

    def _detail(self, prompt: str, rewrite: Rewrite) -> dict[str, Any]:
        """What the trace says; `content` only where it may hold texts."""
        verdict = rewrite.verdict
        return {
            **self._arm("rewrite"),
            "mode": self._mode,
            "rewriter": self._rewriting.rewriter.name,
            "accepted": verdict.accepted,
            "rule": verdict.rule,
            "offered": rewrite.offered,
            "cached": rewrite.cached,
            "content": {"before": prompt, "after": rewrite.text, "why": verdict.detail},
        }

    def _beside(self, asked: Coroutine[Any, Any, Rewrite], prompt: str, deadline: float) -> dict[str, Any]:
        """A detail that is filled in when the rewriter has answered: the request does not wait for that.

        The trace is written after the answer, so it mostly says what would have been done; else that it was pending.
        """
        detail: dict[str, Any] = {**self._arm("rewrite"), "mode": self._mode, "pending": True}

        async def in_time() -> Rewrite:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await asked

        def done(task: asyncio.Task[Rewrite]) -> None:
            self._shadows.discard(task)
            del detail["pending"]
            if task.cancelled():
                detail["failed"] = "server stopped"
            elif (error := task.exception()) is None:
                detail.update(self._detail(prompt, task.result()))
            else:
                late = "late" if isinstance(error, TimeoutError) else type(error).__name__
                detail["failed"] = str(error) if isinstance(error, Skip) else late

        task = asyncio.create_task(in_time())
        self._shadows.add(task)
        task.add_done_callback(done)
        return detail

    def _arm(self, arm: Literal["rewrite", "control"]) -> dict[str, Any]:
        return {"arm": arm, "percent": self._options.percent}

    async def _answer(self, prompt: str, chat: Chat, ctx: Context) -> str:
        """The policy's own engine on the rewrite: the derived prompt's answer, which the example shows.

        Raises:
            Skip: no answer that could be shown as one.
        """
        body = {
            "model": chat.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._options.demo_tokens,
            "temperature": 0.0,
        }
        answer = await self._rewriting.ask(ctx.policy.engine, "/v1/chat/completions", body)
        try:
            choice = answer["choices"][0]
            text, ended = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise BadAnswer("the answer to the rewrite is no chat completion") from None
        if not isinstance(text, str) or not text.strip():
            raise Skip("demo: no answer")
        if ended == "length":
            raise Skip("demo: answer too long")
        return text


# ---------------------------------------------------------------- when not to rewrite


def unfit(chat: Chat, options: Options, template: Template) -> str:
    """Why this chat is not one to rewrite, or ""."""
    for name in ("tools", "functions"):
        if name in chat.params and bytes(chat.params[name]) not in (b"null", b"[]"):
            return "tools"
    if any(message.tool for message in chat.messages):
        return "tools"
    for name, raw in chat.params.items():
        if _BINDING.fullmatch(name) and msgspec.json.decode(raw) not in (None, {}, {"type": "text"}):
            return name
    if not chat.messages or chat.messages[-1].role != "user":
        role = chat.messages[-1].role if chat.messages else ""
        return "assistant prefill" if role == "assistant" else "last message not the user's"
    text = chat.messages[-1].text
    if len(text) > options.max_chars:  # first: what follows looks at all of it
        return f"longer than {options.max_chars}"
    if not re.search(r"\w", text):
        return "image only" if chat.messages[-1].media else "no text"
    if code_share(text) > options.max_code:
        return "code"
    turns = any(message.role in ("user", "assistant") for message in chat.messages[:-1])
    if turns and not options.multi_turn and not (template.sees_history and options.history_chars):
        return "multi-turn"
    return ""


def chosen(key: str, text: str, percent: float) -> bool:
    """Whether this text under this key is among the `percent`; always the same answer."""
    digest = hashlib.sha256(f"{key}\0{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < percent / 100 * 2**64


def tail(chat: Chat, most: int) -> tuple[Turn, ...]:
    """The turns before the last one, from the end, in at most `most` characters; the first may be cut at its front."""
    out: list[Turn] = []
    for message in reversed(chat.messages[:-1]):
        if message.role not in ("user", "assistant") or not message.text or most <= 0:
            continue
        text = message.text[-most:]
        most -= len(text)
        out.append((message.role, text))
    return tuple(reversed(out))
