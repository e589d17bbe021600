"""Results in MLflow."""

from .sink import MLflowSink as MLflowSink
