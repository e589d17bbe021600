"""Training with every probe attached, beside the same training without: factors, loops, and the comparison of both."""
