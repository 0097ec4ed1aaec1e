"""The tables of run times and environment, made of what the pipeline recorded in the executed notebooks."""

from __future__ import annotations

from importlib import metadata

from nbformat import NotebookNode

from book.pipeline.parameters import Profile
from book.pipeline.project import Project

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


def run_times(project: Project, profile: Profile, executed: dict[str, NotebookNode]) -> str:
    """Write the tables in Markdown.

    Parameters
    ----------
    project : Project
        The checkout.
    profile : Profile
        Whose runs they are.
    executed : dict
        Chapter name to executed notebook, in the book's order.

    Returns
    -------
    str
        Four tables with a sentence before each: times, machines, versions, and what rendered the pages.
    """
    made = {name: notebook.metadata["book"] for name, notebook in executed.items()}
    total = sum(run["seconds"] for run in made.values())
    times = [
        (f"{{doc}}`/{project.chapter(name).docname}`", run["date"], f"{run['seconds']:,}") for name, run in made.items()
    ]
    everywhere = list(made)
    machines = _by_value({name: _machine(run["environment"]) for name, run in made.items()})
    packages = {name: run["environment"]["packages"] for name, run in made.items()}
    versions = {
        package: _by_value({name: imported[package] for name, imported in packages.items() if package in imported})
        for package in sorted(set().union(*packages.values()), key=str.lower)
    }
    return "\n\n".join(
        [
            f"The chapters of the {profile.name} profile, each executed in one go. "
            "What other chapters of the same build had trained and left is read, not trained again.",
            _table(("chapter", "executed", "seconds"), [*times, ("all", "", f"{total:,}")], "llr"),
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


def describe_machine(environment: dict) -> str:
    """Describe a machine in one line, from what was recorded of it."""
    instructions = environment.get("instructions")
    return ", ".join(
        [
            environment["processor"] + (f" ({' '.join(instructions)})" if instructions else ""),
            f"{environment['cores']} logical cores",
            environment["platform"],
        ]
    )


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
