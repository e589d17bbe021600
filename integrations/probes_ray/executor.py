"""RayExecutor: the processes of a Ray cluster as an executor of Python's ``concurrent.futures``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

try:
    import ray
except ImportError as error:
    raise ImportError("probes_ray needs Ray: pip install 'torch-probes[ray]'") from error

__all__ = ["RayExecutor"]

T = TypeVar("T")


class RayExecutor(Executor):
    """Runs each call as a task of one CPU on the Ray cluster that is connected, or that Ray finds, or begins here.

    Which one is up to Ray: the cluster of ``RAY_ADDRESS``, one that runs on this machine, or a new one, which ends with
    the executor. Its machines must have the same packages installed, and see the same files.

    Example:
        >>> with RayExecutor() as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """

    def __init__(self) -> None:
        self._own = not ray.is_initialized()
        if self._own:
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
        self._call: Any = ray.remote(num_cpus=1)(_call)
        self._running: dict[Future[Any], Any] = {}
        """The tasks of all futures that are not done."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The future of ``fn(*args, **kwargs)``; what ``fn`` raises, it raises."""
        task = self._call.remote(fn, args, kwargs)
        future: Future[T] = Future()
        self._running[future] = task
        future.add_done_callback(self._running.pop)
        task.future().add_done_callback(partial(_pass_on, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for what runs, or end it, and end the cluster if it was begun here.

        Args:
            wait: Until all is done. If not, a cluster that was begun here ends with the process.
            cancel_futures: End the tasks that are not done, also those that run.
        """
        running = dict(self._running)
        if cancel_futures:
            for future, task in running.items():
                future.cancel()
                ray.cancel(task, force=True)  # without force, one that is about to begin would run to its end
        if wait:
            futures.wait(running)
            if self._own and ray.is_initialized():
                ray.shutdown()


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return fn(*args, **kwargs)


def _pass_on(future: Future[T], task: Future[T]) -> None:
    """Give a future the result of a task, or the error itself, and not that a task of Ray had one."""
    if future.set_running_or_notify_cancel():
        if (error := task.exception()) is None:
            future.set_result(task.result())
        else:
            future.set_exception(getattr(error, "cause", None) or error)
