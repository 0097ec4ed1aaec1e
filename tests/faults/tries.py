"""What one try of the campaign gives, and the project that it is made on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat

from tests.small_project import ROOT, edit, make_project

RECORDED = ("environment", "date", "cost", "digest")
"""What a result records of the machine and the time, and what follows from it."""

MORE_MODELS = """\
import json
import pickle

import numpy as np
from safetensors.numpy import save_file

numbers = np.linspace(0, total, 16, dtype="float32")
(folder / "numbers.pkl").write_bytes(pickle.dumps(numbers))
np.savez(folder / "numbers.npz", numbers=numbers)
save_file({"numbers": numbers}, folder / "numbers.safetensors")
(folder / "numbers.json").write_text(json.dumps(numbers.tolist()))
print("total", total)
"""

TRAINING = """\
import time

import numpy as np
from joblib import Parallel, delayed


def trained(seed):
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=8), rng.normal(size=(64, 8))
    for _ in range(30):
        w -= 0.1 * x.T @ (x @ w - x.sum(1)) / len(x)
        time.sleep(0.02)
    return float(w.sum())


print(Parallel(n_jobs=2)(delayed(trained)(seed) for seed in range(4)))
total * num_epochs
"""


class Try(NamedTuple):
    """One try.

    Attributes
    ----------
    kind : str
        What was done.
    outcome : str
        What came of it, in one or two words.
    wrong : str
        What is wrong about that; empty if nothing is.
    """

    kind: str
    outcome: str
    wrong: str = ""


def new_project(folder: Path) -> Path:
    """Make the small project, with models of every kind of file and a chapter that trains in two processes."""
    root = make_project(folder)
    edit(root / "book/chapters/first.md", 'print("total", total)\n', MORE_MODELS)
    edit(root / "book/chapters/second.md", "total * num_epochs\n", TRAINING)
    return root


def executed_project(folder: Path) -> Path:
    """Make the project and execute its full and its quick profile."""
    root = new_project(folder)
    for profile in ("full", "quick"):
        done = build(root, "--profile", profile)
        if done.returncode:
            raise RuntimeError(done.stderr)
    return root


def copy_of(root: Path, folder: Path) -> Path:
    """Copy a project to a folder, in the place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(root, folder))


def command(root: Path, *arguments: str) -> list[str]:
    """Return the command line that does on a small project what ``python -m book`` does on this one."""
    program = "import signal, sys; from pathlib import Path\n"
    # A shell starts background jobs deaf to this signal, and what they start inherits that.
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "from book.__main__ import main\n"
    program += (
        f"print('started', file=sys.stderr, flush=True)\nsys.exit(main({list(arguments)!r}, Path({str(root)!r})))"
    )
    return [sys.executable, "-c", program]


def build(root: Path, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Execute a small project in a process of its own, without rendering."""
    return subprocess.run(
        command(root, "build", "--no-render", *arguments),
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def results_of(root: Path) -> dict[str, bytes | str]:
    """Return all published results, without what they record of the machine and the time."""
    found: dict[str, bytes | str] = {}
    for path in sorted((root / "results").rglob("*")):
        name = path.relative_to(root / "results").as_posix()
        if path.suffix == ".ipynb":
            notebook = nbformat.read(path, as_version=4)
            for entry in RECORDED:
                notebook.metadata.get("book", {}).pop(entry, None)
            found[name] = json.dumps(notebook, sort_keys=True)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def complaints_about(message: str) -> str:
    """Say what is wrong with a message of the pipeline: that it is none, or a traceback of the pipeline's own."""
    if "Traceback (most recent call last)" in message:
        return f"a traceback: {message[-600:]}"
    return "" if "error: " in message or "interrupted" in message else f"no message: {message[-300:]!r}"
