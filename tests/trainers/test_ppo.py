"""`trimtab train ppo` on a toy: what is learned, the traps, kills at four places, several processes, engines."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.ppo_kills import PLACES, killed, together
from tests.trainers.seeded_engine import SeededEngine
from tests.trainers.toy import arguments, history, logged, same_weights, write
from trainers import command
from trainers.methods import reward
from trainers.ppo import ppo_run
from trainers.ppo.build import actor_of, critic_of
from trainers.ppo.learner import Evaluated, Learner, Sums, Target, weights_of
from trainers.ppo.networks import Actor, Critic
from trainers.ppo.optimizer import Optimizer
from trainers.ppo.ppo_recipe import Recipe, check
from trainers.ppo.rollout import Rollout, rollout_of
from trainers.ppo.token_rewards import Running
from trainers.ppo.world import World
from trainers.run.model import load
from trainers.run.recipe import RecipeError

RULE = "def letters(prompt, answer):\n    return answer.count('a') - 0.5 * (not answer)\n"


def keys(toy: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    rule = tmp_path / "letters.py"
    rule.write_text(RULE)
    data = write(tmp_path / "prompts.jsonl", [{"prompt": f"say {'it ' * (i % 3)}{i}\n"} for i in range(12)])
    return {
        "model": toy, "train": str(data), "heldout_fraction": 0.2, "scorer": "rule", "rule": f"{rule}:letters",
        "batch": 8, "micro_batch": 4, "minibatch": 4, "steps": 3, "max_new_tokens": 6, "report_to": [],
        "learning_rate": 1e-3, "save_every": 2,
    } | more  # fmt: skip


def run_of(out: Path, **given: Any) -> dict[str, Any]:
    assert command.main(["ppo", *arguments(out, **given)]) == 0
    run: dict[str, Any] = json.loads((out / "run.json").read_text())
    return run


# ---------------------------------------------------------------- a step by itself


@pytest.fixture(scope="module")
def parts(toy: str) -> tuple[Recipe, Actor, Critic, Rollout]:
    """Networks of the toy whose weights have moved from the reference's, and answers of unequal lengths."""
    torch.set_num_threads(1)
    recipe = Recipe(model=toy, train="", scorer="rule", rule="r", batch=8, micro_batch=2, minibatch=4, lora_rank=2,
                    max_length=96)  # fmt: skip
    base, device = load(recipe), torch.device("cpu")
    actor, critic = actor_of(recipe, base, device), critic_of(recipe, base, device)
    assert critic is not None
    torch.manual_seed(4)
    for parameter in [*actor.parameters(), *critic.parameters()]:
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    draw = torch.Generator().manual_seed(1)
    lengths = [6, 1, 3, 2, 5, 4, 1, 6]
    prompts = [torch.randint(4, 200, (2 + i % 3,), generator=draw).tolist() for i in range(8)]
    answers = [torch.randint(4, 200, (n,), generator=draw).tolist() for n in lengths]
    pad = base.tokenizer.pad_token_id
    scores = [float(i) for i in range(8)]
    return recipe, actor, critic, rollout_of(prompts, answers, scores, [False] * 7 + [True], pad, 6)


def learner_of(recipe: Recipe, actor: Actor, critic: Critic) -> Learner:
    return Learner(recipe, actor, critic, Optimizer("policy", actor, lambda update: 0.0),
                   Optimizer("critic", critic, lambda update: 0.0), World())  # fmt: skip


def changed(recipe: Recipe, **more: Any) -> Recipe:
    from dataclasses import replace

    return replace(recipe, **more)


