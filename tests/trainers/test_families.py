"""The check and a training accept the special tokens and templates of real model families, and find a real fault."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.trainers.families import FAMILIES, Family, build_family, ids
from tests.trainers.toy import arguments, write
from trainers import check
from trainers.data.tokens import encode
from trainers.export import release
from trainers.methods import pair

USER, GOOD, BAD = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "yes"), ("assistant", "no")))
SYSTEM = {"role": "system", "content": "be short"}
# Several turns, so that whatever a template repeats for each turn is repeated here.
PAIRS = [
    {"prompt": [USER, GOOD, {"role": "user", "content": f"say {i}"}], "chosen": [GOOD], "rejected": [BAD]}
    for i in range(8)
]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param  # type: ignore[no-any-return]


def findings(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, dict[str, Any]]:
    status = check.main([*line, "--set", "heldout_fraction=0", "--json"])
    return status, {finding["code"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_sound_dialogues_have_no_finding(family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_family(family, tmp_path / "model")
    data = write(tmp_path / "d.jsonl", PAIRS)
    assert findings(capsys, "--data", str(data), "--model", model) == (0, {})


def test_a_doubled_beginning_is_found_in_every_family_that_has_one(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_family(family, tmp_path / "model")
    if family.begin is None:
        pytest.skip("its texts have no beginning token")
    starts = AutoTokenizer.from_pretrained(model).apply_chat_template([USER], tokenize=False).startswith(family.begin)
    doubled = ("" if starts else family.begin) + family.begin + family.template
    (tmp_path / "t.jinja").write_text(doubled)
    data = write(tmp_path / "d.jsonl", PAIRS)
    line = ["--data", str(data), "--model", model, "--set", f"chat_template={tmp_path / 't.jinja'}"]
    status, found = findings(capsys, *line)
    assert status == 2
    assert len(found["bos"]["rows"]) == len(PAIRS)


def test_only_the_answer_is_learned_and_its_last_token_ends_generation(family: Family, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(build_family(family, tmp_path / "model"))
    row = encode({"place": "", "prompt": PAIRS[0]["prompt"], "completion": [GOOD]}, tokenizer)
    said = tokenizer.decode(row.answers["completion"], skip_special_tokens=True)
    assert said.replace("<think>", "").replace("</think>", "").strip() == "yes"
    assert row.answers["completion"][-1] == tokenizer.eos_token_id
    asked = tokenizer.apply_chat_template(PAIRS[0]["prompt"], add_generation_prompt=True, return_dict=False)
    assert row.prompt == asked


def test_a_system_message_is_rendered_or_refused_but_never_dropped(
    family: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_family(family, tmp_path / "model")
    row = {"system": SYSTEM["content"], "prompt": "hi", "chosen": "yes", "rejected": "no"}
    data = write(tmp_path / "d.jsonl", [row])
    status, found = findings(capsys, "--data", str(data), "--model", model)
    if family.name in ("gemma", "mistral"):
        assert status == 2
        assert "upport" in found["read"]["message"]
        return
    assert (status, found) == (0, {})
    tokenizer = AutoTokenizer.from_pretrained(model)
    shaped = {"place": "", "prompt": [SYSTEM, USER], "completion": [GOOD]}
    assert "be short" in tokenizer.decode(encode(shaped, tokenizer).prompt)


def test_a_template_that_leaves_a_message_out_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_family(FAMILIES[0], tmp_path / "model")
    (tmp_path / "t.jinja").write_text("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}")
    data = write(tmp_path / "d.jsonl", [{"system": SYSTEM["content"], "prompt": "hi", "completion": "yes"}])
    line = ["--data", str(data), "--model", model, "--set", f"chat_template={tmp_path / 't.jinja'}"]
    status, found = findings(capsys, *line)
    assert status == 2
    assert "the chat template leaves out the system message" in found["read"]["message"]


@pytest.mark.parametrize(
    "family", [each for each in FAMILIES if each.name in ("gemma", "llama-3", "glm-4")], ids=lambda family: family.name
)
def test_a_trained_model_ends_where_its_base_did(family: Family, tmp_path: Path) -> None:
    model, out = build_family(family, tmp_path / "model"), tmp_path / "run"
    data = write(tmp_path / "d.jsonl", PAIRS)
    keys: dict[str, Any] = {"model": model, "train": str(data), "steps": 1, "heldout_fraction": 0, "report_to": []}
    assert pair.main(arguments(out, **keys)) == 0
    assert release.main(["--run", str(out), "--out", str(tmp_path / "mine")]) == 0
    made = json.loads((tmp_path / "mine" / "generation_config.json").read_text())["eos_token_id"]
    assert set(made) == set(ids(AutoTokenizer.from_pretrained(model), family.ends))
