"""The kernel that a chapter runs in: this Python, this project, a clean environment, and an end that is certain.

What a chapter gives may depend on the checkout and on the machine, not on how its user has set up a shell, IPython,
Jupyter or Matplotlib. So the kernel gets only those variables that `PASSED` and `PASSED_PREFIXES` name, and folders for
configuration of its own.

A watchdog process ends the kernel with everything that it started, whatever ends the pipeline, and then removes the
folder of joblib's shared arrays. It reads a pipe that the pipeline holds open: the system closes it when the pipeline
ends, even by ``kill -9``.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from book.files import DamagedFileError, checksums_of, read_sealed_json, write_sealed_json
from book.pipeline.errors import BookError

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
"""What a notebook says of the kernel that it ran in."""
PASSED = frozenset(
    (
        # where programs, the user's files and temporary files are
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH"),
        # language and time
        *("LANG", "LANGUAGE", "TZ"),
        # the way to the network, and which certificates to trust
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
        # caches of downloaded weights
        *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "TORCH_HOME", "XDG_CACHE_HOME"),
        # the reader's account of Weights & Biases; its other variables say how to track, which the chapter says
        *("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_BASE_URL"),
        # what Windows needs to start a process
        *("SYSTEMROOT", "COMSPEC", "PATHEXT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TEMP", "TMP"),
    )
)
PASSED_PREFIXES = (
    "LC_",  # the locale's parts
    *("CUDA_", "NVIDIA_", "CUBLAS_"),  # which GPUs there are, and how they compute
    *("OMP_", "OPENBLAS_", "MKL_", "GOMP_", "KMP_", "BLIS_", "NPY_"),  # how BLAS, OpenMP and NumPy compute here
)
LOOPBACK_SECONDS = 5
# What would make a library fail or complain unless it is as it must be: names, values, and the values in words.
_CHECKED = (
    (r"(OMP|OPENBLAS|MKL|BLIS|GOTO)_NUM_THREADS", r"[1-9]\d*(,[1-9]\d*)*", "a positive integer"),
    # wandb refuses other addresses of its own server, such as that of its web site.
    (
        r"WANDB_BASE_URL",
        r"https://api\.wandb\.ai/?|https?://(?!\S*wandb\.ai[^.]*$)[\w.-]+(:\d+)?(/\S*)?",
        "the http:// or https:// address of a server of Weights & Biases, such as https://api.wandb.ai",
    ),
)
# Seconds since 1970 that matplotlib writes into a figure as its date: constant, so that a figure that did not change
# has the same bytes.
SOURCE_DATE_EPOCH = "1700000000"
# How warnings begin that tell of the machine and not of a result.
IGNORED_WARNINGS = (
    # joblib's folder is removed with the kernel, maybe before its tracker looks for what is left in it.
    "resource_tracker",
    # joblib replaces a worker that has grown, as all do that read features mapped from a file.
    "A worker stopped while some jobs were given to the executor",
    # Placing a legend took a second, as on a busy machine.
    'Creating legend with loc="best"',
)

# Ends the group of the kernel and what left it. Joblib's resource tracker ignores SIGTERM, and deletes the semaphores
# of those that end by it, so it gets a moment before SIGKILL; on a machine with much else to do that may be too short.
_WATCHDOG = """
import glob, os, shutil, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
import psutil  # now, because at the end every moment counts
mark, *folders = sys.argv[1:]
pid = sys.stdin.readline().strip()
sys.stdin.read()
def marked():
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and mark in process.cmdline():
                return process.pid
        except psutil.Error:
            pass
    return None
# An end right after the start of the group: nobody could say its number any more.
end = time.monotonic() + 0.5
while mark and not pid and time.monotonic() < end:
    pid = marked()
