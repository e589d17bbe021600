"""Results in trackio."""

from .sink import TrackioSink as TrackioSink
