"""The whole list of faults: importing this fills it."""

from . import in_probes, in_sinks, in_training, operators  # noqa: F401
