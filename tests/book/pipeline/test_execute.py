"""Executing: what is stored after a good run, and what is left after a bad one."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import joblib
import nbformat
import psutil
import pytest

from book.__main__ import main
from book.pipeline import results
from book.pipeline.content_key import statuses
from book.pipeline.execute import ExecutionOptions
from book.pipeline.kernel import Kernel, Watchdog, clean_environment
from book.pipeline.parameters import load_build
from book.pipeline.plan import update
from book.pipeline.project import load_project
from book.pipeline.provenance import describe_machine
from book.pipeline.results import restore_interrupted
from tests.small_project import ROOT, edit

RECORDED = ("environment", "date", "cost", "digest")
BUILD = ["build", "--no-render"]
SHARED_MEMORY = Path("/dev/shm")


def state(root):
    build = load_build(load_project(root), "full")
    return build, statuses(build)


def stored(root):
    """Return the published results, which are what must survive a failure."""
    return {path: content for path, content in files(root).items() if path.startswith("results/")}


def files(root):
    """Return every file that a run may write, with its contents."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("results", "_build")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }


@pytest.fixture
def built(executed_project: Path) -> Path:
    """A project whose full profile is up to date."""
    return executed_project


@pytest.fixture
def changed(executed_project: Path) -> Path:
    """The same, for a test that changes it."""
    return executed_project


def test_nothing_runs_when_nothing_changed(built):
    before = files(built)
    build, found = state(built)
    assert all(status.is_fresh for status in found.values())
    assert update(build) == []
    assert files(built) == before


def test_status_lists_fresh_and_stale_chapters_and_tells_by_its_exit_code(changed, capsys):
    assert main(["status"], changed) == 0
    assert capsys.readouterr().out == "first   fresh\nsecond  fresh\n"
    edit(changed / "package/helper.py", "+ ZERO", "- ZERO")
    assert main(["status"], changed) == 1
    assert "first   stale: package/helper.py changed (about " in capsys.readouterr().out


def test_an_executed_notebook_records_how_it_was_made(built):
    record = nbformat.read(built / "results/first.ipynb", as_version=4).metadata["book"]
    assert record["profile"] == "full"
    assert record["parameters"]["num_epochs"] == 3
    assert record["seed"] == 7
    assert set(record["environment"]["packages"]) == {"matplotlib", "myst-nb"}
    assert record["environment"]["processor"]
    assert (record["environment"]["workers"], record["environment"]["device"]) == (joblib.cpu_count(), "auto")


def test_a_record_names_the_workers_and_the_device_and_no_address():
    options = ExecutionOptions(3, None, "cuda")
    assert options.record == {"workers": 3, "device": "cuda"}
    assert ExecutionOptions(None, "tcp://a:1", "cpu").record == {"workers": "of a cluster", "device": "cpu"}
    machine = {"processor": "P", "cores": 4, "platform": "L", "packages": {"torch": "2"}}
    assert describe_machine(machine | options.record) == "P, 4 logical cores, L, 3 workers, PyTorch on cuda"
    assert describe_machine(machine | {"workers": 1, "device": "auto"}) == "P, 4 logical cores, L, 1 worker"


def test_an_executed_notebook_has_no_path_of_the_machine_and_no_timing(built):
    for path in (built / "results").glob("*.ipynb"):
        text = path.read_text()
        assert str(built) not in text
        assert str(Path.home()) not in text.replace("\\n", "")
        notebook = nbformat.read(path, as_version=4)
        assert "papermill" not in notebook.metadata
        assert not any({"papermill", "execution"} & cell.metadata.keys() for cell in notebook.cells)
        nbformat.validate(notebook)


def test_a_second_run_changes_only_what_is_recorded_of_the_machine(built):
    def content():
        notebook = nbformat.read(built / "results/first.ipynb", as_version=4)
        for name in RECORDED:
            del notebook.metadata["book"][name]
        return nbformat.writes(notebook)

    before = content()
    (built / "results/first.ipynb").unlink()
    assert [chapter.name for chapter in update(state(built)[0])] == ["first"], "what it left is as it was"
    assert content() == before


