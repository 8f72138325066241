"""An approval that is killed before or after each thing that it writes is in force or not, never half."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_an_approval_that_is_killed_is_in_force_or_not() -> None:
    argv = [sys.executable, "-m", "benchmarks.change_kills", "--kills", "12", "--exact"]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"12 approvals, 12 killed", ran.stdout)
    assert " 0 half" in ran.stdout
    assert "account whole: True" in ran.stdout
