"""Files that are whole, unchanged, and written by one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from book.files import (
    DamagedFileError,
    LockedError,
    checksums_of,
    locked,
    read_sealed_json,
    sha256_of,
    write_atomically,
    write_sealed_json,
)
from tests.small_project import ROOT

HOLDER = """
import sys
from book.files import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("content", [b"\x00\r\n", "é\r\n"])
def test_a_file_holds_the_bytes_that_were_written_and_is_readable_by_all(tmp_path, content):
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("function", ["chmod", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), "content")
    assert len(os.listdir(tmp_path)) == 1


def test_checksums_are_sorted_and_leave_out_hidden_files(tmp_path):
    for name in ("b/c.txt", "b/a.txt", "a.txt", ".a.txt.x.tmp", ".ipynb_checkpoints/a.txt"):
        write_atomically(tmp_path / name, "hello\n")
    digest = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert list(checksums_of(tmp_path).items()) == [("a.txt", digest), ("b/a.txt", digest), ("b/c.txt", digest)]
    assert sha256_of(tmp_path / "a.txt") == digest
    assert checksums_of(tmp_path / "absent") == {}


def test_a_lock_that_another_process_holds_is_refused_by_the_number_of_that_process(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "held\n"
        message = rf"another build is running \(process {holder.pid}\)"
        with pytest.raises(LockedError, match=message), locked(path, "another build is running"):
            pass
        holder.kill()
        holder.wait()
        with locked(path, "another build is running"):
            assert path.read_text() == f"{os.getpid()}\n"


def test_a_lock_without_a_message_waits(tmp_path):
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with locked(path), subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as waiting:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        waiting.kill()


VALUES = [None, 1, 0.1, float("inf"), "é\ud800", [1, [2.5, None]], {"b": 1, "a": {"c": [True]}}]


@pytest.mark.parametrize("value", VALUES)
def test_sealed_values_are_read_as_they_were_written(tmp_path, value):
    write_sealed_json(tmp_path / "file.json", value)
    assert read_sealed_json(tmp_path / "file.json") == value


def test_every_flipped_bit_and_every_cut_of_a_sealed_file_is_damage(tmp_path):
    path = tmp_path / "file.json"
    write_sealed_json(path, {"accuracy": 0.6925714, "names": ["relu"], "none": None})
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            _assert_damaged(path, bytes(damaged))
        _assert_damaged(path, content[:position])


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"value": 1}', "[" * 100_000])
def test_json_that_is_not_sealed_is_damage(tmp_path, content):
    _assert_damaged(tmp_path / "file.json", content.encode())


def test_a_sealed_file_that_is_absent_is_not_damage_but_a_folder_in_its_place_is(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_sealed_json(tmp_path / "file.json")
    with pytest.raises(DamagedFileError):
        read_sealed_json(tmp_path)


def _assert_damaged(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"file\.json is damaged"):
        read_sealed_json(path)