def test_log_probabilities_and_values_are_those_of_each_answer_alone(
    parts: tuple[Recipe, Actor, Critic, Rollout],
) -> None:
    """By hand, a row at a time: no padding, no neighbour; the value is that of the state before its token."""
    recipe, actor, critic, rollout = parts
    known = learner_of(recipe, actor, critic).evaluate(rollout, 0)
    assert known.values is not None
    trunk = critic.model.get_base_model()
    for i in range(len(rollout)):
        prompt = rollout.prompts[i][rollout.prompt_mask[i]]
        answer = rollout.answers[i][rollout.mask[i]]
        ids = torch.cat([prompt, answer])[None]
        with torch.no_grad():
            logs = actor.model(ids).logits[0].log_softmax(-1)
            with actor.model.disable_adapter():
                before = actor.model(ids).logits[0].log_softmax(-1)
            hidden = trunk.model(ids).last_hidden_state[0]
            values = trunk.score(hidden).squeeze(-1)
        for t, token in enumerate(answer.tolist()):
            at = len(prompt) + t - 1  # the state before the token
            assert known.old[i, t].item() == pytest.approx(logs[at, token].item(), abs=1e-5)
            assert known.reference[i, t].item() == pytest.approx(before[at, token].item(), abs=1e-5)
            assert known.values[i, t].item() == pytest.approx(values[at].item(), abs=1e-5)
            entropy = -(logs[at].exp() * logs[at]).sum().item()
            assert known.entropy[i, t].item() == pytest.approx(entropy, abs=1e-5)
    for table in (known.old, known.reference, known.values, known.entropy):
        assert not table[~rollout.mask].any()
    assert not known.old.equal(known.reference)


def gradients(recipe: Recipe, actor: Actor, critic: Critic, rollout: Rollout, world: World | None = None) -> Any:
    """Of policy and critic in the first update of a step, and its log."""
    learner = learner_of(recipe, actor, critic)
    if world is not None:
        learner.world = world
    known = learner.evaluate(rollout, 0)
    target = learner.target(rollout, known, Running(), 0.1)
    found: dict[str, Any] = {}

    def keep(optimizer: Optimizer) -> float:
        found[optimizer.name] = [p.grad.clone() for p in optimizer.parameters if p.grad is not None]
        optimizer.step()
        return 1.0

    learner._update = keep  # type: ignore[method-assign]
    log = learner.learn(rollout, known, target, 0, 0.1)
    return found, log, target


@pytest.mark.parametrize("mean", ["token", "answer"])
def test_loss_and_gradient_do_not_depend_on_the_micro_batch(
    parts: tuple[Recipe, Actor, Critic, Rollout], mean: str
) -> None:
    recipe, actor, critic, rollout = parts
    more = {"minibatch": 8, "loss_mean": mean, "kl_in": "loss", "kl_estimator": "k3", "entropy_coefficient": 0.01}
    whole, one = (gradients(changed(recipe, micro_batch=n, **more), actor, critic, rollout) for n in (8, 1))
    for name in ("policy", "critic"):
        assert max(float(g.abs().max()) for g in whole[0][name]) > 1e-4
        for left, right in zip(whole[0][name], one[0][name], strict=True):
            assert torch.allclose(left, right, rtol=1e-4, atol=1e-6)
    for name in ("loss", "value_loss", "clip_share"):
        assert one[1][name] == pytest.approx(whole[1][name], rel=1e-4, abs=1e-6)


