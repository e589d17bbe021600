"""The viewer in a notebook: the same page in a frame of its own."""

from __future__ import annotations

import html
from pathlib import Path

from .page import page

__all__ = ["Frame"]


class Frame:
    """What a notebook shows of a run: the page of :func:`probes_viewer.report`, also without network.

    Args:
        path: The log directory of the run.
        stream: The stream that is shown first; by default the overview.
        height: Of the frame, in pixels.
        max_megabytes: The greatest size that it may add to the notebook.

    Raises:
        ValueError: If ``height`` is no positive integer.
    """

    def __init__(self, path: str | Path, stream: str = "", height: int = 720, max_megabytes: float = 5.0) -> None:
        if isinstance(height, bool) or not isinstance(height, int) or height < 1:
            raise ValueError(f"`height` must be a positive number of pixels, got {height!r}.")
        self._path, self._stream, self._height, self._most = path, stream, height, max_megabytes

    def _repr_html_(self) -> str:
        source = page([self._path], self._most, self._stream)
        return (
            f'<iframe sandbox="allow-scripts allow-downloads" style="width: 100%; height: {self._height}px; border: 0" '
            f'title="probes" srcdoc="{html.escape(source)}"></iframe>'
        )
