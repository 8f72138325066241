"""A GGUF file is a model that trainers start from."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from serve.config import EMBEDDED
from tests.serve import toy_gguf
from trainers.run.gguf_model import unpacked
from trainers.run.model import folder_of
from trainers.run.recipe import RecipeError


def test_a_gguf_file_unpacks_once_to_the_weights_that_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    file = toy_gguf.write(tmp_path / "toy.gguf")
    folder = Path(folder_of(str(file)))
    original, found = load_file(EMBEDDED / "model.safetensors"), load_file(folder / "model.safetensors")
    assert found.keys() == original.keys()
    assert all((found[name] == original[name].float()).all() for name in original)
    assert (folder / "tokenizer.json").is_file()
    made = folder.stat().st_mtime_ns
    assert unpacked(file) == folder
    assert folder.stat().st_mtime_ns == made
    assert [each.name for each in folder.parent.iterdir()] == [folder.name], "nothing else is left"


def test_what_is_no_gguf_file_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RecipeError, match="no such file"):
        folder_of(str(tmp_path / "none.gguf"))
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(RecipeError, match=r"text\.gguf"):
        folder_of(str(tmp_path / "text.gguf"))
