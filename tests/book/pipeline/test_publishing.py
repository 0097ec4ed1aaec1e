"""What others run the book with: GitHub's workflow, and Binder."""

import os
import re
from pathlib import Path

import yaml

from tests.small_project import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text())
STEPS = {job: definition["steps"] for job, definition in WORKFLOW["jobs"].items()}


def commands(job):
    return [step["run"] for step in STEPS[job] if "run" in step]


def test_the_workflow_tests_builds_publishes_and_releases():
    # YAML reads the key "on" as true.
    assert set(WORKFLOW[True]) >= {"push", "pull_request"}
    assert commands("test") == ["make test", "make status"]
    assert commands("build") == ["make book"]
    for job, condition in (("publish", "refs/heads/main"), ("release", "refs/tags/v")):
        assert WORKFLOW["jobs"][job]["needs"] == ["test", "build"]
        assert condition in WORKFLOW["jobs"][job]["if"]
    uploads = [step["with"]["path"] for step in STEPS["build"] if "upload" in step.get("uses", "")]
    assert [path.split() for path in uploads] == [
        ["_build/full/report.pdf", "_build/full/book.pdf"],
        ["_build/full/html"],
    ]


def test_the_workflow_calls_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in [*commands("test"), *commands("build")]:
        assert command in readme
        assert command.removeprefix("make ") in targets


def test_the_workflow_uses_githubs_own_actions_by_their_major_version():
    used = [step["uses"] for steps in STEPS.values() for step in steps if "uses" in step]
    assert len(used) >= 6
    assert [action for action in used if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []


def test_only_who_writes_may_write():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    writers = {job for job, definition in WORKFLOW["jobs"].items() if "permissions" in definition}
    assert writers == {"publish", "release"}


def test_binder_installs_the_pinned_packages_and_finds_the_project():
    folder = ROOT / "binder"
    named = re.findall(r"^-[rc] (\S+)", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert [(folder / name).resolve() for name in named] == [ROOT / "requirements.txt", ROOT / "constraints.txt"]
    assert os.access(folder / "start", os.X_OK)
    assert (folder / "start").read_text().rstrip().endswith('exec "$@"')


def test_the_repositorys_address_stands_in_one_place():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    written = [*ROOT.glob("*.*"), *ROOT.glob("b*/**/*.*"), *ROOT.glob(".github/**/*.yml")]
    holders = {path for path in written if path.suffix in {".md", ".yml", ".cff", ".py", ".toml", ".txt"}}
    assert {path.relative_to(ROOT) for path in holders if url in path.read_text()} == {Path("_config.yml")}
