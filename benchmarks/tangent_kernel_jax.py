"""neural-tangents' structured derivatives on a workload of ``tangent_kernel.py``; run by it with a Python of its own.

The packages are pinned in ``requirements-neural-tangents.txt``. Two names that neural-tangents 0.6.5 imports from jax
have moved since; they are put back first.
"""

from __future__ import annotations

import json
import sys
import time
import types
from typing import Any

import jax
import numpy as np
from jax import lax, nn
from jax import numpy as jnp


def restore_moved_names() -> None:
    """Put back what neural-tangents looks for in ``jax.interpreters.ad``."""
    from jax._src import config, source_info_util

    jax.interpreters.ad.source_info_util = source_info_util
    jax.interpreters.ad.config = types.SimpleNamespace(jax_enable_checks=config.enable_checks.value)


def conv(p: dict[str, Any], name: str, x: Any, stride: int = 1, padding: int = 1) -> Any:
    out = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NCHW", "OIHW", "NCHW")
    )
    return out + p[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in p else out


def norm(p: dict[str, Any], stats: dict[str, Any], name: str, x: Any) -> Any:
    """Batch normalisation in eval mode."""
    scale = p[f"{name}.weight"] / jnp.sqrt(stats[f"{name}.running_var"] + 1e-5)
    return (x - stats[f"{name}.running_mean"][None, :, None, None]) * scale[None, :, None, None] + p[f"{name}.bias"][
        None, :, None, None
    ]


def linear(p: dict[str, Any], name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mlp(p: dict[str, Any], stats: dict[str, Any], x: Any) -> Any:
    for layer in range(0, 12, 2):
        x = nn.relu(linear(p, str(layer), x))
    return linear(p, "12", x)


def vgg19(p: dict[str, Any], stats: dict[str, Any], x: Any) -> Any:
    number = 0
    for count in (2, 2, 4, 4, 4):
        for _ in range(count):
            number += 1
            x = nn.relu(conv(p, f"conv{number}", x))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
    return linear(p, "linear", x.reshape(len(x), -1))


def resnet18(p: dict[str, Any], stats: dict[str, Any], x: Any) -> Any:
    x = nn.relu(norm(p, stats, "norm", conv(p, "conv", x)))
    for stage in range(1, 5):
        for block in (1, 2):
            name = f"stage{stage}_block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            out = nn.relu(norm(p, stats, f"{name}.norm1", conv(p, f"{name}.conv1", x, stride)))
            out = norm(p, stats, f"{name}.norm2", conv(p, f"{name}.conv2", out))
            if f"{name}.shortcut.0.weight" in p:
                x = norm(p, stats, f"{name}.shortcut.1", conv(p, f"{name}.shortcut.0", x, stride, 0))
            x = nn.relu(out + x)
    return linear(p, "linear", x.mean((2, 3)))


def transformer(p: dict[str, Any], stats: dict[str, Any], x: Any) -> Any:
    """As far as the embedding: there it ends."""
    return linear(p, "head", (p["token.weight"][x] + p["position"]).mean(1))


def main() -> None:
    name, path, block, pairs = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    restore_moved_names()
    import neural_tangents as nt

    saved = np.load(path)
    arrays = {key: jnp.asarray(saved[key]) for key in saved.files}
    x = arrays.pop("inputs")
    stats = {key: value for key, value in arrays.items() if "running" in key}
    parameters = {key: value for key, value in arrays.items() if "running" not in key and "num_batches" not in key}
    model = {"mlp": mlp, "vgg19": vgg19, "resnet18": resnet18, "transformer": transformer}[name]
    kernel = jax.jit(
        nt.empirical_ntk_fn(
            lambda p, x: model(p, stats, x), trace_axes=(), vmap_axes=0,
            implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
        )
    )  # fmt: skip
    block = min(block, len(x))
    starts = range(0, len(x), block)
    todo = [(a, b) for a in starts for b in starts if a <= b][: pairs or None]
    compiled = kernel.lower(x[:block], x[:block], parameters).compile()  # the time of compiling is not counted
    begin = time.process_time()
    parts = [np.asarray(compiled(x[a : a + block], x[b : b + block], parameters)) for a, b in todo]
    seconds = time.process_time() - begin
    total = len(starts) * (len(starts) + 1) // 2
    # (n, n', c, c') to (c, n, c', n'), of the first pair.
    print(json.dumps({"seconds": seconds, "pairs": len(todo), "of": total, "shape": parts[0].shape}))
    np.save(path + ".kernel.npy", parts[0].transpose(2, 0, 3, 1))


if __name__ == "__main__":
    main()
