"""The command line of the book: ``python -m book``."""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Ctrl-C while the rest is imported ends the process without a traceback; `main` handles it from then on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import ctypes
import errno
import os
import socket
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from book.files import LockedError, locked
from book.pipeline.build import Build
from book.pipeline.content_key import statuses
from book.pipeline.errors import BookError
from book.pipeline.execute import ExecutionOptions
from book.pipeline.parameters import listing, load_build, run_build
from book.pipeline.plan import in_minutes, left_by_rerun, rerun, run_one, update
from book.pipeline.project import load_project

DEVICES = ("auto", "cpu", "cuda")


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
    root = (root or Path(__file__).parents[1]).resolve()
    # Whoever stops the process by a signal, or closes its terminal, wants the kernels ended as well, as after Ctrl-C.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup has the terminal's end ignored, and that stays.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        return _do(root, sys.argv[1:] if arguments is None else arguments)
    except BookError as error:
        return _failed(str(error))
    except LockedError as error:
        return _failed(f"{error}; wait for it, or end it")
    except BrokenPipeError:
        # Whoever read the output has gone; what is left of it must not fail at the end of the process again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _failed(_in_words(error, root))
    except KeyboardInterrupt as interrupt:
        place = f" in {interrupt}" if str(interrupt) else ""
        print(f"\ninterrupted{place}; the next build takes up from there", file=sys.stderr)
        return 130


def _do(root: Path, arguments: list[str]) -> int:
    try:
        options = _parser(root).parse_args(_protected(arguments))
        return options.command(root, options)
    finally:
        # Here, where a reader that has gone is noticed, and not at the end of the process.
        sys.stdout.flush()


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1


def _in_words(error: OSError, root: Path) -> str:
    place = error.filename or root
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no room is left on the disk of {place}; the stored results are kept; make room and run it again"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{place} can't be written or read ({error.strerror}); give yourself the permission, or copy the project"
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        place = next((folder for folder in Path(place).parents if folder.is_file()), place)
        return f"{place} is in the way ({error.strerror}); move it elsewhere"
    return f"{place}: {error.strerror or error}"


def _protected(arguments: list[str]) -> list[str]:
    """Put a space before the value of each ``-p NAME VALUE``: argparse takes -1e-3 for an option, but not " -1e-3"."""
    protected = list(arguments)
    for place in range(len(arguments) - 2):
        if arguments[place] == "-p":
            protected[place + 2] = f" {arguments[place + 2]}"
    return protected


