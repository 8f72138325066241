"""Entries that are old enough are cut off, whole segments of them, with a signed proof of the cut.

The proof is an entry of kind "cut": up to which entry, and the hash that stood there, so that what is left can be
verified. It carries the cut-off entries about changes, since what they put in force may hold for years.
"""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from retrieval.lock import locked
from serve.store.account import AccountError
from serve.store.account.chain import BadLine, parse
from serve.store.account.segment import header, segments, tail
from serve.store.account.writer import Writer, encoded, sync_folder

log = logging.getLogger("trimtab.account")


def cut(writer: Writer, before: float) -> int:
    """Cut off the segments whose entries are all from before a time (Unix seconds); the number of the last one.

    Returns 0 where there is nothing to cut. Killed at any moment, it leaves an account that verifies.

    Raises:
        AccountError: the account is lost or damaged.
        OSError: the disk is full or fails; then nothing was cut.
    """
    try:
        old, statement = _statement(writer, segments(writer.folder), before)
    except (BadLine, KeyError) as error:
        raise AccountError(f"{writer.folder} is damaged ({error}): see `trimtab account verify`") from None
    if not old:
        return 0
    writer.write([encoded("cut", writer.signer.sign(statement))], sign=True)
    with locked(writer.folder / "lock"):
        for path in old:  # oldest first: what is left is always the end of the chain
            path.unlink(missing_ok=True)
        sync_folder(writer.folder)
    log.info("entries up to %d were cut off for their age", statement["upto"])
    return int(statement["upto"])


def _statement(writer: Writer, paths: list[Path], before: float) -> tuple[list[Path], dict[str, Any]]:
    """What is to be cut off, and the statement that says so."""
    old = [path for path, after in pairwise(paths) if float(header(after)["at"]) < before]
    if not old:
        return [], {}
    end = tail(old[-1]).link
    assert end is not None
    statement = {
        "at": round(time.time(), 3), "kind": "cut", "chain": header(paths[-1])["chain"], "upto": end.n,
        "head": end.hash.hex(), "before": round(before, 3), "carried": [it for path in old for it in carried(path)],
        "public": writer.signer.public,
    }  # fmt: skip
    return old, statement


def carried(path: Path) -> list[dict[str, Any]]:
    """A segment's entries about changes, each with its number, and those that its own cuts carry."""
    found: list[dict[str, Any]] = []
    with path.open("rb") as file:
        for line in file:
            if b'"kind":"change"' not in line and b'"kind":"cut"' not in line:
                continue
            link, entry = parse(line)
            told = msgspec.json.decode(entry, type=dict[str, Any])
            if told["kind"] == "change":
                found.append({"n": link.n, **told})
            elif told["kind"] == "cut":
                found += told["carried"]
    return found
