"""Results as CSV files, one for each stream, for tools that read nothing else."""

from .sink import CSVSink as CSVSink
