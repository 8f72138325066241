"""The stage `opo`: laws, rules and norms that bear on the request (Xu et al., arXiv 2312.15907).

It searches the policy's indexes for the last user turn, takes whole principles, best first, while they fit into a
token budget, and hands them to the layout, which quotes them as data. Rules that always apply are pinned by id.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import msgspec

from prompt_opt.core import Advice, Chat, Cite, Context, Forbidden, Frame, Policy, Principle, Skip, State, Supplies
from prompt_opt.layout.quotation import line
from prompt_opt.stages.check import Facts, SettingError, require_known
from prompt_opt.stages.regions import detect

if TYPE_CHECKING:
    from retrieval.passage import Filter, Hit
    from retrieval.search.index import Index

log = logging.getLogger("trimtab.opo")
_SHARE = 0.9  # of the time that is left, after which pinned principles go without others
# Request fields that make an engine answer in a grammar, in any of the APIs.
_FORMAT = re.compile(
    r"response_format|structured_outputs|guided_\w+|grammar|json_schema|text|output_config|output_format"
)
_QUERY = 2000  # characters of the last user turn that are searched for: its end, where a question usually stands


@dataclass(frozen=True, slots=True)
class Options:
    """`[policy.NAME.opo]`."""

    reads: ClassVar[frozenset[str]] = frozenset({"region", "language", "date"})  # of a request's `trimtab` field
    index: tuple[str, ...] = ()  # names of [index.NAME]
    k: int = 4  # principles at most
    budget_tokens: int = 600  # of all of them together
    mode: str = "hybrid"
    floor: float = -1.0  # a principle that scores less is left out; -1: the index's own floor; 0: none
    follow: int = 0  # articles at most that the found ones refer to
    most: int = 0  # from one source; 0: any number
    region: str = ""  # where the request, its text and its key name none
    language: str = ""
    kind: str = ""
    tags: tuple[str, ...] = ()
    detect_region: bool = True  # Chinese provinces, by name or by city
    detect_language: bool = False  # only principles in the language of the question, where that is clear
    without_region: Literal["any", "national"] = "any"  # which rules, where no region is known
    pinned: tuple[str, ...] = ()  # "INDEX/ID": always in the prompt
    pinned_on_error: Literal["fail", "skip"] = "fail"  # where these cannot be had: a rule that must hold is no hint
    frame: Frame = "quoted"
    forbids: str = ""  # a tag: where the best match has it, the request is refused
    cite: Cite = ""  # "marks": ask for marks ([law-12]) beside what rests on a rule, and check them in the answer
    unknown: Literal["keep", "remove"] = "keep"  # a mark in the answer of a rule that was not quoted
    footnotes: bool = False  # the cited rules with their sources at the answer's end

    @property
    def indexes(self) -> frozenset[str]:
        """The names of all indexes that the stage reads."""
        return frozenset((*self.index, *(name.partition("/")[0] for name in self.pinned)))


def check(options: Options, policy: Policy, facts: Facts) -> None:
    """Check the stage's settings against the configuration.

    Raises:
        SettingError: an index that does not exist, nothing to search or to pin, or a number that is not positive.
    """
    if options == Options():
        raise SettingError("", 'the stage opo needs a table with index = ["NAME"]')
    require_known("index", options.index, facts.indexes, "index")
    if not options.indexes:
        raise SettingError("index", "lists no index to search and no pinned principle")
    for name in options.pinned:
        index, _, ident = name.partition("/")
        if index not in facts.indexes or not ident:
            valid = ", ".join(sorted(facts.indexes)) or "none"
            raise SettingError("pinned", f"{name!r} is not of the form INDEX/ID; valid indexes are {valid}")
    if options.mode not in ("hybrid", "dense", "lexical"):
        raise SettingError("mode", f"{options.mode!r}: valid are hybrid, dense, lexical")
    if options.cite and options.frame == "plain":
        raise SettingError("frame", '"plain" quotes rules without the marks that cite asks for')
    if not options.cite and (options.unknown != "keep" or options.footnotes):
        raise SettingError("footnotes" if options.footnotes else "unknown", 'needs cite = "marks"')
    for key in ("k", "budget_tokens"):
        if getattr(options, key) <= 0:
            raise SettingError(key, "must be more than zero")


class Opo:
    """Searches the indexes of one policy."""

    name, instant = "opo", False

    def __init__(self, policy: Policy, supplies: Supplies) -> None:
        assert supplies.indexes is not None, "the stage opo is built with the configuration's indexes"
        self._options: Options = policy.options["opo"]
        self._indexes = supplies.indexes
        # What may forbid a request, or must stand in it, is no hint that it can go without.
        self.required = bool(self._options.forbids) or (
            bool(self._options.pinned) and self._options.pinned_on_error == "fail"
        )

    async def constant(self, ctx: Context) -> Advice | None:
        """The pinned principles: no request changes them."""
        pinned = await self._pinned()
        options = self._options
        return Advice(pinned=pinned, frame=options.frame, cite=options.cite) if pinned else None

    async def __call__(self, chat: Chat, ctx: Context) -> Advice:
        """The pinned principles, and those found for the last user turn.

        Raises:
            Skip: there is nothing to search for, or nothing relevant.
        """
        options = self._options
        query = _query(chat)
        pinned = await self._pinned()
        if not query and not pinned:
            raise Skip("no text to search for")
        principles: tuple[Principle, ...] = ()
        failed: dict[str, str] = {}
        if query:
            where = self._filter(query, ctx.options)
            found, failed = await self._beside(pinned, query, where, ctx)
            found.sort(key=_rank)
            if options.forbids and found:
                _forbid(*found[0], options.forbids)
            principles = _within(found, options, ctx.count, {(p.index, p.id) for p in pinned})
        lacks = {**failed, **dict.fromkeys(set(options.pinned) - {p.reference for p in pinned}, "not there")}
        states = await self._states()
        without = f", without {' '.join(sorted(lacks))}" if lacks else ""
        detail = {"without": lacks} if lacks else {}
        if not principles and not pinned:
            raise Skip(f"nothing relevant{without}", detail, states)
        note = str(len(principles)) + (f" and {len(pinned)} pinned" if pinned else "") + without
        cite: Cite = options.cite if options.cite and prose(chat.params) else ""
        if options.cite and not cite:
            note += ", no marks: structured output"
        return Advice(
            principles=principles, pinned=pinned, frame=options.frame, cite=cite, note=note, states=states,
            detail=detail,
        )  # fmt: skip

    async def _states(self) -> dict[str, State]:
        """In which state the indexes are that were read just now; those that cannot say it are left out."""
        states: dict[str, State] = {}
        for name in sorted(self._options.indexes):
            try:
                index = await self._index(name)
                known: State | None = index.known_state()
                states[name] = known if known is not None else await asyncio.to_thread(index.state)
            except Exception as error:  # noqa: BLE001  an index may raise anything, and the search went well
                log.warning("index %s: its state cannot be read: %s", name, error)
        return states

    async def _beside(
        self, pinned: tuple[Principle, ...], query: str, where: Filter, ctx: Context
    ) -> tuple[list[tuple[str, Hit]], dict[str, str]]:
        """What is found; where pinned principles are there already, a search that fails or is late takes none away."""
        strict = ctx.policy.on_error == "fail" or bool(self._options.forbids)
        if strict or not pinned:
            return await self._found(query, where, ctx.tenant, strict)
        try:
            async with asyncio.timeout(_SHARE * ctx.remaining):
                return await self._found(query, where, ctx.tenant, strict)
        except Exception as error:  # noqa: BLE001  an index may raise anything
            log.warning("only pinned principles are quoted: %r", error)
            return [], dict.fromkeys(self._options.index, type(error).__name__)

    async def _found(
        self, query: str, where: Filter, owner: str, strict: bool
    ) -> tuple[list[tuple[str, Hit]], dict[str, str]]:
        """What each index has, with its name, and the errors of those that failed: the others' rules still hold.

        With `strict`, or where all of them fail, the first one's error is raised.
        """
        names = self._options.index
        results = await asyncio.gather(
            *(self._search(name, query, where, owner) for name in names), return_exceptions=True
        )
        found: list[tuple[str, Hit]] = []
        failed: dict[str, str] = {}
        for name, result in zip(names, results, strict=True):
            if isinstance(result, BaseException):
                failed[name] = type(result).__name__
                if strict or len(names) == 1 or not isinstance(result, Exception):
                    raise result
                log.warning("index %s was not searched: %s", name, result)
            else:
                found += [(name, hit) for hit in result]
        if len(failed) == len(names):
            raise next(r for r in results if isinstance(r, BaseException))
        return found, failed

    async def _index(self, name: str) -> Index:
        index = self._indexes.opened(name)
        if index is None:
            index = await asyncio.to_thread(self._indexes.open, name)
        return cast("Index", index)

    def _floor(self, index: Index) -> float | None:
        """The policy's floor, or the index's own, which holds for hybrid searches only."""
        if self._options.floor >= 0:
            return self._options.floor or None
        return index.floor or None if self._options.mode == "hybrid" else None

    async def _search(self, name: str, query: str, where: Filter, owner: str) -> list[Hit]:
        options, index = self._options, await self._index(name)
        hits = await index.asearch(
            query,
            options.k,
            where=where,
            mode=options.mode,
            floor=self._floor(index),
            most=options.most or options.k,  # any number of one source, but each text once
            owner=owner,
        )
        if not options.follow:
            return hits
        from retrieval.search.reference import followed

        extra = await followed(index, hits, where, options.follow, owner)
        # They come behind all others, whatever the question's words would give them.
        return [*hits, *(replace(hit, score=0.0, rerank=0.0 if hits[0].rerank is not None else None) for hit in extra)]

    def _filter(self, query: str, asked: Mapping[str, Any]) -> Filter:
        from retrieval.passage import Filter
        from retrieval.text import analysis

        options = self._options
        spoken = analysis.detect(query) if options.detect_language else ""
        region = asked.get("region") or (detect(query) if options.detect_region else None) or options.region or None
        if region is None and options.without_region == "national":
            region = ""
        on = asked.get("date") or datetime.now(UTC).date().isoformat()
        return Filter(
            region=region, language=asked.get("language") or spoken or options.language or None,
            kind=options.kind or None, tags=options.tags, on=on,
        )  # fmt: skip

    async def _pinned(self) -> tuple[Principle, ...]:
        """The pinned principles as they stand now; one that was withdrawn is in no prompt."""
        found = []
        for name in self._options.pinned:
            index, _, ident = name.partition("/")
            p = await asyncio.to_thread((await self._index(index)).get, ident)
            if p is not None:
                found.append(Principle(p.id, p.text, p.title, p.source, p.region, url=p.url, index=index))
        return tuple(found)


def _forbid(name: str, best: Hit, tag: str) -> None:
    """Raises Forbidden where the best match has the tag; one that another rule fits better is no ground for it."""
    if tag in best.tags:
        raise Forbidden(_principle(name, best))


def _principle(name: str, hit: Hit) -> Principle:
    score = round(hit.score, 4)
    return Principle(hit.id, hit.text, hit.title, hit.source, hit.region, score, hit.url, hit.dense, hit.lexical, name)


def prose(params: Mapping[str, msgspec.Raw]) -> bool:
    """Whether the answer is to be text, into which marks and footnotes can be written; JSON must keep its grammar."""
    for name, raw in params.items():
        if _FORMAT.fullmatch(name) and (value := msgspec.json.decode(raw)) not in (None, {}, {"type": "text"}):
            form = value.get("format") if name in ("text", "output_config") and isinstance(value, dict) else value
            if form not in (None, {}, {"type": "text"}):
                return False
    return True


def _query(chat: Chat) -> str:
    text = next((m.text for m in reversed(chat.messages) if m.role == "user"), "")
    # Of a long text only the end is looked at, since this runs on the event loop, more of it where that is blank.
    most = 8 * _QUERY
    while len(query := " ".join(text[-most:].split())) < _QUERY and most < len(text):
        most *= 8
    return query[-_QUERY:]


def _rank(found: tuple[str, Hit]) -> tuple[float, str]:
    """Best first; a reranker's word stands before the search's own score."""
    _, hit = found
    return -(hit.score if hit.rerank is None else hit.rerank), hit.id


def _within(
    found: list[tuple[str, Hit]], options: Options, count: Callable[[str], int], taken: set[tuple[str, str]]
) -> tuple[Principle, ...]:
    """Best first, whole ones only, each text once, while they fit the budget. `found` holds each with its index.

    Two indexes may use one id for different rules.
    """
    left, seen, texts, most = options.budget_tokens, set(taken), set[str](), options.k + options.follow
    kept: list[Principle] = []
    for name, hit in found:
        principle = _principle(name, hit)
        cost = count(line(principle) + "\n")
        text = " ".join(hit.text.split())
        if (name, hit.id) in seen or text in texts or cost > left or len(kept) == most:
            continue
        seen.add((name, hit.id))
        texts.add(text)
        left -= cost
        kept.append(principle)
    return tuple(kept)
