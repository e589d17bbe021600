"""Settings, presets and networks of the easy and difficult examples."""

from __future__ import annotations

from dataclasses import dataclass

from ...frame.experiment import Preset

__all__ = ["KINDS", "OTHERS", "PRESETS", "Settings", "parts"]

KINDS = ("random", "others")
"""What the difficult examples are: digits with random labels, or images of another kind."""
OTHERS = {"fashion_mnist": "clothes", "kmnist": "characters"}
"""What the other images show, by data set."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An MLP on easy digits and fewer difficult images; depth counts its linear layers."""

    num_easy: int = 10_000
    num_difficult: int = 1000
    others: str = "fashion_mnist"
    num_kernel: int = 100
    steps: int = 20_000
    width: int = 80
    depth: int = 7
    learning_rate: float = 0.02
    depths: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8, 9)
    depths_width: int = 60
    depths_learning_rate: float = 0.01
    depths_steps: int = 20_000


PRESETS = {
    "smoke": Preset(
        Settings(
            num_easy=1000,
            num_difficult=100,
            num_kernel=10,
            steps=12,
            width=16,
            depth=4,
            depths=(2, 3),
            depths_width=16,
            depths_steps=12,
        ),
        seeds=(0,),
        duration="10 s",
        judged=False,
    ),
    "quick": Preset(
        Settings(steps=1200, depths=(3, 6, 9), depths_steps=2000), seeds=(20, 21, 22), duration="8 min", least_seeds=3
    ),
    "paper": Preset(Settings(), seeds=(0, 1, 2, 3, 4), duration="2 h", least_seeds=3),
    "kmnist": Preset(Settings(others="kmnist"), seeds=(0, 1, 2, 3, 4), duration="2 h", least_seeds=3),
}


def parts(settings: Settings) -> dict[str, tuple[str, int, int, float, int]]:
    """Kind, depth, width, learning rate and steps of each network."""
    both = {kind: (kind, settings.depth, settings.width, settings.learning_rate, settings.steps) for kind in KINDS}
    return both | {
        f"depth {depth}": (
            "random",
            depth,
            settings.depths_width,
            settings.depths_learning_rate,
            settings.depths_steps,
        )
        for depth in settings.depths
    }
