"""How the pictures of :mod:`probes.plots` are drawn."""
