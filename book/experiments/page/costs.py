"""What the cached steps of other chapters cost, as their notebooks recorded it."""

import json
from collections.abc import Mapping
from statistics import median
from typing import Any, NamedTuple

from book.experiments.checks import check_that
from book.experiments.page.storage import published_record


class RecordedStep(NamedTuple):
    """A cached step of a chapter that was run.

    Attributes
    ----------
    name : str
        What the step is, such as "network-relu".
    folder : str
        The folder of its files in the cache, which names all that it depends on; other steps refer to it.
    depends_on : dict
        As given to :func:`book.experiments.page.storage.cached`.
    cpu_seconds : float
        CPU time of all its processes, when it was computed.
    machine : str
        The processor, and its number of cores.
    """

    name: str
    folder: str
    depends_on: dict[str, Any]
    cpu_seconds: float
    machine: str


def recorded_steps(chapter: str) -> list[RecordedStep]:
    """Return the cached steps that the published run of a chapter computed or loaded, each once.

    Raises
    ------
    PublishedFileError
        If the chapter's notebook is missing, or holds no record.
    """
    steps = {}
    for line in published_record(chapter)["cost"]["steps"]:
        if line.keys() >= {"folder", "depends_on", "cpu_seconds"}:
            steps[line["folder"]] = RecordedStep(
                line["step"], line["folder"], line["depends_on"], line["cpu_seconds"], line["machine"]
            )
    return list(steps.values())


def matching(steps: list[RecordedStep], entry: str, wanted: Mapping[str, Any]) -> list[RecordedStep]:
    """Return the steps that depend on given values.

    Parameters
    ----------
    steps : list of RecordedStep
    entry : str
        The entry of ``depends_on`` that holds the values, such as "hyperparameters".
    wanted : mapping
        Values that JSON can write. A step matches if its entry has all of them; it may have more. None stands for a
        name that must be absent.

    Raises
    ------
    ValueError
        If no step matches.
    """
    wanted = json.loads(json.dumps(dict(wanted)))  # tuples become lists, as in the record
    found = []
    for step in steps:
        present = step.depends_on.get(entry)
        if isinstance(present, Mapping) and all(present.get(name) == value for name, value in wanted.items()):
            found.append(step)
    check_that(found, "wanted", f"the {entry} of a recorded step", wanted)
    return found


def with_sources(step: RecordedStep, steps: list[RecordedStep]) -> list[RecordedStep]:
    """Return a step and all steps that its input comes from, each once.

    A step comes from another if the folder of the other is named in what it depends on.
    """
    chain = [step]
    for one in chain:
        text = json.dumps(one.depends_on)
        chain += [other for other in steps if other.folder in text and other not in chain]
    return chain


def median_cpu_minutes(steps: list[RecordedStep]) -> float:
    """Median CPU time in minutes; a run that was interrupted and resumed recorded its last part only."""
    return median(step.cpu_seconds for step in steps) / 60
