"""The memory of large bodies goes back to the kernel, in a process whose malloc is set as a worker's is."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve.process.heap import THRESHOLDS, Heap

PROGRAM = """
from serve.process.heap import Heap, _resident
heap = Heap()
print(heap.give_back())  # there is nothing yet
bodies = [b"x" * n for n in [2**20] * 128]
del bodies[::2]  # what is left lies in between, so that the heap's end stays where it is
full = _resident()
print(heap.give_back(), full - _resident() > 48 * 2**20, heap.give_back())
print(sum(map(len, bodies)) == 64 * 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="its malloc cannot be asked (glibc 2.33 can)")
def test_freed_bodies_go_back_to_the_kernel_once() -> None:
    env = {**os.environ, **THRESHOLDS, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "True", "True", "False", "True"]


def test_nothing_is_given_back_twice() -> None:
    heap = Heap()
    heap.give_back()
    assert not heap.give_back()
