"""How full the pages of a PDF are, measured on images of them."""

from pathlib import Path

import numpy as np
import pypdfium2
from pypdf import PdfReader

HEADER, FOOTER = 0.06, 0.925
"""Between these fractions of a page's height lies its text; above and below are running titles and page numbers."""
INK = 200
"""Grey values below this are ink, from 0 (black) to 255 (paper)."""


def fill_of_pages(path: Path) -> list[float]:
    """Return for each page the fraction of the text's height down to the last line or figure, from 0 to 1."""
    fill = []
    document = pypdfium2.PdfDocument(path)
    for page in document:
        image = page.render(scale=0.5, grayscale=True).to_numpy()
        height = image.shape[0]
        body = image[int(HEADER * height) : int(FOOTER * height)]
        rows = np.flatnonzero((body < INK).reshape(len(body), -1).any(axis=1))
        fill.append((rows[-1] + 1) / len(body) if len(rows) else 0.0)
    document.close()
    return fill


def pages_before_a_chapter(path: Path) -> set[int]:
    """Return the numbers, counted from 1, of the pages before a new chapter, and of the last one."""
    reader = PdfReader(path)
    starts = {reader.get_destination_page_number(entry) for entry in reader.outline if not isinstance(entry, list)}
    # A chapter that starts on page n, counted from 0, follows page n, counted from 1.
    return starts | {len(reader.pages)}
