"""Results in Weights & Biases."""

from .sink import WandbSink as WandbSink
