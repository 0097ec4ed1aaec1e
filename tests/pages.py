"""What has to hold for the pages of any book that the pipeline renders."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup


def documents(html: Path) -> list[Path]:
    """List the pages of a rendered book; the theme keeps templates of its own among the static files."""
    return sorted(path for path in html.rglob("*.html") if "_static" not in path.relative_to(html).parts)


class Pages:
    """The pages of a rendered book, read once."""

    def __init__(self, html: Path) -> None:
        self.html = html
        self.by_path = {
            path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in documents(html)
        }

    def page(self, docname: str) -> BeautifulSoup:
        return self.by_path[self.html / f"{docname}.html"]

    def images_without_alternative(self) -> list[str]:
        return [
            f"{path.name}: {image.get('src')}"
            for path, page in self.by_path.items()
            for image in page.find_all("img")
            if not image.get("alt", "").strip() or image["alt"].endswith((".svg", ".png"))
        ]

    def dead_links(self) -> list[str]:
        """List the links and sources inside the book that lead nowhere, anchors included."""
        dead = []
        for path, page in self.by_path.items():
            for tag, attribute in (("a", "href"), ("img", "src"), ("script", "src"), ("link", "href")):
                for element in page.find_all(tag, **{attribute: True}):
                    url = urlsplit(element[attribute])
                    if url.scheme or url.netloc:
                        continue
                    target = (path.parent / unquote(url.path)).resolve() if url.path else path
                    if not target.is_file() or (url.fragment and not self._has_anchor(target, unquote(url.fragment))):
                        dead.append(f"{path.name}: {element[attribute]}")
        return dead

    def _has_anchor(self, target: Path, name: str) -> bool:
        page = self.by_path.get(target)
        return page is None or page.find(id=name) is not None or page.find(attrs={"name": name}) is not None

    def loaded_from_a_network(self) -> list[str]:
        """List what a browser would fetch from elsewhere to show a page."""
        remote = []
        for path, page in self.by_path.items():
            elements = [*page.find_all(["script", "img", "iframe", "source"], src=True)]
            urls = [element["src"] for element in elements]
            urls += [
                element["href"]
                for element in page.find_all("link", href=True)
                if {"stylesheet", "preload", "icon", "prefetch"} & set(element.get("rel", []))
            ]
            remote += [f"{path.name}: {url}" for url in urls if re.match(r"(https?:)?//", url)]
        for path in self.html.rglob("*.css"):
            style = path.read_text(encoding="utf-8", errors="replace")
            remote += [f"{path.name}: {url}" for url in re.findall(r"url\([\"']?((?:https?:)?//[^\"')]+)", style)]
            remote += [f"{path.name}: {url}" for url in re.findall(r"@import\s+[\"']((?:https?:)?//[^\"']+)", style)]
        return remote

    def error_outputs(self) -> list[str]:
        return [
            f"{path.name}: {element.get_text()[:200]}"
            for path, page in self.by_path.items()
            for element in page.select(".output.stderr, .output.traceback, .system-message, .problematic")
        ]


def letters(text: str) -> str:
    """Reduce a text to its letters and digits, since a PDF breaks lines and joins letters as it likes."""
    text = text.replace("ﬁ", "fi").replace("ﬂ", "fl").replace("ﬀ", "ff").replace("ﬃ", "ffi")
    return "".join(character for character in text.casefold() if character.isalnum())
