"""`trimtab export`: the folder loads, gives the trained logits and tokens, and says what it is made of."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from tests.trainers.scripted_critic import ScriptedCritic, marked, parts
from tests.trainers.toy import arguments, pair_rows, write
from trainers import command
from trainers.data.tokens import encode_prompt
from trainers.export import release
from trainers.run import weights


@pytest.fixture(scope="module")
def runs(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs: a chat model by LoRA, one without a chat template by SFT, a reward model, a rewriter."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = write(folder / "pairs.jsonl", pair_rows(16))
    keys: dict[str, Any] = {"model": toy, "train": str(pairs), "heldout_fraction": 0.2, "report_to": []}
    chat = {"chat_template": "dialogue", "lora_rank": 4, "license": "mit"}
    assert command.main(["dpo", *arguments(folder / "chat", **keys, **chat)]) == 0
    assert command.main(["sft", *arguments(folder / "plain", **keys)]) == 0
    assert command.main(["reward", *arguments(folder / "reward", **keys, **chat)]) == 0
    with ScriptedCritic(lambda asked: marked(parts(asked)[0] + " Say why.")) as critic:
        more = {
            "critic_url": critic.url,
            "critic_model": "judge",
            "max_length": 256,
            "max_new_tokens": 4,
            "gate": False,
        }
        assert command.main(["bpo", *arguments(folder / "rewriter", **keys | more, lora_rank=4)]) == 0
    return folder


def front(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


def test_an_adapter_is_merged_and_gives_the_trained_logits(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert release.main(["--run", str(runs / "chat"), "--out", str(out), "--dtype", "float32", "--keep-adapter"]) == 0
    said = capsys.readouterr().err
    assert "adapter against merged (float32): max abs difference" in said
    tokenizer = AutoTokenizer.from_pretrained(out)
    ids = tokenizer("say 3: dog mat", return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    trained = weights.load_trained(runs / "chat" / "final")
    assert (model(**ids).logits - trained(**ids).logits).abs().max() < 1e-5
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sorted(path.name for path in (out / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    checked = json.loads((out / "run.json").read_text())["exported"]
    assert checked["merged_logits_max_abs_difference"] < 1e-5
    assert checked["template"] == {"kind": "chat", "prompts_compared": 16}


def test_a_server_makes_the_trained_tokens_of_a_chat(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert release.main(["--run", str(runs / "chat"), "--out", str(out)]) == 0
    served = AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "say 3: dog"}]
    ids = served.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    assert list(ids) == encode_prompt("say 3: dog", AutoTokenizer.from_pretrained(runs / "chat" / "final"))
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((out / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_template_that_was_changed_after_training_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = release.save

    def save(final: Path, draft: Path, dtype: str) -> dict[str, Any]:
        done = saved(final, draft, dtype)
        template = draft / "chat_template.jinja"
        template.write_text(template.read_text().replace("\\n\\nAssistant:", "\\nAssistant:"))
        return done

    monkeypatch.setattr(release, "save", save)
    assert release.main(["--run", str(runs / "chat"), "--out", str(tmp_path / "mine")]) == 2
    assert "the exported template is not the trained one: token" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_merge_that_changes_the_model_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(weights, "PARITY", 1e-12)
    assert release.main(["--run", str(runs / "chat"), "--out", str(tmp_path / "mine")]) == 2
    assert "differ from the adapter's by" in capsys.readouterr().err


def test_a_rewriter_is_checked_on_the_template_that_the_server_asks_it_with(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rewriter"
    assert release.main(["--run", str(runs / "rewriter"), "--out", str(out)]) == 0
    assert "template (the rewriter's): 1" in capsys.readouterr().err
    card = (out / "README.md").read_text()
    assert 'template = "bpo"' in card
    assert "| exact_match |" in card
    assert "arXiv:2311.04155" in card
    # A prompt that was trained on differently would be another model than the one that is served.
    path = runs / "rewriter" / "sft_train.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("expert prompt engineer", "expert prompter"))
    assert release.main(["--run", str(runs / "rewriter"), "--out", str(tmp_path / "other")]) == 2
    assert "the exported template is not the trained one" in capsys.readouterr().err
    path.write_text(whole)


def test_plain_and_reward_models_are_exported(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--run", str(runs / "plain"), "--out", str(tmp_path / "plain")]) == 0
    assert "template (plain text)" in capsys.readouterr().err
    assert front((tmp_path / "plain" / "README.md").read_text())["pipeline_tag"] == "text-generation"
    assert release.main(["--run", str(runs / "reward"), "--out", str(tmp_path / "reward"), "--dtype", "float32"]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "reward")
    ids = tokenizer("say 3: dog mat", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward", dtype=torch.float32)
    trained = weights.load_trained(runs / "reward" / "final")
    assert model(**ids).logits.shape == (1, 1)
    assert (model(**ids).logits - trained(**ids).logits).abs().max() < 1e-5


def test_the_card_says_what_it_is_made_of(runs: Path, tmp_path: Path) -> None:
    assert release.main(["--run", str(runs / "chat"), "--out", str(tmp_path / "mine")]) == 0
    card = (tmp_path / "mine" / "README.md").read_text()
    assert front(card)["license"] == "mit"
    assert front(card)["tags"] == ["trimtab", "pair"]
    run = json.loads((runs / "chat" / "run.json").read_text())
    assert run["data_sha256"]["the data of train"] in card
    assert "| loss | 0.6931 |" in card
    assert "trimtab serve --model PATH/mine" in card
    assert str(tmp_path.parent) not in card + (tmp_path / "mine" / "run.json").read_text()
    assert release.main(["--run", str(runs / "plain"), "--out", str(tmp_path / "plain"), "--license", "cc0-1.0"]) == 0
    assert front((tmp_path / "plain" / "README.md").read_text())["license"] == "cc0-1.0"


def test_what_cannot_be_exported_is_said(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--run", str(tmp_path), "--out", str(tmp_path / "mine")]) == 2
    assert "no run.json there" in capsys.readouterr().err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    assert release.main(["--run", str(runs / "plain"), "--out", str(tmp_path / "taken")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert release.main(["--run", str(runs / "plain"), "--out", str(tmp_path / "mine"), "--keep-adapter"]) == 2
    assert "there is no adapter" in capsys.readouterr().err


def test_a_run_of_an_unknown_method_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody could say what its tokens should be compared on."""
    strange = tmp_path / "strange"
    shutil.copytree(runs / "plain", strange)
    record = json.loads((strange / "run.json").read_text())
    for method in ("dreaming", None):
        (strange / "run.json").write_text(json.dumps(record | {"method": method}))
        assert release.main(["--run", str(strange), "--out", str(tmp_path / "mine")]) == 2
        assert f"names the method {str(method)!r}, which has no row" in capsys.readouterr().err
        assert not (tmp_path / "mine").exists()
