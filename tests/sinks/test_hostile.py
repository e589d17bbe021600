"""A run file from a stranger: reading it executes nothing, follows nothing out of the file, and ends."""

import ast
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import warm
from rich.console import Console

from probes import Axis, Measurement, Probe, ProbeManager, every, open_run
from probes.commands.terminal import summary
from probes.plots import save_plots
from probes.sinks.hdf5 import superblock
from probes.sinks.hdf5.repair import repair

ROOT = Path(__file__).parents[2]
SCRIPT = "<img src=x onerror=alert(1)>"


class Curve(Probe):
    def measure(self, run, step):
        layers = {"layer": [SCRIPT, "\x1b[2J$x_"]}
        yield Measurement("h/curve", [1.0, 2.0], ("k",), {"k": Axis([1, 2], "cycles")}, unit="nats")
        yield Measurement("h/layers", [1.0, 2.0], ("layer",), layers, unit=SCRIPT, description=SCRIPT)


@pytest.fixture
def run_file(tmp_path):
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ProbeManager(model, [Curve(every(1))], log_dir=tmp_path, overhead=None).attach(optimizer):
        model(torch.ones(2, 1)).sum().backward()
        optimizer.step()
    return tmp_path / "run.h5"


def external_link(file, directory):
    file["h/link"] = h5py.ExternalLink(str(directory / "secret.h5"), "/secret")


def soft_link(file, directory):
    file["h/link"] = h5py.SoftLink("/h/curve")


def external_step(file, directory):
    file["h/stolen/step"] = h5py.ExternalLink(str(directory / "secret.h5"), "/secret")


def external_data(file, directory):
    (directory / "secret").write_bytes(bytes(80))
    del file["h/curve/value"]
    file["h/curve"].create_dataset("value", (2, 2), "f8", external=str(directory / "secret"))


def virtual_data(file, directory):
    del file["h/curve/value"]
    layout = h5py.VirtualLayout((2, 2), "f8")
    layout[:] = h5py.VirtualSource(str(directory / "secret.h5"), "secret", (2, 2))
    file["h/curve"].create_virtual_dataset("value", layout)


def foreign_filter(file, directory):
    del file["h/curve/wall_time"]
    file["h/curve"].create_dataset("wall_time", (2,), "f8", maxshape=(None,), chunks=(2,), compression="lzf")


def a_million_billion_rows(file, directory):
    for name in ("value", "wall_time", "step"):
        file["h/curve"][name].resize(10**15, axis=0)


def a_row_of_a_million_billion_numbers(file, directory):
    del file["h/curve/value"]
    value = file["h/curve"].create_dataset(
        "value", (2, 10**12), "f8", maxshape=(None, 10**12), chunks=(1, 10**6), fillvalue=1.0
    )
    value[0, 0] = 1.0


def a_million_billion_coordinates(file, directory):
    del file["h/curve/k"]
    file["h/curve"].create_dataset("k", (10**15,), "f8").attrs.update({"units": "1", "long_name": "k"})


def a_name_that_leads_out(file, directory):
    file["h"].move("curve", "..")


def a_name_that_commands_the_terminal(file, directory):
    file["h"].move("curve", "\x1b[2J")


def dimensions_that_are_none(file, directory):
    file["h/curve/value"].attrs["dimensions"] = "step"


