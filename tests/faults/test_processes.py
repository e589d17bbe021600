"""Processes that a training starts: workers that import its script, and children that end on their own."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch
import warm
from filelock import FileLock
from loops import Memory, Norm, run_steps

from probes import Probe, ProbeManager, every, open_run
from probes.session.watchdog import Watchdog

SPAWNING = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from probes import ProbeManager, every
from loops import Norm

model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
manager = ProbeManager(model, [Norm(every(1))], log_dir="run", overhead=None).attach(optimizer)
print(manager.report().splitlines()[0], flush=True)


def spawned(log_dir):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Norm(every(1))], log_dir=log_dir, overhead=None, on_error="raise").attach(optimizer):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()


if __name__ == "__main__":
    loader = DataLoader(TensorDataset(torch.ones(8, 2)), 4, num_workers=1, multiprocessing_context="spawn",
                        persistent_workers=True)
    for epoch in range(2):
        for (x,) in loader:
            model(x).square().mean().backward()
            optimizer.step()
    process = torch.multiprocessing.get_context("spawn").Process(target=spawned, args=("trained",))
    process.start()
    process.join()
    print("spawned", process.exitcode)
"""


def test_a_spawned_worker_watches_nothing_and_a_spawned_training_is_watched(tmp_path):
    (tmp_path / "script.py").write_text(SPAWNING)
    path = os.pathsep.join(sys.path)
    done = warm.run(tmp_path / "script.py", cwd=tmp_path, env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("Inactive")] == [
        "Inactive: this process only imports the training script."
    ] * 2
    assert lines[-1] == "spawned 0" and sorted(path.name for path in tmp_path.iterdir()) == [
        "run",
        "script.py",
        "trained",
    ]
    assert open_run(tmp_path / "run")["norm/weight"]["step"].values.tolist() == [0, 1, 2, 3, 4]
    assert open_run(tmp_path / "trained")["norm/weight"]["step"].values.tolist() == [0, 1]


def test_a_forked_child_lets_go_of_files_and_writes_nothing(model, optimizer, tmp_path):
    class Forked:
        def write(self, measurements):
            (tmp_path / f"written by {os.getpid()}").touch()

        def on_fork(self):
            (tmp_path / "forked").write_text(str(os.getpid()))

        def on_detach(self):
            (tmp_path / f"closed by {os.getpid()}").touch()

    with ProbeManager(model, [Norm(every(1))], sinks=[Forked()], overhead=None).attach(optimizer) as manager:
        child = os.fork()
        if child == 0:
            run_steps(model, optimizer, 1)
            manager.detach()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        run_steps(model, optimizer, 1)
    names = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert names == {"forked", f"written by {os.getpid()}", f"closed by {os.getpid()}"}
    assert (tmp_path / "forked").read_text() == str(child)


def test_the_lock_is_still_held_after_a_forked_child_has_ended(model, optimizer, tmp_path):
    with ProbeManager(model, [Norm(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer) as manager:
        run_steps(model, optimizer, 1)
        manager.state_dict()
        child = os.fork()
        if child == 0:
            manager.detach()
            del manager
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        script = (
            "import sys; from filelock import FileLock, Timeout\n"
            "try: FileLock(sys.argv[1], timeout=0).acquire()\n"
            "except Timeout: print('held')"
        )
        done = subprocess.run([sys.executable, "-c", script, tmp_path / "run.lock"], capture_output=True, text=True)
        assert done.stdout == "held\n"
    with FileLock(tmp_path / "run.lock", timeout=0):
        pass


def test_no_thread_of_ours_runs_while_the_process_forks_nor_after_detach(model, optimizer, tmp_path):
    def ours():
        return [thread for thread in threading.enumerate() if thread.name.startswith("probes-")]

    during = []
    os.register_at_fork(before=lambda: during.append(len(ours())))  # called first: registered last
    with ProbeManager(model, [Norm(every(1))], sinks=[Memory()], overhead=None).attach(optimizer):
        run_steps(model, optimizer, 1)
        assert len(ours()) == 1
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        during.append(len(ours()))
        run_steps(model, optimizer, 1)
        assert len(ours()) == 1
    assert during[-1] == 0 and not ours()


def test_a_hang_is_told_while_it_lasts_and_recorded_after_it(model, optimizer, caplog):
    release = threading.Event()

    class Hangs(Probe):
        def measure(self, run, step):
            if step == 0:
                release.wait(20)
            return []

    sink = Memory()
    manager = ProbeManager(model, [Hangs(every(1))], sinks=[sink], overhead=None, deadline=0.05).attach(optimizer)

    def watch():
        while "has been waiting" not in caplog.text:
            time.sleep(0.01)
        release.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    run_steps(model, optimizer, 1)
    watcher.join()
    manager.detach()
    assert "for measure of 'Hangs'" in caplog.text and "release.wait(20)" in caplog.text
    assert [event.message[:16] for event in sink.events if event.kind == "hang"] == ["Training waited "]


def test_a_watchdog_is_silent_about_many_short_calls(caplog):
    dog, longest = Watchdog(0.2), 0.0
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        begun = time.monotonic()
        with dog.watching("a call"):
            time.sleep(0.005)
        longest = max(longest, time.monotonic() - begun)
    dog.stop()
    assert longest > 0.2 or not caplog.text  # a busy machine may stop a call for as long


def test_the_thread_of_a_watchdog_that_nobody_stopped_ends_with_it():
    before = set(threading.enumerate())
    dog = Watchdog(0.2)
    with dog.watching("a call"):
        (thread,) = set(threading.enumerate()) - before
    del dog
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.parametrize("deadline", [0, -1, "soon", True])
def test_a_deadline_must_be_a_number_of_seconds(model, deadline):
    with pytest.raises(ValueError, match="`deadline` must be a number of seconds greater than 0"):
        ProbeManager(model, deadline=deadline)


def test_a_fault_in_a_process_that_a_probe_forked_ends_that_process(model, optimizer):
    class Forks(Probe):
        def measure(self, run, step):
            child = os.fork()
            if child == 0:
                raise SystemExit(9)
            self.status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            return []

    probe = Forks(every(5))
    pid = os.getpid()
    try:
        with ProbeManager(model, [probe], sinks=[], overhead=None).attach(optimizer):
            model(torch.ones(4, 2)).sum().backward()
            optimizer.step()
    except SystemExit as error:  # only in the child
        os._exit(error.code if os.getpid() != pid else 1)
    assert probe.status == 9


CHILDREN = """
import sys
import torch
from torch import nn
from probes import ProbeManager, every
from loops import Norm


def train(log_dir):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ProbeManager(model, [Norm(every(1))], log_dir=log_dir, overhead=None).attach()
    for _ in range(3):
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()


if __name__ == "__main__":
    method = sys.argv[1]
    context = torch.multiprocessing.get_context("fork" if method == "executor" else method)
    if method == "executor":
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(1, mp_context=context) as executor:
            executor.submit(train, method).result()
    else:
        process = context.Process(target=train, args=(method,))
        process.start()
        process.join()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "executor"])
def test_a_training_in_a_child_that_nobody_ends_is_whole(method, tmp_path):
    (tmp_path / "script.py").write_text(CHILDREN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "script.py", method], cwd=tmp_path, env=environment, check=True)
    run = open_run(tmp_path / method)
    assert run["norm/weight"]["step"].values.tolist() == [0, 1, 2, 3]
    assert run["events"]["kind"].values.tolist()[-1] == "detach"
