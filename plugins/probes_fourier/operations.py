"""What the observer knows of torch's functions: where they bend, what is not piecewise linear and why.

Names are those of torch's functions and methods without underscores at the ends: ``relu_`` is ``relu``, ``__gt__`` is
``gt``.
"""

from __future__ import annotations

Bound = float | tuple[str, int, float | None]


def _names(text: str) -> list[str]:
    return text.split()


BENT_AT: dict[str, list[Bound]] = {
    # The first argument crosses a number, or an argument given by its name, place and default.
    **{name: [0.0] for name in _names("relu leaky_relu prelu rrelu abs absolute")},
    "relu6": [0.0, 6.0],
    "hardsigmoid": [-3.0, 3.0],
    "hardtanh": [("min_val", 1, -1.0), ("max_val", 2, 1.0)],
    "threshold": [("threshold", 1, 0.0)],
    "clamp": [("min", 1, None), ("max", 2, None)],
    "clip": [("min", 1, None), ("max", 2, None)],
    "clamp_min": [("min", 1, None)],
    "clamp_max": [("max", 1, None)],
    **{name: [("other", 1, None)] for name in _names("gt ge lt le greater greater_equal less less_equal")},
}
EXTREMA = set(_names("max min amax amin maximum minimum fmax fmin"))
POOLS = {f"{kind}max_pool{d}d" for kind in ("", "adaptive_") for d in (1, 2, 3)}

NOT_LINEAR = set(
    _names(
        "tanh sigmoid softmax log_softmax softmin gumbel_softmax gelu silu mish elu selu celu softplus softsign "
        "tanhshrink logsigmoid hardswish glu exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square pow rpow "
        "sin cos tan asin acos atan atan2 arctan sinh cosh erf erfc logsumexp logit xlogy std var std_mean var_mean "
        "norm vector_norm matrix_norm normalize prod cumprod layer_norm rms_norm group_norm local_response_norm "
        "lp_pool1d lp_pool2d lp_pool3d cosine_similarity pairwise_distance cdist scaled_dot_product_attention "
        "multi_head_attention_forward gru lstm rnn_tanh gru_cell lstm_cell rnn_tanh_cell"
    )
)
JUMPING = set(_names("hardshrink sign sgn heaviside floor ceil round trunc fix frac fmod remainder floor_divide"))
SWITCHED: dict[str, tuple[str, int, bool]] = {
    # Not affine when the argument of that name and place is true; its default.
    "batch_norm": ("training", 5, False),
    "instance_norm": ("use_input_stats", 5, True),
    **{name: ("training", 2, True) for name in _names("dropout dropout1d dropout2d dropout3d")},
    **{name: ("training", 2, False) for name in _names("alpha_dropout feature_alpha_dropout feature_dropout")},
}
PRODUCTS: dict[str, tuple[int, int]] = {
    # Linear in each factor but not in both: the places of the factors.
    **dict.fromkeys(_names("mul rmul imul multiply matmul rmatmul mm bmm mv dot inner outer linear"), (0, 1)),
    **{f"conv{kind}{d}d": (0, 1) for kind in ("", "_transpose") for d in (1, 2, 3)},
    **dict.fromkeys(_names("addmm baddbmm addbmm addmv addr addcmul"), (1, 2)),
}
QUOTIENTS: dict[str, int] = {  # the place of the denominator
    **dict.fromkeys(_names("div idiv divide true_divide truediv itruediv"), 1),
    **dict.fromkeys(_names("rdiv rtruediv"), 0),
    "addcdiv": 2,
}
AFFINE = set(
    _names(
        "add radd iadd sub rsub isub subtract neg positive sum mean cumsum diff cat concat concatenate stack hstack "
        "vstack chunk split tensor_split unbind view view_as reshape flatten unflatten ravel permute transpose "
        "swapaxes movedim t squeeze unsqueeze expand expand_as repeat repeat_interleave tile roll flip getitem setitem "
        "get narrow select index_select gather take masked_fill where contiguous clone to double type detach copy pad "
        "unfold fold pixel_shuffle pixel_unshuffle channel_shuffle avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample lerp einsum set_grad_enabled"
    )
)
SHAPE_ONLY = set(
    _names(
        "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full "
        "new_tensor dim size numel stride is_floating_point is_contiguous"
    )
)
