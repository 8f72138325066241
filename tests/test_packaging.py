"""What the package declares. `.ci/lowest` and `.ci/wheel` install it; here is what they would find too late."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CORE = {
    (it := Requirement(text)).name: it
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
}


def test_the_server_stands_on_no_other_one() -> None:
    assert "uvicorn" not in CORE
    sources = [path for path in (ROOT / "serve").rglob("*.py") if "import uvicorn" in path.read_text("utf-8")]
    assert not sources


def test_every_dependency_of_the_core_says_its_lowest_version_and_fits_what_is_tested() -> None:
    for name, requirement in CORE.items():
        assert any(spec.operator == ">=" for spec in requirement.specifier), name
        assert version(name) in requirement.specifier, name


def test_the_install_jobs_can_be_run() -> None:
    assert all(os.access(ROOT / ".ci" / job, os.X_OK) for job in ("run", "lowest", "wheel"))
