"""Looking at all threads never waits for a lock that it holds itself."""

import subprocess
import sys
import textwrap

from probes.loop import frames

SCRIPT = """
import gc, runpy, threading

current_frames = runpy.run_path({path!r})["current_frames"]


class Node:
    pass


def waste():
    node = Node()
    node.me, node.local = node, threading.local()
    node.local.value = 1


def deep(calls):
    return deep(calls - 1) if calls else current_frames()


gc.disable()
for more in range(1, 60):  # a collection at each of the objects that the look makes
    gc.collect(), waste()
    gc.set_threshold(gc.get_count()[0] + more)
    gc.enable()
    assert threading.get_ident() in deep(3) and gc.isenabled()
    gc.disable()
deep(1)
assert not gc.isenabled()
print("over")
"""


def test_garbage_with_a_lock_does_not_stop_it():
    script = textwrap.dedent(SCRIPT).format(path=frames.__file__)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout == "over\n", done.stderr
