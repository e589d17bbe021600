"""Curvature of the loss during training: not of the thesis, of what was published beside it."""
