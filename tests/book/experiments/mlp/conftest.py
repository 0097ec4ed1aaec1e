"""Samples, and a project folder without a cache."""

import pytest

from book.experiments.page import storage
from tests.small_networks import small_samples


@pytest.fixture
def samples():
    return small_samples()


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "ROOT", tmp_path)
    monkeypatch.setenv("BOOK_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.delenv("BOOK_SCHEDULER", raising=False)
