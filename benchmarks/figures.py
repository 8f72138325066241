"""What benchmarks/proxy.py measured, as tables in Markdown and as a picture. Medians over rounds throughout."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Found = dict[str, Any]
_OURS, _PEER, _YARD = (
    "#0072B2",
    "#E69F00",
    "#6b6b6b",
)  # of Okabe and Ito's palette, which the colour-blind can tell apart
_PEERS = ("LiteLLM", "optillm", "Portkey", "NeMo Guardrails", "vllm-router", "sglang-router")


def of(rows: Sequence[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def median(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in rows))


def distinct(rows: Sequence[Row], key: str) -> list[Any]:
    return list(dict.fromkeys(row[key] for row in rows))


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}×"


def beside(now: str, then: str | None) -> str:
    """A figure, and what it was."""
    return now if then is None or "–" in (now, then) else f"{now} (was {then})"


def earlier(before: Found | None, part: str, **wanted: object) -> list[Row]:
    """Our own rows of an earlier run, and direct's, which some are compared with."""
    rows = of(before[part], **wanted) if before else []
    return [row for row in rows if row["target"] not in _PEERS and row["target"] != "nginx"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def faults(rows: Sequence[Row]) -> str:
    """ "0", or how many answers were not what they should be."""
    counts = {key: sum(int(row.get(key, 0)) for row in rows) for key in ("refused", "broken", "late")}
    said = [f"{count:,} {key}" for key, count in counts.items() if count]
    left = [row["applied"] for row in rows if row.get("applied", 1.0) < 0.9999]
    return ", ".join(said + ([f"stage applied to {min(left):.1%}"] if left else [])) or "0"


def lost(rows: Sequence[Row]) -> str:
    broken = [reason for row in rows for reason in row["broken"]]
    counts = {key: sum(row[key] for row in rows) for key in ("lost", "reordered")} | {"broken": len(broken)}
    return ", ".join(f"{count:,} {key}" for key, count in counts.items() if count) or "0"


def costs(found: Found, before: Found | None, workers: int) -> str:
    """CPU and throughput by concurrency, and memory."""
    rows = of(found["plain"], workers=workers)
    then = earlier(before, "plain", workers=workers)
    levels = distinct(rows, "concurrency")
    middle = 16 if 16 in levels else levels[0]
    head = ["", *(f"CPU µs, c={c}" for c in levels), f"× nginx, c={middle}", *(f"requests/s, c={c}" for c in levels)]
    head += ["RSS MiB, start → end", "errors"]
    out = []
    for name in names(rows):

        def cell(key: str, c: int, name: str = name) -> str:
            now, was = (median(of(r, target=name, concurrency=c), key) for r in (rows, then))
            return beside(number(now), None if name == "direct" else number(was))

        memory = of(found["memory"], workers=workers, target=name)
        first, last = median(memory, "start_mb"), median(memory, "end_mb")
        by = times(ratio(of(rows, concurrency=middle), name, "nginx"))
        line = [name, *(cell("cpu_us", c) for c in levels), by, *(cell("rps", c) for c in levels)]
        out.append([*line, f"{number(first)} → {number(last)}" if memory else "–", faults(of(rows, target=name))])
    return table(head, out)


def latencies(found: Found, before: Found | None, workers: int) -> str:
    """What each adds to the engine's own latency."""
    rows = of(found["plain"], workers=workers)
    then = earlier(before, "plain", workers=workers)
    levels = distinct(rows, "concurrency")
    out = []
    for name in names(rows):
        line = [name]
        for c in levels:
            wanted = {"target": name, "workers": workers, "concurrency": c}
            if name == "direct":
                figures = [median(of(rows, **wanted), key) for key in ("p50_ms", "p90_ms", "p99_ms")]
            else:
                figures = [added(rows, key, wanted) for key in ("p50_ms", "p90_ms", "p99_ms")]
            was = added(then, "p50_ms", wanted) if then and name != "direct" else None
            line.append(" / ".join(number(figure, 2) for figure in figures) + (f" (p50 was {was:.2f})" if was else ""))
        out.append(line)
    return table(["ms p50 / p90 / p99", *(f"c={c}" for c in levels)], out)


def added(rows: Sequence[Row], key: str, wanted: Row) -> float | None:
    """The median of the differences to the engine's own in the same round."""
    own = {_round(row): row[key] for row in of(rows, **{**wanted, "target": "direct"})}
    differences = [row[key] - own[_round(row)] for row in of(rows, **wanted) if _round(row) in own]
    return statistics.median(differences) if differences else None


def ratio(rows: Sequence[Row], name: str, to: str) -> float | None:
    """The median of the ratios of two targets' CPU time in the same round."""
    own = {_round(row): row["cpu_us"] for row in of(rows, target=to)}
    ratios = [
        row["cpu_us"] / own[_round(row)] for row in of(rows, target=name) if "cpu_us" in row and _round(row) in own
    ]
    return statistics.median(ratios) if ratios else None


def _round(row: Row) -> tuple[Any, ...]:
    return row.get("run"), row["round"]


def firsts(rows: Sequence[Row]) -> tuple[float, float] | None:
    """Milliseconds to the first chunk, p50 and p99, over all streams of all rounds."""
    times = sorted(1000 * first for row in rows for first in row["first_s"])
    return (times[len(times) // 2], times[min(len(times) - 1, int(0.99 * len(times)))]) if times else None


def streams(found: Found, before: Found | None, workers: int, length: str) -> str:
    rows = of(found["streams"], workers=workers, length=length)
    then = earlier(before, "streams", workers=workers, length=length)
    own, old = (firsts(of(part, target="direct")) or (0.0, 0.0) for part in (rows, then))
    head = ["", "first chunk p50 / p99, ms", "over direct", "CPU µs a chunk", "× nginx", "chunks/s", "faults"]
    out = []
    for name in names(rows):
        mine = of(rows, target=name)
        first, was = firsts(mine), firsts(of(then, target=name))
        cpu, cpu_was = median(mine, "cpu_us"), median(of(then, target=name), "cpu_us")
        total = median(mine, "total_s")
        over = f"{first[0] - own[0]:.1f} / {first[1] - own[1]:.1f}" if first else "–"
        over_was = f"{was[0] - old[0]:.1f} / {was[1] - old[1]:.1f}" if was and name != "direct" else None
        rate = number(100 * found["options"]["streams"] / total) if total else "–"
        line = [name, f"{first[0]:.1f} / {first[1]:.1f}" if first else "–", beside(over, over_was)]
        out.append(
            [*line, beside(number(cpu, 1), number(cpu_was, 1)), times(ratio(rows, name, "nginx")), rate, lost(mine)]
        )
    return table(head, out)


def share(found: Found, workers: int) -> float | None:
    """Percent of the embedder's best pace in the same round that requests of new queries reach."""
    best = {_round(row): max(row["batch_16"], row["batch_32"]) for row in of(found["ceiling"], workers=workers)}
    rows = of(found["plain"], workers=workers, target="opo new", concurrency=16)
    parts = [100 * row["rps"] / best[_round(row)] for row in rows if _round(row) in best]
    return statistics.median(parts) if parts else None


def ceilings(found: Found) -> str:
    """What `opo` leaves of its embedder's own pace, at concurrency 16."""
    out = []
    for workers in distinct(found["ceiling"], "workers"):
        rates = [median(of(found["ceiling"], workers=workers), f"batch_{batch}") or 0.0 for batch in (16, 32)]
        part = share(found, workers)
        rps = median(of(found["plain"], workers=workers, target="opo new", concurrency=16), "rps")
        said = "–" if part is None else f"{part:.0f}%"
        out.append([str(workers), number(rates[0]), number(rates[1]), number(rps), said])
    head = ["workers", "embedder alone, batches of 16, queries/s", "of 32", "opo new, c=16, requests/s", "share"]
    return table(head, out)


def aims(found: Found) -> str:
    """What the project wants of the proxy, and what this run says (one worker)."""
    rows, level = of(found["plain"], workers=1), of(found["plain"], workers=1, concurrency=16)

    def cost(name: str, to: str) -> float | None:
        return ratio(level, name, to)

    def latency(name: str) -> float | None:
        return added(rows, "p50_ms", {"target": name, "concurrency": 1})

    def urial() -> float | None:
        both = latency("urial chat"), latency("raw")
        return None if None in both else both[0] - both[1]  # type: ignore[operator]

    lines: list[tuple[str, str, float | None, str, bool]] = [
        ("raw, CPU a request, × nginx, c=16", "at most 5", cost("raw", "nginx"), "×", False),
        ("urial chat, CPU a request, × nginx, c=16", "at most 8", cost("urial chat", "nginx"), "×", False),
        ("urial base, CPU a request, × nginx, c=16", "at most 12", cost("urial base", "nginx"), "×", False),
        ("LiteLLM, × raw", "at least 60", cost("LiteLLM", "raw"), "×", True),
        ("Portkey, × raw", "at least 10", cost("Portkey", "raw"), "×", True),
        ("raw adds, p50, c=1", "under 0.35", latency("raw"), "ms", False),
        ("urial (chat) adds to raw", "under 0.1", urial(), "ms", False),
        ("opo, new query, adds", "under 6", latency("opo new"), "ms", False),
        ("opo, cached query, adds", "under 1", latency("opo cached"), "ms", False),
        ("opo, new queries, of the embedder's pace, c=16", "at least 80", share(found, 1), "%", True),
    ]
    for length in distinct(of(found["streams"], workers=1), "length"):
        part = of(found["streams"], workers=1, length=length)
        own = firsts(of(part, target="direct"))
        for name, most_ms, most in (("raw", 8, 1.6), ("urial base", 15, 3)):
            mine, by = firsts(of(part, target=name)), ratio(part, name, "nginx")
            late = [now - then for now, then in zip(mine, own, strict=True)] if mine and own else [None, None]
            where = f"streams over {length}, {name}"
            lines += [
                (f"{where}, first chunk p50 over direct", f"within {most_ms}", late[0], "ms", False),
                (f"{where}, first chunk p99 over direct", "within 40", late[1], "ms", False),
                (f"{where}, CPU a chunk, × nginx", f"at most {most}", by, "×", False),
            ]
    out = []
    for what, wanted, value, unit, more in lines:
        if value is not None:
            bound = float(wanted.split()[-1])
            met = value >= bound if more else value <= bound
            out.append([what, f"{wanted} {unit}", f"{value:.2f} {unit}", "yes" if met else "no"])
    return table(["", "wanted", "measured", "met"], out)


def show(found: Found, before: Found | None = None) -> str:
    """Everything, as Markdown."""
    machine, options = found["machine"], found["options"]
    parts = [
        "; ".join(f"{key}: {value}" for key, value in machine.items()),
        "; ".join(f"{name} {version}" for name, version in found["versions"].items() if version),
        f"{options['rounds']} interleaved rounds, {options['seconds']:g} s of wrk each; an engine that takes "
        f"{options['reply_ms']:g} ms; medians over rounds.",
    ]
    parts += [f"Left out: {name} ({why})." for name, why in found["skipped"].items()]
    for workers in distinct(found["plain"], "workers"):
        parts.append(f"### Plain replies, {plural(workers)}\n\n{costs(found, before, workers)}")
        parts.append(f"Latency added to direct's own ({plural(workers)})\n\n{latencies(found, before, workers)}")
    for workers in distinct(found["streams"], "workers"):
        for length in distinct(of(found["streams"], workers=workers), "length"):
            title = f"### {options['streams']} streams of 100 chunks over {length}, {plural(workers)}"
            parts.append(f"{title}\n\n{streams(found, before, workers, length)}")
    if found["ceiling"]:
        parts.append(f"### What opo leaves of its embedder's pace\n\n{ceilings(found)}")
    if names(of(found["plain"], workers=1, target="raw")) or names(of(found["streams"], workers=1, target="raw")):
        parts.append(f"### Against what is wanted\n\n{aims(found)}")
    return "\n\n".join(parts)


def plural(workers: int) -> str:
    return "one worker" if workers == 1 else f"{workers} workers"


def draw(found: Found, file: Path, before: Found | None = None) -> None:
    """Three bars a proxy, logarithmic: CPU a request, requests a second, time to a stream's first chunk."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def plain(found: Found, name: str, key: str) -> float | None:
        return median(of(found["plain"], workers=1, target=name, concurrency=16), key)

    def first(found: Found, name: str) -> float | None:
        times = firsts(of(found["streams"], workers=1, target=name, length="1 s"))
        return times[0] if times else None

    panels: list[tuple[str, Callable[[Found, str], float | None]]] = [
        ("CPU a request, µs", lambda f, name: plain(f, name, "cpu_us")),
        ("requests a second", lambda f, name: plain(f, name, "rps")),
        ("first chunk of 64 streams, ms, p50", first),
    ]
    order = list(reversed(names(of(found["plain"], workers=1))))
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 0.42 * len(order) + 1.6), sharey=True, layout="constrained")
    for axis, (title, value) in zip(axes, panels, strict=True):
        for at, name in enumerate(order):
            colour = _YARD if name in ("direct", "nginx") else _PEER if name in _PEERS else _OURS
            if (now := value(found, name)) is None:
                continue
            axis.barh(at, now, color=colour, height=0.68)
            was = value(before, name) if before and colour == _OURS else None
            if was is not None:
                axis.plot(was, at, marker="D", color="white", markeredgecolor="#222222", markersize=5.5)
            axis.annotate(  # right of the bar and of the diamond, whichever reaches further
                f"{now:,.0f}" if now >= 10 else f"{now:.1f}", (max(now, was or 0), at), (4 if was is None else 9, 0),
                textcoords="offset points", va="center", fontsize=9, color="#222222",
            )  # fmt: skip
        axis.set_xscale("log")
        shown = [v for name in order if (v := value(found, name))]
        if shown:  # from a whole power of ten, to where the last figure has room
            axis.set_xlim(10 ** math.floor(math.log10(min(shown))), 12 * max(shown))
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axis.spines[side].set_visible(False)
    others = ("direct", "nginx", *_PEERS)
    axes[0].set_yticks(range(len(order)), [name if name in others else f"Trimtab, {name}" for name in order])
    machine = found["machine"]
    note = f"One worker, 16 connections, {machine['cores']} cores of {machine['cpu']} shared with load and engine."
    note += " Blue: Trimtab; orange: its peers; grey: the yardsticks." + (" Diamond: before." if before else "")
    figure.supxlabel(note, fontsize=9, color="#444444", x=0.01, ha="left")
    figure.savefig(file, dpi=130, facecolor="white")
    pyplot.close(figure)
