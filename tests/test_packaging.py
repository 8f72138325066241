"""What the package declares. `.ci/lowest` and `.ci/wheel` install it; here is what they would find too late."""

from __future__ import annotations

import os
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ROOT = Path(__file__).parent.parent
CORE = {
    (it := Requirement(text)).name: it
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
}


def test_uvicorn_is_bounded_on_both_sides_because_its_private_methods_are_used() -> None:
    bound = CORE["uvicorn"].specifier
    assert version("uvicorn") in bound
    assert "0.44.0" not in bound, "without `_start_asgi_task` every chat is a 400"
    assert "0.99.0" not in bound, "a version that nobody has tried"
    for name in ("_start_asgi_task", "_unset_keepalive_if_required", "_unsupported_upgrade_warning"):
        assert callable(getattr(HttpToolsProtocol, name)), name


def test_every_dependency_of_the_core_says_its_lowest_version_and_fits_what_is_tested() -> None:
    for name, requirement in CORE.items():
        assert any(spec.operator == ">=" for spec in requirement.specifier), name
        assert version(name) in requirement.specifier, name


def test_the_install_jobs_can_be_run() -> None:
    assert all(os.access(ROOT / ".ci" / job, os.X_OK) for job in ("run", "lowest", "wheel"))
