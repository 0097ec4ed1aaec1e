"""The archive of the book itself, used as a grader would: unpacked into an empty folder, installed, and run."""

import subprocess
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.submission import make_submission
from tests.small_project import ROOT

pytestmark = [pytest.mark.usefixtures("quick_book"), pytest.mark.xdist_group("report")]

LOAD_ALL = """
import sys
from pathlib import Path
from mlp_core import load_parameters
folder = Path("results/models/four_activations")
names = sorted(path.name for path in folder.glob("*.pkl"))
assert len(names) == 16, names
for name in names:
    epoch, activation, _ = name.split("_")
    weights, biases = load_parameters(folder, int(epoch), activation)
    assert [W.shape for W in weights] == [(784, 256), (256, 128), (128, 64), (64, 10)]
    assert [len(b) for b in biases] == [256, 128, 64, 10]
"""


@pytest.fixture(scope="module")
def archive(quick_book) -> Path:
    path = make_submission(load_build(load_project(ROOT), "quick"), "2020123")
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def unpacked(archive, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grader")
    with ZipFile(archive) as file:
        file.extractall(folder)
    with ZipFile(folder / "code" / "models.zip") as file:
        file.extractall(folder / "code")
    return folder


@pytest.fixture(scope="module")
def python(unpacked) -> Path:
    """The Python of a new virtual environment with the archive's requirements.

    The packages are those of the running environment, which the new one sees, so that this takes seconds: pip then
    finds each requirement installed, in the version that is asked for, or fails, since it may not download any.
    """
    folder = unpacked / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    Path(packages, "running.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "-r",
        "requirements.txt",
        "-c",
        "constraints.txt",
    ]
    done = subprocess.run(command, cwd=unpacked / "code", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_has_two_items_and_no_model_twice(archive):
    with ZipFile(archive) as file:
        names = file.namelist()
    assert {name.split("/")[0] for name in names} == {"code", "report.pdf"}
    assert {"code/Q1.py", "code/models.zip", "code/book.pdf", "code/requirements.txt"} <= set(names)
    assert [name for name in names if name.endswith(".pkl") or name.startswith("code/submission")] == []


def test_q1_trains_from_the_command_line(unpacked, python):
    out = run(
        *(python, unpacked / "code", "Q1.py", "--num-epochs", "1", "--num-train", "500"),
        *("--activations", "relu", "linear", "--output", "made"),
    )
    assert "relu, epoch 1: test accuracy" in out
    made = {path.name for path in (unpacked / "code" / "made").iterdir()}
    expected = {f"1_{name}_{kind}.pkl" for name in ("relu", "linear") for kind in ("weights", "biases")}
    assert made == expected | {"histories.json", "relu.pdf", "linear.pdf"}


def test_q1_offers_the_network_and_the_comparison(unpacked, python):
    names = "from Q1 import NeuralNetwork, compare_with_mlp, main; print(NeuralNetwork(2, [4, 3]).activation)"
    assert run(python, unpacked / "code", "-c", names) == "relu\n"


def test_every_saved_model_can_be_loaded(unpacked, python):
    run(python, unpacked / "code", "-c", LOAD_ALL)
