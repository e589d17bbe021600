"""The Fourier transform of a ReLU network in the plane is a sum over faces of polygons (Lemma 3.2, eq. 4, 16 to 21)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike

from probes_fourier import planar_pieces, planar_transform

from ..frame.criteria import Array, Finding, enough
from ..frame.experiment import Experiment, Preset
from ..frame.figures import figure
from . import arrays
from .arrays import log_slope, spread
from .planar_network import SQUARE, compact_network, lemma_3_1, strongest_normals


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A random network of two inputs with compact support, and the wave vectors (in radians) at which to look."""

    width: int = 16
    walls: int = 5
    grids: tuple[int, int] = (512, 1024)
    num_grid_waves: int = 200
    num_faces: int = 5
    num_directions: int = 100
    octaves: tuple[int, int] = (14, 19)
    """log2 of the lengths of k between which the decay is measured."""
    per_octave: int = 32


PRESETS = {
    "smoke": Preset(
        Settings(width=6, grids=(64, 128), num_grid_waves=20, num_faces=2, num_directions=10, octaves=(7, 10)),
        seeds=(0,),
        duration="3 s",
        judged=False,
    ),
    "quick": Preset(Settings(), seeds=(20, 21, 22, 23, 24), duration="30 s", least_seeds=3),
    "paper": Preset(
        Settings(width=32, grids=(1024, 2048), num_directions=200, octaves=(15, 20)),
        seeds=tuple(range(10)),
        duration="2 h",
        least_seeds=3,
    ),
}


def measure(settings: Settings, seed: int) -> Mapping[str, ArrayLike]:
    model = compact_network(settings.width, settings.walls, seed)
    everything = planar_pieces(model, SQUARE)
    pieces = [piece for piece in everything if bool(piece.gradient.any()) or bool(piece.offset)]
    outside = max(float((p.vertices.abs().amax(1) > 1 - 1e-9).any()) for p in pieces)
    if outside:
        raise ValueError("The network is not zero on the boundary of the square.")
    generator = torch.Generator().manual_seed(seed)
    waves = 60 * torch.rand(settings.num_grid_waves, 2, generator=generator, dtype=torch.float64) - 30
    exact = planar_transform(pieces, waves)
    size = exact.abs().square().mean().sqrt()
    errors = []
    for n in settings.grids:
        middles = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
        with torch.no_grad():
            values = model(torch.cartesian_prod(middles, middles)).reshape(n, n).to(torch.complex128)
        sides = [torch.exp(-1j * (waves[:, axis, None] * middles)) for axis in (0, 1)]
        grid = ((sides[0] @ values) * sides[1]).sum(1) * 4 / n**2
        errors.append(float((exact - grid).abs().square().mean().sqrt() / size))
    lemma = float((lemma_3_1(pieces, waves) - exact).abs().max() / size)
    lengths = 2 ** torch.arange(settings.octaves[0], settings.octaves[1], 1 / settings.per_octave, dtype=torch.float64)
    angles = 2 * torch.pi * torch.rand(settings.num_directions, generator=generator, dtype=torch.float64)
    directions = {
        "faces": strongest_normals(model, pieces, settings.num_faces),
        "generic": torch.stack([angles.cos(), angles.sin()], 1),
    }
    spectra = {
        name: torch.stack([lemma_3_1(pieces, lengths[:, None] * d).abs() for d in found]).numpy()
        for name, found in directions.items()
    }
    spectra["k"] = lengths.numpy()
    edges = np.concatenate([np.stack([p.vertices, p.vertices.roll(-1, 0)], 1) for p in pieces])
    return {"pieces": [float(len(pieces))], "edges": edges, "errors": errors, "lemma": [lemma], **spectra}


def slopes(seed: Mapping[str, Array], which: str) -> Array:
    """Slope of the root mean square per octave, in each direction. Shape (D,)."""
    starts, size = arrays.octaves(seed["k"], seed[which])
    return np.array([log_slope(starts, line) for line in size])


