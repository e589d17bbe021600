"""Each integration needs its own framework, and says which."""

import pytest
import warm


@pytest.mark.parametrize(
    ("package", "frameworks", "extra"),
    [
        ("probes_lightning", ["lightning", "pytorch_lightning"], "lightning"),
        pytest.param("probes_transformers", ["transformers"], "transformers", marks=pytest.mark.slow),
        ("probes_wandb", ["wandb"], "wandb"),
        pytest.param("probes_mlflow", ["mlflow"], "mlflow", marks=pytest.mark.slow),
        pytest.param("probes_ray", ["ray"], "ray", marks=pytest.mark.slow),
        pytest.param("probes_ignite", ["ignite"], "ignite", marks=pytest.mark.slow),
    ],
)
def test_a_missing_framework_is_named_with_what_to_install(package, frameworks, extra):
    script = f"import sys; sys.modules.update(dict.fromkeys({frameworks})); import {package}"
    done = warm.run(script)
    assert done.returncode and f"pip install 'torch-probes[{extra}]'" in done.stderr