if pid:
    group = int(pid)
    seen = {group}
    def members():
        found = []
        for process in psutil.process_iter():
            try:
                if os.getpgid(process.pid) == group or process in outside:
                    if process.status() != psutil.STATUS_ZOMBIE:
                        found.append(process)
            except (ProcessLookupError, psutil.Error):
                pass
        seen.update(process.pid for process in found)
        return found
    outside = []
    try:
        outside = psutil.Process(group).children(recursive=True)
    except psutil.Error:
        pass
    for number, seconds in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 1.0)):
        for process in members():
            try:
                process.send_signal(number)
            except psutil.Error:
                pass
        end = time.monotonic() + seconds
        while time.monotonic() < end and members():
            time.sleep(0.05)
    for one in seen:
        for path in glob.glob(f"/dev/shm/sem.loky-{one}-*"):
            os.unlink(path)
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""


def check_loopback() -> None:
    """Check that processes of this machine can talk to each other.

    Raises
    ------
    BookError
        If 127.0.0.1 can't be used.
    """
    try:
        # Where the interface is down, a server starts all the same, and nothing reaches it.
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_SECONDS),
        ):
            pass
    except OSError as error:
        raise BookError(
            f"127.0.0.1, through which the kernel is reached, can't be used: {error.strerror}; "
            "'ip link set lo up' brings it up"
        ) from None


def check_no_matplotlibrc(root: Path) -> None:
    """Check that the project's folder holds no settings of Matplotlib, which would take them before any other's.

    Raises
    ------
    BookError
        If there are any; the message names the file and the remedy.
    """
    path = root / "matplotlibrc"
    if path.exists() and not path.is_dir():
        raise BookError(f"{path} would change the figures, since chapters run in that folder; move it elsewhere")