def judge(settings: Settings, seeds: Sequence[Mapping[str, Array]]) -> list[Finding]:
    coarse, fine = (np.array([seed["errors"][i] for seed in seeds]) for i in (0, 1))
    lemma = [float(seed["lemma"][0]) for seed in seeds]
    findings = [  # the first two are reported: they are equal by mathematics, so that only the code could fail
        Finding(
            f"eq. 16 to 21: exact transform against a grid of {settings.grids[1]} by {settings.grids[1]} points",
            "equal",
            f"relative difference {fine.max():.1e} at most; with half as many points {(coarse / fine).min():.1f} to "
            f"{(coarse / fine).max():.1f} times as much; {spread([float(s['pieces'][0]) for s in seeds], 0)} polygons",
            values={"relative difference": [coarse, fine]},
        ),
        Finding(
            "eq. 4 (Lemma 3.1) against Stokes' theorem with all edges",
            "equal, with the factor i",
            f"with the factor -i the difference is {max(lemma):.1e} at most, so with i it is 2",
            values=lemma,
        ),
    ]
    for which, power, tolerance, title in (
        ("faces", -2, 0.1, "along the normals of the strongest edges"),
        ("generic", -3, 0.15, "in random directions"),
    ):
        typical = [float(np.median(slopes(seed, which))) for seed in seeds]
        findings.append(
            Finding(
                f"Theorem 3.3, d = 2: decay {title}",
                f"k^{power}",
                f"median of {len(seeds[0][which])} directions: slope {spread(typical)}",
                f"{power} ± {tolerance}, four of five seeds",
                enough([abs(slope - power) <= tolerance for slope in typical]),
                typical,
            )
        )
    return findings


def draw(settings: Settings, seeds: Sequence[Mapping[str, Array]], folder: Path) -> None:
    seed = seeds[0]
    title = "pieces of a ReLU network and its Fourier transform (first seed)"
    with figure(folder / "lemma_3_2.png", 1, 2, title=title, size=(9, 4.6)) as (_, (left, right)):
        for edge in seed["edges"]:
            left.plot(*edge.T, color="C0", linewidth=0.7)
        left.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
        left.set_xticks([-1, 0, 1])
        left.set_yticks([-1, 0, 1])
        left.set_title(f"the {seed['pieces'][0]:.0f} polygons on which it is affine")
        for which, colour, power, label in (
            ("faces", "C3", -2, "edge normals"),
            ("generic", "C0", -3, "random directions"),
        ):
            starts, size = arrays.octaves(seed["k"], seed[which])
            low, middle, high = np.quantile(size, [0.25, 0.5, 0.75], axis=0)
            right.loglog(starts, middle, color=colour, marker="o", markersize=4, label=f"{label}: median, quartiles")
            right.fill_between(starts, low, high, color=colour, alpha=0.2, linewidth=0)
            right.loglog(starts, middle[0] * (starts / starts[0]) ** power, "k:", linewidth=1)
            end = (starts[-1], middle[0] * (starts[-1] / starts[0]) ** power)
            right.annotate(f"$k^{{{power}}}$", end, xytext=(8, -4), textcoords="offset points")
        right.set_title("decay of its Fourier transform")
        right.set_xticks(starts, [f"$2^{{{round(np.log2(start))}}}$" for start in starts])
        right.minorticks_off()
        right.set_xlim(starts[0] / 1.3, starts[-1] * 1.6)
        right.set(xlabel="|k| (radians per unit)", ylabel="|f̃(k)|, root mean square per octave")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17))


EXPERIMENT = Experiment(
    figures=("Lemma 3.2", "eq. 16"),
    summary="The exact transform of a planar ReLU network: slow decay along face normals, fast elsewhere.",
    presets=PRESETS,
    train=lambda settings, task: arrays.compute(task, lambda seed: measure(settings, seed)),
    read=lambda settings, folder, seed: arrays.load(folder),
    judge=judge,
    draw=draw,
    departures=(
        "The thesis proves the lemma and measures nothing. A network on a square jumps at the square's boundary, where "
        "its transform falls as k^-1; ours is made zero before the boundary by one more ReLU, so that the proof of "
        "Lemma 3.1 applies to it. Errors in the publication: eq. 4 (and 10, 14, 15 of the appendix) should have -i "
        "where it has i; the phase after eq. 19 should be -k x, as before eq. 16; the inverse transform in section "
        "2.2 should have (2 pi)^-d; the sum in eq. 5 begins at n = 1 for every k but 0. In a random direction the "
        "decay k^-(d+1) begins only where k times the length of the edges is large. At the lowest k of `quick`, 2^14 "
        "radians per unit, it is above 700 radians for half of the edges, and 1 to 160 for the shortest, by seed."
    ),
)
