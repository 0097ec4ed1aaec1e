"""Expensive steps side by side: those in the cache are found, the others are distributed to the workers."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack

from book.experiments.page.execution import as_completed
from book.experiments.page.storage import CachedStep
from book.files import write_atomically


def finish_steps(
    steps: Mapping[Hashable, CachedStep],
    tasks_of: Callable[[list], Mapping[Hashable, tuple]],
    on_found: Callable[[Hashable], None],
    *,
    here: bool = False,
) -> None:
    """Finish steps that are not in the cache, side by side; each is sealed as soon as it ends.

    An interrupt of the others then costs nothing of it. Distributed they are within
    :func:`book.experiments.page.execution.parallel`.

    Parameters
    ----------
    steps : mapping of names to CachedStep
    tasks_of : callable
        Gives for the names of the missing steps the tasks of ``joblib.delayed`` that make their files, whatever process
        does it. The result of a task is a pair: the content of the files by their names, without those that it wrote
        into the folder itself, and what it cost, as :func:`book.experiments.page.storage.measured` has it.
    on_found : callable
        Is given the name of each step that was in the cache.
    here
        As in :func:`book.experiments.page.execution.as_completed`.
    """
    with ExitStack() as stack:
        # Always in the same order: two processes that want the same folders then never wait for each other.
        for step in sorted({step.folder: step for step in steps.values()}.values(), key=lambda step: step.folder):
            stack.enter_context(step.locked())
        missing = {}
        for name, step in steps.items():
            if step.is_finished():
                on_found(name)
            else:
                missing[step.folder] = name  # once, where two names stand for one step
        if not missing:
            return
        for name, (files, cost) in as_completed(tasks_of(list(missing.values())), here=here):
            for file, content in files.items():
                write_atomically(steps[name].folder / file, content)
            steps[name].finish(cost)
