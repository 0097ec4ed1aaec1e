"""Real kernels: ends of processes, a disk without room, two builds at once, and surroundings that are not clean."""

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from book.pipeline.kernel import clean_environment
from tests.faults.tries import Try, build, command, complaints_about, copy_of, results_of
from tests.small_project import ROOT, edit

SHARED_MEMORY = Path("/dev/shm")
GRACE_SECONDS = 3
BUILD_SECONDS = 9
"""Within which the moment of an end is drawn: about as long as the two chapters run."""
ENDS = {
    "SIGKILL": signal.SIGKILL,
    "SIGTERM": signal.SIGTERM,
    "SIGINT": signal.SIGINT,
    "SIGHUP": signal.SIGHUP,
    "kernel killed": signal.SIGKILL,
    "worker killed": signal.SIGKILL,
}


class _Watched:
    """A build, with all processes that it was seen to have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[int, psutil.Process] = {}
        self._log = root.with_name(f"{root.name}-{uuid.uuid4().hex}.log")
        with self._log.open("wb") as log:
            self.main = subprocess.Popen(
                command(root, "build", "--no-render"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log
            )
        # From here on the book's own handling of signals is in place.
        while not self._log.stat().st_size and self.main.poll() is None:
            time.sleep(0.02)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def named(self, part: str) -> list[psutil.Process]:
        """Return the processes seen so far that run and have a text in their command line."""
        found = []
        for process in list(self.seen.values()):
            with suppress(psutil.Error):
                if part in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self) -> tuple[int, str]:
        """Wait for the main process; return its exit code and what it said."""
        code = self.main.wait(timeout=300)
        self._ended.set()
        self._thread.join()
        return code, self._log.read_text(encoding="utf-8", errors="replace")

    def orphans(self) -> list[str]:
        """Return what still runs after the grace period; it is killed."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=GRACE_SECONDS)
        left = []
        for process in alive:
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline())[-80:])
                    process.kill()
        return left

    def shared_memory(self) -> list[str]:
        """Return what processes of this build left in shared memory: such names hold the process's number."""
        names = [path.name for path in SHARED_MEMORY.iterdir()] if SHARED_MEMORY.is_dir() else []
        return [name for name in names if any(str(pid) in name.replace("_", "-").split("-") for pid in self.seen)]

    def _look(self) -> None:
        main = psutil.Process(self.main.pid)
        while not self._ended.wait(0.02):
            with suppress(psutil.Error):
                for process in main.children(recursive=True):
                    self.seen.setdefault(process.pid, process)


