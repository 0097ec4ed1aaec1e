"""The errors that are shown without a traceback, and what their messages are made of."""

import re

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class BookError(Exception):
    """Something that the author or reader can fix; its message names it and says how."""


class ChapterError(BookError):
    """A chapter that did not run to its end, or printed what must not be published."""


class DamagedResultError(BookError):
    """A stored result that is missing, or not what the pipeline stored; if it is published, no build replaces it."""


def without_colours(text: str) -> str:
    """Take out of what a program printed what gives it colours in a terminal."""
    return _COLOUR.sub("", text)
