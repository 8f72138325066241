"""No import cycle in any package, imports inside functions included, and no two modules of one name in a package."""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("serve", "retrieval", "prompt_opt", "trainers")
# Packages whose modules have names of their own: a command is called as what it drives, and each wire API has the same
# parts.
APART = ("cli", "dialects")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(node: ast.AST, package: str) -> Iterator[str]:
    """Every name that is imported at any depth, but for `if TYPE_CHECKING:`, which imports nothing."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - child.level] if child.level else []
            base = ".".join([*above, *([child.module] if child.module else [])])
            yield from (f"{base}.{alias.name}" for alias in child.names)
        yield from imported(child, package)


def module_of(name: str, known: dict[str, Path]) -> str:
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def graph() -> dict[str, set[str]]:
    known = modules()
    found = {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found[name] = {module_of(target, known) for target in imported(tree, package)} - {"", name}
    return found


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycle(graph()) == []


def test_a_lazy_cycle_is_found() -> None:
    tree = ast.parse("def later():\n    from trainers import b\n")
    assert list(imported(tree, "trainers")) == ["trainers.b"]
    assert cycle({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize("package", PACKAGES)
def test_no_two_modules_of_one_name_in_a_package(package: str) -> None:
    names = Counter(
        path.stem
        for name, path in modules().items()
        if name.startswith(f"{package}.") and path.name != "__init__.py" and not set(name.split(".")) & set(APART)
    )
    assert not [name for name, count in names.items() if count > 1]
