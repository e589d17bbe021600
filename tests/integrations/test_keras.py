"""Keras' own fit with the callback, against itself without it."""

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import pytest
import torch

from probes import Measurement, Probe, every, open_run
from probes_keras import ProbesCallback

N, BATCH = 48, 8


def fitted(callbacks, epochs=2, model=None, **optimizer):
    keras.utils.set_random_seed(0)
    if model is None:
        layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
        model = keras.Sequential([keras.layers.Input((5,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-2, **optimizer), loss)
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((N, 5), dtype="float32"), generator.integers(0, 3, N)
    model.fit(x, y, epochs=epochs, verbose=0, batch_size=BATCH, callbacks=callbacks)
    return model


def weights(model):
    return [variable.value.detach().clone() for variable in model.trainable_variables]


class Noted(keras.callbacks.Callback):
    """The weights after each batch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_begin(self, logs=None):
        self.weights.append(weights(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(weights(self.model))


class Steps(Probe):
    name = "steps"

    def measure(self, run, step):
        yield Measurement("steps/step", step)


def test_a_fit_is_bit_for_bit_that_without_the_callback_and_everything_is_measured(tmp_path):
    noted, callback = Noted(), ProbesCallback(log_dir=tmp_path, overhead=None)
    bare, watched = fitted([]), fitted([callback, noted])
    assert all(map(torch.equal, weights(bare), weights(watched)))
    assert torch.equal(torch.rand(1), (fitted([]), torch.rand(1))[1])  # nor has anything drawn
    run = open_run(tmp_path)
    assert {"fourier", "layers", "ntk", "spectral_norm", "loop"} <= set(run.children)
    assert callback.manager.run.step == 2 * N // BATCH and "counted in manager.step()" in callback.manager.report()
    norms = run["layers/update_norm"]
    names = norms["layer"].values.tolist()
    assert [name.rpartition("/")[2].rstrip("_0123456789") for name in names] == ["dense", "dense"]
    for step in norms["step"].values:
        moved = [after - before for before, after in zip(noted.weights[step - 1], noted.weights[step], strict=True)]
        expected = [float((moved[i].double() ** 2).sum() + (moved[i + 1].double() ** 2).sum()) ** 0.5 for i in (0, 2)]
        np.testing.assert_allclose(norms["value"].sel(step=step), expected, rtol=1e-6)


def test_a_model_is_measured_without_its_dropout(tmp_path):
    callback = ProbesCallback(log_dir=tmp_path, overhead=None)
    fitted([callback])
    assert callback.manager.run.batches["train"].kwargs["training"] is False
    assert "random" not in callback.manager.report()


def test_matrices_are_measured_once(tmp_path):
    layers = [keras.layers.Embedding(11, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.layers.Input((5,), dtype="int64"), *layers])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 11, (N, 5)), generator.integers(0, 3, N)
    callback = ProbesCallback(log_dir=tmp_path, overhead=None)
    model.fit(x, y, verbose=0, batch_size=BATCH, callbacks=[callback])
    run = open_run(tmp_path)
    norms = run["spectral_norm/weight"]["value"]
    assert len(norms["layer"]) == 2 and np.isfinite(norms.values).all()


def test_a_step_is_an_update_where_gradients_are_added_up(tmp_path):
    callback = ProbesCallback(probes=[Steps(every(1))], log_dir=tmp_path, overhead=None)
    fitted([callback], gradient_accumulation_steps=3)
    assert open_run(tmp_path)["steps/step"]["value"].values.tolist() == [1, 2, 3, 4]


def test_a_second_fit_goes_on(tmp_path):
    callback = ProbesCallback(probes=[Steps(every(4))], log_dir=tmp_path, overhead=None)
    model = fitted([callback], epochs=1)
    fitted([callback], epochs=1, model=model)
    assert callback.manager.run.step == 12


def test_wrong_settings_are_told_at_once():
    with pytest.raises(TypeError, match="is the one that is fitted"):
        ProbesCallback(model=None)
    with pytest.raises(ValueError, match="overhead"):
        ProbesCallback(overhead=-1)


def test_another_backend_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError, match="Set KERAS_BACKEND=torch"):
        ProbesCallback().on_train_begin()


def test_a_fit_that_has_failed_is_over_when_the_next_begins(tmp_path, caplog):
    class Failing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raise KeyboardInterrupt

    callback = ProbesCallback(probes=[Steps(every(1))], log_dir=tmp_path / "run", overhead=None)
    with pytest.raises(KeyboardInterrupt):
        fitted([callback, Failing()])
    first = callback.manager
    model = fitted([callback], epochs=1)
    assert callback.manager is not first and "Another model is watched now" in caplog.text
    fitted([callback], epochs=1, model=model)
    assert not any("failed in ProbesCallback" in record.message for record in caplog.records)
    assert open_run(tmp_path / "run")["steps/step"].value[-1] == 3  # closed, and not locked


def test_a_loss_scale_is_told(tmp_path, caplog):
    layers = [keras.layers.Input((5,)), keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=4.0)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fitted([ProbesCallback(log_dir=tmp_path, overhead=None)], epochs=1, model=model)
    assert "multiplied by its scale" in caplog.text
