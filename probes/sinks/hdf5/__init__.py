"""The sink that holds everything."""

from .sink import HDF5Sink as HDF5Sink
