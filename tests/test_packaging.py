"""What the package declares. `.ci/lowest` and `.ci/wheel` install it; here is what they would find too late."""

from __future__ import annotations

import os
import subprocess
import sys
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


WITHOUT = """
import sys
for name in sys.argv[3:]:
    sys.modules[name] = None
from retrieval.search.index import Index
from serve.cli.command import main
assert main(["index", "build", sys.argv[1], "--input", sys.argv[2], "--embedder", "none"]) == 0
with Index.open(sys.argv[1], readonly=True) as index:
    assert index.search("When do you close on Saturday?", 1)
"""


def test_the_demo_installs_all_that_its_index_imports(tmp_path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = {name: {Requirement(it).name for it in extras[name]} for name in ("demo", "retrieval", "documents")}
    others = (named["retrieval"] | named["documents"]) - named["demo"]
    absent = {"faiss" if name == "faiss-cpu" else name.replace("-", "_") for name in others}
    assert {"faiss", "torch", "lxml"} <= absent
    command = [sys.executable, "-c", WITHOUT, str(tmp_path / "shop"), "docs/examples/shop/rules.jsonl", *sorted(absent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
