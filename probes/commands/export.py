"""Writing a run in other formats: NetCDF, CSV, Parquet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..names import as_file

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Format", "export"]

Format = Literal["netcdf", "csv", "parquet"]


def export(run: xarray.DataTree, path: str | Path, format: Format = "netcdf") -> list[Path]:
    """Write a run in another format; nothing of it is rounded.

    ``"netcdf"`` is one file, of netCDF 4, with all groups, units and events. ``"csv"`` and ``"parquet"`` are a folder
    of tables, one for each stream, with a row for each entry: ``step``, ``wall_time``, the coordinates, ``value`` and
    ``standard_error``; a complex value is ``value_real`` and ``value_imag``, and so its error. Units are in the
    metadata of the Parquet files (``attrs``), and not in CSV. Names that are too long end in a mark.

    Args:
        run: What :func:`~probes.open_run` returned.
        path: The file, or the folder; must not exist.
        format: The format.

    Returns:
        The files; where one cannot be written there is none.

    Raises:
        ValueError: If there is no such format.
        FileExistsError: If there is something at ``path``.
        ImportError: If pyarrow is missing, for Parquet.
    """
    if format not in get_args(Format):
        raise ValueError(f"`format` must be one of {', '.join(get_args(Format))}, got {format!r}.")
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} is there already. Pass another place, or remove it.")
    if format == "parquet":
        try:
            import pyarrow  # type: ignore[import-untyped]  # noqa: F401
        except ImportError as error:
            raise ImportError("Parquet needs pyarrow: pip install pyarrow") from error
    whole = run.map_over_datasets(_storable)
    if format == "netcdf":
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            groups = {as_file(node.path, ""): node.to_dataset(inherit=False) for node in whole.subtree}
            type(whole).from_dict(groups).to_netcdf(path, engine="h5netcdf")  # the library takes no longer names either
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return [path]
    files = []
    try:
        for node in whole.subtree:
            if not node.has_data:
                continue
            file = path / as_file(node.path.strip("/"), f".{format}")
            file.parent.mkdir(parents=True, exist_ok=True)
            table = _table(node.to_dataset(inherit=False))
            if format == "csv":
                table.to_csv(file, index=False)
            else:
                table.to_parquet(file, index=False)
            files.append(file)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return files


def _storable(stream: xarray.Dataset) -> xarray.Dataset:
    """Without complex numbers, which these formats do not have, and what xarray would take for its own."""
    kind = stream["value"].dtype.kind if "value" in stream else ""
    if kind == "b":  # xarray says so in an attribute of the same name
        stream = stream.copy()
        stream["value"].attrs = {key: item for key, item in stream["value"].attrs.items() if key != "dtype"}
    for name in ("value", "standard_error"):
        if name in stream and stream[name].dtype.kind == "c":
            numbers = stream[name]
            parts = {f"{name}_real": numbers.real, f"{name}_imag": numbers.imag}
            parted = {key: part.assign_attrs(numbers.attrs).rename(key) for key, part in parts.items()}
            stream = stream.drop_vars(name).assign(parted)
    return stream


def _table(stream: xarray.Dataset) -> pandas.DataFrame:
    value = stream.get("value", stream.get("value_real"))
    table = stream.to_dataframe(dim_order=["step"] if value is None else list(value.dims)).reset_index()
    dims = [] if value is None else list(value.dims)
    order = ("step", "wall_time", *dims[1:], "value", "value_real", "value_imag")
    first = [name for name in order if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    table.attrs = {} if value is None else {key: str(item) for key, item in value.attrs.items()}
    return table
