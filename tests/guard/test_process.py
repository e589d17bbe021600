"""Each test does on purpose, inside the guard, what a careless probe would do to the process."""

import gc
import os
import signal
import sys
import tempfile
import warnings

import numpy as np
import pytest
import torch
import warm
from torch import nn

from probes.guard import process
from probes.guard.fingerprint import differences, of_process
from probes.guard.process import SETTINGS
from probes.guard.unnoticed import unnoticed


def test_settings_are_as_before(model):
    with torch.no_grad(), unnoticed(model):
        assert torch.is_grad_enabled()
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        torch.set_grad_enabled(False)
    assert torch.get_default_dtype() == torch.float32 and not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest" and torch.is_grad_enabled()


def test_autocast_is_off_inside(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with unnoticed(model):
            assert model(torch.randn(5, 3)).dtype == torch.float32
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("enabled", [True, False])
def test_attention_has_no_fast_path_inside(enabled):
    """It gives nested tensors where there is a mask of padding, and skips the layers of a layer."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model, kinds, padding = nn.TransformerEncoder(layer, 2), [], torch.arange(5).expand(3, 5) > 2
    before = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(enabled)
        with unnoticed(model), torch.no_grad():
            for module in model.modules():
                module.register_forward_hook(lambda module, _, out: kinds.append((type(module), out[0].is_nested)))
            model(torch.randn(3, 5, 8), src_key_padding_mask=padding)
        assert (nn.Linear, False) in kinds and not any(nested for _, nested in kinds)
        assert torch.backends.mha.get_fastpath_enabled() == enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_products_inside_have_all_of_their_digits(model):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with unnoticed(model):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_a_script_asks_for_to_find_its_own_faults_is_not_asked_of_a_measurement(monkeypatch):
    monkeypatch.setattr(process, "strict", False)
    before = (np.geterr(), torch.is_anomaly_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    try:
        np.seterr(all="raise"), torch.autograd.set_detect_anomaly(True), torch.use_deterministic_algorithms(True)
        kept = dict(of_process())
        with unnoticed(nn.Linear(2, 1)), warnings.catch_warnings(record=True) as told:
            warnings.warn("of a library", stacklevel=1)
            assert np.isinf(np.ones(1) / np.zeros(1)).all() and np.geterr()["divide"] == "warn"
            assert not torch.is_anomaly_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
        assert told == [] and dict(of_process()) == kept
    finally:
        np.seterr(**before[0]), torch.autograd.set_detect_anomaly(before[1]), torch.use_deterministic_algorithms(False)


def test_more_settings_are_as_before(model):
    attention, denormal = torch.backends.cuda.flash_sdp_enabled(), torch.tensor([1e-39])
    with unnoticed(model):
        torch.backends.cuda.enable_flash_sdp(not attention)
        torch.set_flush_denormal(True)
        torch.set_default_device("meta")
        np.seterr(all="raise")
        gc.disable()
    assert torch.backends.cuda.flash_sdp_enabled() == attention and torch.ones(1).device.type == "cpu"
    assert np.geterr()["over"] != "raise" and gc.isenabled() and (denormal * 0.5).item() != 0


def test_matmul_precision_set_by_the_newer_names_is_no_fault(model):
    # Of a process of its own: torch cannot be brought back to the older names.
    if not hasattr(torch.backends, "fp32_precision"):
        return  # this torch has the older names only
    script = (
        "import torch\nfrom probes.guard.unnoticed import unnoticed\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "with unnoticed(torch.nn.Linear(1, 1)):\n"
        "    assert torch.backends.cuda.matmul.fp32_precision == 'ieee'\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "assert torch.backends.cuda.matmul.fp32_precision == 'tf32'\n"
    )
    done = warm.run(script)
    assert done.returncode == 0, done.stderr


CARELESS = {
    "gradients enabled": lambda: torch.set_grad_enabled(False),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "autocast": lambda: (torch.set_autocast_cache_enabled(False), torch.set_autocast_dtype("cpu", torch.float16)),
    "attention backends": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "attention fast path": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "cudnn": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "mkldnn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "denormal numbers": lambda: torch.set_flush_denormal(True),
    "numpy errors": lambda: np.seterr(all="ignore"),
    "warning filters": lambda: warnings.simplefilter("ignore"),
    "garbage collection": lambda: (gc.set_threshold(1, 1, 1), gc.freeze()),
    "recursion limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1),
    "switch interval": lambda: sys.setswitchinterval(2 * sys.getswitchinterval()),
    "working directory": lambda: os.chdir(tempfile.gettempdir()),
    "tracing": lambda: sys.setprofile(lambda *_: None),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, lambda *_: None),
}


@pytest.mark.parametrize("careless", [lambda: None, lambda: warnings.simplefilter("default")])
def test_a_warning_of_a_measurement_is_still_an_error_in_the_loop(careless, monkeypatch):
    def warn():
        warnings.warn("of the forward", UserWarning, stacklevel=1)

    monkeypatch.setattr(process, "strict", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with unnoticed(nn.Linear(2, 1)):
            careless()
            warn()
        with pytest.raises(UserWarning, match="of the forward"):
            warn()


def test_every_setting_has_a_careless_probe():
    assert CARELESS.keys() == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("name", CARELESS)
def test_every_setting_that_is_compared_is_restored(name):
    model = nn.Linear(2, 1)
    before = dict(of_process())
    with unnoticed(model):
        CARELESS[name]()
        changed = differences(before, dict(of_process()))
    assert differences(before, dict(of_process())) == []
    assert f"setting {name}" in changed
