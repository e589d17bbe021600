"""Measuring after the fact, on checkpoints."""
