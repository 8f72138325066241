"""`trimtab index sync`: read the sources, show what would change, and change it batch by batch.

A sync that is cut off goes on where it stopped: each batch is one transaction, and the day that its changes begin on
stays until it has ended.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from retrieval.passage import check_date
from retrieval.search import plan as plans
from retrieval.search.build import BATCH, accepted, batches, embedder, settle
from retrieval.search.index import Index
from retrieval.search.intake import Origins, Tally, bar, passages, size
from retrieval.search.plan import Change, Plan
from retrieval.text import formats

FIRST = " first"  # follows the day of a sync that fills a new index: its passages were in force before that day


def run(arguments: argparse.Namespace) -> int:
    """Sync an index with its sources, print the plan and the outcome, and return the exit status.

    It is 1 where nothing could be read (the index then stays as it is), where rows could not be read (what they
    stood for then stays), or where an id is taken.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a source is of no known format, or `--on` is no date.
    """
    listings = [formats.listing(given) for given in arguments.input]
    check_date("--on", arguments.on or "")
    if arguments.dry_run and not _exists(arguments.index):
        tally = Tally(0)
        with bar("reading", size(listings), "B") as advance:
            wanted = {p.id: p for p in passages(arguments, listings, tally, Origins(None), advance)}
        return _report(plans.plan([], wanted, ""), tally, "nothing was changed")
    asked = embedder(arguments, listings)
    with Index.open(
        arguments.index, readonly=arguments.dry_run, create=True, embedder=asked, threads=arguments.threads
    ) as index:
        return _sync(index, arguments, listings)


def _sync(index: Index, arguments: argparse.Namespace, listings: list[formats.Listing]) -> int:
    tally, origins = Tally(index.count()), Origins(index)
    with bar("reading", size(listings), "B") as advance:
        wanted = {p.id: p for p in passages(arguments, listings, tally, origins, advance)}
    cut_off = index.backend.setting("sync_day")
    day = arguments.on or cut_off.removesuffix(FIRST) or _today()
    first = cut_off.endswith(FIRST) or (not cut_off and not index.count())
    found = plans.plan(index.documents(), wanted, day, first=first)
    if tally.bad:
        found = _without_losses(found)
    if arguments.dry_run or not wanted or not (found.changes or cut_off):
        return _report(found, tally, "nothing was changed")
    index.backend.set("sync_day", day + FIRST if first else day)
    applied: list[Change] = []
    with bar("syncing", len(found.changes), " changes") as advance:
        for batch in batches(iter(found.changes), BATCH):
            applied += accepted(index, batch, lambda change: change.passages, tally, lambda change: change.withdrawn)
            advance(len(batch))
    origins.keep(whole=not tally.bad)
    index.backend.set("sync_day", "")
    settle(index)
    found = Plan(tuple(applied), found.unchanged)
    return _report(found, tally, f"passages: {tally.before} before, {index.count()} now; revision {index.revision}")


def _without_losses(found: Plan) -> Plan:
    """What a file that could not be read stood for is not gone: no passage is taken out."""
    lost = [change for change in found.changes if change.op == "gone"]
    if lost:
        print(f"{len(lost)} passages that no source holds stay, since some rows could not be read", file=sys.stderr)
    return Plan(tuple(change for change in found.changes if change.op != "gone"), found.unchanged + len(lost))


def _report(found: Plan, tally: Tally, outcome: str) -> int:
    for change in found.changes:
        for line in plans.shown(change):
            print(line)
    print(f"{found}; {outcome}")
    if not tally.read:
        print("nothing was read", file=sys.stderr)
    return 1 if tally.bad or not tally.read else 0


def _exists(index: str) -> bool:
    from retrieval.backends.place import remote

    return remote(index) or (Path(index) / "record.db").is_file()


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
