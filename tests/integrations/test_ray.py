"""RayExecutor on a cluster of one machine: what Python's own executors do."""

import time
from concurrent.futures import wait

import pytest
import ray

from probes_ray import RayExecutor

pytestmark = pytest.mark.slow


def later(path, seconds=1.0):
    time.sleep(seconds)
    path.write_text("done")
    return path.name


def fail():
    raise ZeroDivisionError("of the task")


def test_leaving_waits_for_what_was_submitted_and_ends_the_cluster(tmp_path):
    with RayExecutor() as executor:
        futures = [executor.submit(later, tmp_path / str(number)) for number in range(3)]
        failed = executor.submit(fail)
    assert [future.result(0) for future in futures] == ["0", "1", "2"] and len(list(tmp_path.iterdir())) == 3
    error = failed.exception(0)
    assert type(error) is ZeroDivisionError and str(error) == "of the task"
    assert not ray.is_initialized()


def test_a_shutdown_that_cancels_ends_what_runs_and_what_waits(tmp_path):
    executor = RayExecutor()
    futures = [executor.submit(later, tmp_path / str(number), 60) for number in range(4)]
    time.sleep(3)
    start = time.monotonic()
    executor.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 30
    assert not wait(futures, 0).not_done and all(future.cancelled() for future in futures)
    assert not list(tmp_path.iterdir())


def test_a_cluster_of_the_users_is_left_to_him(tmp_path):
    ray.init(num_cpus=1, include_dashboard=False)
    try:
        with RayExecutor() as executor:
            assert executor.submit(pow, 2, 10).result() == 1024
        assert ray.is_initialized()
    finally:
        ray.shutdown()
