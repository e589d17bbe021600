"""What is asked of the easy and difficult examples: which the features align with first, and by how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...frame.criteria import Array, Finding
from .settings import KINDS, Settings

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
    highest = {depth: [_highest_ratio(seed[f"depth {depth}"]) for seed in seeds] for depth in settings.depths}
    means = [float(np.mean(values)) for values in highest.values()]
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
        Finding(
            "Fig. 4.4, right: steps at which alignment reaches 0.1 on digits and on clothes",
            "later on the difficult ones (KMNIST there)",
            _reached(reached["clothes"]),
            values=reached["clothes"],
        ),
        Finding(
            "Fig. B.7: highest ratio easy / difficult by depth",
            "grows with depth",
            "\n".join(f"{depth} layers: {_list(values)}" for depth, values in highest.items())
            + f"\nmeans {_list(means)}: {'grows' if (np.diff(means) > 0).all() else 'does not grow'} with depth",
            values={str(depth): values for depth, values in highest.items()},
        ),
    ]


def _first(steps: Array, values: Array) -> float:
    above = np.flatnonzero(values >= 0.1)
    return float(steps[above[0]]) if len(above) else np.inf


def _highest_ratio(run: dict[str, Array]) -> float:
    return float((run["ntk/alignment/easy"] / run["ntk/alignment/difficult"]).max())


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _reached(firsts: Sequence[dict[str, float]]) -> str:
    def word(step: float) -> str:
        return f"{step:.0f}" if np.isfinite(step) else "never"

    return "; ".join(f"{word(first['easy'])} easy, {word(first['difficult'])} difficult" for first in firsts)
