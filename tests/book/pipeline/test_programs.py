"""Programs that pip can't install: what is said of one that is missing, and how it is installed."""

import subprocess

import pytest

from book.__main__ import main
from book.pipeline import programs
from tests.small_project import ROOT


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with nothing on its path but an apt-get that gives it what it is asked for; gives that folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(programs.os, "geteuid", lambda: 0)
    return folder


def add(folder, name, text):
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("latex", "no PDF: xelatex, latexmk, kpsewhich missing; on Debian or Ubuntu: sudo apt-get install --no-"),
        ("browser", "no test in a browser: chromium missing; on Debian or Ubuntu: sudo apt-get install --no-"),
    ],
)
def test_what_is_missing_is_named_where_nothing_can_be_installed(bare, tmp_path, capsys, name, said):
    assert main([name], tmp_path) == 0
    assert capsys.readouterr().out.startswith(said)
    assert not (tmp_path / "_build").exists()


def test_what_is_missing_is_installed_where_apt_does_not_ask(bare, tmp_path, capsys):
    add(bare, "env", 'shift; PATH=/usr/bin:/bin; exec "$0.apt" "$@"')
    add(bare, "env.apt", f'shift; echo "$@"; case "$*" in *install*) cp "$0" {bare}/chromium;; esac')
    add(bare, "apt-get", "")
    assert main(["browser"], tmp_path) == 0
    assert capsys.readouterr().out == ""
    log = (tmp_path / "_build" / "browser-install.log").read_text().splitlines()
    assert [line.split()[3] for line in log] == ["update", "install"]
    assert log[1].endswith("--no-install-recommends chromium fonts-dejavu-core")


def test_where_a_password_would_be_asked_for_nothing_is_installed(bare, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs.os, "geteuid", lambda: 1000)
    add(bare, "apt-get", "exit 1")
    add(bare, "sudo", "exit 1")
    assert main(["browser"], tmp_path) == 0
    assert "chromium missing" in capsys.readouterr().out
    assert not (tmp_path / "_build").exists()


def test_the_makefile_asks_for_both():
    shown = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"-m book {name}\n" in shown for name in programs.PROGRAMS)
