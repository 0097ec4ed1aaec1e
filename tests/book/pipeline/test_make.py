"""The Makefile's installation."""

import os
import re
import shutil
import subprocess
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.small_project import ROOT

REQUIREMENTS = ("requirements.txt", "requirements-cluster.txt")
DIRECT = re.compile(r"^([\w.-]+)==", re.MULTILINE)


def normalized(names):
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with the Makefile, and a python3 that makes half an environment, as Debian's without python3-venv."""
    for name in ("Makefile", "constraints.txt", *REQUIREMENTS):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        'test "$1 $2" = "-m venv" || exit 0\n'
        'mkdir -p "$3/bin" && touch "$3/bin/python" && chmod +x "$3/bin/python"\n'
        "echo The virtual environment was not created successfully\n"
        "exit 1\n"
    )
    python.chmod(0o755)
    return tmp_path


def test_an_environment_that_can_not_be_made_leaves_nothing_and_says_in_one_line_what_to_install(elsewhere):
    environment = os.environ | {"PATH": f"{elsewhere / 'bin'}:{os.environ['PATH']}"}
    for _ in range(2):
        done = subprocess.run(
            ["make", "--no-print-directory", ".venv/.installed"],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode != 0
        said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert said == ["could not make .venv; on Debian or Ubuntu: sudo apt-get install python3-venv"]
        assert done.stdout == ""
        assert not (elsewhere / ".venv").exists()


def test_constraints_are_exact_and_leave_the_required_packages_to_the_requirements():
    comment, *pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert comment.startswith("#")
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    names = normalized(pin.partition("==")[0] for pin in pins)
    required = {name for file in REQUIREMENTS for name in normalized(DIRECT.findall((ROOT / file).read_text()))}
    assert len(required) > 20
    assert not names & required
    assert not names & {"pip", "setuptools", "triton"}
    # CUDA's libraries come with some builds of PyTorch only.
    absent = {name for name in pulled_in(required) - names - required if not re.match("nvidia|cuda|triton", name)}
    assert absent <= {"setuptools", "wheel"}


def pulled_in(names):
    """The installed packages that these need, directly or through others, with these."""
    found, waiting = set(), sorted(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            needed = map(Requirement, metadata.requires(name) or [])
            waiting += normalized(one.name for one in needed if not one.marker or one.marker.evaluate({"extra": ""}))
    return found


def test_the_tests_get_what_a_cluster_needs(elsewhere):
    done = subprocess.run(["make", "-n", "test"], cwd=elsewhere, capture_output=True, text=True, check=True)
    install = done.stdout.index("-r requirements-cluster.txt")
    assert "-c constraints.txt" in done.stdout
    assert install < done.stdout.index("-m pytest")


@pytest.mark.parametrize("name", ["$$(touch ran)", "$(shell touch ran)", '"; touch ran; "', "`touch ran`"])
def test_the_name_of_a_submission_runs_nothing(tmp_path, name):
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    for file in (*REQUIREMENTS, "constraints.txt", ".venv/.installed"):
        (tmp_path / file).touch()
    subprocess.run(["make", "submission", f"NAME={name}"], cwd=tmp_path, check=True)
    assert not (tmp_path / "ran").exists()


def test_pythons_own_settings_do_not_keep_make_from_finding_the_book(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nenv | grep ^PYTHON\ntrue\n")
    python.chmod(0o755)
    for file in (*REQUIREMENTS, "constraints.txt", ".venv/.installed"):
        (tmp_path / file).touch()
    settings = {"PYTHONSAFEPATH": "1", "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}
    command = ["make", "--silent", "status"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, check=True)
    assert not [line for line in done.stdout.splitlines() if line.partition("=")[0] in settings]


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all the tests")
@pytest.mark.xdist_group("group")
def test_xdist_sees_the_group_of_a_test(request):
    """Some pairs of versions lose it without a word, and tests that share a folder then run in two processes."""
    assert request.node.nodeid.endswith("@group")
