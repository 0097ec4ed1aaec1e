"""The errors that are shown without a traceback."""


class BookError(Exception):
    """Something that the author or reader can fix; its message names it and says how."""


class ChapterError(BookError):
    """A chapter that did not run to its end, or printed what must not be published."""


class DamagedResultError(BookError):
    """A published result that is not what the pipeline stored."""
