"""One viewer of runs behind four doors: a file, a server, a tab of TensorBoard, a notebook."""

from .notebook import Frame
from .page import report
from .server import serve

__all__ = ["Frame", "report", "serve"]
