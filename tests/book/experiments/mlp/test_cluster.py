"""Training on a Dask cluster of two workers on this machine, one of which is killed half-way."""

import io
import re
import shutil
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from book.__main__ import main
from book.experiments.mlp import runs
from book.experiments.mlp.runs import OWNER, train_networks
from book.experiments.mlp.sklearn_mlp import train_sklearn_mlps
from book.experiments.page.execution import _project_archive, parallel
from book.experiments.page.progress import Progress
from book.pipeline.project import load_project
from tests.clusters import running_cluster, until
from tests.small_networks import PARAMETERS, files_of, remove
from tests.small_project import ROOT

LONG = PARAMETERS | {"num_epochs": 200}
ALL = {name: LONG | {"seed": seed} for seed, name in enumerate("abcd")}


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with running_cluster(folder) as found:
        yield found


@contextmanager
def loses_a_worker(workers, progress, num_reports):
    """Kill the first worker when a file of progress has so many lines, while the block runs; the other one stays."""

    def kill_one():
        until(lambda: progress.exists() and progress.read_bytes().count(b"\n") > num_reports)
        workers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    yield
    killer.join()
    assert workers[0].wait() != 0
    assert workers[1].poll() is None


@pytest.mark.usefixtures("in_an_empty_folder")
def test_scikit_learns_networks_on_a_cluster_that_loses_a_worker_half_way_are_the_same_bytes(
    samples, cluster, monkeypatch, tmp_path
):
    address, workers = cluster
    monkeypatch.setenv("BOOK_WORKERS", "1")

    def trained():
        with parallel():
            found = train_sklearn_mlps(ALL, samples, [100], "task")
        files = {name: files_of(run) for name, run in found.items()}
        for run in found.values():
            remove(run)
        return files

    expected = trained()
    monkeypatch.setenv("BOOK_SCHEDULER", address)
    progress = tmp_path / "progress"
    progress.unlink()
    with loses_a_worker(workers, progress, 100):
        assert trained() == expected


@pytest.fixture
def checkout(tmp_path):
    """The project without results and without a cache; of four_activations the sections that train and save."""
    root = tmp_path / "checkout"
    for package in ("book", "mlp_core"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data").symlink_to(ROOT / "data")
    for file in ("_toc.yml", "_config.yml", "requirements.txt"):
        shutil.copy(ROOT / file, root)
    chapter = root / "book" / "chapters" / "four_activations.md"
    sections = re.split(r"(?=^## )", chapter.read_text(), flags=re.MULTILINE)
    training = next(place for place, section in enumerate(sections) if "with parallel():" in section)
    saving = [section for section in sections[training + 1 :] if "saved_models(" in section]
    chapter.write_text("".join([*sections[: training + 1], *saving]))
    return root


def outputs_of(folder):
    """What a run of four_activations gave: the outputs of its cells, and the files for others."""
    notebook = nbformat.read(folder / "four_activations.ipynb", as_version=4)
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    models = folder / "models" / "four_activations"
    return cells, {path.name: path.read_bytes() for path in models.iterdir()}


def test_a_chapter_on_a_cluster_that_loses_a_worker_half_way_gives_the_same_outputs_and_files(checkout, cluster):
    address, workers = cluster
    short = {"num_train": 600, "num_epochs": 12, "checkpoint_epochs": [4, 12], "num_initialization_epochs": 1}
    parameters = load_project(checkout).chapter("four_activations").quick | short
    arguments = ["run", "four_activations"]
    for name, value in parameters.items():
        arguments += ["-p", name, str(value)]
    assert main([*arguments, "--workers", "1"], checkout) == 0
    place = checkout / "_build" / "run" / "four_activations"
    expected = outputs_of(place)
    assert len(expected[1]) >= 16
    shutil.rmtree(checkout / "_build")
    progress = checkout / "_build" / "kernel" / "four_activations.progress"
    with loses_a_worker(workers, progress, 20):
        assert main([*arguments, "--scheduler", address], checkout) == 0
    assert outputs_of(place) == expected


@pytest.mark.usefixtures("in_an_empty_folder")
def test_a_worker_that_does_not_see_the_cache_sends_its_files_back(samples, tmp_path):
    run = train_networks({"a": PARAMETERS}, samples, [2], "task")["a"]
    progress = Progress("task", 1, str(tmp_path / "nowhere" / "progress"))
    expected = files_of(run)
    remove(run)
    arguments = [PARAMETERS, *samples, [2], run.folder]
    files, _ = runs._train_one(runs._train_network, *arguments, "another owner", progress)
    assert files == expected
    assert list(run.folder.iterdir()) == []
    (run.folder / OWNER).write_text("this one")
    assert runs._train_one(runs._train_network, *arguments, "this one", progress)[0] == {}
    assert files_of(run) == expected


def test_the_archive_for_the_workers_holds_code_and_no_data():
    names = zipfile.ZipFile(io.BytesIO(_project_archive())).namelist()
    assert {"mlp_core/network.py", "data/fashion_mnist.py", "book/experiments/mlp/runs.py"} <= set(names)
    assert all(Path(name).suffix == ".py" and (ROOT / name).exists() for name in names)