HOSTILE = [
    external_link, soft_link, external_step, external_data, virtual_data, foreign_filter, a_million_billion_rows,
    a_row_of_a_million_billion_numbers, a_million_billion_coordinates, a_name_that_leads_out,
    a_name_that_commands_the_terminal, dimensions_that_are_none,
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_a_hostile_file_is_refused(run_file, tmp_path, change):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["secret"] = np.arange(4.0).reshape(2, 2)
    with h5py.File(run_file, "r+") as file:
        change(file, tmp_path)
    with pytest.raises(ValueError, match=r"run\.h5 is damaged: "):
        open_run(tmp_path)


def test_a_group_that_holds_itself_is_read_once(run_file):
    with h5py.File(run_file, "r+") as file:
        file["h/again"] = file["h"]
    assert len(open_run(run_file)["h/curve"].step) == 2


def test_pictures_of_a_hostile_file_stay_in_their_folder(run_file, tmp_path):
    for picture in save_plots(open_run(run_file), tmp_path / "plots"):
        assert picture.resolve().parent == (tmp_path / "plots").resolve()


def test_a_hostile_file_is_not_repaired_into_a_sound_one(run_file, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["secret"] = np.arange(2)
    with h5py.File(run_file, "r+") as file:
        external_step(file, tmp_path)
    message = repair(run_file)
    assert "all of h" in message and "secret" not in run_file.read_bytes().decode("latin1")


def test_what_users_named_is_text_wherever_it_is_shown(run_file):
    tree = open_run(run_file)
    assert SCRIPT in tree["h/layers"]["layer"].values
    assert SCRIPT not in tree._repr_html_() and SCRIPT not in tree["h/layers"]._repr_html_()
    console = Console(record=True, width=200, force_terminal=False)
    console.print(summary(run_file))
    text = console.export_text()
    assert "\x1b" not in text and SCRIPT in text


def test_nothing_here_unpickles_or_evaluates():
    paths = [path for folder in ("probes", "plugins", "integrations") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 50
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name for name in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "yaml.load", "__import__"), where
                if called in ("torch.load", "np.load"):
                    assert any(word.arg == "weights_only" and word.value.value is True for word in node.keywords), where


@pytest.mark.parametrize(
    ("offset", "size"), [(24, 5000), *(pytest.param(*at, marks=pytest.mark.slow) for at in [(24, 2**64 - 8), (16, 0)])]
)
def test_an_inconsistent_heap_is_refused_before_hdf5_sees_it(run_file, offset, size):
    data = bytearray(run_file.read_bytes())
    heap = data.index(b"GCOL\x01")  # one heap collection: 16 bytes of head, then objects of 16 bytes and their data
    struct.pack_into("<Q" if offset == 24 else "<H", data, heap + offset, size)
    run_file.write_bytes(data)
    for read in (open_run, repair):
        with pytest.raises(ValueError, match=r"the heap at byte \d+ is inconsistent"):
            read(run_file)
    assert run_file.read_bytes() == data


def test_a_file_that_keeps_hdf5_busy_for_ever_does_not_keep_repair(run_file, monkeypatch):
    monkeypatch.setattr("probes.sinks.hdf5.repair.SECONDS", 0.01)
    before = run_file.read_bytes()
    with pytest.raises(ValueError, match="damaged beyond repair: HDF5 came to no end within 0 s"):
        repair(run_file)
    assert run_file.read_bytes() == before


def test_a_heap_across_two_blocks_of_the_search_is_found(run_file, monkeypatch):
    data = bytearray(run_file.read_bytes())
    heap = data.index(b"GCOL\x01")
    struct.pack_into("<Q", data, heap + 24, 5000)
    run_file.write_bytes(data)
    for block in range(heap + 1, heap + 17):
        monkeypatch.setattr(superblock, "BLOCK", block)
        with pytest.raises(ValueError, match=f"the heap at byte {heap} is inconsistent"):
            superblock.check_heaps(run_file)
    monkeypatch.setattr(superblock, "BLOCK", 16)  # every block holds one place
    with pytest.raises(ValueError, match=f"the heap at byte {heap} is inconsistent"):
        superblock.check_heaps(run_file)


def test_a_file_that_becomes_shorter_while_it_is_searched_does_not_kill_the_reader(tmp_path):
    """As when the writer closes it; a file in memory would end the process with SIGBUS."""
    path = tmp_path / "run.h5"
    heap = struct.pack("<5s3xQ", b"GCOL\x01", 4096) + struct.pack("<QQ", 0, 4080) + bytes(4096 - 32)
    path.write_bytes(heap + bytes(1 << 25) + heap)
    script = (
        "import sys, os; from pathlib import Path; from probes.sinks.hdf5 import superblock\n"
        "path = Path(sys.argv[1]); superblock._check_heap = lambda heap, start: os.truncate(path, 5000)\n"
        "superblock.check_heaps(path); print('alive')"
    )
    done = warm.run(script, path)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
