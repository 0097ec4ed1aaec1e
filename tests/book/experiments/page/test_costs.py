import json

import pytest

from book.experiments.page import storage
from book.experiments.page.costs import matching, median_cpu_minutes, recorded_steps, with_sources
from book.experiments.page.storage import PublishedFileError, cached


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_COSTS", str(tmp_path / "costs"))
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.delenv("BOOK_NEEDS", raising=False)


def run(name, **depends_on):
    """Do a step; returns the name of its folder."""
    return cached(name, depends_on, lambda folder: (folder / "a").write_text("a")).name


@pytest.fixture
def publish(tmp_path):
    """Write a notebook with the record of all steps so far, as the pipeline does."""

    def write(results="results"):
        lines = (tmp_path / "costs").read_text().splitlines()
        record = {"models": {}, "parameters": {}, "cost": {"steps": [json.loads(line) for line in lines]}}
        (tmp_path / results).mkdir(parents=True, exist_ok=True)
        (tmp_path / results / "chapter.ipynb").write_text(json.dumps({"metadata": {"book": record}}))

    return write


def test_the_steps_of_a_run_are_read_once_each_with_what_they_depend_on(publish):
    for seed in (0, 1, 0):
        run("network", hyperparameters={"seed": seed})
    publish()
    steps = recorded_steps("chapter")
    assert [(step.name, step.depends_on) for step in steps] == [
        ("network", {"hyperparameters": {"seed": seed}}) for seed in (0, 1)
    ]
    assert all(step.cpu_seconds >= 0 and step.machine for step in steps)


def test_the_steps_are_those_of_the_run_that_the_pipeline_names(publish, monkeypatch):
    run("network", x=1)
    publish("_build/quick/results")
    with pytest.raises(PublishedFileError, match="is missing"):
        recorded_steps("chapter")
    monkeypatch.setenv("BOOK_NEEDS", json.dumps({"chapter": "_build/quick/results"}))
    assert len(recorded_steps("chapter")) == 1


def test_a_step_matches_by_all_values_that_are_wanted_and_by_those_that_must_be_absent(publish):
    run("network", hyperparameters={"sizes": [784, 10], "seed": 0})
    run("network", hyperparameters={"sizes": [784, 10], "seed": 0, "max_grad_norm": 5.0})
    run("network", other={"sizes": [784, 10], "seed": 0})
    publish()
    steps = recorded_steps("chapter")
    wanted = {"sizes": (784, 10), "seed": 0}
    assert matching(steps, "hyperparameters", wanted) == steps[:2]
    assert matching(steps, "hyperparameters", wanted | {"max_grad_norm": None}) == steps[:1]
    assert matching(steps, "hyperparameters", wanted | {"max_grad_norm": 5}) == steps[1:2]
    with pytest.raises(ValueError, match=r"^wanted must be the hyperparameters of a recorded step; got .*'seed': 1"):
        matching(steps, "hyperparameters", {"seed": 1})


def test_a_step_brings_the_steps_that_its_input_comes_from_and_theirs(publish):
    block_4 = run("features", images="a")
    block_5 = run("features", source=block_4)
    run("features", images="another")
    run("head", settings={}, features=[f"{block_4}, channels 0 to 512", f"{block_5}[:100]"])
    publish()
    steps = recorded_steps("chapter")
    assert with_sources(steps[-1], steps) == [steps[3], steps[0], steps[1]]
    assert with_sources(steps[1], steps) == [steps[1], steps[0]]
    assert with_sources(steps[2], steps) == [steps[2]]


def test_the_median_ignores_a_run_that_recorded_its_last_part_only(publish):
    run("network", x=1)
    publish()
    (step,) = recorded_steps("chapter")
    runs = [step._replace(cpu_seconds=seconds) for seconds in (3.0, 120.0, 126.0)]
    assert median_cpu_minutes(runs) == 2.0