@pytest.mark.parametrize(
    ("replacement", "messages"),
    [
        ("total / 0", ["code cell 2 of 2 (import os)", "ZeroDivisionError", "total / 0"]),
        ("import warnings; warnings.warn('mind this')", ["code cell 2 of 2", "error output", "mind this"]),
        ("print(Path.cwd())", ["code cell 2 of 2", "shows a path of this machine"]),
        ("print(object())", ["code cell 2 of 2", "an object's address"]),
        (
            "from myst_nb import glue; glue('last', float('nan'), display=False)",
            ["code cell 2 of 2", "glues last = nan", "no place for NaN or infinity"],
        ),
        ("from myst_nb import glue; glue('last', -float('inf'))", ["code cell 2 of 2", "glues last = -inf"]),
        ("from myst_nb import glue; glue('last', '1% (nan% to 2%)')", ["glues last = '1% (nan% to 2%)'"]),
        ("Path(os.environ['BOOK_MODELS'], 'x').write_text('x'); total / 0", ["ZeroDivisionError"]),
        ("raise OSError(28, 'No space left on device')", ["no room is left on the disk", "the last result is kept"]),
    ],
)
def test_a_bad_cell_is_named_and_leaves_the_last_result(changed, capsys, replacement, messages):
    edit(changed / "book/chapters/second.md", "total * num_epochs", replacement)
    before = stored(changed)
    assert main(BUILD, changed) == 1
    error = capsys.readouterr().err
    assert "error: second: " in error
    assert all(message in error for message in messages), error
    assert "\x1b" not in error
    assert stored(changed) == before


@pytest.mark.parametrize(
    "warning",
    [
        "Creating legend with loc='best' can be slow with large amounts of data.".replace("'", '"'),
        "A worker stopped while some jobs were given to the executor. This can be caused by a memory leak.",
    ],
)
def test_a_warning_that_tells_of_the_machine_fails_no_chapter(changed, warning):
    edit(changed / "book/chapters/second.md", "total * num_epochs", f"import warnings; warnings.warn({warning!r})")
    assert main(BUILD, changed) == 0


def test_a_result_is_not_stored_when_a_module_changes_while_the_chapter_runs(changed, capsys):
    edit(
        changed / "book/chapters/second.md",
        "total * num_epochs\n",
        'Path("package/helper.py").write_text("PLUS = 1")\nfrom package import helper\n',
    )
    before = (changed / "results/second.ipynb").read_bytes()
    assert main(BUILD, changed) == 1
    assert "second: a module or requirements.txt changed while it ran; run it again" in capsys.readouterr().err
    assert (changed / "results/second.ipynb").read_bytes() == before


def test_printed_output_is_stored_in_one_piece_wherever_the_kernel_cut_it(changed):
    edit(
        changed / "book/chapters/second.md",
        "total * num_epochs\n",
        'import sys, time\nfor _ in range(3):\n    print("x", flush=True)\n    time.sleep(0.3)\n',
    )
    update(state(changed)[0])
    outputs = nbformat.read(changed / "results/second.ipynb", as_version=4).cells[-1].outputs
    assert [(output.name, output.text) for output in outputs] == [("stdout", "x\nx\nx\n")]


def test_one_chapter_runs_with_parameters_of_the_readers_own_in_a_folder_of_its_own(built, capsys):
    before = (built / "results/second.ipynb").read_bytes()
    assert main(["run", "second", "-p", "num_epochs", "5"], built) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made == built / "_build/run/second/second.ipynb"
    notebook = nbformat.read(made, as_version=4)
    assert notebook.cells[-1].outputs[0].data["text/plain"] == "27.5", "5 * (5 + 0.5): the needed chapter took it too"
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "remove-cell" in injected.metadata.tags
    assert (built / "results/second.ipynb").read_bytes() == before


WAITING = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
from joblib import Parallel, delayed
import numpy as np
array = np.ones(1_000_000)
def slow(x):
    Path("started").touch()
    time.sleep(60)
    return x.sum()