def _parser(root: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m book", description="Execute and render the book.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    build = commands.add_parser("build", help="run what is stale, then make the HTML and the PDF")
    build.set_defaults(command=_exclusive(_build))
    build.add_argument("--no-render", action="store_true", help="run only, make no pages")
    status = commands.add_parser(
        "status",
        help="list each chapter as fresh or stale, why, and about how long it takes; exit code 1 if any is stale",
    )
    status.set_defaults(command=_status)
    for command in (build, status):
        command.add_argument("--profile", default="full", metavar="NAME", help="full (default) or quick")

    anew = commands.add_parser("rerun", help="forget all cached steps, run every chapter and build the full book")
    anew.set_defaults(command=_exclusive(_rerun))
    anew.add_argument("--no-render", action="store_true", help="run only, make no pages")

    run = commands.add_parser(
        "run",
        help="run one chapter with other parameters into a folder of its own",
        description="Run one chapter with other parameters. 'run CHAPTER --help' lists them with what is allowed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    run.set_defaults(command=_exclusive(_run))
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
    run.add_argument(
        "-h", "--help", action=_HelpOfChapter, root=root, help="show this help and the chapter's parameters"
    )
    stamp = commands.add_parser("restamp", help="give stale results the current key, if no quick result changes")
    stamp.set_defaults(command=_exclusive(_restamp))
    stamp.add_argument("--from", dest="commit", required=True, metavar="COMMIT", help="where the results were fresh")
    stamp.add_argument("--why", required=True, metavar="REASON", help="for the record")
    for command in (build, anew, run, stamp):
        _add_execution_options(command)

    submission = commands.add_parser("submission", help="make the archive to hand in from a finished full build")
    submission.set_defaults(command=_submission)
    submission.add_argument("name", metavar="NAME", help="the roll number")

    for name, what in (("latex", "what the PDF needs"), ("browser", "what the tests open the pages in")):
        program = commands.add_parser(name, help=f"install {what}, where that is possible without asking")
        program.set_defaults(command=_install, program=name)
    return parser


def _add_execution_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `book.experiments.page.execution`; its environment variables give their defaults."""
    for name, metavar, what in (
        ("workers", "N", "processes that work at a time; all cores by default"),
        ("scheduler", "ADDRESS", "a Dask scheduler to compute on, tcp://HOST:PORT"),
        ("device", "NAME", "auto (default), cpu or cuda"),
    ):
        variable = f"BOOK_{name.upper()}"
        default = os.environ.get(variable) or None
        command.add_argument(f"--{name}", metavar=metavar, default=default, help=f"{what} (or {variable})")


class _HelpOfChapter(argparse.Action):
    """Shows the help of ``run``, with the parameters of the chapter if one is named before."""

    def __init__(self, option_strings: list[str], dest: str, root: Path, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)
        self.root = root

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        chapter = getattr(namespace, "chapter", None)
        if chapter:
            parser.epilog = listing(load_project(self.root).chapter(chapter))
        parser.print_help()
        parser.exit()


def _exclusive(command: Callable[[Path, argparse.Namespace], int]) -> Callable[[Path, argparse.Namespace], int]:
    """Let a command run only while no other one works in this checkout."""

    def run(root: Path, options: argparse.Namespace) -> int:
        (root / "_build").mkdir(exist_ok=True)
        with locked(root / "_build" / "build.lock", "another build is running"):
            return command(root, options)

    return run


def _execution_options(options: argparse.Namespace) -> ExecutionOptions:
    """Check where and how fast to compute, before any work.

    Raises
    ------
    BookError
        If an option is not allowed, the scheduler does not answer, or there is no GPU.
    """
    workers, scheduler, device = options.workers, options.scheduler, options.device or "auto"
    if workers is not None and not (workers.isdecimal() and workers.isascii() and int(workers) >= 1):
        raise BookError(f"--workers must be an integer of at least 1; got {workers!r}")
    if scheduler is not None and not _answers(scheduler):
        raise BookError(f"--scheduler must be the tcp://HOST:PORT of a Dask scheduler that runs; got {scheduler!r}")
    if scheduler is not None and find_spec("distributed") is None:
        raise BookError(
            "--scheduler must be left out where Dask is not installed (see requirements-cluster.txt); "
            f"got {scheduler!r}"
        )
    if device not in DEVICES:
        raise BookError(f"--device must be {', '.join(DEVICES[:-1])} or {DEVICES[-1]}; got {device!r}")
    if device == "cuda" and not _has_cuda():
        raise BookError("--device must be auto or cpu where CUDA finds no GPU; got 'cuda'")
    return ExecutionOptions(int(workers) if workers else None, scheduler, device)


def _answers(scheduler: str) -> bool:
    scheme, _, place = scheduler.partition("://")
    host, _, port = place.rpartition(":")
    if scheme not in ("tcp", "tls") or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False


def _has_cuda() -> bool:
    """Ask CUDA's driver for GPUs, which is quicker than importing PyTorch."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    number = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0 and number.value > 0


def _build(root: Path, options: argparse.Namespace) -> int:
    execution = _execution_options(options)
    build = load_build(load_project(root), options.profile)
    update(build, execution)
    return 0 if options.no_render else _publish(build)


def _publish(build: Build) -> int:
    # Imported here, because running a chapter needs nothing of it.
    from book.pipeline.programs import PROGRAMS
    from book.pipeline.publish import publish_figures, publish_notebooks
    from book.pipeline.render import render

    if build.profile == "full":
        publish_notebooks(build)
        publish_figures(build, build.root)
    html, pdf = render(build)
    if pdf is None:
        print(PROGRAMS["latex"].advice())
    print(html)
    if pdf is not None:
        print(pdf)
    return 0


def _status(root: Path, options: argparse.Namespace) -> int:
    build = load_build(load_project(root), options.profile)
    found = statuses(build)
    width = max(map(len, found), default=0)
    seconds = 0.0
    for name, status in found.items():
        state = "fresh" if status.is_fresh else "stale: " + "; ".join(status.reasons)
        if not status.is_fresh and status.expected_seconds:
            seconds += status.expected_seconds
            state += f" (about {in_minutes(status.expected_seconds)})"
        print(f"{name:{width}}  {state}")
    if seconds:
        print(f"running what is stale takes about {in_minutes(seconds)}")
    if left := left_by_rerun(build):
        print(f"a rerun is unfinished; the next build also runs {', '.join(left)}")
    return 0 if all(status.is_fresh for status in found.values()) else 1


def _rerun(root: Path, options: argparse.Namespace) -> int:
    execution = _execution_options(options)
    build = load_build(load_project(root), "full")
    rerun(build, execution)
    return 0 if options.no_render else _publish(build)


def _run(root: Path, options: argparse.Namespace) -> int:
    execution = _execution_options(options)
    project = load_project(root)
    chapter = project.chapter(options.chapter)
    if not chapter.is_executable:
        raise BookError(f"{chapter.name} has no code to run")
    texts = [(name, value.removeprefix(" ")) for name, value in options.parameters]
    print(run_one(run_build(project, chapter, texts), execution).result)
    return 0


def _restamp(root: Path, options: argparse.Namespace) -> int:
    from book.pipeline.restamp import restamp

    execution = _execution_options(options)
    for chapter in restamp(load_build(load_project(root), "full"), options.commit, options.why, execution):
        print(f"{chapter.name}: has the current key")
    return 0


def _submission(root: Path, options: argparse.Namespace) -> int:
    from book.pipeline.submission import make_submission

    print(make_submission(load_build(load_project(root), "full"), options.name))
    return 0


def _install(root: Path, options: argparse.Namespace) -> int:
    from book.pipeline.programs import PROGRAMS

    program = PROGRAMS[options.program]
    if not program.install(root / "_build" / f"{options.program}-install.log"):
        print(program.advice())
    return 0


if __name__ == "__main__":
    sys.exit(main())
