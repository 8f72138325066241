"""The steps of a run: sample and score, evaluate, learn, log; and what is measured before and after them."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from trainers.ppo import ppo_checkpoint
from trainers.ppo.build import actor_of, check_folders, critic_of, cut_networks, half, sampling_of
from trainers.ppo.collect import Collector, HereSpeaker, Speaker
from trainers.ppo.engine_speaker import EngineSpeaker
from trainers.ppo.health import sicknesses
from trainers.ppo.heldout import measured
from trainers.ppo.learner import Learner
from trainers.ppo.networks import Actor, Critic
from trainers.ppo.optimizer import Optimizer, schedule_of
from trainers.ppo.phases import Phases
from trainers.ppo.ppo_checkpoint import State
from trainers.ppo.ppo_curves import described
from trainers.ppo.ppo_outputs import record, save_networks, show_samples
from trainers.ppo.ppo_prompts import asks_of
from trainers.ppo.ppo_recipe import Recipe
from trainers.ppo.ptx import Ptx
from trainers.ppo.shards import asked_for
from trainers.ppo.token_rewards import adapted
from trainers.ppo.world import World, accelerator_of
from trainers.rounds.prompt_set import stretch
from trainers.rounds.sources import scorer_of
from trainers.run.checkpoint import last_checkpoint
from trainers.run.model import say
from trainers.run.recipe import RecipeError
from trainers.run.record import write_json
from trainers.run.sets import Material

METHOD = "ppo"


class Run:
    """Owns the networks, their optimizers and the state of a run."""

    def __init__(self, recipe: Recipe, out: Path, material: Material, resume: bool) -> None:
        self.recipe, self.out, self.material = recipe, out, material
        cut = asked_for()
        self.accelerator = accelerator_of(recipe, out)
        self.world = World(self.accelerator, half(recipe), cut)
        self.train, self.heldout = asks_of(recipe, material)
        self.per_step = recipe.batch // recipe.answers
        self.steps = recipe.steps or math.ceil(recipe.epochs * len(self.train) / self.per_step)
        torch.use_deterministic_algorithms(True, warn_only=True)
        self._build(material.base)
        self.state = State(beta=recipe.kl_coefficient)
        with self.accelerator.main_process_first():
            checkpoint = last_checkpoint(out, resume)
        self.fresh = checkpoint is None
        if checkpoint is not None:
            self.state = ppo_checkpoint.restore(Path(checkpoint), self.optimizers)
            self.phases.restore(self.state.phases)
        elif self.world.rank == 0:
            for name in ("rollouts", "samples", "engine"):
                shutil.rmtree(out / name, ignore_errors=True)
        self.world.wait()

    def _build(self, base: Any) -> None:
        recipe, device = self.recipe, self.world.device
        check_folders(recipe)
        self.actor = actor_of(recipe, base, device)
        self.critic = critic_of(recipe, base, device)
        if self.world.cut:
            cut_networks(recipe, self.actor, self.critic, self.world.mesh)
        per_step = recipe.inner_epochs * (recipe.batch // recipe.rows_per_update)
        steps = self.steps - (recipe.critic_warmup if self.critic is not None else 0)
        peak = recipe.learning_rate
        rate = schedule_of(recipe.schedule, peak, max(1, steps * per_step), recipe.warmup)
        policy = Optimizer("policy", self.actor, rate, recipe.weight_decay, recipe.ema)
        self.optimizers, values = [policy], None
        if self.critic is not None:
            peak = recipe.critic_learning_rate or peak
            rate = schedule_of(recipe.schedule, peak, self.steps * per_step * recipe.critic_updates, recipe.warmup)
            values = Optimizer("critic", self.critic, rate, recipe.weight_decay)
            self.optimizers.append(values)
        self.phases = Phases()
        ptx = Ptx(recipe, base.tokenizer, self.world) if recipe.ptx else None
        self.learner = Learner(recipe, self.actor, self.critic, policy, values, self.world, ptx)
        scorer = scorer_of(recipe)
        if scorer is None:
            raise RecipeError(f"scorer {recipe.scorer} gives no scores")
        longest = max(len(ask.ids) for ask in self.train)
        self.collector = Collector(
            recipe, self._speaker(base), scorer, base.tokenizer, longest, self.world, self.phases
        )

    def _speaker(self, base: Any) -> Speaker:
        recipe, model = self.recipe, self.actor.model
        if recipe.sampler == "url":
            return EngineSpeaker(recipe, model, self.out, self.world)
        return HereSpeaker(
            model, sampling_of(recipe, model, base.tokenizer), base.tokenizer, self.world, recipe.micro_batch
        )

    # ------------------------------------------------------------ the run

    def whole(self) -> dict[str, Any]:
        """All steps that are left; what run.json holds."""
        before = self._baseline()
        began, earlier = time.monotonic(), max((entry["seconds"] for entry in self.state.log_history), default=0.0)
        for step in range(self.state.step, self.steps):
            entry = self._step(step)
            entry["seconds"] = round(earlier + time.monotonic() - began, 1)
            self._log(entry)
            self.state.step = step + 1
            if (step + 1) % self.recipe.save_every == 0 or step + 1 == self.steps:
                self._save()
        after = self._measure("heldout-after")
        if self.world.rank == 0:
            actor, critic, policy = self._whole_networks()
            save_networks(self.recipe, actor, critic, policy, self.material.base.tokenizer, self.out)
            say(self.phases.lines())
        self.world.wait()
        return self._record(before, after)

    def _whole_networks(self) -> tuple[Actor, Critic | None, Optimizer]:
        """What is saved; where the networks are cut, whole ones on the CPU with the last checkpoint's weights."""
        if not self.world.cut:
            return self.actor, self.critic, self.optimizers[0]
        recipe, base, device = self.recipe, self.material.base, torch.device("cpu")
        actor, critic = actor_of(recipe, base, device), critic_of(recipe, base, device)
        policy = Optimizer("policy", actor, lambda update: 0.0, ema=recipe.ema)
        values = [] if critic is None else [Optimizer("critic", critic, lambda update: 0.0)]
        ppo_checkpoint.restore(self.out / f"checkpoint-{self.steps}", [policy, *values])
        return actor, critic, policy

    def _baseline(self) -> dict[str, Any]:
        path = self.out / "baseline.json"
        if not self.fresh:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        found = self._measure("heldout-before")
        if self.world.rank == 0:
            write_json(path, found)
        return found

    def _measure(self, name: str) -> dict[str, Any]:
        if not self.heldout:
            return {}
        shutil.rmtree(self.out / name, ignore_errors=True)
        self.world.wait()
        self.collector.speaker.renew(self.state.step)
        found = measured(self.collector, self.actor, self.heldout, self.out / name)
        self.world.wait()
        shutil.rmtree(self.out / name, ignore_errors=True)
        return found

    def _step(self, step: int) -> dict[str, Any]:
        recipe, state = self.recipe, self.state
        asks = stretch(self.train, self.per_step, step, recipe.seed)
        self.collector.speaker.renew(step)
        collected = self.collector.collect(asks, step, self.out / "rollouts" / f"step-{step}")
        rollout = collected.rollout
        tokens = int(rollout.mask.sum()) // self.world.number
        with self.world.autocast():
            with self.phases.of("evaluate"):
                known = self.learner.evaluate(rollout, step)
            self.phases.count("evaluate", tokens)
            if recipe.whiten_rewards == "running":
                state.seen = state.seen.after(rollout.scores[rollout.known])
            target = self.learner.target(rollout, known, state.seen, state.beta)
            with self.phases.of("update"):
                learned = self.learner.learn(rollout, known, target, step, state.beta)
            self.phases.count("update", tokens * recipe.inner_epochs)
        entry = {"step": step + 1, **described(rollout, known, target, recipe), **learned, "kl_coefficient": state.beta,
                 "learning_rate": self.optimizers[0].rate(max(0, self.optimizers[0].updates - 1))}  # fmt: skip
        state.beta = adapted(state.beta, entry["kl"], recipe.kl_target, recipe.batch, recipe.kl_horizon)
        if self.world.rank == 0 and (step == 0 or (step + 1) % recipe.samples_every == 0):
            show_samples(collected, step + 1, self.out)
        return entry

    def _log(self, entry: dict[str, Any]) -> None:
        recipe, state = self.recipe, self.state
        if entry["step"] % recipe.logging_every and entry["step"] != self.steps:
            return
        state.log_history.append(entry)
        self.accelerator.log({key: value for key, value in entry.items() if key != "step"}, step=entry["step"])
        words = [f"{name} {entry[name]:.4g}" for name in ("score", "kl", "entropy", "tokens", "loss") if name in entry]
        say(f"step {entry['step']} of {self.steps}: {', '.join(words)}")
        for name, warning in sicknesses(state.log_history, recipe.kl_target, recipe.critic_warmup):
            if name not in state.warnings:
                state.warnings[name] = f"step {entry['step']}: {warning}"
                say(f"warning: {state.warnings[name]}")

    def _save(self) -> None:
        self.state.phases = self.phases.state()
        if self.world.rank == 0 or self.world.cut:
            ppo_checkpoint.save(self.out, self.state, self.optimizers, self.world.rank == 0)
        if self.world.rank == 0:
            shutil.rmtree(self.out / "rollouts", ignore_errors=True)
        self.world.wait()

    def _record(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        log = self.state.log_history
        facts = {
            **self.material.facts, "heldout_before": before, "heldout": after, "steps": self.steps,
            "seconds": log[-1]["seconds"] if log else 0.0, "warnings": list(self.state.warnings.values()),
            "phases": self.phases.table(), "fsdp2": self.world.cut, "log": log,
        }  # fmt: skip
        networks = [self.actor, *([self.critic] if self.critic is not None else [])]
        if self.world.rank:
            return facts
        return record(self.recipe, METHOD, self.out, log, facts, networks, self.world.number, str(self.world.device))
