"""Whether a probe is a good one, and whether it leaves a training as it is."""
