"""Recipes: what they may hold, and what a wrong one is told."""

import itertools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pytest

from trainers.flywheel.flywheel_recipe import Recipe as FlywheelRecipe
from trainers.methods.table import METHODS
from trainers.run.recipe import RecipeError, fill, read_recipe

FOLDER = Path(__file__).parents[2] / "trainers" / "recipes"
KINDS: dict[str, Any] = {name: method.recipe for name, method in METHODS.items()} | {"flywheel": FlywheelRecipe}
SHIPPED = sorted(path for path in FOLDER.glob("*.yaml") if not path.stem.startswith("tiny_"))


@dataclass(frozen=True)
class Toy:
    model: str
    steps: int | None = None
    rate: float = 1.0
    loud: bool = False
    schedule: Literal["linear", "cosine"] = "linear"
    targets: list[str] | None = None
    weights: list[float] | None = None
    bf16: Literal["auto"] | bool = "auto"


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    lines = ["model: m", "steps: null", "rate: 1e-5", "loud: true", "schedule: cosine", "targets: [a, b]"]
    (tmp_path / "r.yaml").write_text("\n".join([*lines, "weights: [1, 2.5]", "bf16: no"]))
    recipe = read_recipe(tmp_path / "r.yaml", Toy)
    assert recipe == Toy("m", None, 1e-5, True, "cosine", ["a", "b"], [1.0, 2.5], False)
    assert type(recipe.weights and recipe.weights[0]) is float
    assert read_recipe(tmp_path / "r.yaml", Toy, ["rate=2", "targets=[c]", "steps=7"]).steps == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model": "m", "shedule": "linear"},
            "unknown key 'shedule' (did you mean 'schedule'?); valid keys: bf16, loud",
        ),
        ({"model": "m", "zzz": 1}, "unknown key 'zzz'; valid keys: bf16, loud"),
        ({}, "missing key 'model'"),
        ({"model": 3}, "'model' must be text, not 3"),
        ({"model": "m", "steps": 1.5}, "'steps' must be a whole number or null, not 1.5"),
        ({"model": "m", "steps": True}, "'steps' must be a whole number or null, not True"),
        ({"model": "m", "rate": "fast"}, "'rate' must be a number, not 'fast'"),
        ({"model": "m", "loud": 1}, "'loud' must be true or false, not 1"),
        ({"model": "m", "schedule": "sine"}, "'schedule' must be one of linear, cosine, not 'sine'"),
        ({"model": "m", "targets": "a"}, "'targets' must be a list, each text or null, not 'a'"),
        ({"model": "m", "weights": [1, "b"]}, "'weights' must be a list, each a number or null, not [1, 'b']"),
        ({"model": "m", "bf16": "yes"}, "'bf16' must be one of auto or true or false, not 'yes'"),
    ],
)
def test_wrong_recipe_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        fill(Toy, values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "a recipe is a mapping of keys to values"),
        ("a: [\n", "not YAML"),
        ("model: a\nmodel: b\n", "duplicate key 'model'"),
        ("a: " + "[" * 5000, "nested too deeply"),
        (None, "no such recipe; shipped ones are bpo, "),
    ],
)
def test_unreadable_recipe_names_the_file(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "r.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=f"r.yaml: {message}"):
        read_recipe(path, Toy)


def test_a_folder_in_a_recipe_s_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=f"^{tmp_path}: Is a directory"):
        read_recipe(tmp_path, Toy)


@pytest.mark.parametrize("change", ["rate", "rate=[", "pace=1"])
def test_wrong_override_is_refused(tmp_path: Path, change: str) -> None:
    (tmp_path / "r.yaml").write_text("model: m\n")
    with pytest.raises(RecipeError, match=r"not key=value|not YAML|unknown key 'pace'"):
        read_recipe(tmp_path / "r.yaml", Toy, [change])


def test_every_method_ships_a_recipe() -> None:
    """cpt's three make the embedded model, so they carry its name."""
    assert {path.stem for path in SHIPPED} == KINDS.keys() - {"cpt"}
    assert list(FOLDER.glob("tiny_*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_explains_every_key(path: Path) -> None:
    kind = KINDS[path.stem]
    read_recipe(path, kind)
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = {line.partition(":")[0] for line in lines if line and line[0].isalpha()}
    assert keys == {field.name for field in fields(kind)}
    for above, line in itertools.pairwise(lines):
        assert not line or line.startswith(("#", " ")) or above.startswith("#"), f"no comment above {line!r}"


def test_shipped_recipe_is_found_by_its_name_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kind = METHODS["sft"].recipe
    recipe = read_recipe(Path("sft"), kind)
    assert Path(recipe.model, "config.json").is_file(), "its packaged model is where the packages are"
    assert read_recipe(Path("sft"), kind, ["model=m"]).model == "m"
