"""Where the work is done: how many processes, which machines, which device. None of it changes a result.

Three environment variables say it, to every chapter and however it is run:

``BOOK_WORKERS``
    Worker processes on this machine; by default as many as the cores that the process may use (affinity and the
    limits of control groups respected).
``BOOK_SCHEDULER``
    Address of a running Dask scheduler, such as ``tcp://host:8786``; the work then goes to its workers. They need the
    packages of ``requirements.txt`` and ``requirements-cluster.txt`` and nothing else: the project's code is sent to
    them, and so are the data. A worker that sees the folder ``_build/cache`` of this checkout writes its
    checkpoints there, so that an interrupted training run is resumed; another one works in a temporary folder, sends
    its files back when it has finished, and is started afresh elsewhere if it ends before.
``BOOK_DEVICE``
    ``auto`` (the default: CUDA where there is one), ``cpu`` or ``cuda``.

joblib distributes the work. Its backend for Ray isn't supported.
"""

import io
import os
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import joblib
from threadpoolctl import threadpool_limits

from book.experiments import ROOT

DEVICES = ("auto", "cpu", "cuda")
SHIPPED_PACKAGES = ("book", "data", "mlp_core")
WATCH_SECONDS = 0.5
"""How often a worker looks whether the process that started it still runs."""

ATTEMPTS = 3
"""How often tasks are sent to a cluster that loses workers."""


def workers() -> int:
    """Return the number of worker processes on this machine.

    Raises
    ------
    ValueError
        If ``BOOK_WORKERS`` is no integer of at least 1.
    """
    text = os.environ.get("BOOK_WORKERS")
    if not text:
        return joblib.cpu_count()
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise ValueError(f"BOOK_WORKERS must be an integer of at least 1; got {text!r}")
    return int(text)


def scheduler() -> str | None:
    """Return the address of the Dask scheduler, None if the work stays on this machine.

    Raises
    ------
    ValueError
        If ``BOOK_SCHEDULER`` is no such address, or Dask is not installed.
    """
    address = os.environ.get("BOOK_SCHEDULER")
    if not address:
        return None
    if not address.startswith(("tcp://", "tls://")):
        raise ValueError(f"BOOK_SCHEDULER must be an address such as tcp://host:8786; got {address!r}")
    try:
        import distributed  # noqa: F401, only a cluster needs it
    except ImportError as error:
        raise ValueError(
            f"BOOK_SCHEDULER must be unset where Dask is not installed (see requirements-cluster.txt); got {address!r}"
        ) from error
    return address


def device() -> str:
    """Return where PyTorch computes, "cpu" or "cuda".

    Raises
    ------
    ValueError
        If ``BOOK_DEVICE`` is unknown, or asks for CUDA where there is none.
    """
    name = os.environ.get("BOOK_DEVICE") or "auto"
    if name not in DEVICES:
        raise ValueError(f"BOOK_DEVICE must be one of {', '.join(DEVICES)}; got {name!r}")
    if name == "cpu":
        return name
    import torch  # here, because most chapters do without it

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"BOOK_DEVICE must be auto or cpu where PyTorch finds no CUDA device; got {name!r}")
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_execution_options() -> None:
    """Raise ValueError that names the first environment variable of this module with a value that is not allowed."""
    workers()
    scheduler()
    if os.environ.get("BOOK_DEVICE", "auto") != "auto":  # nothing to check that would be worth importing PyTorch
        device()


@contextmanager
def parallel() -> Iterator[None]:
    """Send the tasks of ``joblib.Parallel`` within the block to where the environment says.

    Each task computes on one thread, also where there is only one worker, because more threads add in another order
    and give other last digits. Arguments are not put into shared memory, which a killed process would leave behind;
    see :func:`book.experiments.page.storage.memory_mapped` for large ones.

    Raises
    ------
    ValueError
        If ``BOOK_WORKERS`` or ``BOOK_SCHEDULER`` is not allowed, or the cluster has too few workers or other packages.
    """
    address = scheduler()
    if address is not None:
        from distributed import Client

        with Client(address) as client:
            _check_cluster(client, address)
            for plugin in _plugins(_project_archive()):
                client.register_plugin(plugin)
            with joblib.parallel_config("dask", client=client), one_thread():
                yield
        return
    options = {
        "temp_folder": os.environ.get("JOBLIB_TEMP_FOLDER") or tempfile.gettempdir(),
        "initializer": _set_up_worker,
        "initargs": (os.getpid(),),
    }
    with (
        joblib.parallel_config("loky", n_jobs=workers(), max_nbytes=None, inner_max_num_threads=1, **options),
        one_thread(),
    ):
        yield