def test_the_first_ratio_is_exactly_one(parts: tuple[Recipe, Actor, Critic, Rollout]) -> None:
    """For both computations of the log-probabilities see the very same micro-batches, in the same order."""
    recipe, actor, critic, rollout = parts
    seen: list[list[list[int]]] = []
    hook = actor.register_forward_pre_hook(lambda _, given: seen.append(given[0].ids.tolist()))
    _, log, target = gradients(recipe, actor, critic, rollout)
    hook.remove()
    assert len(seen) == 8
    assert seen[:4] == seen[4:]
    assert log["ratio"] == 0.0
    assert log["clip_share"] == 0.0
    mask = rollout.mask
    assert log["loss"] == pytest.approx(-float(target.advantages.sum() / mask.sum()), abs=1e-6)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_grpos_loss_is_that_of_trl(parts: tuple[Recipe, Actor, Critic, Rollout], tmp_path: Path) -> None:
    """The same tokens, old log-probabilities and advantages in TRL's GRPOTrainer: k3 in the loss, a mean of means."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    recipe, actor, critic, rollout = parts
    more: dict[str, Any] = {"loss_mean": "answer", "kl_in": "loss", "kl_estimator": "k3", "micro_batch": 8}
    learner = learner_of(changed(recipe, **more, minibatch=8), actor, critic)
    known = learner.evaluate(rollout, 0)
    old = known.old + 0.3 * torch.randn(known.old.shape, generator=torch.Generator().manual_seed(2))
    advantages = torch.linspace(-1, 1, 8)
    target = Target(advantages[:, None] * rollout.mask, torch.zeros_like(old))
    rows = torch.arange(8)
    batch = rollout.batch(rows)
    each = learner._policy_terms(
        actor(batch), batch, Evaluated(old, known.reference, known.entropy, known.values), target, rollout, rows, 0.1,
        Sums(),
    )  # fmt: skip
    ours = float((each * weights_of(rollout.mask, rows, "answer")).sum().detach())
    config = GRPOConfig(str(tmp_path), loss_type="grpo", beta=0.1, use_cpu=True, bf16=False, num_generations=2,
                        per_device_train_batch_size=2, report_to="none", use_bias_correction_kl=False)  # fmt: skip
    trainer = GRPOTrainer(
        deepcopy(actor.model),
        lambda **_: [],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"]}),
        processing_class=load(recipe).tokenizer,
    )
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer._compute_loss(trainer.model, {
        "prompt_ids": rollout.prompts, "prompt_mask": rollout.prompt_mask.long(), "completion_ids": rollout.answers,
        "completion_mask": rollout.mask.long(), "advantages": advantages, "old_per_token_logps": old,
        "ref_per_token_logps": known.reference,
    })  # fmt: skip
    assert ours == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_truncated_answers_get_the_penalty_of_the_recipe(parts: tuple[Recipe, Actor, Critic, Rollout]) -> None:
    recipe, actor, critic, rollout = parts
    plain, punished = (
        learner_of(changed(recipe, truncated_penalty=penalty, whiten_advantages=False, lam=1.0), actor, critic)
        for penalty in (0.0, 3.0)
    )
    known = plain.evaluate(rollout, 0)
    without, with_penalty = (each.target(rollout, known, Running(), 0.1) for each in (plain, punished))
    apart = (without.returns - with_penalty.returns)[rollout.mask]
    cut = rollout.cut[:, None].expand_as(rollout.mask)[rollout.mask]
    assert torch.allclose(apart, 3.0 * cut, atol=1e-5)


def test_answers_without_a_score_teach_nothing(parts: tuple[Recipe, Actor, Critic, Rollout]) -> None:
    _, _, _, rollout = parts
    found = rollout_of([[5], [6, 7], [8]], [[9], [10], []], [1.0, None, 3.0], [False] * 3, 0, 2)
    assert found.mask.tolist() == [[True, False], [False, False], [False, False]]
    assert found.known.tolist() == [True, False, False]
    assert found.prompts.tolist() == [[0, 5], [6, 7], [0, 8]]
    assert rollout.batch(torch.tensor([1])).ids.shape[1] == rollout.prompt_mask[1].sum() + 1


# ---------------------------------------------------------------- whole runs


def test_a_run_raises_the_score_and_leaves_everything_behind(toy: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    more: dict[str, Any] = {"steps": 12, "batch": 32, "micro_batch": 16, "minibatch": 16, "inner_epochs": 2}
    more |= {"learning_rate": 5e-3, "kl_coefficient": 0.01, "ema": 0.9, "critic_updates": 2, "critic_warmup": 1}
    more |= {"whiten_rewards": "running", "reward_clip": 5.0, "kl_target": 1.0, "samples_every": 6, "save_every": 6}
    run = run_of(out, **keys(toy, tmp_path, **more, report_to=["tensorboard"]))
    scores = logged(out, "score")
    assert sum(scores[-3:]) / 3 > sum(scores[:2]) / 2 + 0.3
    entries = history(out)
    wanted = {"kl", "kl_k3", "entropy", "clip_share", "value_loss", "explained_variance", "tokens", "truncated", "loss"}
    assert wanted <= entries[-1].keys()
    assert "loss" not in entries[0]  # the critic alone learns in its warm-up
    assert entries[0]["kl"] == 0.0
    assert min(entry["kl_k3"] for entry in entries) >= 0.0
    assert entries[-1]["kl_coefficient"] != 0.01
    assert run["heldout"]["kl"] > 0
    assert run["heldout_before"]["kl"] == 0.0
    assert run["phases"].keys() == {"generate", "score", "evaluate", "update"}
    for name in ("final", "ema", "critic"):
        assert (out / name / "model.safetensors").is_file()
    assert not same_weights(out / "final", out / "ema")
    assert sorted(path.name for path in (out / "samples").iterdir()) == [
        "step-1.jsonl",
        "step-12.jsonl",
        "step-6.jsonl",
    ]
    assert (out / "curve.png").stat().st_size > 1000
    assert list((out / "logs").glob("events*"))


def test_the_critic_starts_from_the_reward_model_and_moves(toy: str, pairs: Path, tmp_path: Path) -> None:
    scored = tmp_path / "reward"
    assert reward.main(arguments(scored, model=toy, train=str(pairs), heldout_fraction=0, steps=2, report_to=[])) == 0
    out = tmp_path / "run"
    run_of(out, **keys(toy, tmp_path, scorer="reward", reward_model=str(scored / "final"), steps=2))
    before, after = (load_file(folder / "model.safetensors") for folder in (scored / "final", out / "critic"))
    assert before.keys() == after.keys()
    apart = max(float((before[name] - after[name]).abs().max()) for name in before)
    assert 1e-4 < apart < 0.1


@pytest.mark.parametrize(
    "more",
    [
        {"advantage": "rloo", "answers": 2, "lora_rank": 2, "gradient_checkpointing": True},
        {"advantage": "grpo", "answers": 4, "kl_in": "loss", "kl_estimator": "k3", "loss_mean": "answer"},
        {"shared_trunk": True, "stop_gradient": False, "dual_clip": 3.0, "lam_critic": 1.0, "lam_length": 0.5},
    ],
    ids=["rloo", "grpo", "shared"],
)
def test_neighbours_run_in_the_same_trainer(toy: str, tmp_path: Path, more: dict[str, Any]) -> None:
    name = more.get("advantage", "ppo")
    given = keys(toy, tmp_path, heldout_fraction=0, **{key: it for key, it in more.items() if key != "advantage"})
    assert command.main([name, *arguments(tmp_path / "run", **given)]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["recipe"]["advantage"] == more.get("advantage", "gae")
    assert not (tmp_path / "run" / "critic").exists()
    assert ("value_loss" in run["log"][-1]) == ("shared_trunk" in more)


def test_ptx_mixes_in_rows_that_are_not_to_be_forgotten(toy: str, tmp_path: Path) -> None:
    texts = write(tmp_path / "texts.jsonl", [{"text": "rain fell all day"}, {"text": "the cat sat"}])
    out = tmp_path / "run"
    run_of(out, **keys(toy, tmp_path, ptx=1.0, ptx_data=str(texts), learning_rate=1e-2, steps=4))
    losses = logged(out, "ptx_loss")
    assert losses[-1] < losses[0] - 0.3


@pytest.fixture(scope="module")
def processes(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs in processes of their own: full and lora, each killed at four places, and two, of two processes;
    beside each the same run as it should be.
    """
    folder = tmp_path_factory.mktemp("processes")
    given = keys(toy, folder, steps=4, whiten_rewards="running", kl_target=0.5, heldout_fraction=0)
    runs = {"full": given, "lora": given | {"lora_rank": 2}, "two": given | {"minibatch": 8, "heldout_fraction": 0.4}}
    lines = {name: arguments(folder / name, **values) for name, values in runs.items()}
    for name in ("full", "lora"):
        assert killed(lines[name], folder / f"{name}.log") == [-9] * len(PLACES) + [0]
    assert together(lines["two"], folder / "two.log") == [0, 0]
    for name, values in runs.items():
        run_of(folder / f"whole-{name}", **values)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_killed_at_four_places_ends_in_bitwise_the_same_weights(processes: Path, name: str) -> None:
    for part in ("final", "critic"):
        assert same_weights(processes / f"whole-{name}" / part, processes / name / part)
    for key in ("score", "kl", "value_loss", "kl_coefficient"):
        assert logged(processes / name, key) == logged(processes / f"whole-{name}", key)
    phases = [json.loads((processes / run / "run.json").read_text())["phases"] for run in (name, f"whole-{name}")]
    for phase in ("generate", "update"):  # what a kill undid is not counted
        assert phases[0][phase]["tokens"] == phases[1][phase]["tokens"]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(processes: Path) -> None:
    one, two = (json.loads((processes / name / "run.json").read_text()) for name in ("whole-two", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for left, right in zip(one["log"], two["log"], strict=True):
        for key in ("score", "loss", "grad_norm", "value_loss", "critic_grad_norm", "kl", "entropy"):
            assert right[key] == pytest.approx(left[key], rel=1e-4, abs=1e-6), key
    assert two["heldout"]["score"] == pytest.approx(one["heldout"]["score"])
    weights = [load_file(processes / name / "final" / "model.safetensors") for name in ("whole-two", "two")]
    assert max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0]) < 1e-4


