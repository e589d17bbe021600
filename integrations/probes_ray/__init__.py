"""Work on a Ray cluster."""

from .executor import RayExecutor as RayExecutor
