"""The clock leaves out the time in which a thread waits for a core, and nothing else."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from probes.budget.clock import OwnTime

COUNTED = os.path.exists("/proc/thread-self/schedstat")


def test_sleeping_and_computing_take_time():
    clock = OwnTime()
    begun, cpu = clock(), time.thread_time()
    time.sleep(0.2)
    slept = clock() - begun
    while time.thread_time() - cpu < 0.2:
        pass
    assert slept >= 0.19 and clock() - begun - slept >= 0.19


@pytest.mark.skipif(not COUNTED, reason="only Linux counts how long a thread waits for a core")
def test_waiting_for_a_core_takes_none():
    """Each as long as its computing, however many others compute beside it."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 * (os.cpu_count() or 1))]
    try:
        clock = OwnTime()
        ratios = []
        for _ in range(3):
            begun, wall, cpu = clock(), time.perf_counter(), time.thread_time()
            while time.thread_time() - cpu < 0.1:
                pass
            ratios.append(((clock() - begun) / 0.1, (time.perf_counter() - wall) / 0.1))
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert min(own for own, _ in ratios) < 1.2 < max(wall for _, wall in ratios)
    assert all(own <= wall for own, wall in ratios)


def test_a_core_that_is_lost_while_it_is_read_is_no_time(monkeypatch):
    now, waited, lost = [100.0], [0.0], [0.0]

    def perf_counter():
        now[0], waited[0], lost[0] = now[0] + lost[0], waited[0] + lost[0], 0.0
        return now[0]

    monkeypatch.setattr("probes.budget.clock.time", SimpleNamespace(perf_counter=perf_counter))
    monkeypatch.setattr(OwnTime, "_delay", lambda self: waited[0])
    clock = OwnTime()
    first, lost[0] = clock(), 5.0
    second = clock()
    now[0] += 1.0
    assert second == first and clock() == first + 1.0


def test_it_never_goes_backwards_whichever_thread_reads_it():
    clock, seen = OwnTime(), []

    def read():
        for _ in range(200):
            seen.append(clock())

    for _ in range(3):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        read()
    assert seen == sorted(seen)


def test_where_nothing_is_counted_it_is_wall_time(monkeypatch):
    monkeypatch.setattr(OwnTime, "_delay", lambda self: 0.0)
    clock = OwnTime()
    assert abs(clock() - time.perf_counter()) < 0.1
