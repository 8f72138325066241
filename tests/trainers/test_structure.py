"""The trainers' modules: no import cycle, lazy imports included, and no two of one name."""

import ast
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "trainers").rglob("*.py"))
}


def imports(name: str) -> set[str]:
    """The trainers' modules that one imports, anywhere in it: at the top, in a function, or for its types."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            within = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= within or ({node.module} & MODULES.keys())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found - {name}


def test_no_import_cycle_lazy_ones_included() -> None:
    """Modules that import nothing that is left are removed, again and again; what stays is on a cycle."""
    left = {name: imports(name) for name in MODULES}
    while free := [name for name, uses in left.items() if not uses & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"import cycle among {sorted(left)}"


def test_no_two_modules_or_folders_of_one_name() -> None:
    names = Counter(name.rpartition(".")[2] for name in MODULES if name != "trainers")
    assert [name for name, number in names.items() if number > 1] == []