def clean_environment(root: Path, folder: Path, outside: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the environment of a kernel, without what the pipeline tells a chapter.

    Parameters
    ----------
    root : pathlib.Path
        The project, first on the kernel's path.
    folder : pathlib.Path
        Where the kernel's configuration, the font cache and joblib's arrays go.
    outside : mapping
        The environment that the pipeline was started in.

    Returns
    -------
    dict
        Variables and values.
    list of str
        What was left out although it is on the list, in words.
    """
    passed, complaints = {}, []
    for name, value in outside.items():
        if name not in PASSED and not name.startswith(PASSED_PREFIXES):
            continue
        must_be = next((words for n, v, words in _CHECKED if re.fullmatch(n, name) and not re.fullmatch(v, value)), "")
        if must_be:
            complaints.append(f"{name} must be {must_be}; got {value!r}; it is left out")
            continue
        passed[name] = value
    return passed | {
        "PYTHONPATH": str(root),
        "PYTHONHASHSEED": "0",
        "PYTHONIOENCODING": "utf-8",
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "jupyter"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JOBLIB_TEMP_FOLDER": str(folder / "joblib"),
        "PYTHONWARNINGS": ",".join(f"ignore:{start}:UserWarning" for start in IGNORED_WARNINGS),
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
    }, complaints


class Watchdog:
    """A process that ends a group of processes, with what left it, when this process ends or wants it.

    Parameters
    ----------
    *folders : pathlib.Path
        What is removed after that.
    mark : str
        An argument on the command line of the group's first process, by which it is found if this process ends before
        it can say its number.
    """

    def __init__(self, *folders: Path, mark: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WATCHDOG, mark, *map(str, folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def watch(self, group: int) -> None:
        """Say which group to end: the number of its first process."""
        self._process.stdin.write(f"{group}\n".encode())
        self._process.stdin.flush()

    def started(
        self, command: list[str], folder: Path, environment: Mapping[str, str], stderr: int
    ) -> subprocess.Popen[str]:
        """Start a program in a group of its own and watch it; its output goes through a pipe, stderr as Popen says."""
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.watch(process.pid)
        return process

    def end(self) -> None:
        """End the group, and wait for that."""
        self._process.stdin.close()
        self._process.wait()


@dataclass
class Kernel:
    """How a kernel is started and ended.

    Attributes
    ----------
    root : pathlib.Path
        The project.
    folder : pathlib.Path
        The folder of the kernel's own files.
    environment : dict
        Its environment.
    pid : int or None
        Its process, once it runs.
    """

    root: Path
    folder: Path
    environment: dict[str, str]
    pid: int | None = None
    _watchdog: Watchdog | None = field(default=None, repr=False)
    _log: IO[bytes] | None = field(default=None, repr=False)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Have everything that the kernel starts ended with the block."""
        for name in ("ipython", "jupyter", "matplotlib", "joblib"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._warm_font_cache()
        self._watchdog = Watchdog(self.folder / "joblib", mark=self._connection_file)
        self._log = (self.folder / "libraries.log").open("wb")
        try:
            yield
        finally:
            self.end()
            self._log.close()

    def end(self) -> None:
        """End the kernel and all that it started, and wait for it."""
        if self._watchdog is not None:
            self._watchdog.end()
            self._watchdog = None

    def printed_by_libraries(self) -> str:
        """Return what came on the error output past Python, such as BLAS's complaints."""
        return (self.folder / "libraries.log").read_text(encoding="utf-8", errors="replace").strip()

    def started(self, pid: int) -> None:
        """Take note of the kernel's process."""
        self.pid = pid
        self._watchdog.watch(pid)

    @property
    def _connection_file(self) -> str:
        return str(self.folder / "jupyter" / f"kernel-{os.getpid()}.json")

    def _warm_font_cache(self) -> None:
        """Build Matplotlib's font cache, which would print about it in the chapter, unless it is there and whole."""
        folder, seal = self.folder / "matplotlib", self.folder / "matplotlib.json"
        version = metadata.version("matplotlib")
        with suppress(FileNotFoundError, DamagedFileError):
            if read_sealed_json(seal) == [version, checksums_of(folder)]:
                return
        # With it goes a lock, for which Matplotlib would wait.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        subprocess.run(
            [sys.executable, "-c", "import matplotlib.font_manager"],
            cwd=self.root,
            env=self.environment | {"MPLBACKEND": "agg"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        write_sealed_json(seal, [version, checksums_of(folder)])

    def manager_class(self, kernel_ends: Any) -> type[AsyncKernelManager]:
        """Return the class that papermill starts the kernel with.

        Parameters
        ----------
        kernel_ends : callable
            Called before the kernel is shut down; returns whether to end it at once.
        """
        kernel = self

        class Manager(AsyncKernelManager):
            @property
            def kernel_spec(self) -> KernelSpec:
                # This Python, whatever kernels the user has installed.
                argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
                return KernelSpec(argv=argv, display_name=KERNEL["display_name"], language=KERNEL["language"])

            async def start_kernel(self, **kwargs: Any) -> None:
                self.connection_file = kernel._connection_file
                kwargs |= {"env": kernel.environment, "stdout": kernel._log, "stderr": kernel._log}
                await super().start_kernel(**kwargs)
                kernel.started(self.provisioner.pid)

            async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
                if kernel_ends():
                    now = True
                    kernel.end()
                await super().shutdown_kernel(now=now, restart=restart)

        return Manager

    @property
    def arguments(self) -> list[str]:
        """The kernel's own options."""
        return [
            # The kernel tells at each start that it speaks TCP, to this machine only, and at each end that it ends.
            "--log-level=CRITICAL",
            # What a library prints on the descriptor is none of the chapter's.
            "--IPKernelApp.capture_fd_output=False",
            "--InteractiveShell.ast_node_interactivity=last_expr",
            "--HistoryManager.enabled=False",
        ]


def remove_leftovers(folder: Path) -> None:
    """Remove what an earlier kernel left of joblib's arrays and of files for other chapters."""
    for name in ("joblib", "models"):
        shutil.rmtree(folder / name, ignore_errors=True)
