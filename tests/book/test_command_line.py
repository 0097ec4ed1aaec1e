"""The options of the commands that execute, and their defaults from the environment."""

import pytest

from book.__main__ import _execution_options, _parser
from book.pipeline.errors import BookError
from book.pipeline.execute import ExecutionOptions
from tests.small_project import ROOT

COMMANDS = (["build"], ["rerun"], ["run", "first"], ["restamp", "--from", "HEAD", "--why", "a reason"])


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("BOOK_WORKERS", "BOOK_SCHEDULER", "BOOK_DEVICE"):
        monkeypatch.delenv(name, raising=False)


def options_of(arguments):
    return _execution_options(_parser(ROOT).parse_args(arguments))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_environment_gives_the_defaults_and_an_option_wins(command, monkeypatch):
    assert options_of(command) == ExecutionOptions(None, None, "auto")
    monkeypatch.setenv("BOOK_WORKERS", "3")
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    assert options_of(command) == ExecutionOptions(3, None, "cpu")
    assert options_of([*command, "--workers", "1", "--device", "auto"]) == ExecutionOptions(1, None, "auto")


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_handed_on_as_they_were_given(command, monkeypatch):
    monkeypatch.setattr("book.__main__._answers", lambda _: True)
    for options in (ExecutionOptions(), ExecutionOptions(3, None, "cpu"), ExecutionOptions(None, "tcp://a:1")):
        assert options_of([*command, *options.arguments]) == options


def test_a_variable_with_a_value_that_is_not_allowed_is_refused_as_the_option_is(monkeypatch):
    monkeypatch.setenv("BOOK_WORKERS", "none")
    with pytest.raises(BookError, match="--workers must be an integer of at least 1; got 'none'"):
        options_of(["build"])


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tls://127.0.0.1:8786"])
def test_a_scheduler_is_refused_where_dask_is_not_installed(address, monkeypatch):
    monkeypatch.setattr("book.__main__._answers", lambda _: True)
    assert options_of(["build", "--scheduler", address]).scheduler == address
    monkeypatch.setattr("book.__main__.find_spec", lambda _: None)
    with pytest.raises(BookError, match=r"--scheduler must be left out .*requirements-cluster\.txt"):
        options_of(["build", "--scheduler", address])