def test_an_engine_is_given_each_steps_adapter_and_its_log_probabilities_are_compared(toy: str, tmp_path: Path) -> None:
    with SeededEngine() as engine:
        more: dict[str, Any] = {"sampler": "url", "engine_url": engine.url, "engine_model": "base", "lora_rank": 2}
        run = run_of(tmp_path / "run", **keys(toy, tmp_path, steps=2, heldout_fraction=0, **more))
        told = [(path.rpartition("/")[2], body.get("lora_name", body.get("model"))) for path, body in engine.requests]
    (load, first), (_, asked), *_ = told
    assert load == "load_lora_adapter"
    assert first == asked
    assert str(first).startswith("run-step-0-")
    assert ("unload_lora_adapter", first) in told
    assert str(told[-1][1]).startswith("run-step-1-")
    assert run["log"][0]["engine_gap"] > 0
    assert 0 <= run["log"][0]["importance_capped"] <= 1


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"advantage": "rloo"}, "rloo compares a prompt's answers: set answers to 2 or more"),
        ({"answers": 3}, "batch (8) must be a multiple of answers (3)"),
        ({"minibatch": 3}, "minibatch (3) must divide batch (8)"),
        ({"dual_clip": 0.5}, "dual_clip must be above 1, or 0"),
        ({"lora_rank": 2, "lora_dropout": 0.1}, "lora_dropout must be 0"),
        ({"scorer": "reward", "rule": ""}, "scorer: reward needs reward_model"),
        ({"sampler": "url"}, "sampler: url needs engine_url, engine_model, lora_rank"),
        ({"ptx": 0.1}, "ptx needs ptx_data"),
        ({"kl_target": 3.0, "kl_in": "loss"}, "set kl_in: reward"),
        ({"shared_trunk": True, "critic_updates": 2}, "share the actor's trunk and its updates"),
        ({"gamma": 1.5}, "gamma must be from 0 to 1"),
        ({"scorer": "reward", "rule": "", "reward_model": "nowhere"}, "reward_model nowhere: no model there"),
        ({"max_length": 16}, "leaves no room for max_new_tokens (6) in max_length (16)"),
        ({"max_length": 4096}, "more than the model's context (256)"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any], words: str
) -> None:
    assert ppo_run.main(arguments(tmp_path / "out", **keys(toy, tmp_path, **more))) == 2
    assert words in capsys.readouterr().err


def test_every_process_has_as_many_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipe = Recipe(model="m", train="t", scorer="rule", rule="r", batch=16, micro_batch=4, minibatch=8)
    check(recipe)
    with pytest.raises(RecipeError, match=r"multiple of micro_batch \(4\) times the processes \(2\)"):
        check(changed(recipe, minibatch=4))
    with pytest.raises(RecipeError, match=r"a step's prompts, .* multiple of the processes \(2\)"):
        check(changed(recipe, answers=16))
