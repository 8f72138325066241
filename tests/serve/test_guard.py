"""A guarded command can't outlive whoever holds the guard's stdin, and neither can anything it started."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serve.process import guard

Guarded = Callable[..., subprocess.Popen[bytes]]
ORPHANS = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), "--port", "0", "--orphan", "--stubborn"]


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    """Starts a guard; whatever it leaves behind is killed after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str, grace: float = 5.0, **kwargs: object) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-I", "-S", guard.__file__, "--grace", str(grace), "--", *command]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kwargs)  # type: ignore[call-overload]
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
            process.wait(10)
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.stdout.close()


def tree(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The descendants of a guard, once its command says that it is up."""
    assert process.stdout
    assert process.stdout.readline().startswith(b"fake engine")
    return psutil.Process(process.pid).children(recursive=True)


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def gone_but_for(processes: list[psutil.Process], left: int) -> None:
    deadline = time.monotonic() + 10
    while len(alive(processes)) > left and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(alive(processes)) == left


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_exit_status_of_the_command_is_passed_on(guarded: Guarded, script: str, status: int) -> None:
    assert guarded("sh", "-c", script).wait(10) == status


def test_command_that_does_not_exist_is_127_and_named(guarded: Guarded) -> None:
    process = guarded("/no/such/program", stderr=subprocess.PIPE)
    assert process.wait(10) == 127
    with process.stderr as stderr:  # type: ignore[union-attr]
        assert b"/no/such/program: No such file" in stderr.read()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_closed_stdin_kills_even_a_stubborn_double_forked_session(guarded: Guarded) -> None:
    process = guarded(*ORPHANS)
    below = tree(process)
    assert len(below) == 2
    began = time.monotonic()
    process.stdin.close()  # type: ignore[union-attr]
    process.wait(10)
    assert not alive(below)
    assert time.monotonic() - began < 9  # one second of grace


@pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")
def test_orphan_of_a_command_that_ended_is_killed_and_the_status_kept(guarded: Guarded) -> None:
    process = guarded("sh", "-c", "setsid sleep 600 & exit 5", grace=0.2)
    assert process.wait(10) == 5
    with process.stdout as stdout:  # type: ignore[union-attr]
        assert stdout.read() == b""  # the orphan would hold it open


def test_sigterm_gives_the_command_its_grace(guarded: Guarded) -> None:
    process = guarded("sh", "-c", "trap 'sleep 0.3; echo saved; exit 4' TERM; echo on; while :; do sleep 0.05; done")
    assert process.stdout
    assert process.stdout.readline() == b"on\n"
    process.terminate()
    assert process.wait(10) == 4
    assert process.stdout.read() == b"saved\n"


def test_sigquit_gives_no_grace(guarded: Guarded) -> None:
    process = guarded(*ORPHANS, grace=60)
    below = tree(process)
    process.send_signal(signal.SIGQUIT)
    assert process.wait(10) == 137
    assert not alive(below)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a parent-death signal")
def test_command_dies_with_a_killed_guard_and_sweep_takes_the_rest(guarded: Guarded) -> None:
    process = guarded(*ORPHANS, env=os.environ | {guard.MARK: "test-of-sweep"})
    below = tree(process)
    process.kill()
    process.wait(10)
    gone_but_for(below, 1)  # the command is gone, its orphan is not
    guard.sweep("test-of-sweep")
    gone_but_for(below, 0)


def test_sibling_does_not_hold_the_pipe_open(guarded: Guarded) -> None:
    first = guarded("sleep", "600")
    guarded("sleep", "600")
    first.stdin.close()  # type: ignore[union-attr]
    assert first.wait(10) == 143
