import json

import numpy as np
import pytest

from book.experiments.page import storage
from book.experiments.page.storage import (
    SEAL,
    PublishedFileError,
    array_digest,
    cached,
    memory_mapped,
    published_models,
    saved_models,
)
from book.files import checksums_of


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    for name in ("BOOK_MODELS", "BOOK_NEEDS", "BOOK_COSTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))


class Step:
    """Counts how often it is made."""

    def __init__(self):
        self.times = 0

    def __call__(self, folder):
        self.times += 1
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "a.txt").write_text("a")
        (folder / "inner" / "b.bin").write_bytes(bytes(100))


def test_a_step_is_made_once_for_what_it_depends_on():
    step = Step()
    first = cached("step", {"x": 1}, step)
    assert cached("step", {"x": 1}, step) == first
    assert step.times == 1
    assert cached("step", {"x": 2}, step) != first
    assert step.times == 2


@pytest.mark.parametrize("damaged", ["a.txt", "inner/b.bin", SEAL])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_damage_in_a_cached_file_is_said_and_the_step_made_again(tmp_path, damaged, how):
    step = Step()
    folder = cached("step", {"x": 1}, step)
    before = checksums_of(folder / "inner"), (folder / "a.txt").read_text()
    path = folder / damaged
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(content if how == "flip" else content[: len(content) // 2])
    assert cached("step", {"x": 1}, step) == folder
    assert step.times == 2
    assert (checksums_of(folder / "inner"), (folder / "a.txt").read_text()) == before
    if not (damaged == SEAL and how == "remove"):  # then it looks like a step that was interrupted
        assert "damaged; computed again" in (tmp_path / "progress").read_text()


def test_an_interrupted_step_is_made_again():
    def interrupted(folder):
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("step", {"x": 1}, interrupted)
    step = Step()
    folder = cached("step", {"x": 1}, step)
    assert step.times == 1
    assert (folder / "a.txt").read_text() == "a"


def test_a_step_that_is_found_reports_what_it_cost_when_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setenv("BOOK_COSTS", str(tmp_path / "costs"))
    for _ in range(2):
        folder = cached("step", {"x": 1}, Step())
    made, found = map(json.loads, (tmp_path / "costs").read_text().splitlines())
    assert list(made) == ["step", "cpu_seconds", "wall_seconds", "machine", "found", "folder", "depends_on"]
    assert (made["step"], made["found"], found["found"]) == ("step", False, True)
    assert made | {"found": True} == found
    assert (made["folder"], made["depends_on"]) == (folder.name, {"x": 1})
    assert made["wall_seconds"] >= 0
    assert made["cpu_seconds"] >= 0


@pytest.mark.parametrize(
    "other",
    [
        [np.zeros((2, 3))],
        [np.zeros((3, 2)), np.zeros(0)],
        [np.zeros((3, 2), np.float32), np.zeros(0, np.float32)],
        [np.zeros((3, 1)), np.zeros((3, 1))],
        [np.array([[0, 0], [0, 0], [0, 1.0]])],
        [],
    ],
)
def test_other_arrays_have_another_digest(other):
    assert array_digest(*other) != array_digest(np.zeros((3, 2)))


def test_equal_arrays_have_the_same_digest_however_they_lie_in_memory():
    array = np.arange(6.0).reshape(2, 3)
    assert array_digest(np.asfortranarray(array)) == array_digest(array) == array_digest(array.copy())


def test_the_cost_of_a_step_counts_the_processes_that_it_starts():
    import subprocess
    import sys

    with storage.measured() as cost:
        subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    assert cost["cpu_seconds"] > 0.05


def test_memory_mapped_arrays_hold_the_same_numbers_and_lie_on_disk(tmp_path):
    arrays = {"X": np.arange(12.0).reshape(3, 4), "y": np.arange(3)}
    mapped = memory_mapped("arrays", arrays)
    for name, array in arrays.items():
        assert isinstance(mapped[name], np.memmap)
        assert np.array_equal(mapped[name], array)
        assert tmp_path in type(tmp_path)(mapped[name].filename).parents


def test_saved_models_lie_where_the_pipeline_says_or_in_a_folder_for_runs_by_hand(tmp_path, monkeypatch):
    assert saved_models("chapter") == tmp_path / "_build" / "manual" / "models" / "chapter"
    monkeypatch.setenv("BOOK_MODELS", str(tmp_path / "there"))
    assert saved_models("chapter") == tmp_path / "there"
    assert (tmp_path / "there").is_dir()


@pytest.fixture
def publish(tmp_path):
    def write(results="results"):
        folder = tmp_path / results / "models" / "other"
        folder.mkdir(parents=True)
        (folder / "weights.pkl").write_bytes(bytes(50))
        (folder / "histories.json").write_text("{}")
        record = {"models": checksums_of(folder), "parameters": {"seed": 0, "num_epochs": 100, "epochs": [50, 100]}}
        (tmp_path / results / "other.ipynb").write_text(json.dumps({"metadata": {"book": record}}))
        return folder

    return write


def test_published_models_are_found_with_the_results(publish, monkeypatch):
    publish()
    assert published_models("other", seed=0, num_epochs=100, epochs=[50, 100]).name == "other"
    folder = publish("_build/quick/results")
    monkeypatch.setenv("BOOK_NEEDS", json.dumps({"other": "_build/quick/results"}))
    assert published_models("other") == folder


@pytest.mark.parametrize("damage", ["flip", "remove"])
def test_a_published_file_that_is_not_what_was_recorded_is_refused_with_the_command_that_restores_it(publish, damage):
    path = publish() / "weights.pkl"
    path.write_bytes(b"\1" + bytes(49))
    if damage == "remove":
        path.unlink()
    with pytest.raises(PublishedFileError, match=r"weights\.pkl is .*git checkout -- results/other"):
        published_models("other")


def test_a_file_that_the_notebook_did_not_record_is_refused_with_the_remedy(publish):
    (publish() / "more.pkl").write_bytes(b"1")
    with pytest.raises(PublishedFileError, match=r"models/other/more\.pkl is not recorded by its notebook; remove it"):
        published_models("other")


@pytest.mark.parametrize("content", [None, "", "{}", '{"metadata": {"book": {"parameters": {}}}}', "\x00"])
def test_a_notebook_without_a_record_is_refused_by_name(publish, tmp_path, content):
    publish()
    notebook = tmp_path / "results" / "other.ipynb"
    notebook.unlink() if content is None else notebook.write_text(content)
    with pytest.raises(PublishedFileError, match=r"results/other\.ipynb (is missing|holds no record).*git checkout"):
        published_models("other")


def test_another_value_of_a_shared_parameter_is_refused_with_what_trains_anew(publish):
    publish()
    expected = "num_epochs must be 100, that of the published models of other; got 5; `python -m book run"
    with pytest.raises(ValueError, match=expected):
        published_models("other", seed=0, num_epochs=5)
