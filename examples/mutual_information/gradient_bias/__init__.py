"""The bias of MINE's gradient on mini-batches, with and without a moving average (eq. 12)."""
