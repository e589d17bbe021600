"""Rank 0's part, where no other process is needed to see it."""

import pytest

from probes.ranks.channel import Lost
from probes.ranks.team import Team


class Half:
    """A whole that is interrupted, or fails, while it is put together."""

    def __init__(self, error):
        self.error, self.filled = error, False

    def fill(self, layouts, group):
        self.filled = True
        raise self.error

    def empty(self):
        self.filled = False


@pytest.mark.parametrize(
    ("error", "seen"), [(KeyboardInterrupt(), KeyboardInterrupt), (RuntimeError("a rank is gone"), Lost)]
)
def test_whatever_ends_putting_the_model_together_leaves_no_whole_parameters(error, seen):
    team, whole = object.__new__(Team), Half(error)
    team._members, team._group = [0], None
    with pytest.raises(seen):
        team._fill(whole)
    assert not whole.filled