Parallel(n_jobs=2, max_nbytes=1000)(delayed(slow)(array) for _ in range(4))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -9)]
)
def test_whatever_ends_the_pipeline_ends_the_kernel_and_its_workers_and_leaves_the_last_result(changed, number, code):
    edit(changed / "book/chapters/second.md", "total * num_epochs\n", WAITING)
    before = stored(changed)
    program = "import signal, sys; from pathlib import Path; from book.__main__ import main\n"
    # A shell starts background jobs deaf to these signals, as nohup does, and what they start inherits that.
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    program += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    program += f"sys.exit(main({BUILD}, Path({str(changed)!r})))"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (changed / "started").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        descendants = psutil.Process(process.pid).children(recursive=True)
        assert len(descendants) >= 5, "a watchdog, a kernel, its child, and two workers"
        os.kill(process.pid, number)
        process.wait(timeout=120)
    finally:
        process.kill()
    _, alive = psutil.wait_procs(descendants, timeout=3)
    # A container's first process may not collect what has ended.
    running = [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not running, "the kernel or a process that it started goes on"
    error = process.stderr.read()
    assert process.returncode == code
    assert "Traceback" not in error
    if number != signal.SIGKILL:
        assert "interrupted in second, code cell 2 of 2 (import os)" in error
    assert stored(changed) == before
    assert not (changed / "_build/kernel/joblib").exists()
    # Names there hold the number of the process that made them; other projects may work at the same time.
    numbers = {str(one.pid) for one in descendants}
    assert not [path for path in SHARED_MEMORY.glob("*") if numbers & set(re.split(r"[-_]", path.name))]


SEMAPHORE = """
import time
from joblib.externals.loky.backend.synchronize import Lock
from joblib.externals.loky.backend.resource_tracker import _resource_tracker
lock = Lock()
print(_resource_tracker._pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="shared memory is no folder here")
def test_semaphores_go_with_the_kernel_even_if_nobody_is_left_to_track_them():
    watchdog = Watchdog()
    process = subprocess.Popen(
        [sys.executable, "-c", SEMAPHORE], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    watchdog.watch(process.pid)
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    left = f"sem.loky-{process.pid}-*"
    assert list(SHARED_MEMORY.glob(left))
    watchdog.end()
    assert process.wait() != 0
    assert list(SHARED_MEMORY.glob(left)) == []


def test_an_interrupt_right_after_the_kernel_was_started_ends_it(root, monkeypatch):
    pids = []

    def started(self, pid):
        pids.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(Kernel, "started", started)
    assert main(["run", "first"], root) == 130
    (pid,) = pids
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_that_a_chapter_leaves_behind_is_ended(changed):
    leave = "import subprocess; child = subprocess.Popen(['sleep', '60']); Path('pid').write_text(str(child.pid))"
    edit(changed / "book/chapters/second.md", "total * num_epochs", leave)
    assert main(["run", "second"], changed) == 0
    pid = int((changed / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_process_in_a_session_of_its_own_is_ended_as_well(changed):
    leave = (
        "import subprocess, time; child = subprocess.Popen(['sleep', '60'], start_new_session=True); time.sleep(1); "
    )
    edit(changed / "book/chapters/second.md", "total * num_epochs", leave + "Path('pid').write_text(str(child.pid))")
    assert main(["run", "second"], changed) == 0
    pid = int((changed / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("function", ["socket.create_server", "socket.create_connection"])
def test_without_a_loopback_interface_the_remedy_is_named(changed, capsys, monkeypatch, function):
    def refuse(*_, **__):
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(function, refuse)
    assert main(["run", "second"], changed) == 1
    assert "127.0.0.1, through which the kernel is reached, can't be used" in capsys.readouterr().err


HOSTILE = {
    "MPLBACKEND": "Agg",
    "PYTHONPATH": "other",
    "PYTHONWARNINGS": "default",
    "IPYTHONDIR": "other/ipython",
    "MPLCONFIGDIR": "other/matplotlib",
    "MATPLOTLIBRC": "other/matplotlib",
    "JUPYTER_PATH": "other",
    "PYTHONSTARTUP": "other/start.py",
    "OMP_NUM_THREADS": "abc",
    "HOME": "/proc/none",
}


def test_what_the_user_has_set_up_changes_nothing_in_a_result(changed, monkeypatch):
    other = changed / "other"
    for path, text in {
        "package/__init__.py": "",
        "package/compute.py": "def add(a, b):\n    return 0\n",
        "ipython/profile_default/ipython_config.py": "c.InteractiveShell.ast_node_interactivity = 'all'",
        "matplotlib/matplotlibrc": "text.color: white\nlines.linewidth: 9\n",
        "kernels/python3/kernel.json": '{"argv": ["false"], "display_name": "Python 3", "language": "python"}',
        "start.py": "raise SystemExit(1)",
    }.items():
        (other / path).parent.mkdir(parents=True, exist_ok=True)
        (other / path).write_text(text)
    before = outputs(changed / "results/first.ipynb")
    # All at once, for the time that a kernel takes; the campaign of faults sets them one by one.
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, str(changed / value) if value.startswith("other") else value)
    assert main(["run", "first"], changed) == 0
    assert outputs(changed / "_build/run/first/first.ipynb") == before


def test_settings_of_matplotlib_in_the_projects_folder_are_refused_before_the_chapter_runs(changed, capsys):
    (changed / "matplotlibrc").write_text("lines.linewidth: 9\n")
    before = files(changed)
    assert main(["run", "first"], changed) == 1
    assert f"error: {changed / 'matplotlibrc'} would change the figures" in capsys.readouterr().err
    assert {name for name in files(changed).keys() - before.keys() if name != "_build/build.lock"} == set()


def test_of_tracking_only_the_readers_account_reaches_the_kernel(tmp_path):
    account = {"WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "me", "WANDB_BASE_URL": "https://wandb.example.org:8080/x"}
    others = {"WANDB_INIT_TIMEOUT": "abc", "WANDB_MODE": "none", "WANDB_PROJECT": "a/b"}
    environment, complaints = clean_environment(ROOT, tmp_path, account | others)
    assert {name: value for name, value in environment.items() if name.startswith("WANDB")} == account
    assert complaints == []


@pytest.mark.parametrize("url", ["foo", "ftp://example.org", "https://", "https://wandb.ai", "http://api.wandb.ai"])
def test_an_address_that_wandb_would_not_take_is_left_out_and_named(tmp_path, url):
    environment, complaints = clean_environment(ROOT, tmp_path, {"WANDB_BASE_URL": url})
    assert "WANDB_BASE_URL" not in environment
    assert complaints[0].startswith("WANDB_BASE_URL must be the http:// or https:// address of a server")
    environment, complaints = clean_environment(ROOT, tmp_path, {"WANDB_BASE_URL": "https://api.wandb.ai"})
    assert "WANDB_BASE_URL" in environment
    assert complaints == []


def outputs(path):
    return [cell.get("outputs") for cell in nbformat.read(path, as_version=4).cells]


def test_what_a_library_prints_on_the_descriptor_is_told_and_fails_nothing(changed, capsys):
    edit(changed / "book/chapters/second.md", "total * num_epochs\n", "os.write(2, b'bad variable')\n")
    assert main(BUILD, changed) == 0
    assert "second: a library printed, past the page:\nbad variable" in capsys.readouterr().err


def test_a_caption_without_a_figure_fails_and_leaves_the_last_result(changed, capsys):
    edit(changed / "book/chapters/first.md", "plt.show()", "plt.close()")
    before = stored(changed)
    assert main(BUILD, changed) == 1
    assert "first: code cell 4 of 5 (fig, ax = plt.subplots(figsize=(2, 1))) has a caption, and gave no" in (
        capsys.readouterr().err
    )
    assert stored(changed) == before


def test_a_result_records_what_it_cost(changed):
    step = '{"step": "a", "folder": "a-0", "cpu_seconds": 1, "wall_seconds": 2, "machine": "m", "found": true}'
    edit(
        changed / "book/chapters/second.md",
        "total * num_epochs\n",
        f"with open(os.environ['BOOK_COSTS'], 'a') as file:\n    file.write('{step}\\n' + '{{\"ste')\n",
    )
    update(state(changed)[0])
    cost = nbformat.read(changed / "results/second.ipynb", as_version=4).metadata.book.cost
    assert cost.cpu_seconds > 0
    assert cost.wall_seconds > 0
    assert cost.peak_mib > 10
    assert [dict(step) for step in cost.steps] == [
        {"step": "a", "folder": "a-0", "cpu_seconds": 1, "wall_seconds": 2, "machine": "m", "found": True}
    ]


def test_only_one_build_works_in_a_checkout_at_a_time(changed, capsys):
    code = "import sys, time; from book.files import locked\nwith locked(sys.argv[1], 'x'):\n print(1, flush=True)\n"
    lock = changed / "_build/build.lock"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code} time.sleep(60)", lock], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert main(BUILD, changed) == 1
        other.kill()
    assert f"error: another build is running (process {other.pid})" in capsys.readouterr().err


def test_a_full_disk_while_storing_is_one_line_and_the_last_result_is_back(changed, capsys, monkeypatch):
    edit(changed / "package/helper.py", "+ ZERO", "- ZERO + 1")
    before = stored(changed)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(results, "write_atomically", full)
        assert main(BUILD, changed) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: no room is left on the disk of {changed / 'results/first.ipynb'}; ")
    assert stored(changed) == before
    assert main(BUILD, changed) == 0


@pytest.mark.parametrize("is_new", [False, True])
def test_an_end_between_files_and_notebook_leaves_the_last_result(changed, is_new):
    """As if the process had been killed after the files took their place and before the notebook did."""
    models = changed / "results/models"
    if is_new:
        (changed / "results/first.ipynb").unlink()
        (models / ".first.old").mkdir()
    else:
        (models / "first").rename(models / ".first.old")
        (models / "first").mkdir()
    (models / "first" / "total.txt").write_text("new")
    restore_interrupted(state(changed)[0])
    assert not (models / ".first.old").exists()
    assert (models / "first").exists() != is_new
    assert is_new or state(changed)[1]["first"].is_fresh


@pytest.mark.parametrize("name", ["results/first.ipynb", "results/models/first/total.txt"])
def test_damage_in_something_published_is_refused_with_the_command_that_restores_it(changed, capsys, name):
    path = changed / name
    path.write_text(path.read_text().replace("3.5", "4.5"))
    assert main(BUILD, changed) == 1
    error = capsys.readouterr().err
    assert "git checkout -- results/first.ipynb" in error
    assert len(error.splitlines()) == 1
    assert main(["run", "second"], changed) == 1
    assert "git checkout -- results/first.ipynb" in capsys.readouterr().err


def test_a_kernel_that_does_not_answer_is_told_without_a_traceback(changed, capsys, monkeypatch):
    def silent(*_, **__):
        raise RuntimeError("Kernel didn't respond in 120 seconds")

    monkeypatch.setattr("papermill.execute_notebook", silent)
    assert main(["run", "second"], changed) == 1
    assert "error: second: Kernel didn't respond in 120 seconds; run it again\n" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_models_is_named_before_the_chapter_runs(root, capsys):
    (root / "results").mkdir()
    (root / "results" / "models").write_text("in the way")
    assert main(BUILD, root) == 1
    assert f"error: {root / 'results' / 'models'} is in the way" in capsys.readouterr().err
    assert not (root / "_build" / "kernel").exists(), "nothing was started"


@contextmanager
def read_only(folder):
    """Make a folder read-only. Permissions don't bind root, so root mounts it."""
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", folder, folder], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("root may write to any folder, and none can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("place", [".", "results"])
def test_a_read_only_project_is_named_and_can_still_be_looked_at(changed, capsys, place):
    edit(changed / "package/helper.py", "+ ZERO", "+ ZERO - ZERO")
    with read_only(changed / place):
        assert main(BUILD, changed) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) <= 2  # the chapter that was to run, perhaps
        assert re.fullmatch(rf"error: {changed}/\S+ can't be written or read \(.+\); .*", lines[-1])
        assert main(["status"], changed) == 1
        assert "first   stale: package/helper.py changed" in capsys.readouterr().out


def test_a_font_cache_that_is_not_whole_is_built_before_the_chapter(tmp_path):
    environment, _ = clean_environment(ROOT, tmp_path, os.environ)
    kernel = Kernel(ROOT, tmp_path, environment)
    folder = tmp_path / "matplotlib"
    with kernel.guarded():
        (built,) = folder.iterdir()
    before = built.stat().st_mtime_ns
    with kernel.guarded():
        assert built.stat().st_mtime_ns == before
    built.write_text("{")  # as a full disk leaves it
    (folder / f"{built.name}.matplotlib-lock").touch()  # as a killed process leaves it
    with kernel.guarded():
        assert list(folder.iterdir()) == [built]
        assert json.loads(built.read_text())["ttflist"]


@pytest.mark.parametrize("place", ["results", "_build"])
def test_a_folder_where_a_file_belongs_or_a_file_where_a_folder_does_is_named(root, capsys, place):
    (root / place).write_text("in the way")
    assert main(BUILD, root) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert f"{root / place} is in the way" in error


def test_a_closed_pipe_is_no_traceback(built):
    command = f"{sys.executable} -m book run fashion_mnist --help | true"
    run = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stderr == ""
