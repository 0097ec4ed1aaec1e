import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import psutil
import pytest
from threadpoolctl import threadpool_info

from book.experiments.page import execution
from book.experiments.page.execution import (
    ROOT,
    as_completed,
    check_execution_options,
    device,
    parallel,
    scheduler,
    workers,
)


@pytest.fixture(autouse=True)
def no_options(monkeypatch):
    for name in ("BOOK_WORKERS", "BOOK_SCHEDULER", "BOOK_DEVICE"):
        monkeypatch.delenv(name, raising=False)


def test_by_default_all_cores_that_the_process_may_use_work(monkeypatch):
    assert workers() == joblib.cpu_count()
    monkeypatch.setenv("BOOK_WORKERS", "3")
    assert workers() == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BOOK_WORKERS", "0"),
        ("BOOK_WORKERS", "-1"),
        ("BOOK_WORKERS", "two"),
        ("BOOK_WORKERS", "2.0"),
        ("BOOK_WORKERS", "²"),
        ("BOOK_SCHEDULER", "localhost:8786"),
        ("BOOK_DEVICE", "gpu"),
        ("BOOK_DEVICE", "CPU"),
    ],
)
def test_a_bad_option_is_refused_by_the_name_of_its_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name} must be .*; got {value!r}$"):
        check_execution_options()


def test_cuda_is_refused_where_there_is_none_and_used_where_there_is(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device() == "cpu"
    monkeypatch.setenv("BOOK_DEVICE", "cuda")
    with pytest.raises(ValueError, match="BOOK_DEVICE must be auto or cpu"):
        check_execution_options()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device() == "cuda"
    monkeypatch.setenv("BOOK_DEVICE", "auto")
    assert device() == "cuda"
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    assert device() == "cpu"


def test_dask_that_is_not_installed_is_named_with_the_file_that_lists_it(monkeypatch):
    monkeypatch.setenv("BOOK_SCHEDULER", "tcp://127.0.0.1:8786")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ValueError, match=r"BOOK_SCHEDULER must be unset .*requirements-cluster\.txt"):
        scheduler()


def blas_threads():
    import numpy  # noqa: F401, loads the library

    return {library["num_threads"] for library in threadpool_info()}, os.getpid()


@pytest.mark.parametrize("number", [1, 2])
def test_every_task_computes_on_one_thread(monkeypatch, number):
    monkeypatch.setenv("BOOK_WORKERS", str(number))
    with parallel():
        answers = joblib.Parallel()(joblib.delayed(blas_threads)() for _ in range(4))
    assert {threads for counts, _ in answers for threads in counts} == {1}
    if number > 1:
        assert os.getpid() not in {pid for _, pid in answers}


class FakeClient:
    """A cluster with so many threads on each worker, and another version of a package on the last one."""

    def __init__(self, threads, **others):
        packages = {"python": "3.11.7.final.0", "numpy": "2.3.4"}
        self.threads = dict(enumerate(threads))
        self.versions = {
            "client": {"packages": packages},
            "workers": {worker: {"packages": packages} for worker in self.threads},
        }
        self.versions["workers"][len(threads) - 1] = {"packages": packages | others}

    def ncores(self):
        return self.threads

    def get_versions(self, packages):
        assert {"scikit-learn", "torch"} <= set(packages)
        return self.versions


def test_a_cluster_of_one_thread_which_joblib_would_not_use_is_refused():
    execution._check_cluster(FakeClient([1, 1]), "tcp://a:1")
    with pytest.raises(ValueError, match=r"at least two worker threads; got 'tcp://a:1', with 1$"):
        execution._check_cluster(FakeClient([1]), "tcp://a:1")


def test_a_cluster_with_another_version_of_a_package_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"got 'tcp://a:1', whose worker 1 has numpy 2\.0\.0 and not 2\.3\.4$"):
        execution._check_cluster(FakeClient([1, 1], numpy="2.0.0"), "tcp://a:1")


class LostWorkError(Exception):
    pass


def fails_once(folder, number):
    """Fail the first time that it is called with the number 2."""
    file = Path(folder, str(number))
    file.write_text(file.read_text() + "x" if file.exists() else "x")
    if number == 2 and file.read_text() == "x":
        raise LostWorkError
    return 10 * number


def test_tasks_that_are_lost_are_sent_again_and_the_others_are_not(monkeypatch, tmp_path):
    monkeypatch.setenv("BOOK_WORKERS", "1")
    tasks = {f"task {number}": joblib.delayed(fails_once)(tmp_path, number) for number in range(4)}
    with parallel():
        with pytest.raises(LostWorkError):
            dict(as_completed(tasks))
        for path in tmp_path.iterdir():
            path.unlink()
        monkeypatch.setattr(execution, "_is_lost_work", lambda error: isinstance(error, LostWorkError))
        assert dict(as_completed(tasks)) == {f"task {number}": 10 * number for number in range(4)}
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "x", "1": "x", "2": "xx", "3": "x"}


def test_tasks_of_this_process_are_done_in_their_order(tmp_path):
    tasks = {number: joblib.delayed(os.getpid)() for number in range(3)}
    assert list(as_completed(tasks, here=True)) == [(number, os.getpid()) for number in range(3)]


def test_large_arguments_leave_nothing_in_shared_memory(monkeypatch):
    monkeypatch.setenv("BOOK_WORKERS", "2")
    import numpy as np

    before = set(os.listdir("/dev/shm"))
    with parallel():
        joblib.Parallel()(joblib.delayed(np.sum)(array) for array in np.ones((2, 1_000_000)))
        during = set(os.listdir("/dev/shm"))
    assert not {name for name in during - before if name.startswith("joblib_memmapping")}


SLEEPERS = """
import time, joblib
from book.experiments.page.execution import parallel
with parallel():
    joblib.Parallel()(joblib.delayed(time.sleep)(600) for _ in range(2))
"""


def test_workers_end_with_the_process_that_started_them():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BOOK_WORKERS": "2"}
    process = subprocess.Popen([sys.executable, "-c", SLEEPERS], env=environment)
    children = []
    try:
        deadline = time.monotonic() + 60
        while len(children) < 3:  # two workers and the tracker of resources
            assert time.monotonic() < deadline
            time.sleep(0.1)
            children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(1)  # the last worker starts its watch
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert alive == []
    finally:
        for one in (process, *children):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def test_the_archive_of_the_project_is_the_same_each_time():
    assert execution._project_archive() == execution._project_archive()
    assert Path(ROOT / "book").is_dir()
