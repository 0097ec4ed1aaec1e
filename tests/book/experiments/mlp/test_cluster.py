import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from book.experiments.mlp import runs
from book.experiments.mlp.runs import OWNER, train_networks
from book.experiments.mlp.samples import LabelledSamples
from book.experiments.mlp.sklearn_mlp import train_sklearn_mlps
from book.experiments.page import storage
from book.experiments.page.execution import parallel
from book.experiments.page.progress import Progress

PARAMETERS = {
    "layer_sizes": [6, 8, 3],
    "activation": "relu",
    "learning_rate": 0.1,
    "batch_size": 8,
    "num_epochs": 300,
    "seed": 0,
}
ALL = {name: PARAMETERS | {"seed": seed} for seed, name in enumerate("abcd")}


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 6)).astype("float32"), np.arange(90) % 3
    X += y[:, None]
    return LabelledSamples(X[:60], y[:60], X[60:], y[60:])


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setenv("BOOK_WORKERS", "1")
    monkeypatch.delenv("BOOK_SCHEDULER", raising=False)


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers that can't import the project; gives its address and the workers' processes."""
    distributed = pytest.importorskip("distributed", reason="needs requirements-cluster.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    file = elsewhere / "scheduler.json"

    def start(program, *arguments):
        command = [sys.executable, "-P", "-m", f"distributed.cli.{program}", "--scheduler-file", str(file), *arguments]
        with open(elsewhere / "log", "ab") as log:
            return subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log)

    processes = [start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        until(file.exists)
        for _ in range(2):
            processes.append(start("dask_worker", "--no-nanny", "--nthreads", "1", "--no-dashboard"))
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address) as client:
            # The data are copied to the workers that are there: a worker that comes later holds no second copy yet.
            client.wait_for_workers(2, timeout=60)
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_of(trained):
    return {
        (name, path.name): path.read_bytes()
        for name, run in trained.items()
        for path in run.folder.iterdir()
        if path.name not in (OWNER, storage.SEAL)
    }


def remove(trained):
    for run in trained.values():
        for path in run.folder.iterdir():
            path.unlink()


def test_a_cluster_that_loses_a_worker_half_way_gives_the_same_bytes(samples, cluster, monkeypatch, tmp_path):
    address, workers = cluster
    expected = {}
    for train in (train_networks, train_sklearn_mlps):
        with parallel():
            trained = train(ALL, samples, [150], "task")
        expected[train] = files_of(trained)
        remove(trained)
    monkeypatch.setenv("BOOK_SCHEDULER", address)
    progress = tmp_path / "progress"
    progress.unlink()

    def kill_one():
        until(lambda: progress.exists() and progress.read_bytes().count(b"\n") > 100)
        workers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    for train in (train_networks, train_sklearn_mlps):
        with parallel():
            assert files_of(train(ALL, samples, [150], "task")) == expected[train]
    killer.join()
    assert workers[0].wait() != 0
    assert workers[1].poll() is None


def test_a_worker_that_does_not_see_the_cache_sends_its_files_back(samples, tmp_path):
    trained = train_networks({"a": PARAMETERS}, samples, [150], "task")
    folder = trained["a"].folder
    progress = Progress("task", 1, str(tmp_path / "nowhere" / "progress"))
    expected = files_of(trained)
    remove(trained)
    arguments = ["a", PARAMETERS, *samples, [150], folder]
    outcome = runs._train_one(runs._train_network, *arguments, "another owner", progress)
    assert {("a", name): content for name, content in outcome.files.items()} == expected
    assert list(folder.iterdir()) == []
    (folder / OWNER).write_text("this one")
    assert runs._train_one(runs._train_network, *arguments, "this one", progress).files == {}
    assert files_of(trained) == expected


def test_the_archive_for_the_workers_holds_code_and_no_data():
    import io
    import zipfile

    from book.experiments.page.execution import ROOT, _project_archive

    names = zipfile.ZipFile(io.BytesIO(_project_archive())).namelist()
    assert {"mlp_core/network.py", "data/fashion_mnist.py", "book/experiments/mlp/runs.py"} <= set(names)
    assert all(Path(name).suffix == ".py" and (ROOT / name).exists() for name in names)
