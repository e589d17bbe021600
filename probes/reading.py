"""open_run: the measurements of a run as labelled arrays, finished or not."""

from __future__ import annotations

import functools
import os
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from .measurement import NAME
from .sinks.hdf5.run_file import check_version
from .sinks.hdf5.streams import coordinates, dimensions
from .sinks.hdf5.superblock import read_file
from .sinks.hdf5.table import attributes, growing, stored_rows, tables

if TYPE_CHECKING:
    import xarray

__all__ = ["open_run"]


def open_run(path: str | Path) -> xarray.DataTree:
    """The measurements of a run, also while training writes them or after it was killed.

    One group for each stream, with ``value``, ``step``, ``wall_time``, the coordinates of its dimensions and
    ``standard_error`` where there is one; units are in ``attrs["units"]``. The groups ``events`` and ``sessions`` hold
    the events of the run and its starts and resumes; the tree's name is that of the log directory. A stream ``loss``
    beside a stream ``loss/train`` is found at ``loss/self``. Rows are in the order in which they were written.
    Everything is read into memory: what was flushed at this moment, whole rows only. The file is not changed.

    Args:
        path: The log directory of the run, or the file itself.

    Raises:
        ImportError: If xarray is not installed.
        FileNotFoundError: If there is no such file.
        TypeError: If ``path`` is not a path.
        ValueError: If it is not a run file, or is damaged.

    For example, ``open_run("runs/vgg19")["fourier/amplitude/train"].value.sel(frequency=5).plot()``. In a notebook
    ``open_run("runs/vgg19").show()`` is the viewer of the run, and the same of a stream begins with it.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError("open_run needs xarray: pip install 'torch-probes[analysis]'") from error
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"`path` must be the log directory of a run or its run.h5, got {path!r}.")
    path = Path(path).expanduser()
    file_path = path / "run.h5" if path.is_dir() else path
    if not file_path.is_file():
        runs = sorted(file.parent.name for file in path.glob("*/run.h5"))
        raise FileNotFoundError(
            f"`path` must be the log directory of a run or its run.h5, but there is no file {file_path}. "
            + (
                f"{path} holds {len(runs)} runs; name one, such as {path / runs[-1]}."
                if runs
                else "The file appears when the first measurements are written."
            )
        )
    _can_be_shown()
    root, groups = read_file(file_path, _datasets)
    # A tree aligns the steps of a group with those of the groups above it: only leaves can be streams.
    folders = {name.rsplit("/", depth)[0] for name in groups for depth in range(1, name.count("/") + 1)}
    leaves = {f"{name}/self" if name in folders else name: group for name, group in groups.items()}
    root.encoding["source"] = str(file_path.absolute())
    tree: xarray.DataTree = xarray.DataTree.from_dict({"/": root, **leaves}, name=file_path.absolute().parent.name)
    tree.encoding["sizes"] = _sizes(tree)
    return tree


def _sizes(tree: xarray.DataTree) -> dict[str, dict[Any, int]]:
    return {node.path: dict(node.sizes) for node in tree.leaves}


@functools.cache
def _can_be_shown() -> None:
    """Give trees, by xarray's way to extend them, a method ``show``: what is installed as the viewer."""
    import xarray

    class Show:
        def __init__(self, tree: xarray.DataTree) -> None:
            self._tree = tree

        def __call__(self, **settings: Any) -> Any:
            """The page of the run in a frame; ``height=`` and ``max_megabytes=`` are its settings."""
            source = self._tree.root.encoding.get("source")
            if source is None or self._tree.root.encoding.get("sizes") != _sizes(self._tree.root):
                raise ValueError(
                    "show() needs a tree as open_run() has returned it, or a stream of it: it reads the file again. Of "
                    "a selection `plot()` draws a stream."
                )
            viewers = entry_points(group="probes.viewers")
            if not viewers:
                raise ImportError("show() needs a viewer: pip install torch-probes")
            stream = self._tree.path.strip("/").removesuffix("/self")
            return next(iter(viewers)).load()(source, stream=stream, **settings)

    xarray.register_datatree_accessor("show")(Show)  # type: ignore[no-untyped-call]


def _datasets(file: Any) -> tuple[xarray.Dataset, dict[str, xarray.Dataset]]:
    """The attributes of a run and, by name, its tables."""
    import xarray

    check_version(file)
    root = xarray.Dataset(attrs=dict(file.attrs))
    groups = {group.name.strip("/"): group for group in tables(file)}
    if bad := [name for name in groups if not NAME.fullmatch(name)]:
        raise ValueError(f"{bad[0]!r} is no name of a stream")  # it could lead anywhere when a file is named after it
    return root, {name: _dataset(group) for name, group in groups.items()}


def _dataset(group: Any) -> xarray.Dataset:
    """One table, as far as all its columns are written."""
    import xarray

    columns = growing(group)
    rows = min(len(column) for column in columns.values())
    if any(stored_rows(column) < rows for column in columns.values()):
        raise ValueError(f"{group.name!r} claims {rows} rows, which are not there")
    variables: dict[str, Any] = {}
    for name, column in columns.items():
        dims, values = dimensions(column), column[:rows]
        about = {key: item for key, item in attributes(column).items() if key not in HIDDEN}
        if name == "wall_time":
            with np.errstate(invalid="ignore"):  # of a damaged file
                values = (values * 1e6).round().astype("datetime64[us]").astype("datetime64[ns]")
            del about["units"]
        elif dims[-1] == "part":
            dims, values = dims[:-1], values.view(np.result_type(values, np.complex64))[..., 0]
        elif h5py.check_string_dtype(column.dtype):
            values = np.char.decode(values, "utf-8")
        if about.get("dtype") == "bool":
            values = values.astype(bool)
        variables[name] = (dims, values, about)
        for dim in dims[1:]:
            labels, unit, description = coordinates(group[dim])
            variables[dim] = (dim, labels, {"units": unit, "long_name": description})
    index = {name for name in variables if name not in ("value", "standard_error")} if "value" in columns else {"step"}
    return xarray.Dataset(
        {name: item for name, item in variables.items() if name not in index},
        {name: item for name, item in variables.items() if name in index},
    )


HIDDEN = {"coordinates", "calendar", "complex"}
"""Attributes that only the file needs."""
