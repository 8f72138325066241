"""What a release check comes to: check.json for a change that requires it, check.xml (JUnit) for CI."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from trainers.ask.journal import write_whole
from trainers.evaluation.checks.limit import Check
from trainers.evaluation.checks.ruling import Outcome, Ruling, overall

SCHEMA = "trimtab-release-check/1"
STATUS: dict[Outcome, int] = {"passed": 0, "failed": 1, "undecided": 3}


@dataclass(frozen=True, slots=True)
class Checked:
    """Of what a check is the check: the policy with its digest, what it was compared with, and which prompts."""

    arm: str
    policy: str
    digest: str
    model: str
    baseline: str
    baseline_digest: str
    prompts: str  # SHA-256 of all questions
    incomplete: str = ""  # why the run does not count, where it does not


def write_result(folder: Path, check: Check, checked: Checked, rulings: Sequence[Ruling]) -> Outcome:
    """Write both files into `folder`, each whole or not at all; whether the check is passed."""
    outcome = overall(rulings)
    if outcome == "passed" and checked.incomplete:
        outcome = "undecided"
    told = json.dumps(document(check, checked, rulings, outcome), indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "check.json", told + "\n")
    write_whole(folder / "check.xml", junit(checked, rulings))
    return outcome


def document(check: Check, checked: Checked, rulings: Sequence[Ruling], outcome: Outcome) -> dict[str, Any]:
    """check.json. `policy`, `digest`, `outcome` and `at` are what a change reads."""
    about = asdict(checked)
    return {
        "schema": SCHEMA, "outcome": outcome, "policy": about.pop("policy"), "digest": about.pop("digest"),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **about, "check_sha256": check.sha256,
        "limits": [_row(ruling) for ruling in rulings],
    }  # fmt: skip


def _row(ruling: Ruling) -> dict[str, Any]:
    estimate = ruling.estimate
    numbers = asdict(estimate) if estimate is not None else {"value": None, "low": None, "high": None, "n": 0}
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in numbers.items()}
    limit = asdict(ruling.limit) | {"kinds": list(ruling.limit.kinds)}
    return {**limit, "outcome": ruling.outcome, **finite, "needed": ruling.needed, "words": ruling.words}


def junit(checked: Checked, rulings: Sequence[Ruling]) -> str:
    """The rulings as JUnit XML: a limit is a test case; one with too few questions is an error."""
    counts = {
        "tests": str(len(rulings) + bool(checked.incomplete)),
        "failures": str(sum(it.outcome == "failed" for it in rulings)),
        "errors": str(sum(it.outcome == "undecided" for it in rulings) + bool(checked.incomplete)),
    }
    suites = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(suites, "testsuite", {"name": f"trimtab eval --check: {checked.arm}", **counts})
    for ruling in rulings:
        case = Xml.SubElement(suite, "testcase", {"classname": checked.arm, "name": ruling.limit.name})
        if ruling.outcome != "passed":
            kind = "failure" if ruling.outcome == "failed" else "error"
            Xml.SubElement(case, kind, {"type": ruling.outcome, "message": ruling.words})
        else:
            Xml.SubElement(case, "system-out").text = ruling.words
    if checked.incomplete:
        case = Xml.SubElement(suite, "testcase", {"classname": checked.arm, "name": "every question was answered"})
        Xml.SubElement(case, "error", {"type": "incomplete", "message": checked.incomplete})
    Xml.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suites, encoding="unicode") + "\n"
