"""NaN from any call of torch that a shipped probe makes is never turned into a number that looks right."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from faults.operators import numbers, plausible, spoil, suit
from faults.scene import Scene, train

from probes import Measurement, Probe, ProbeManager, every, open_run
from probes.session import discovery
from probes.sinks.hdf5 import HDF5Sink


def run(folder, name, shares=()):
    probe = discovery.load(name)(every(4))
    scene = Scene(folder, probes=[probe], sinks=[HDF5Sink()], log_dir=folder / str(len(list(folder.iterdir()))))
    suit(scene, name)
    modes = spoil(probe, "nan", shares)
    train(scene)
    scene.manager.detach()
    return open_run(scene.log_dir), modes


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("fourier", 2),
        ("tangent_kernel", 2),
        *(pytest.param(name, 20, marks=pytest.mark.slow) for name in discovery.installed()),
    ],
)
def test_nan_never_becomes_a_plausible_number(name, times, tmp_path):
    clean, _ = run(tmp_path, name)
    rng = random.Random(name)
    spoilt = 0
    for _ in range(times):
        spoilt_run, modes = run(tmp_path, name, tuple(rng.random() for _ in range(3)))
        assert not plausible(numbers(clean), spoilt_run, modes, [0, 4, 8, 12])
        spoilt += sum(bool(mode.done) for mode in modes)
    assert spoilt >= times


def test_the_comparison_would_notice_a_number_made_from_nan(tmp_path):
    class Hides(Probe):
        name = "hides"

        def measure(self, run, step):
            weight = next(run.model.parameters()).detach() * 2
            yield Measurement("hides/norm", torch.nan_to_num(weight, nan=1.0).norm())

    def hides(shares):
        probe = Hides(every(4))
        folder = tmp_path / str(len(shares))
        scene = Scene(tmp_path, probes=[probe], sinks=[HDF5Sink()], log_dir=folder)
        modes = spoil(probe, "nan", shares)
        train(scene)
        scene.manager.detach()
        return open_run(folder), modes

    clean, _ = hides(())
    spoilt_run, modes = hides((0.0, 0.0, 0.0))
    assert plausible(numbers(clean), spoilt_run, modes, [0, 4, 8, 12]) == {"hides/norm": [4, 8, 12]}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("of memory"), KeyboardInterrupt()])
def test_what_a_probe_held_when_it_failed_is_let_go(error, model, optimizer):
    held = []

    class Fails(Probe):
        def measure(self, run, step):
            large = torch.zeros(1000)
            held.append(weakref.ref(large))
            run.shared("kernel", lambda: large)
            raise error

    gc.collect()
    gc.disable()  # nothing may have to wait for it
    try:
        with ProbeManager(model, [Fails(every(1))], sinks=[], overhead=None).attach(optimizer):
            model(torch.ones(4, 2)).sum().backward()
            try:
                optimizer.step()
            except KeyboardInterrupt as caught:
                caught.__traceback__ = None
        error.__traceback__ = None
        assert held and all(reference() is None for reference in held)
    finally:
        gc.enable()


def test_numbers_of_a_run_are_found(tmp_path):
    clean, _ = run(tmp_path, "spectral_norm")
    assert "spectral_norm/weight" in numbers(clean) and np.isfinite(numbers(clean)["spectral_norm/weight"].value).all()
