"""What is asked of the easy and difficult examples: which the features align with first, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...frame.criteria import Array, Finding
from .settings import KINDS, OTHERS, Settings

__all__ = ["judge"]


def judge(settings: Settings, seeds: Sequence[dict[str, dict[str, Array]]]) -> list[Finding]:
    random = [seed["random"] for seed in seeds]
    late = [(run["step"] >= 600) & (run["step"] <= 1200) for run in random]
    easy = [float(run["ntk/alignment/easy"][when].min(initial=1)) for run, when in zip(random, late, strict=True)]
    ratio = [
        float((run["ntk/alignment/easy"] / run["ntk/alignment/difficult"])[when].min(initial=np.inf))
        for run, when in zip(random, late, strict=True)
    ]
    reached = {
        kind: [
            {batch: _first(seed[kind]["step"], seed[kind][f"ntk/alignment/{batch}"]) for batch in ("easy", "difficult")}
            for seed in seeds
        ]
        for kind in KINDS
    }
    passed = [
        share >= 4 and value >= 0.1 and first["easy"] < first["difficult"]
        for share, value, first in zip(ratio, easy, reached["random"], strict=True)
    ]
    starts = {depth: [_left_start(seed[f"depth {depth}"]) for seed in seeds] for depth in settings.depths}
    return [
        Finding(
            "Fig. 4.4, left: alignment of easy digits and of random labels",
            "rises faster and higher on the easy ones",
            f"steps 600 to 1200, easy / difficult at least {_list(ratio)}\neasy at least {_list(easy)}\n"
            f"0.1 reached at {_reached(reached['random'])}",
            "ratio >= 4, easy >= 0.1 at all measured steps from 600 to 1200; easy reaches 0.1 first; every seed",
            all(passed),
            {"ratio": ratio, "easy": easy, "reached": reached["random"], "passed": passed},
        ),
        _others(OTHERS[settings.others], seeds, reached["others"]),
        _depths(
            "Fig. B.7: highest ratio easy / difficult by depth",
            "reaches a higher value with depth",
            {depth: [_highest_ratio(seed[f"depth {depth}"]) for seed in seeds] for depth in settings.depths},
            1.5,
        ),
        _depths(
            "Fig. B.7: step at which the easy ones have half their rise in alignment, by depth",
            "starts later with depth",
            {depth: [_half_rise(seed[f"depth {depth}"]) for seed in seeds] for depth in settings.depths},
            2,
        ),
        Finding(
            "Fig. B.7: first step at which their alignment is 0.02 above its start, by depth",
            "starts later with depth",
            "\n".join(f"{depth} layers: {_list(steps)}" for depth, steps in starts.items()),
            values={str(depth): steps for depth, steps in starts.items()},
        ),
    ]


def _others(name: str, seeds: Sequence[dict[str, dict[str, Array]]], reached: list[dict[str, float]]) -> Finding:
    """Structured difficult examples are learned as well, but later and less."""
    highest = {
        batch: [float(seed["others"][f"ntk/alignment/{batch}"].max()) for seed in seeds]
        for batch in ("easy", "difficult")
    }
    rise = [
        high / float(seed["others"]["ntk/alignment/difficult"][0])
        for high, seed in zip(highest["difficult"], seeds, strict=True)
    ]
    passed = [
        2 * first["easy"] <= first["difficult"] < np.inf and times >= 3 and easy > difficult
        for first, times, easy, difficult in zip(reached, rise, *highest.values(), strict=True)
    ]
    return Finding(
        f"Fig. 4.4, right: alignment of digits and of {name}",
        "rises later on the difficult ones (KMNIST there), and less",
        f"0.1 reached at {_reached(reached)}\nhighest {_list(highest['easy'])} easy, {_list(highest['difficult'])} "
        f"difficult, which is {_list(rise)} times its start",
        f"0.1 reached by both, by {name} after twice the steps; highest on digits; on {name} >= 3 x its start; every "
        f"seed",
        all(passed),
        {"reached": reached, "highest": highest, "rise": rise, "passed": passed},
    )


def _depths(quantity: str, published: str, values: dict[int, list[float]], factor: float) -> Finding:
    """Whether something grows with depth, in the mean over seeds, and from end to end in every seed."""
    means = [float(np.mean(of_seeds)) for of_seeds in values.values()]
    shallow, *_, deep = values.values()
    ends = [high / low for low, high in zip(shallow, deep, strict=True)]
    return Finding(
        quantity,
        published,
        "\n".join(f"{depth} layers: {_list(of_seeds)}" for depth, of_seeds in values.items())
        + f"\ndeepest / shallowest {_list(ends)}",
        f"means grow with depth, deepest / shallowest >= {factor:g} in every seed",
        bool((np.diff(means) > 0).all()) and min(ends) >= factor,
        {str(depth): of_seeds for depth, of_seeds in values.items()},
    )


def _first(steps: Array, values: Array) -> float:
    above = np.flatnonzero(values >= 0.1)
    return float(steps[above[0]]) if len(above) else np.inf


def _highest_ratio(run: dict[str, Array]) -> float:
    return float((run["ntk/alignment/easy"] / run["ntk/alignment/difficult"]).max())


def _left_start(run: dict[str, Array]) -> float:
    """The first measured step at which the alignment is clearly above its start."""
    values = run["ntk/alignment/easy"]
    above = np.flatnonzero(values - values[0] >= 0.02)
    return float(run["step"][above[0]]) if len(above) else np.inf


def _half_rise(run: dict[str, Array]) -> float:
    """The first measured step with half the rise, at least 1."""
    values = run["ntk/alignment/easy"]
    above = values - values[0] >= (values.max() - values[0]) / 2
    return max(1.0, float(run["step"][above.argmax()]))


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _reached(firsts: Sequence[dict[str, float]]) -> str:
    def word(step: float) -> str:
        return f"{step:.0f}" if np.isfinite(step) else "never"

    return "; ".join(f"{word(first['easy'])} easy, {word(first['difficult'])} difficult" for first in firsts)
