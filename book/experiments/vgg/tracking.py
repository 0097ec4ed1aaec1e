"""Weights & Biases for a training: written offline, sent when asked for, and never a reason for a chapter to fail."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from book.experiments.checks import check_choice

MODES = ("offline", "online")
SYNC_SECONDS = 120
ROOT = Path(__file__).parents[3]
CHAPTER = ROOT / "book" / "chapters" / "vgg16.md"
PROJECT = "from-backprop-to-vgg16"
FOLDER = ROOT / "_build"
"""wandb makes a folder ``wandb`` in it: a run is no result, and holds times and the machine's name."""


def track_run(
    mode: str,
    config: Mapping[str, Any],
    history: Mapping[str, Sequence[float]],
    class_names: Sequence[str],
    labels: Sequence[int],
    predictions: Sequence[int],
    class_table: pd.DataFrame,
    folder: Path = FOLDER,
) -> str:
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
    str
        What became of it, for the reader.

    Raises
    ------
    ValueError
        If `mode` is unknown. Whatever else goes wrong is told in the result.
    """
    check_choice("wandb_mode", mode, MODES)
    try:
        run_folder = _write(folder, config, history, class_names, labels, predictions, class_table)
        return _send(run_folder) if mode == "online" else "written offline"
    except Exception as error:  # a tracker must not stop what it tracks
        return f"not tracked ({type(error).__name__}: {error})"


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
