"""Results that are kept: what an experiment finds today is what stands in the gallery."""

import json
import re
from dataclasses import asdict

import pytest
from PIL import Image

from examples import EXPERIMENTS
from examples.__main__ import RESULTS
from examples.frame import runner
from examples.frame.experiment import experiment
from examples.frame.figures import WIDEST
from examples.frame.gallery import gallery, kept
from examples.frame.report import plain

QUICK = {
    "spectral_bias": ("kernel_frequencies", "decay", "rates", "paths", "polytopes", "volume", "robustness"),
    "feature_alignment": ("frequencies", "disk"),
    "complexity": ("dynamics", "bounds"),
    "supernat": (),
    "capacity_norms": (),
    "mutual_information": ("gradient_bias", "equitability"),
}
"""Experiments of each family whose quick preset takes at most some minutes."""
NAMES = [f"{family}_{name}" if name else family for family, names in QUICK.items() for name in names or [""]]


def report(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_of_a_quick_run_is_the_one_that_is_kept(name, tmp_path):
    runner.run(name, "quick", out=tmp_path)
    found, held = report(tmp_path), report(kept(RESULTS, name, "quick"))
    assert found["verdict"] == held["verdict"] != "not judged"
    for one, other in zip(found["findings"], held["findings"], strict=True):
        assert (one["quantity"], one["criterion"], one["passed"]) == (
            other["quantity"], other["criterion"], other["passed"]
        )  # fmt: skip


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_kept_is_of_the_presets_as_they_are(name):
    """Settings that were changed, or seeds, must be run again."""
    for folder in RESULTS.glob(f"{name}*"):
        held = report(folder)
        if held["experiment"] == name:
            chosen = experiment(name).preset(held["preset"])
            assert held["seeds"] == list(chosen.seeds) and held["settings"] == plain(asdict(chosen.settings))
            assert folder == kept(RESULTS, name, held["preset"]) and (folder / "figure.png").exists()
            for picture in folder.glob("*.png"):
                with Image.open(picture) as image:
                    assert picture.stat().st_size <= 200_000 and image.width <= 200 * WIDEST  # dots per inch


def test_every_picture_that_is_kept_has_a_caption_of_its_own():
    page = gallery({name: experiment(name) for name in EXPERIMENTS}, RESULTS)
    captions = dict(reversed(found) for found in re.findall(r"!\[(.+)\]\(results/(.+)\)", page))
    assert set(captions) == {path.relative_to(RESULTS).as_posix() for path in RESULTS.glob("*/*.png")}
    assert len(set(captions.values())) == len(captions)