def ends(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """End a build at a random moment, and build again."""
    wanted = results_of(project)
    for number in range(tries):
        kind = list(ENDS)[number % len(ENDS)]
        root = _stale(project, place / "ends")
        watched = _Watched(root)
        struck = _strike(watched, kind, rng.uniform(0, BUILD_SECONDS / (2 if "killed" in kind else 1)))
        code, said = watched.end()
        orphans = watched.orphans()
        wrong = [f"left running: {orphans}"] if orphans else []
        if left := watched.shared_memory():
            wrong.append(f"left in shared memory: {left}")
        if struck and code == 1 and "worker" in kind:
            # The cell of the chapter failed, and its traceback is what an author wants to see.
            wrong += [] if "error: second: code cell" in said else [said[-300:]]
        elif struck and code not in (0, -signal.SIGKILL):
            wrong += filter(None, [complaints_about(said)])
        yield Try(kind, "struck, rebuilt" if code else "too late, whole", "; ".join([*wrong, *_rebuilt(root, wanted)]))


def _stale(project: Path, folder: Path) -> Path:
    """Return a copy of an executed project in which both chapters must run, and give what they gave."""
    root = copy_of(project, folder)
    shutil.rmtree(root / "results")
    return root


def _strike(watched: _Watched, kind: str, seconds: float) -> bool:
    """Send the signal after some time, or as soon as there is whom to send it to."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and watched.main.poll() is None:
        time.sleep(0.02)
    parts = {"kernel killed": "ipykernel_launcher", "worker killed": "popen_loky"}
    if kind not in parts:
        if watched.main.poll() is None:
            watched.main.send_signal(ENDS[kind])
        return True
    while watched.main.poll() is None:
        if found := watched.named(parts[kind]):
            with suppress(psutil.Error):
                found[-1].send_signal(ENDS[kind])
                return True
        time.sleep(0.02)
    return False


def _rebuilt(root: Path, wanted: Mapping[str, Any]) -> list[str]:
    """Build, and say what is wrong with that."""
    done = build(root)
    if done.returncode:
        return [f"the next build failed: {done.stderr[-300:]}"]
    found = results_of(root)
    return [] if found == wanted else [f"other results: {sorted(set(found) ^ set(wanted)) or 'other contents'}"]


def two_builds(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Start two builds a random moment apart."""
    wanted = results_of(project)
    for _ in range(tries):
        root = _stale(project, place / "two")
        first = _Watched(root)
        time.sleep(rng.uniform(0, 2))
        second = _Watched(root)
        outcomes = [first.end(), second.end()]
        wrong = _rebuilt(root, wanted)
        codes = sorted(code for code, _ in outcomes)
        refused = [said for code, said in outcomes if code]
        if codes != [0, 1] or "error: another build is running (process " not in refused[0]:
            wrong.append(f"exit codes {codes}: {[said[-200:] for said in refused]}")
        yield Try("two builds at once", "one refused by name", "; ".join(wrong))


def full_disk(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Build on a small file system with a random amount of room; then make room, and build again."""
    wanted = results_of(project)
    for _ in range(tries):
        with _small_disk(place / "disk") as disk:
            if disk is None:
                yield Try("full disk", "no file system can be mounted here")
                return
            root = copy_of(project, disk / "project")
            shutil.rmtree(root / "_build")
            edit(root / "package" / "helper.py", "+ ZERO", "+ ZERO - ZERO")
            before = results_of(root)
            room = rng.choice((0, 4, rng.randint(0, 120), rng.randint(0, 300))) * 1024
            _fill(disk / "filling", room)
            done = build(root)
            wrong = []
            if done.returncode not in (0, 1) or (done.returncode and "no room is left on the disk" not in done.stderr):
                wrong.append(f"{room} bytes of room: {complaints_about(done.stderr)}{done.stderr[-600:]}")
            if done.returncode and "Traceback" in done.stderr:
                wrong.append(f"{room} bytes of room: a traceback: {done.stderr[-600:]}")
            after = results_of(root)
            for name in ("first.ipynb", "second.ipynb"):
                if before[name] != after.get(name) and done.returncode and name == "second.ipynb":
                    wrong.append(f"{name} was not kept")
            (disk / "filling").unlink()
            done_again = build(root)
            if done_again.returncode:
                wrong.append(f"with room: {done_again.stderr[-300:]}")
            elif _outputs(results_of(root)) != _outputs(wanted):
                wrong.append("other results")
            yield Try("full disk", "told, kept, rebuilt" if done.returncode else "room enough", "; ".join(wrong))


def _outputs(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results without what they record of the sources."""
    outputs = {}
    for name, content in results.items():
        if name.endswith(".ipynb"):
            outputs[name] = [cell.get("outputs") for cell in json.loads(content)["cells"]]
        else:
            outputs[name] = content
    return outputs


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _fill(path: Path, room: int) -> None:
    """Write a file that leaves only some room on its disk."""
    free = shutil.disk_usage(path.parent).free
    with suppress(OSError), path.open("wb") as file:
        file.write(b"x" * max(0, free - room))


def surroundings(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Build with a user's settings that are not ours: all of them at first, then single ones."""
    wanted = results_of(project)
    hostile = _hostile(place / "user")
    chosen = [dict(hostile), *({name: value} for name, value in rng.sample(sorted(hostile.items()), len(hostile)))]
    for environment in chosen[:tries]:
        root = _stale(project, place / "a folder's name" / "with spaces")
        done = build(root, environment=environment)
        wrong = "" if done.returncode == 0 else done.stderr[-400:]
        if not wrong and results_of(root) != wanted:
            wrong = "other results"
        what = "all at once" if len(environment) > 1 else next(iter(environment))
        yield Try("surroundings, kernels", "identical", f"{what}: {wrong}" if wrong else "")


def environments(rng: random.Random, project: Path, place: Path, tries: int) -> Iterator[Try]:
    """Make the environment of a kernel from random ones: what is not on the list must not pass."""
    hostile = _hostile(place / "user")
    clean, _ = clean_environment(project, place, {"PATH": os.environ["PATH"]})
    may_pass = {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL"}
    for _ in range(tries):
        outside = dict(rng.sample(sorted(hostile.items()), rng.randint(1, len(hostile))))
        outside |= {f"{rng.choice(('PYTHON', 'MPL', 'IPYTHON', 'JUPYTER_', 'X'))}{rng.randrange(100)}": "hostile"}
        made, _ = clean_environment(project, place, outside | {"PATH": os.environ["PATH"]})
        passed = {name for name in made if made[name] != clean.get(name)}
        yield Try("surroundings, lists", "cleaned", f"{passed - may_pass} passed" if passed - may_pass else "")


def _hostile(folder: Path) -> dict[str, str]:
    """Write the settings of a user that would change results, and return the variables that lead to them."""
    for path, text in {
        "clone/package/__init__.py": "",
        "clone/package/compute.py": "def add(a, b):\n    return 0\n",
        "ipython/profile_default/ipython_config.py": "c.InteractiveShell.ast_node_interactivity = 'all'",
        "matplotlib/matplotlibrc": "text.color: white\nxtick.color: white\nlines.linewidth: 9\n",
        "jupyter/kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "Python 3", "language": "python"}',
        "start.py": "raise SystemExit(1)",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return {
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(folder / "clone"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "MATPLOTLIBRC": str(folder / "matplotlib"),
        "IPYTHONDIR": str(folder / "ipython"),
        "PYTHONWARNINGS": "default",
        "PYTHONSTARTUP": str(folder / "start.py"),
        "OMP_NUM_THREADS": "abc",
        "HOME": "/proc/none",
        "JUPYTER_PATH": str(folder / "jupyter"),
        "TMPDIR": str(folder / "missing"),
        "LANG": "C",
        "LC_ALL": "C",
    }