def as_completed(tasks: Mapping[Hashable, tuple], *, here: bool = False) -> Iterator[tuple[Hashable, Any]]:
    """Do tasks within :func:`parallel`, and yield the name and the result of each one as soon as it ends.

    A worker of a cluster that ends takes data with it which other tasks need; what is missing then is sent again.

    Parameters
    ----------
    tasks : mapping of names to tasks of ``joblib.delayed``
        A large array must be an argument of its own: Dask sends such a one once, and what is nested in another
        argument with every task.
    here : bool
        Whether to do them one after the other in this process, as a GPU wants it.

    Yields
    ------
    name, result
    """
    if here:
        yield from ((name, function(*arguments, **options)) for name, (function, arguments, options) in tasks.items())
        return
    missing = dict(tasks)
    for attempts_left in reversed(range(ATTEMPTS)):
        named = [
            joblib.delayed(_named)(name, function, *arguments, **options)
            for name, (function, arguments, options) in missing.items()
        ]
        try:
            for name, result in joblib.Parallel(return_as="generator_unordered")(named):
                del missing[name]
                yield name, result
            return
        except Exception as error:
            if not attempts_left or not _is_lost_work(error):
                raise


def _named(name, function, *arguments, **options):
    return name, function(*arguments, **options)


def _is_lost_work(error: Exception) -> bool:
    """Whether ``error`` says that a worker of the cluster ended with data that tasks need."""
    distributed = sys.modules.get("distributed")
    return distributed is not None and isinstance(
        error, distributed.client.FutureCancelledError | distributed.scheduler.KilledWorker
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Let BLAS and OpenMP compute on one thread within the block, and PyTorch where it is loaded."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    with threadpool_limits(limits=1):
        try:
            if torch:
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def _check_cluster(client, address: str) -> None:
    """Raise ValueError if a cluster has one thread, which joblib would not use, or other packages than this machine."""
    threads = sum(client.ncores().values())
    if threads < 2:
        raise ValueError(
            f"BOOK_SCHEDULER must be the address of a cluster with at least two worker threads; got {address!r}, "
            f"with {threads}"
        )
    versions = client.get_versions(packages=["scikit-learn", "torch"])
    here = versions["client"]["packages"]
    for worker, found in versions["workers"].items():
        others = {name: found["packages"].get(name) for name in here if found["packages"].get(name) != here[name]}
        if others:
            listed = ", ".join(f"{name} {version} and not {here[name]}" for name, version in sorted(others.items()))
            raise ValueError(
                "BOOK_SCHEDULER must be the address of a cluster with the Python and the packages of this machine; "
                f"got {address!r}, whose worker {worker} has {listed}"
            )


def _set_up_worker(parent: int) -> None:
    """Make this worker process end when the process ``parent`` that started it ends, by whatever means."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _project_archive() -> bytes:
    """Zip the Python files of the project; the same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in SHIPPED_PACKAGES:
            for path in sorted((ROOT / package).rglob("*.py")):
                entry = zipfile.ZipInfo(path.relative_to(ROOT).as_posix())
                archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _plugins(archive: bytes) -> list:
    """Return plugins that give the project's code to the scheduler and to each Dask worker, also to a later one.

    The scheduler needs it because it unpacks the graph of tasks. All that the plugins use is local here: cloudpickle
    then sends it by value, as it must where the project can't be imported yet.
    """
    from distributed import SchedulerPlugin, WorkerPlugin

    packages = SHIPPED_PACKAGES

    def install():
        import atexit
        import hashlib
        import importlib
        import os
        import shutil
        import sys
        import tempfile

        from threadpoolctl import threadpool_limits

        name = f"from-backprop-to-vgg16-{hashlib.sha256(archive).hexdigest()[:16]}"
        folder = tempfile.mkdtemp(prefix=f"{name}-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = os.path.join(folder, "project.zip")
        with open(path, "wb") as file:
            file.write(archive)
        # Whatever the process knows under these names, the code of an earlier run perhaps, gives way.
        sys.path[:] = [path, *(entry for entry in sys.path if not entry.endswith("project.zip"))]
        for module in [module for module in sys.modules if module.split(".")[0] in packages]:
            del sys.modules[module]
        importlib.invalidate_caches()
        threadpool_limits(limits=1)

    class SchedulerCode(SchedulerPlugin):
        name = "from-backprop-to-vgg16-scheduler"

        async def start(self, scheduler):
            install()

    class WorkerCode(WorkerPlugin):
        name = "from-backprop-to-vgg16-worker"

        def setup(self, worker):
            install()

    return [SchedulerCode(), WorkerCode()]
