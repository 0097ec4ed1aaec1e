"""The command line of the book: ``python -m book``."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from book.pipeline import browser, latex
from book.pipeline.content_key import statuses
from book.pipeline.figures_of_readme import publish_figures
from book.pipeline.notebooks import publish_notebooks
from book.pipeline.parameters import Profile, load_profile, read_overrides, run_profile
from book.pipeline.plan import left_by_rerun, rerun, run_one, update
from book.pipeline.project import BookError, Project, load_project
from book.pipeline.render import render
from book.pipeline.restamp import restamp
from book.pipeline.submission import make_submission


def main(arguments: list[str] | None = None, root: Path | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        The command line, that of the process by default.
    root : pathlib.Path, optional
        The project, the one that this file lies in by default.

    Returns
    -------
    int
        The exit code: 0, 1 for a failure, 2 for a command that does not exist, 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    # Whoever stops the process by a signal wants the kernels ended as well, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return options.command((root or Path(__file__).parents[1]).resolve(), options)
    except BookError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        place = f" in {interrupt}" if str(interrupt) else ""
        print(f"\ninterrupted{place}; the next build takes up from there", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m book", description="Execute and render the book.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="run what is stale, then make the HTML and the PDF")
    build.set_defaults(command=_build)
    status = commands.add_parser(
        "status", help="list each chapter as fresh or stale, and why; exit code 1 if any is stale"
    )
    status.set_defaults(command=_status)
    for command in (build, status):
        command.add_argument("--profile", default="full", metavar="NAME", help="full (default) or quick")

    anew = commands.add_parser("rerun", help="forget all trained networks, run every chapter and build the full book")
    anew.set_defaults(command=_rerun)

    run = commands.add_parser("run", help="run one chapter with other parameters into a folder of its own")
    run.set_defaults(command=_run)
    run.add_argument("chapter", metavar="CHAPTER")
    run.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="a parameter of the chapter; may be given several times",
    )

    stamp = commands.add_parser(
        "restamp", help="give full results the keys of the current sources, if these leave every quick result as it was"
    )
    stamp.set_defaults(command=_restamp)
    stamp.add_argument("--from", dest="commit", required=True, metavar="COMMIT", help="where the results were fresh")
    stamp.add_argument("--why", required=True, metavar="TEXT", help="the reason, for the record")

    submission = commands.add_parser("submission", help="make the archive to hand in from a finished full build")
    submission.set_defaults(command=_submission)
    submission.add_argument("name", metavar="NAME", help="the roll number")

    tools = commands.add_parser("latex", help="install what the PDF needs, where that is possible without asking")
    tools.set_defaults(command=_latex)

    chromium = commands.add_parser("browser", help="install what the tests open the pages in, where that is possible")
    chromium.set_defaults(command=_browser)
    return parser


def _build(root: Path, options: argparse.Namespace) -> int:
    project = load_project(root)
    profile = load_profile(project, options.profile)
    update(project, profile)
    return _publish(project, profile)


def _publish(project: Project, profile: Profile) -> int:
    if profile.name == "full":
        publish_notebooks(project, profile)
        publish_figures(project, profile, project.root)
    html, pdf = render(project, profile)
    if pdf is None:
        print(latex.advice(latex.missing()))
    print(html)
    if pdf is not None:
        print(pdf)
    return 0


def _status(root: Path, options: argparse.Namespace) -> int:
    project = load_project(root)
    profile = load_profile(project, options.profile)
    found = statuses(project, profile)
    width = max(map(len, found), default=0)
    for name, status in found.items():
        print(f"{name:{width}}  {'fresh' if status.is_fresh else 'stale: ' + '; '.join(status.reasons)}")
    if left := left_by_rerun(project, profile):
        print(f"a rerun is unfinished; the next build also runs {', '.join(left)}")
    return 0 if all(status.is_fresh for status in found.values()) else 1


def _rerun(root: Path, options: argparse.Namespace) -> int:
    project = load_project(root)
    profile = load_profile(project, "full")
    rerun(project, profile)
    return _publish(project, profile)


def _run(root: Path, options: argparse.Namespace) -> int:
    project = load_project(root)
    chapter = project.chapter(options.chapter)
    if not chapter.is_executable:
        raise BookError(f"{chapter.name} has no code to run")
    values = read_overrides(chapter, options.parameters)
    status = run_one(project, run_profile(project, chapter, values), chapter)
    print(status.result)
    return 0


def _restamp(root: Path, options: argparse.Namespace) -> int:
    stamped = restamp(load_project(root), options.commit, options.why)
    print(f"restamped: {', '.join(chapter.name for chapter in stamped) or 'nothing, all results are fresh'}")
    return 0


def _submission(root: Path, options: argparse.Namespace) -> int:
    project = load_project(root)
    print(make_submission(project, load_profile(project, "full"), options.name))
    return 0


def _latex(root: Path, options: argparse.Namespace) -> int:
    absent = latex.install(root / "_build" / "latex-install.log")
    if absent:
        print(latex.advice(absent))
    return 0


def _browser(root: Path, options: argparse.Namespace) -> int:
    if browser.install(root / "_build" / "browser-install.log") is None:
        print(browser.advice())
    return 0


if __name__ == "__main__":
    sys.exit(main())
