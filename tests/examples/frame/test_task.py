"""The loop that can be interrupted: it goes on as if nothing had happened."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.frame import task as module
from examples.frame.task import Interruption, Task

CPU = torch.device("cpu")


def training(folder: Path, interruption: Interruption | None = None, total: int = 20) -> Iterator[tuple[int, Tensor]]:
    """Random batches through dropout and Adam: model, optimizer and random state must all come back."""
    task = Task(folder, 0, CPU, interruption)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    task.resume(model=model, optimizer=optimizer)
    for step in task.steps(total):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 4)).square().mean()
        loss.backward()
        optimizer.step()
        yield step, loss.detach()


def test_an_interrupted_loop_goes_on_bit_for_bit(tmp_path):
    whole = dict(training(tmp_path / "whole"))
    parts: dict[int, Tensor] = {}
    for stop in (7, 13):
        interruption = Interruption()
        with interruption, pytest.raises(KeyboardInterrupt):
            for step, loss in training(tmp_path / "broken", interruption):
                parts[step] = loss
                if step == stop:
                    signal.raise_signal(signal.SIGINT)
        assert max(parts) == stop
        torch.rand(5)  # what else the process draws does not matter
    resumed = dict(training(tmp_path / "broken"))
    assert list(resumed) == list(range(14, 20))
    assert list(whole.values()) == list({**parts, **resumed}.values())


def test_a_killed_loop_goes_on_from_its_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHECKPOINT_SECONDS", 0)
    whole = dict(training(tmp_path / "whole"))
    for step, _ in training(tmp_path / "killed"):
        if step == 9:  # the checkpoint of this step is not written
            break
    resumed = dict(training(tmp_path / "killed"))
    assert list(resumed) == list(range(9, 20))
    assert all(whole[step] == loss for step, loss in resumed.items())


def test_of_a_loop_that_has_reached_its_goal_the_time_is_known(tmp_path):
    task = Task(tmp_path, 0, CPU)
    task.resume()
    for step in task.steps(100):
        time.sleep(0.01)
        if step == 2:
            break
    assert task.seconds >= 0.03 and task.cpu_seconds > 0


def test_a_finished_loop_has_no_step_left(tmp_path):
    list(training(tmp_path))
    assert list(training(tmp_path)) == []


def test_a_run_without_checkpoint_leaves_no_measurement_behind(tmp_path):
    task = Task(tmp_path, 0, CPU)
    task.log_dir.mkdir()
    (task.log_dir / "run.h5").write_text("of a run that nobody can go on with")
    (tmp_path / "other").write_text("not ours")
    task.resume()
    assert not task.log_dir.exists() and (tmp_path / "other").exists()


def test_parts_have_their_own_folder_and_their_seconds_add_up(tmp_path):
    task = Task(tmp_path, 5, CPU)
    for name in ("a", "b"):
        part = task.part(name)
        assert part.folder == tmp_path / name and part.seed == 5
        part.resume()
        list(part.steps(3))
    assert task.seconds == sum(torch.load(tmp_path / name / "checkpoint.pt")["seconds"] for name in ("a", "b")) > 0


def test_the_seconds_of_earlier_sessions_count(tmp_path):
    list(training(tmp_path))
    saved = torch.load(tmp_path / "checkpoint.pt")
    torch.save({**saved, "seconds": 1000.0}, tmp_path / "checkpoint.pt")
    list(training(tmp_path, total=21))
    assert 1000 < torch.load(tmp_path / "checkpoint.pt")["seconds"] < 1010


def test_a_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.wished
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
