"""Tracking: the offline run, read back, holds what the chapter drew; and nothing that goes wrong stops the chapter."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
from wandb.proto import wandb_internal_pb2

from book.experiments.vgg import tracking
from book.experiments.vgg.tracking import read_history, track_run

HISTORY = {"train_loss": [0.5, 0.25], "validation_accuracy": [0.75, 0.875], "learning_rate": [1e-3, 1e-5]}
CONFIG = {"backbone": {"cut": 30}, "head": {"hidden": (512,), "learning_rate": 1e-3}}
CLASSES = pd.DataFrame({"class": ["a", "b"], "recall": [0.5, 1.0]})


def track(folder, mode="offline"):
    return track_run(mode, CONFIG, HISTORY, ["a", "b"], [0, 0, 1], [0, 1, 1], CLASSES, folder)


def read_back(folder):
    (run,) = (folder / "wandb").glob("offline-run-*")
    (file,) = run.glob("run-*.wandb")
    history, config = [], {}
    for message in tracking._records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(message)
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if items:
            history.append(items)
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return run, history, config


def test_offline_run_read_back_holds_our_history_and_configuration(tmp_path):
    assert track(tmp_path).outcome == "written offline"
    _, history, config = read_back(tmp_path)
    epochs = [row for row in history if "epoch" in row]
    assert [row["epoch"] for row in epochs] == [1, 2]
    for name, values in HISTORY.items():
        assert [row[name] for row in epochs] == values
    assert config["head"] == {"hidden": [512], "learning_rate": 1e-3}
    assert config["backbone"] == {"cut": 30}


def test_history_is_read_back_from_the_file_as_it_was_logged(tmp_path):
    assert read_history(track(tmp_path).file) == {"epoch": [1, 2]} | HISTORY


def test_history_longer_than_a_block_of_the_file_is_read_back_whole(tmp_path):
    epochs = 400
    history = {f"metric {number}": [number + epoch / 7 for epoch in range(epochs)] for number in range(5)}
    run = track_run("offline", CONFIG, history, ["a", "b"], [0, 0, 1], [0, 1, 1], CLASSES, tmp_path)
    assert run.file.stat().st_size > 2 * tracking.BLOCK
    assert read_history(run.file) == {"epoch": list(range(1, epochs + 1))} | history


def test_offline_run_holds_the_confusion_matrix_and_the_table_of_classes(tmp_path):
    track(tmp_path)
    run, history, _ = read_back(tmp_path)
    logged = {name for row in history for name in row}
    assert any(name.startswith("confusion_matrix") for name in logged)
    assert any(name.startswith("classes") for name in logged)
    tables = {path.name.split("_")[0]: json.loads(path.read_text()) for path in run.rglob("*.table.json")}
    assert tables["classes"]["data"] == [["a", 0.5], ["b", 1.0]]
    counts = {(true, predicted): count for true, predicted, count in tables["confusion"]["data"]}
    assert counts == {("a", "a"): 1, ("a", "b"): 1, ("b", "a"): 0, ("b", "b"): 1}


def test_tracking_offline_prints_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path\n"
        "sys.path[:0] = [sys.argv[1], sys.argv[1] + '/tests/book/experiments/vgg']\n"
        "from test_tracking import track\n"
        "track(Path(sys.argv[2]))"
    )
    root = tracking.__file__.rsplit("/book/", 1)[0]
    done = subprocess.run(
        [sys.executable, "-c", script, root, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout + done.stderr == ""


def test_failing_tracker_is_told_and_stops_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    history = HISTORY | {"learning_rate": [1e-3]}  # lengths that do not fit
    run = track_run("offline", CONFIG, history, ["a", "b"], [0], [0], CLASSES, tmp_path)
    assert run.outcome.startswith("not tracked (ValueError")
    assert run.file is None


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ([sys.executable, "-c", "raise SystemExit(1)"], "written offline; sending it failed"),
        ([sys.executable, "-c", "pass"], "written and sent"),
        ([sys.executable, "-c", "import time; time.sleep(60)"], "given up"),
    ],
)
def test_online_run_is_written_offline_first_and_sending_it_may_fail_or_hang(tmp_path, monkeypatch, command, outcome):
    # A module of its own, because wandb runs programs too.
    stand_in = SimpleNamespace(**vars(subprocess))
    stand_in.run = lambda asked, **kwargs: subprocess.run(command, **kwargs)
    monkeypatch.setattr(tracking, "SYNC_SECONDS", 1)
    monkeypatch.setattr(tracking, "subprocess", stand_in)
    assert outcome in track(tmp_path, "online").outcome
    assert len(read_back(tmp_path)[1]) >= 2


def test_unknown_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"wandb_mode must be one of offline, online; got 'on'"):
        track(tmp_path, "on")
    assert not list(tmp_path.iterdir())
