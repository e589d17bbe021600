"""A training that was interrupted and resumed has the records of one that was not."""

import numpy as np
import pytest

from invisible.loops import LOOPS
from invisible.matrix import PROBES, Combination, Session, brief, refused
from invisible.models import MODELS
from invisible.optimizers import OPTIMIZERS
from probes import open_run
from probes.guard.fingerprint import differences
from probes.sinks.hdf5 import HDF5Sink

BASE = Combination("AdamW foreach", "batch norm", "plain", "eager")
EACH = [
    *(BASE._replace(optimizer=level) for level in OPTIMIZERS),
    *(BASE._replace(model=level) for level in MODELS),
    *(BASE._replace(loop=level) for level in LOOPS),
    *(BASE._replace(loop="gradient scaler", optimizer=level) for level in OPTIMIZERS),
    *(BASE._replace(execution=level) for level in ("compiled before", "compiled after")),
]
QUICK = {
    BASE._replace(loop="gradient scaler", optimizer="two halves"),
    BASE._replace(loop="gradient scaler", optimizer="AdamW fused"),
}
COMBINATIONS = [
    pytest.param(combination, id="-".join(combination), marks=[] if combination in QUICK else pytest.mark.slow)
    for combination in dict.fromkeys(EACH)
    if refused(combination) is None
]


def interrupted(combination, probes, **settings):
    """Train half, save, go on in vain, and resume from what was saved."""
    first = Session(combination, probes, sinks=[HDF5Sink()], **settings)
    first.train(until=1)
    checkpoint = first.checkpoint()
    first.train()  # lost in a crash
    first.detach()
    second = Session(combination, probes, checkpoint=checkpoint, sinks=[HDF5Sink()], **settings)
    second.train()
    second.detach()
    return second


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch: of its compiler, and of checkpoints without gradients
@pytest.mark.parametrize("combination", COMBINATIONS)
def test_an_interrupted_run_has_the_records_of_one_that_was_not(combination, tmp_path, monkeypatch):
    monkeypatch.setattr("probes_mine.layer_information.label_information", brief)
    bare = Session(combination, None)
    bare.train()
    resumed = interrupted(combination, None)
    names = [name for name in differences(bare.watch.trace.digests[-1], resumed.watch.trace.digests[-1])
             if name != "graphs compiled"]  # fmt: skip
    exact = not names  # whether PyTorch's own states suffice to go on to the last bit

    whole = Session(combination, list(PROBES), sinks=[HDF5Sink()], log_dir=tmp_path / "whole")
    whole.train()
    whole.detach()
    cut = interrupted(combination, list(PROBES), log_dir=tmp_path / "cut")
    assert cut.manager.run.step == whole.manager.run.step == cut.loop.steps == whole.loop.steps
    one, other = open_run(tmp_path / "whole"), open_run(tmp_path / "cut")
    streams = [node.path for node in one.subtree if "value" in node.variables and not node.path.startswith("/probes/")]
    assert len(streams) > 20
    for path in streams:
        assert one[path]["step"].values.tolist() == other[path]["step"].values.tolist(), path
        if exact:
            np.testing.assert_array_equal(one[path]["value"].values, other[path]["value"].values, err_msg=path)
    if combination in QUICK:
        assert exact, names
