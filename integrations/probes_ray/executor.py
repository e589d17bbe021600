"""RayExecutor: the processes of a Ray cluster as an executor of Python's ``concurrent.futures``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
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

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The future of ``fn(*args, **kwargs)``; what ``fn`` raises, it raises."""
        future: Future[T] = self._call.remote(fn, args, kwargs).future()
        return _unwrapped(future)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, and end it if it was begun here."""
        if self._own and ray.is_initialized():
            ray.shutdown()


def _call(fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return fn(*args, **kwargs)


def _unwrapped(task: Future[T]) -> Future[T]:
    """The same future, which raises the error itself, and not that a task of Ray had one."""
    result: Future[T] = Future()

    def done(task: Future[T]) -> None:
        if not result.set_running_or_notify_cancel():
            return
        error = task.exception()
        if error is None:
            result.set_result(task.result())
        else:
            result.set_exception(getattr(error, "cause", None) or error)

    task.add_done_callback(done)
    return result
