"""What a run was, as recorded in the executed notebook: a page's box, the tables of run times and environment."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from nbformat import NotebookNode

from book.constraints import allowed
from book.pipeline.build import Build
from book.pipeline.cost import Cost, cost_of
from book.pipeline.project import Chapter, Project

# The line of a page that the tables take the place of; MyST takes it for a comment.
RUN_TIMES_MARK = "% The pipeline puts the run times here."
# What turns the staged files into pages.
RENDERERS = (
    "jupyter-book",
    "myst-nb",
    "myst-parser",
    "Sphinx",
    "sphinx-book-theme",
    "pydata-sphinx-theme",
    "sphinx-mathjax-offline",
    "sphinx-proof",
    "sphinx-togglebutton",
    "sphinx_design",
    "sphinxcontrib-bibtex",
)


def box(build: Build, chapter: Chapter, executed: dict[str, NotebookNode], sources: list[str]) -> str:
    """Write the box that says how a page was made.

    Parameters
    ----------
    build : Build
        Whose page it is.
    chapter : Chapter
        The page.
    executed : dict
        Chapter name to executed notebook.
    sources : list of str
        The other chapters whose results the page shows.
    """
    items = [f"- Profile: **{build.profile}**"]
    if chapter.is_executable:
        made = executed[chapter.name].metadata["book"]
        versions = {"Python": made["environment"]["python"], **made["environment"]["packages"]}
        notebook = f"{'../' * chapter.docname.count('/')}_sources/{chapter.docname}.ipynb"
        parameters = [
            f"  - `{name} = {value!r}`"
            + (f": {_allowed(chapter.constraints[name])}" if name in chapter.constraints else "")
            for name, value in made["parameters"].items()
        ]
        items += [
            "- Parameters, and what each may be:" if parameters else "- Parameters: none",
            *parameters,
            *([f"- Seed: {made['seed']}"] if made["seed"] is not None else []),
            f"- Executed: {made['date']}",
            *(f"- Given the current key {stamp['date']} without a run: {stamp['why']}" for stamp in _stamps(made)),
            f"- Cost: {_cost_in_words(cost_of(made))}",
            f"- Machine: {describe_machine(made['environment'])}",
            *_found_on(made),
            f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
            # The link is for the pages; LaTeX takes the text between the tags.
            f'- Executed notebook: <a href="{notebook}" download>{chapter.name}.ipynb</a>',
        ]
    items += [
        f"- Results of {{doc}}`/{build.project.chapter(name).docname}`: executed "
        f"{executed[name].metadata['book']['date']}"
        for name in sources
    ]
    return "\n".join([":::{admonition} How this page was made", ":class: note dropdown", *items, ":::"])


def _allowed(constraint: dict[str, Any]) -> str:
    # Parameters that a limit names would be emphasis if they held two underscores.
    return allowed(constraint).replace("_", "\\_")


def _stamps(made: dict[str, Any]) -> list[dict[str, str]]:
    return made.get("restamped", [])


def _found_on(made: dict[str, Any]) -> list[str]:
    """Say on which machines the steps that were found in the cache had run."""
    machines = sorted({step["machine"] for step in made["cost"]["steps"] if step["found"]})
    return [f"- What was found in the cache was computed on: {'; '.join(machines)}"] if machines else []


def _cost_in_words(cost: Cost) -> str:
    words = (
        f"{_minutes(cost.cpu_seconds)} CPU minutes, {_minutes(cost.wall_seconds)} minutes by the clock, "
        f"at most {cost.peak_mib:,.0f} MiB of memory"
    )
    if cost.found_cpu_seconds:
        words += f"; {_minutes(cost.found_cpu_seconds)} of the CPU minutes are of steps found in the cache"
    return words


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.1f}"


def run_times(build: Build, executed: dict[str, NotebookNode]) -> str:
    """Write the tables in Markdown.

    Parameters
    ----------
    build : Build
        Whose runs they are.
    executed : dict
        Chapter name to executed notebook, in the book's order.

    Returns
    -------
    str
        Four tables with a sentence before each: costs, machines, versions, and what rendered the pages.
    """
    project = build.project
    made = {name: notebook.metadata["book"] for name, notebook in executed.items()}
    times = [
        (f"{{doc}}`/{project.chapter(name).docname}`", made[name]["date"], *_cost_row(cost_of(run)))
        for name, run in made.items()
    ]
    total = cost_of(*made.values())
    everywhere = list(made)
    machines = _by_value({name: _machine(run["environment"]) for name, run in made.items()})
    packages = {name: run["environment"]["packages"] for name, run in made.items()}
    versions = {
        package: _by_value({name: imported[package] for name, imported in packages.items() if package in imported})
        for package in sorted(set().union(*packages.values()), key=str.lower)
    }
    head = ("chapter", "executed", "CPU minutes", "minutes by the clock", "CPU minutes found in the cache", "peak MiB")
    return "\n\n".join(
        [
            f"What the numbers of the {build.profile} profile cost. Steps that a run found in the cache count with "
            "what they took when they were computed; the last row counts each step once.",
            _table(head, [*times, ("all", "", *_cost_row(total))], "llrrrr"),
            "They ran on:",
            _table(
                ("machine", "chapters"),
                [(machine, _chapters(project, names, everywhere)) for machine, names in machines.items()],
            ),
            "With these versions of what they import:",
            _table(
                ("package", "version"),
                [
                    (
                        package,
                        "; ".join(
                            version + (f" ({_chapters(project, names, everywhere)})" if len(found) > 1 else "")
                            for version, names in found.items()
                        ),
                    )
                    for package, found in versions.items()
                ],
            ),
            "And were rendered with:",
            _table(("package", "version"), [(name, metadata.version(name)) for name in RENDERERS]),
        ]
    )


def _cost_row(cost: Cost) -> tuple[str, ...]:
    minutes = (_minutes(s) for s in (cost.cpu_seconds, cost.wall_seconds, cost.found_cpu_seconds))
    return (*minutes, f"{cost.peak_mib:,.0f}")


def describe_machine(environment: dict) -> str:
    """Describe a machine in one line, from what was recorded of it."""
    instructions = environment.get("instructions")
    return ", ".join(
        [
            environment["processor"] + (f" ({' '.join(instructions)})" if instructions else ""),
            f"{environment['cores']} logical cores",
            environment["platform"],
            _execution(environment),
        ]
    )


def _execution(environment: dict) -> str:
    """Say where and how fast it was computed, which changes no result."""
    workers = environment["workers"]
    words = "1 worker" if workers == 1 else f"{workers} workers" if isinstance(workers, int) else f"workers {workers}"
    if "torch" not in environment["packages"] or environment["device"] == "auto":
        return words
    return f"{words}, PyTorch on {environment['device']}"


def _machine(environment: dict) -> str:
    return f"{describe_machine(environment)}, Python {environment['python']}"


def _by_value(values: dict[str, str]) -> dict[str, list[str]]:
    """Turn chapter → value into value → chapters."""
    found: dict[str, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


def _chapters(project: Project, names: list[str], everywhere: list[str]) -> str:
    return "all" if names == everywhere else ", ".join(f"{{doc}}`/{project.chapter(name).docname}`" for name in names)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], alignment: str = "") -> str:
    rules = ["---:" if side == "r" else "---" for side in alignment.ljust(len(head), "l")]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rules, *rows))
