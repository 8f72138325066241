"""python benchmarks/page.py: what the page weighs, and how soon it can be used.

A real Chromium before the real command and the fake engine: requests and bytes on the wire until the first paint and
until the page can be typed into, its first paint, and the time until then. Cold is an empty cache, warm a second visit.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.serve.conftest import Served
from tests.upstream import FakeUpstream

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
LOADED = """async () => {
    const seen = new Promise(done => new PerformanceObserver(done).observe({type: "paint", buffered: true}));
    await seen;
    const rows = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    const paint = performance.getEntriesByType("paint").at(-1).startTime;
    const before = rows.filter(row => row.responseEnd <= paint);
    const bytes = list => list.reduce((sum, row) => sum + row.transferSize, 0);
    return {paint, early: before.length, early_bytes: bytes(before), all: rows.length, all_bytes: bytes(rows)};
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, FakeUpstream() as upstream, sync_playwright() as playwright:
        served = Served(["--upstream", upstream.url, "--port", "0", "--state-dir", folder], Path(folder))
        browser = playwright.chromium.launch(executable_path=args.chromium, args=FLAGS)
        try:
            rounds = [visits(browser, served.url) for _ in range(args.rounds)]
        finally:
            browser.close()
            served.stop()
    print(f"{'':6}{'paint':>9}{'usable':>9}   {'to first paint':23}in all")
    for name, rows in zip(("cold", "warm"), zip(*rounds, strict=True), strict=True):
        middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
        weights = [f"{middle[n]:2.0f} requests, {middle[f'{n}_bytes'] / 1000:5.1f} kB" for n in ("early", "all")]
        print(f"{name:6}{middle['paint']:6.0f} ms{middle['usable']:6.0f} ms   {'   '.join(weights)}")


def visits(browser: Any, url: str) -> tuple[dict[str, float], dict[str, float]]:
    """A first visit with an empty cache, and a second one."""
    context = browser.new_context()
    page = context.new_page()
    # Usable: the question's field is there, which it is only after every module has run and the server has answered.
    page.add_init_script(
        "new MutationObserver((_, watch) => { if (document.querySelector('.composer textarea'))"
        " { globalThis.usable = performance.now(); watch.disconnect(); } })"
        ".observe(document, {childList: true, subtree: true})"
    )
    rows = []
    for _ in range(2):
        page.goto(url)
        page.get_by_label("Your question").wait_for()
        rows.append({**page.evaluate(LOADED), "usable": page.evaluate("usable")})
    context.close()
    return rows[0], rows[1]


if __name__ == "__main__":
    main()
