"""Runs of PPO in processes of their own, some of which kill themselves at a given place."""

import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.trainers.toy import FORKS
from trainers.ppo import collect, learner, ppo_checkpoint, ppo_run, ppo_steps


def dying(function: Callable[..., Any], calls: int, after: bool = False) -> Callable[..., Any]:
    """The function, whose call of that number is the process's last: before it does anything, or once it is done."""
    left = [calls]

    def called(*rest: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        found = function(*rest, **more)
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return called


def in_rollout() -> None:
    """Some chunks of the third step's prompts are answered and others are not."""
    collect.HereSpeaker.answers = dying(collect.HereSpeaker.answers, 8)  # type: ignore[method-assign]


def between_updates() -> None:
    """One of a step's minibatches has changed weights."""
    learner.Learner._learn_policy = dying(learner.Learner._learn_policy, 2)  # type: ignore[method-assign]


def in_checkpoint() -> None:
    """The policy's file is written, the critic's is not."""
    ppo_checkpoint.save_file = dying(ppo_checkpoint.save_file, 1, after=True)  # type: ignore[assignment]


def before_final() -> None:
    """All steps are done."""
    ppo_steps.save_networks = dying(ppo_steps.save_networks, 1)  # type: ignore[assignment]


def after_a_checkpoint() -> None:
    """The first one is written, and all processes know."""
    ppo_steps.Run._save = dying(ppo_steps.Run._save, 1, after=True)  # type: ignore[method-assign]


PLACES = (in_rollout, between_updates, in_checkpoint, before_final)


def killed(line: list[str], log: Path) -> list[int]:
    """Die at each place in turn, always in the same folder, and then run to the end; the exit statuses."""
    return [_ended(_started(line, log, place)) for place in (*PLACES, nowhere)]


def nowhere() -> None:
    """A run that ends well."""


def together(line: list[str], log: Path, place: Callable[[], None] = nowhere, **environment: str) -> list[int]:
    """Two processes over gloo, which both die at the place; their exit statuses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment}
    children = [
        _started(line, log.with_suffix(f".{rank}"), place, {**places, "RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    return [_ended(child) for child in children]


def _started(line: list[str], log: Path, place: Callable[[], None], environment: dict[str, str] | None = None) -> Any:
    child = FORKS.Process(target=_main, args=(line, str(log), place, environment or {}))
    child.start()
    return child


def _ended(child: Any) -> int:
    child.join(600)
    assert child.exitcode is not None
    return int(child.exitcode)


def _main(line: list[str], log: str, place: Callable[[], None], environment: dict[str, str]) -> None:
    """In the child: what it says goes to a file."""
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    place()
    sys.exit(ppo_run.main(line))
