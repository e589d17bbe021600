"""Writing a run in other formats: NetCDF, CSV, Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import pandas
    import xarray

__all__ = ["Format", "export"]

Format = Literal["netcdf", "csv", "parquet"]


def export(run: xarray.DataTree, path: str | Path, format: Format = "netcdf") -> list[Path]:
    """Write a run in another format; nothing of it is rounded.

    ``"netcdf"`` is one file, of netCDF 4, with all groups, units and events. ``"csv"`` and ``"parquet"`` are a folder
    of tables, one for each stream, with a row for each entry: ``step``, ``wall_time``, the coordinates, ``value`` and
    ``standard_error``; a complex value is ``value_real`` and ``value_imag``. Units are in the metadata of the Parquet
    files (``attrs``), and not in CSV.

    Args:
        run: What :func:`~probes.open_run` returned.
        path: The file, or the folder; must not exist.
        format: The format.

    Returns:
        The files.

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
            whole.to_netcdf(path, engine="h5netcdf")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return [path]
    files = []
    for node in whole.subtree:
        if not node.has_data:
            continue
        file = path / f"{node.path.strip('/')}.{format}"
        file.parent.mkdir(parents=True, exist_ok=True)
        table = _table(node.to_dataset(inherit=False))
        if format == "csv":
            table.to_csv(file, index=False)
        else:
            table.to_parquet(file, index=False)
        files.append(file)
    return files


def _storable(stream: xarray.Dataset) -> xarray.Dataset:
    """Without complex numbers, which these formats do not have, and what xarray would take for its own."""
    kind = stream["value"].dtype.kind if "value" in stream else ""
    if kind == "b":  # xarray says so in an attribute of the same name
        stream = stream.copy()
        stream["value"].attrs = {key: item for key, item in stream["value"].attrs.items() if key != "dtype"}
    if kind != "c":
        return stream
    value = stream["value"]
    parts = {"value_real": value.real, "value_imag": value.imag}
    parted = {name: part.assign_attrs(value.attrs).rename(name) for name, part in parts.items()}
    found: xarray.Dataset = stream.drop_vars("value").assign(parted)
    return found


def _table(stream: xarray.Dataset) -> pandas.DataFrame:
    value = stream.get("value", stream.get("value_real"))
    table = stream.to_dataframe(dim_order=["step"] if value is None else list(value.dims)).reset_index()
    dims = [] if value is None else list(value.dims)
    order = ("step", "wall_time", *dims[1:], "value", "value_real", "value_imag")
    first = [name for name in order if name in table]
    table = table[[*first, *(name for name in table if name not in first)]]
    table.attrs = {} if value is None else {key: str(item) for key, item in value.attrs.items()}
    return table
