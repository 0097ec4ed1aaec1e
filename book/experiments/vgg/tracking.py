"""Weights & Biases for a training run: written offline, read back, sent on request, never a reason to fail."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from book.experiments import ROOT
from book.experiments.checks import check_choice

MODES = ("offline", "online")
SYNC_SECONDS = 120
CHAPTER = ROOT / "book" / "chapters" / "vgg16.md"
PROJECT = "from-backprop-to-vgg16"
FOLDER = ROOT / "_build"
"""wandb makes a folder ``wandb`` in it: a run is no result, and holds times and the machine's name."""

# The file of a run is a log in LevelDB's format: records in fragments, in blocks of 32 KiB.
FILE_HEADER, BLOCK, FRAGMENT_HEADER = 7, 32 * 1024, 7
WHOLE, LAST = 1, 4
"""Kinds of fragments that end a record."""


class TrackedRun(NamedTuple):
    """What became of a run that was to be tracked.

    Attributes
    ----------
    outcome : str
        For the reader.
    file : Path or None
        The file that wandb wrote, for :func:`read_history`; None if it wrote none.
    """

    outcome: str
    file: Path | None


def track_run(
    mode: str,
    config: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    class_names: Sequence[str],
    labels: Sequence[int],
    predictions: Sequence[int],
    class_table: pd.DataFrame,
    folder: Path = FOLDER,
) -> TrackedRun:
    """Write a run of Weights & Biases: its configuration, every epoch, the confusion matrix, the table of classes.

    Parameters
    ----------
    mode : str
        One of `MODES`. "online" writes offline too and then sends the run, with the key that ``wandb login`` or the
        environment variable ``WANDB_API_KEY`` holds; if that fails, the offline run can be sent later.
    config : mapping
    history : mapping of sequences, one value an epoch
    class_names : sequence of str
    labels, predictions : sequences of int, shape (n,)
        For the confusion matrix.
    class_table : DataFrame
    folder : Path
        Where the offline run is written, in a folder `wandb`.

    Returns
    -------
    TrackedRun

    Raises
    ------
    ValueError
        If `mode` is unknown. Whatever else goes wrong is said in the outcome.
    """
    check_choice("wandb_mode", mode, MODES)
    try:
        run_folder = _write(folder, config, history, class_names, labels, predictions, class_table)
        file = next(run_folder.glob("run-*.wandb"))
        return TrackedRun(_send(run_folder) if mode == "online" else "written offline", file)
    except Exception as error:  # a tracker must not stop what it tracks
        return TrackedRun(f"not tracked ({type(error).__name__}: {error})", None)


def read_history(file: Path) -> dict[str, list[float]]:
    """Read back what was logged after each epoch, from the file of an offline run.

    Parameters
    ----------
    file : Path
        With the ending ``.wandb``.

    Returns
    -------
    dict of list
        One value an epoch for each name that was logged; `epoch` is one of them.
    """
    rows = [row for row in _logged(file) if "epoch" in row]
    return {name: [row[name] for row in rows] for name in rows[0] if not name.startswith("_")} if rows else {}


def _logged(file: Path) -> Iterator[dict[str, Any]]:
    """Yield what each call of wandb's ``log`` wrote."""
    from wandb.proto.wandb_internal_pb2 import Record  # takes a second, as wandb itself

    for message in _records(file.read_bytes()):
        record = Record()
        record.ParseFromString(message)
        if record.history.item:
            yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def _records(content: bytes) -> Iterator[bytes]:
    position, message = FILE_HEADER, b""
    while position + FRAGMENT_HEADER <= len(content):
        room = BLOCK - position % BLOCK
        if room < FRAGMENT_HEADER:
            position += room
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        position += FRAGMENT_HEADER
        message += content[position : position + length]
        position += length
        if kind in (WHOLE, LAST):
            yield message
            message = b""


def _write(folder, config, history, class_names, labels, predictions, class_table) -> Path:
    os.environ["WANDB_SILENT"] = "true"
    # Else wandb looks for the notebook's name, and says on the page that it found none.
    os.environ.setdefault("WANDB_NOTEBOOK_NAME", str(CHAPTER))
    # wandb's own folders lie in the user's home, which need not be writable.
    for name in ("CACHE", "CONFIG", "DATA"):
        os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / "wandb" / name.lower()))
    import wandb  # takes a second, and reads WANDB_SILENT

    settings = wandb.Settings(
        mode="offline",
        silent=True,
        console="off",
        x_disable_stats=True,
        disable_git=True,
        save_code=False,
    )
    run = wandb.init(project=PROJECT, dir=folder, config=dict(config), settings=settings)
    try:
        for epoch, values in enumerate(zip(*history.values(), strict=True), start=1):
            run.log({"epoch": epoch} | dict(zip(history, values, strict=True)))
        confusion = wandb.plot.confusion_matrix(
            y_true=[int(label) for label in labels],
            preds=[int(label) for label in predictions],
            class_names=list(class_names),
        )
        run.log({"confusion_matrix": confusion, "classes": wandb.Table(dataframe=class_table)})
    finally:
        run.finish()
        wandb.teardown()  # the service that writes the file may still be at it
    return Path(run.settings.sync_dir)


def _send(run_folder: Path) -> str:
    """Send an offline run with wandb's own command, which ends by itself or is ended."""
    command = [sys.executable, "-m", "wandb", "sync", str(run_folder)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYNC_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"written offline; sending it took more than {SYNC_SECONDS} seconds and was given up"
    return "written and sent" if done.returncode == 0 else "written offline; sending it failed"
