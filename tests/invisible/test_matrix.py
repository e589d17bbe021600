"""Training with every shipped probe attached equals training without, bit for bit, at every point of every loop.

Here a selection of the combinations, in which every pair of levels appears; all of them are run by
``python benchmarks/observer_effect.py``.
"""

import itertools

import pytest
import torch

from invisible.matrix import FACTORS, PROBES, REFUSED, Combination, Session, compare, pairwise_cover, run, train_bare
from invisible.models import MODELS
from probes.session.discovery import installed


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


COVER = pairwise_cover()


def test_every_shipped_probe_is_in_the_matrix():
    shipped = {name for name, entry in installed().items() if entry.module.startswith("probes_")}
    assert shipped == set(PROBES)


def test_the_selection_covers_every_pair_that_pytorch_trains():
    seen = {frozenset(pair) for combination in COVER for pair in itertools.combinations(combination, 2)}
    for one, other in itertools.combinations(FACTORS, 2):
        for pair in itertools.product(one, other):
            assert (frozenset(pair) in seen) == (pair not in REFUSED and pair[::-1] not in REFUSED), pair


# Every sixth in each run of the tests, the others with the slow ones.
@pytest.mark.parametrize(
    "combination",
    [pytest.param(c, marks=[] if index % 6 == 0 else pytest.mark.slow) for index, c in enumerate(COVER)],
    ids="-".join,
)
def test_all_probes_together_change_nothing(combination):
    assert run(combination) == ""


@pytest.mark.parametrize("pair", REFUSED, ids="-".join)
def test_what_pytorch_refuses_it_refuses_without_probes(pair):
    levels = [next((level for level in factor if level in pair), factor[0]) for factor in FACTORS]
    assert run(Combination(*levels)) != ""


def test_a_lazy_model_gets_its_weights_from_the_loop():
    # The batch is given, and the closure's forward comes after the first update has begun.
    assert run(Combination("LBFGS", "lazy", "plain", "compiled after")) == ""


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=[] if model == "spectral norm" else pytest.mark.slow) for model in MODELS],
)
def test_each_probe_alone_changes_nothing(model, probe):
    assert run(Combination("SGD momentum", model, "evaluation", "eager"), [probe]) == ""


@pytest.mark.parametrize(
    "execution",
    [pytest.param(how, marks=() if how == "eager" else pytest.mark.slow) for how in FACTORS.execution],
)
def test_the_files_change_nothing(execution, tmp_path):
    combination = Combination("AdamW fused", "batch norm", "gradient scaler", execution)
    session = Session(combination, list(PROBES), sinks=None, log_dir=tmp_path)
    session.train()
    session.detach()
    session.watch("detached")
    compare(train_bare(combination), session.watch.trace)
    assert (tmp_path / "run.h5").stat().st_size > 0 and list(tmp_path.glob("events.out.tfevents*"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dropout", "attention"])
def test_the_default_compiler_is_not_disturbed(model):
    assert run(Combination("AdamW foreach", model, "evaluation", "compiled before"), backend="inductor") == ""
