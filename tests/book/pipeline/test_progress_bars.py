"""The progress file, and what is shown of it."""

import io
import json
import time

from book.pipeline.progress_bars import Progress, Tasks


def line(**entry):
    return json.dumps({"task": "training", "total": 4, "advance": 1} | entry) + "\n"


def test_steps_of_several_processes_add_up():
    tasks = Tasks()
    tasks.feed(line(note="relu loss 0.5") + line(advance=2, note="tanh loss 0.4"))
    task = tasks.by_name["training"]
    assert (task.done, task.total, task.note, task.is_finished) == (3, 4, "tanh loss 0.4", False)
    tasks.feed(line())
    assert task.is_finished


def test_a_line_that_is_not_complete_waits_for_its_rest():
    tasks = Tasks()
    text = line()
    tasks.feed(text[:10])
    assert tasks.by_name == {}
    tasks.feed(text[10:])
    assert tasks.by_name["training"].done == 1


def test_lines_of_another_format_are_skipped():
    tasks = Tasks()
    tasks.feed("not json\n[1]\n{}\n" + '{"task": "a", "total": "x", "advance": 1}\n' + line())
    assert list(tasks.by_name) == ["training"]


def test_a_task_of_the_same_name_starts_anew_after_its_end():
    tasks = Tasks()
    tasks.feed(line(advance=4) + line())
    assert tasks.by_name["training"].done == 1


def test_a_log_gets_plain_lines_with_cells_steps_and_time_left(tmp_path):
    path, stream = tmp_path / "progress", io.StringIO()
    with Progress("first", 14, path, stream, seconds_between_lines=0.0) as progress:
        progress.cell_done()
        with path.open("a") as file:
            file.write(line(note="relu loss 0.31"))
        deadline = time.monotonic() + 10
        while "relu" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    shown = stream.getvalue()
    assert "first, cell" in shown
    assert "1/14" in shown
    assert "training 1/4" in shown
    assert "left, relu loss 0.31" in shown
    assert "\r" not in shown
    assert not path.exists()


def test_a_log_is_not_flooded(tmp_path):
    stream = io.StringIO()
    with Progress("first", 14, tmp_path / "progress", stream):
        time.sleep(0.6)
    assert stream.getvalue() == ""


def test_a_terminal_gets_bars(tmp_path):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    path, stream = tmp_path / "progress", Terminal()
    with Progress("first", 14, path, stream):
        path.write_text(line(note="relu loss 0.31"))
        deadline = time.monotonic() + 10
        while "relu" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "first, cell" in stream.getvalue()
    assert "0/14" in stream.getvalue()
    assert "relu loss 0.31" in stream.getvalue()


def test_a_character_that_is_written_in_two_pieces_is_shown_whole(tmp_path):
    path, stream = tmp_path / "progress", io.StringIO()
    before, after = (
        json.dumps({"task": "größe", "total": 4, "advance": 1}, ensure_ascii=False).encode().split(b"\xc3", 1)
    )
    with Progress("first", 14, path, stream) as progress:
        for piece in (before + b"\xc3", after + b"\n"):
            with path.open("ab") as file:
                file.write(piece)
            time.sleep(0.5)  # more than one look
    assert list(progress.tasks.by_name) == ["größe"]
