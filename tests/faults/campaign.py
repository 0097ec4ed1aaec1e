"""Faults on purpose: ``python -m tests.faults.campaign --tries 1000 --seed 0``, also as ``make faults``.

Prints for each kind of fault how many tries had which outcome. The exit code is 1 if anything was wrong: a wrong number
accepted, a traceback, a process or shared memory left, a rebuild with other results.
"""

import argparse
import logging
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.faults import damage, parameter_sets, processes, storing
from tests.faults.tries import Try, executed_project

Kind = Callable[[random.Random, Path, Path, int], Iterator[Try]]
# With its share of the tries. Those with kernels take seconds each, the others milliseconds.
KINDS: dict[str, tuple[Kind, float]] = {
    "parameters": (parameter_sets.parameter_sets, 1.0),
    "notebooks": (damage.notebooks, 0.08),
    "models": (damage.models, 0.06),
    "records": (damage.records, 0.04),
    "sources": (damage.sources, 0.06),
    "data": (damage.data_files, 0.02),
    "caches": (damage.caches, 0.1),
    "storing": (storing.ends_while_storing, 0.08),
    "rendering": (storing.ends_while_rendering, 0.02),
    "environments": (processes.environments, 0.02),
    "ends": (processes.ends, 0.018),
    "two builds": (processes.two_builds, 0.002),
    "full disk": (processes.full_disk, 0.006),
    "surroundings": (processes.surroundings, 0.014),
}


def campaign(tries: int, seed: int, project: Path, place: Path, kinds: list[str]) -> Iterator[Try]:
    """Make tries of the kinds given, in their shares and at least one of each.

    Parameters
    ----------
    tries : int
        How many there would be of all kinds together.
    seed : int
        The same seed makes the same tries; when a signal arrives depends on the machine all the same.
    project : pathlib.Path
        The small project, executed; it is copied.
    place : pathlib.Path
        A folder for copies.
    kinds : list of str
        Names of `KINDS`.
    """
    for name in kinds:
        kind, share = KINDS[name]
        folder = place / name.replace(" ", "-")
        folder.mkdir()
        yield from kind(random.Random(f"{seed} {name}"), project, folder, max(1, round(share * tries)))


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign", description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=1000, metavar="N", help="of all kinds together (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what is drawn (default: 0)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind; may be given several times")
    options = parser.parse_args()
    # Tells of each notebook that it is damaged, as it should be.
    logging.getLogger("traitlets").setLevel(logging.CRITICAL)
    outcomes: Counter[tuple[str, str]] = Counter()
    wrong = []
    # An interrupt ends the tries, and the table tells of those that were made. Shells start background jobs deaf to it.
    code = 130
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="faults-") as folder:
        project = executed_project(Path(folder, "project"))
        (place := Path(folder, "place")).mkdir()
        for one in campaign(options.tries, options.seed, project, place, options.kind or list(KINDS)):
            outcomes[one.kind, "WRONG" if one.wrong else one.outcome] += 1
            if one.wrong:
                wrong.append(f"{one.kind}: {one.outcome}: {one.wrong}")
                print(wrong[-1], file=sys.stderr, flush=True)
        code = 0
    print(table(outcomes))
    print(f"{outcomes.total()} tries with seed {options.seed}, {len(wrong)} of them wrong")
    return 1 if wrong else code


def table(outcomes: Counter[tuple[str, str]]) -> str:
    """Lay out the number of tries by kind and outcome, one a line."""
    width = max((len(kind) for kind, _ in outcomes), default=0)
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in outcomes):
        of_kind = {outcome: number for (other, outcome), number in outcomes.items() if other == kind}
        shown = ", ".join(f"{number} {outcome}" for outcome, number in sorted(of_kind.items()))
        lines.append(f"{kind:{width}}  {sum(of_kind.values()):5}  {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
