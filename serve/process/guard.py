"""python -m serve.process.guard [--grace S] -- COMMAND…: run a command that can't outlive whoever holds our stdin.

stdin is the read end of a pipe whose write end only the parent holds. When it closes, the parent is dead, be it by
kill -9, and the command and all that it ever started die too. A parent-death signal alone would miss grandchildren,
and a process group those that call setsid: we are the subreaper, so that every orphan becomes our child and /proc
shows them all. Where there is no subreaper (macOS) the command's process group is what we can reach.

SIGTERM asks the tree to end and gives it the grace; a closed stdin gives it a second; SIGQUIT, nothing. What a command
leaves behind when it ends by itself gets a second too.
If we are ourselves killed with -9 the command dies with us, but its children are beyond our reach: `sweep` is for them.

Standard library only, started for each engine: it must cost a few milliseconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

MARK = "TRIMTAB_GUARD"  # environment variable: which guard a process stands under
_SHORT_GRACE_S = 1.0  # for those whom nobody waits for any more
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36


def main(argv: Sequence[str]) -> int:
    """Guard the command; return its exit status (128 + N where signal N killed it)."""
    split = argv.index("--")
    grace_s = float(argv[1]) if argv[0] == "--grace" else 5.0
    short_s = min(grace_s, _SHORT_GRACE_S)
    reaper = _prctl(_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on(signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD)
    child = _start(argv[split + 1 :])
    status: int | None = None
    watched, deadline = [0, wake], float("inf")
    while True:
        for pid, ended in _reap():
            if pid == child:
                status = _exit_code(ended)
                deadline = min(deadline, time.monotonic() + short_s)
                _kill_tree(child, signal.SIGTERM, reaper)
        if status is not None and not _alive(child, reaper):
            return status
        now = time.monotonic()
        if now >= deadline:
            _kill_tree(child, signal.SIGKILL, reaper)
        # Past the deadline look again often: a tree that still forks is killed faster than it grows.
        timeout = None if deadline == float("inf") else 0.02 if now >= deadline else min(0.1, deadline - now)
        ready, _, _ = select.select(watched, [], [], timeout)
        if 0 in ready and not os.read(0, 4096):
            watched.remove(0)
            deadline = min(deadline, now + short_s)
            _kill_tree(child, signal.SIGTERM, reaper)
        told = os.read(wake, 4096) if wake in ready else b""
        if signal.SIGQUIT in told:
            deadline = now
        elif signal.SIGTERM in told:
            deadline = min(deadline, now + grace_s)
            _kill_tree(child, signal.SIGTERM, reaper)


def sweep(mark: str) -> None:
    """Kill what a guard that was itself killed left behind: every process that carries its mark (Linux only)."""
    wanted = f"{MARK}={mark}".encode()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):  # it is not ours, or it has just ended
            if entry.isdigit():
                with open(f"/proc/{entry}/environ", "rb") as environ:
                    if wanted in environ.read().split(b"\0"):
                        os.kill(int(entry), signal.SIGKILL)


def _start(command: Sequence[str]) -> int:
    """Fork and run the command in a session of its own, with nothing on stdin; its pid."""
    guard = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _run(command, guard)


def _run(command: Sequence[str], guard: int) -> NoReturn:
    """In the fork: become the command. Every other descriptor closes on exec, as Python opens them all."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it died before the line above took effect
            os._exit(1)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.execvp(command[0], list(command))  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wake_on(*signals: signal.Signals) -> int:
    """A descriptor on which each of these signals arrives as a byte, its number."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    for number in signals:
        signal.signal(number, lambda *_: None)
    return read


def _prctl(option: int, value: int) -> bool:
    """Call Linux's prctl; False where there is none."""
    return sys.platform == "linux" and bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)


def _reap() -> list[tuple[int, int]]:
    """Collect every child that has ended: (pid, wait status)."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while (pair := os.waitpid(-1, os.WNOHANG))[0]:
            ended.append(pair)
    return ended


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _alive(child: int, reaper: bool) -> bool:
    """Is anything left of the tree? A subreaper's descendants always hang on a child of its own."""
    try:
        if reaper:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        else:
            os.killpg(child, 0)
    except (ChildProcessError, ProcessLookupError, PermissionError):
        return False
    return True


def _kill_tree(child: int, number: int, reaper: bool) -> None:
    """Send a signal to every descendant, or to the command's process group where we can't see them."""
    if not reaper:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, number)
    for pid in _descendants() if reaper else ():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Every process below us, from one look at /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):  # it has just ended
            if entry.isdigit():
                with open(f"/proc/{entry}/stat", "rb") as stat:
                    # "pid (name) state ppid …"; the name may itself hold spaces and brackets.
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry))
    found, ahead = [], [os.getpid()]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
