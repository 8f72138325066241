"""`trimtab train METHOD …`: finds the trainer and hands it the rest of the command line."""

import sys
from collections.abc import Callable

from trainers.methods.losses import LOSSES
from trainers.methods.table import METHODS, resolve
from trainers.rounds.selectors import SELECTORS

# Commands beside the methods: name, entry, what is trained.
OTHERS = (
    ("chain", "trainers.chain.chain_run:main", "several methods in a row, each on what the steps before it made"),
    ("check", "trainers.check:main", "nothing: says what is wrong with training data"),
    ("pick", "trainers.pick:main", "nothing: picks data that is complex, good and diverse (DEITA, arXiv:2312.15685)"),
    ("flywheel", "trainers.flywheel.wheel:main", "a served model by preferences between its answers, round by round"),
    ("gate", "trainers.gate.__main__:main", "the rewrite gate's judge, from labelled rewrites"),
)
CRITIC_FREE = ("rloo", "grpo")  # advantages of PPO that name it too
USAGE = "usage: trimtab train METHOD [options]   (trimtab train METHOD --help; trimtab train --list)"


def main(argv: list[str] | None = None) -> int:
    """The command's exit status: that of the method, or 2 where there is none of that name."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "--list"):
        if arguments[:1] != ["--list"]:
            print(USAGE + "\n")
        print(listing())
        return 0 if arguments else 2
    method, *rest = arguments
    if method in LOSSES:  # `trimtab train simpo …` is pair with that loss
        method, rest = "pair", [*rest, "--set", f"loss={method}"]
    if method in SELECTORS:  # `trimtab train raft …` is rounds with that selector
        method, rest = "rounds", [*rest, "--set", f"selector={method}"]
    if method in CRITIC_FREE:  # `trimtab train grpo …` is ppo with that advantage
        method, rest = "ppo", [*rest, "--set", f"advantage={method}"]
    entries = {name: row.entry for name, row in METHODS.items()} | {name: entry for name, entry, _ in OTHERS}
    if method not in entries:
        print(
            f"trimtab train: no method {method!r}; methods: {', '.join([*entries, *LOSSES, *SELECTORS, *CRITIC_FREE])}",
            file=sys.stderr,
        )
        return 2
    given = {argument.partition("=")[0] for argument in rest}
    if method == "ppo" and "--backend" in given:
        entries[method] = "trainers.backend.openrlhf_run:main"
    elif "--launch" in given:
        if method not in METHODS or not METHODS[method].several:
            print(f"train {method}: --launch: {method} runs in one process", file=sys.stderr)
            return 2
        from trainers.run.launch import start  # reads YAML, which `--list` has no need of
        from trainers.run.recipe import read_recipe

        row = METHODS[method]
        return start(method, rest, lambda config, changes: row.check(read_recipe(config, row.recipe, changes)))
    entry: Callable[[list[str]], int] = resolve(entries[method])
    return entry(rest)


def listing() -> str:
    """Each method with what it makes, its paper and its formula; below `pair` its losses, which name it too."""
    lines = []
    for name, method in METHODS.items():
        lines += [f"{name:<8} {method.title}", f"{'':<8} {method.paper}: {method.formula}"]
        if name == "pair":
            lines += [f"  {loss:<14} {row.paper:<34} {row.formula}" for loss, row in LOSSES.items()]
        if name == "rounds":
            lines += [f"  {each:<14} {one.paper:<34} {one.formula}" for each, one in SELECTORS.items()]
    return "\n".join([*lines, *(f"{name:<8} {trained}" for name, _, trained in OTHERS)])


if __name__ == "__main__":
    sys.exit(main())
