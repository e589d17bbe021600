"""Scripts that know nothing of probes, and the same scripts with the one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probes import open_run

SCRIPTS = Path(__file__).parent / "scripts"
LINE = "from probes import ProbeManager; probes = ProbeManager(model).attach()"
LAST = LINE.replace("(model)", "(model, output=lambda result: result[0][:, -1])")


def run(source, script, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    code = source.replace("Path(__file__)", f"Path({str(SCRIPTS / script)!r})")
    (folder / script).write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", script, "--out", "saved.pt"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "saved.pt", weights_only=True), done.stderr


def leaves(tree, where=""):
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        return {where: tree}
    return {name: leaf for key, item in items for name, leaf in leaves(item, f"{where}/{key}").items()}


@pytest.mark.parametrize(
    ("script", "line", "least"),
    [
        # The kernel is of some of its outputs, a logit for each position and word.
        pytest.param("language.py", LINE, 9, id="language", marks=pytest.mark.slow),
        pytest.param("language.py", LAST, 9, id="last word"),
        pytest.param("images.py", LINE, 10, id="images", marks=pytest.mark.slow),
    ],
)
def test_the_one_line_changes_no_bit_of_a_script_and_measures(script, line, least, tmp_path):
    source = (SCRIPTS / script).read_text()
    assert "probes" not in source and source.count("# HERE\n") == 1
    bare, _ = run(source, script, tmp_path, "bare")
    probed, errors = run(source.replace("# HERE", line), script, tmp_path, "probed")
    bare, probed = leaves(bare), leaves(probed)
    assert bare.keys() == probed.keys() and len(bare) > 50
    for name, value in bare.items():
        assert torch.equal(value, probed[name]) if isinstance(value, torch.Tensor) else value == probed[name], name

    (folder,) = (tmp_path / "probed" / "runs").iterdir()
    tree = open_run(folder)
    streams = [node.path for node in tree.subtree if "value" in node.variables and not node.path.startswith("/probes/")]
    refused = [
        str(message)
        for kind, message in zip(tree["events"]["kind"].values, tree["events"]["message"].values, strict=True)
        if str(kind) in ("fault", "refused")
    ]
    assert len(streams) >= least and not refused, (streams, refused, errors)
    assert any(int(tree[path]["step"].values[0]) == 0 for path in streams)
    assert list(folder.glob("events.out.tfevents*"))
