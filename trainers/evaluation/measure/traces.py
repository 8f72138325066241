"""Which principles an answer was given under: its trace says so, where the server shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import httpx

from trainers.ask.journal import Journal, Row
from trainers.evaluation.arms.arm import Arm
from trainers.evaluation.core import Answer

_AT_A_TIME = 8
_ENOUGH_S = 120.0  # for all of them; what is not read by then is said to be unknown
_HOPELESS = 5  # refusals in a row after which a server shows none


def read_found(row: Row) -> tuple[str, tuple[str, ...]]:
    """(trace id, ids of its principles) of a row of traces.jsonl."""
    return row["trace"], tuple(row["principles"])


def write_found(trace: str, principles: tuple[str, ...]) -> Row:
    """The row of traces.jsonl of one trace."""
    return {"trace": trace, "principles": list(principles)}


def with_principles(
    arms: Sequence[Arm], answers: Mapping[str, Sequence[Answer]], kept: Journal[tuple[str, ...]]
) -> tuple[dict[str, list[Answer]], int]:
    """The answers with their principles' ids, and how many of them could not be found out. `kept` is asked first.

    Only answers whose headers say that the stage `opo` was applied have any. One whose principles are not known loses
    its trace's id, so that they are not taken for none.
    """
    wanted = {name: [a for a in said if _quotes(a) and kept.get(a.trace) is None] for name, said in answers.items()}
    if any(wanted.values()):
        asyncio.run(_read(arms, wanted, kept))
    found = {name: [_found(a, kept) for a in said] for name, said in answers.items()}
    missing = sum(kept.get(a.trace) is None for said in answers.values() for a in said if _quotes(a))
    return found, missing


def _found(answer: Answer, kept: Journal[tuple[str, ...]]) -> Answer:
    if not _quotes(answer):
        return answer
    principles = kept.get(answer.trace)
    return replace(answer, trace="") if principles is None else replace(answer, principles=principles)


def _quotes(answer: Answer) -> bool:
    return bool(answer.trace) and answer.stages.get("opo", "").startswith("applied")


async def _read(arms: Sequence[Arm], wanted: Mapping[str, Sequence[Answer]], kept: Journal[tuple[str, ...]]) -> None:
    try:
        async with asyncio.timeout(_ENOUGH_S), httpx.AsyncClient(timeout=10.0) as client:
            for arm in arms:
                left = iter(wanted.get(arm.name, ()))
                denied: list[str] = []
                await asyncio.gather(*(_reader(client, arm, left, kept, denied) for _ in range(_AT_A_TIME)))
    except TimeoutError:
        return


async def _reader(
    client: httpx.AsyncClient, arm: Arm, left: Iterator[Answer], kept: Journal[tuple[str, ...]], denied: list[str]
) -> None:
    for answer in left:
        if len(denied) >= _HOPELESS:
            return
        try:
            reply = await client.get(f"{arm.base}/v1/traces/{answer.trace}", headers=arm.headers())
        except httpx.TransportError as error:
            denied.append(str(error))
            continue
        if reply.status_code != 200:
            denied.append(str(reply.status_code))
            continue
        denied.clear()
        rows = reply.json().get("principles") or ()
        kept.append(answer.trace, tuple(str(row["id"]) for row in rows))
