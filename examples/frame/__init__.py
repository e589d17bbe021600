"""What the experiments share: the runner and its loop, criteria, figures, data, models, classification."""
