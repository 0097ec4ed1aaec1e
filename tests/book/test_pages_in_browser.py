"""The pages in Chromium without a network, as a reader opens them from disk.

Each page is loaded at two widths, and shown light and dark. What depends on neither is looked at once.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from book.pipeline import programs
from tests.pages import documents

pytestmark = pytest.mark.xdist_group("pages")
# Milliseconds until a page counts as stuck, on a machine that has other things to do as well.
PATIENCE = 300_000
# And until the theme's script has followed the reader's choice.
THEME_CHANGE = 300
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
THEMES = ("light", "dark")

# Waits for the typesetting, opens what is folded, and lists what is not as it should be.
LOOK = r"""async () => {
    if (window.MathJax?.startup) await MathJax.startup.promise;
    for (const element of document.querySelectorAll("details")) element.open = true;
    for (const element of document.querySelectorAll(".toggle-hidden")) element.classList.remove("toggle-hidden");
    for (const image of document.images) image.loading = "eager";
    await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const raw = [];
    while (texts.nextNode()) {
        const inside = texts.currentNode.parentElement;
        if (/\\[(\[]/.test(texts.currentNode.data) && !inside.closest("pre, code, script, style, mjx-container"))
            raw.push(texts.currentNode.data);
    }
    const untouched = [...document.querySelectorAll(".math:not(:has(mjx-container)):not(mjx-container *)")];
    const wrong = [...document.querySelectorAll("mjx-merror, [data-mjx-error], mjx-container:has(merror)")];
    return {
        formulas: document.querySelectorAll("mjx-container").length,
        broken_formulas: [...raw, ...[...untouched, ...wrong].map(element => element.textContent)],
        broken_images: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    };
}"""
OVERFLOW = "() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth) - window.innerWidth"
SCROLLING = """() =>
    [...document.querySelectorAll("pre, div.math, div.pst-scrollable-table-container, div.cell_output")]
        .filter(element => element.scrollWidth > element.clientWidth + 1)
        .map(element => element.textContent.trim().slice(0, 80))"""
# Text of the same colours, size and weight on the same grounds has the same contrast: marks the first of each look, so
# that axe does not compute it for ten thousand words of code.
MARK_LOOKS = """() => {
    const grounds = new Map([[null, ""]]);
    const ground = element => {
        if (!grounds.has(element)) {
            const style = getComputedStyle(element);
            const own = [style.backgroundColor, style.backgroundImage, style.opacity].join();
            const above = ground(element.parentElement);
            grounds.set(element, own === "rgba(0, 0, 0, 0),none,1" ? above : above + "|" + own);
        }
        return grounds.get(element);
    };
    const seen = new Set();
    for (const element of document.body.querySelectorAll("*")) {
        element.removeAttribute("data-look");
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        if (!element.checkVisibility() || element.closest("mjx-assistive-mml")) continue;
        const style = getComputedStyle(element);
        const look = [style.color, style.fontSize, style.fontWeight, ground(element)].join("|");
        if (!seen.has(look)) element.setAttribute("data-look", seen.add(look).size);
    }
    return seen.size;
}"""
CONTRAST = {"runOnly": ["color-contrast"], "preload": False}
STRUCTURE = {"rules": {"color-contrast": {"enabled": False}}, "preload": False}


@dataclass
class Visit:
    """What was seen on one page at one width."""

    page: str
    size: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    formulas: int = 0
    broken_formulas: list[str] = field(default_factory=list)
    broken_images: list[str] = field(default_factory=list)
    overflow: int = 0
    scrolling: list[str] = field(default_factory=list)
    looks: int = 0
    barriers: list[str] = field(default_factory=list)
    grounds: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.page}, {self.size}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = programs.find_browser()
    if program is None:
        # Where a machine decides, a test that nobody saw skipped would pass for one that holds.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(programs.PROGRAMS["browser"].advice())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Browser, path: Path, size: str) -> Visit:
    """Open a page and look at it, first in one theme, then in the other."""
    seen = Visit(path.stem, size)
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("requestfailed", lambda request: seen.complaints.append(f"failed: {request.url}"))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("console", lambda line: line.type == "error" and seen.complaints.append(line.text))
    page.emulate_media(color_scheme=THEMES[0])
    page.goto(path.as_uri())
    for name, value in page.evaluate(LOOK).items():
        setattr(seen, name, value)
    seen.overflow = page.evaluate(OVERFLOW)
    seen.scrolling = page.evaluate(SCROLLING)
    seen.barriers += barriers(page, None, STRUCTURE)
    for theme in THEMES:
        page.emulate_media(color_scheme=theme)
        page.add_style_tag(content="* { transition: none !important; }")
        page.wait_for_timeout(THEME_CHANGE)
        seen.grounds[theme] = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        if size != "desktop":
            continue  # colours do not depend on the width, and contrast takes axe the longest
        seen.looks += page.evaluate(MARK_LOOKS)
        seen.barriers += [f"{theme}: {what}" for what in barriers(page, {"include": [["[data-look]"]]}, CONTRAST)]
    context.close()
    return seen


def barriers(page: Page, context: dict | None, options: dict) -> list[str]:
    """List what axe finds that is worse than minor."""
    found = Axe().run(page, context=context, options=options).response["violations"]
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in found
        for node in violation["nodes"]
        if violation["impact"] != "minor"
    ]


@pytest.fixture(scope="module")
def visits(quick_book, browser) -> list[Visit]:
    first = quick_book / "html" / "index.html"  # leads on to another page at once
    paths = [path for path in documents(quick_book / "html") if path != first]
    return [visit(browser, path, size) for path in paths for size in SIZES]


def test_nothing_is_asked_of_a_network_nothing_fails_and_the_console_is_silent(visits):
    assert len(visits) > 10
    assert {seen.name: seen.complaints for seen in visits if seen.complaints} == {}
    assert {url for seen in visits for url in seen.requests if not url.startswith(("file:", "data:"))} == set()


def test_every_formula_is_typeset(visits):
    assert sum(seen.formulas for seen in visits) > 500
    assert {seen.name: seen.broken_formulas for seen in visits if seen.broken_formulas} == {}


def test_every_image_is_there(visits):
    assert {seen.name: seen.broken_images for seen in visits if seen.broken_images} == {}


def test_no_page_is_wider_than_its_window(visits):
    assert {seen.name: seen.overflow for seen in visits if seen.overflow > 0} == {}


def test_no_code_output_formula_or_table_scrolls_sideways_on_a_desktop(visits):
    assert {seen.name: seen.scrolling for seen in visits if seen.size == "desktop" and seen.scrolling} == {}


def test_a_page_follows_the_readers_choice_of_light_or_dark(visits):
    for seen in visits:
        light, dark = (sum(map(int, seen.grounds[theme][4:-1].split(","))) for theme in THEMES)
        assert light > 700 > 150 > dark, seen.name


def test_nothing_bars_people_from_reading_in_either_theme(visits):
    assert min(seen.looks for seen in visits if seen.size == "desktop") > 10
    assert {seen.name: seen.barriers for seen in visits if seen.barriers} == {}


def test_the_file_to_open_leads_to_the_introduction(quick_book, browser):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto((quick_book / "html" / "index.html").as_uri())
    page.wait_for_url("**/introduction.html")
    page.close()


def test_search_works_from_disk(quick_book, browser):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto((quick_book / "html" / "search.html").as_uri() + "?q=softmax")
    page.wait_for_selector("#search-results ul.search li a")
    found = page.eval_on_selector_all("#search-results ul.search li a", "links => links.map(link => link.href)")
    assert any("numpy_network.html" in link for link in found)
    context.close()


def test_what_is_wrong_with_a_page_is_seen(tmp_path, browser):
    page = tmp_path / "wrong.html"
    page.write_text(
        "<!DOCTYPE html><title>Wrong</title><body style='background: white'>"
        "<p style='color: #bbb'>Pale \\(x\\)</p> <span class='math'>x</span>"
        "<img src='missing.png'><script src='https://example.org/x.js'></script><script>nonsense(</script>"
        "<div style='width: 3000px'>Wide</div><pre style='width: 100px; overflow: auto'>A long line of code</pre>"
    )
    seen = visit(browser, page, "desktop")
    assert seen.broken_formulas == ["Pale \\(x\\)", "x"]
    assert len(seen.broken_images) == 1
    assert seen.overflow > 1000
    assert seen.scrolling == ["A long line of code"]
    assert "https://example.org/x.js" in seen.requests
    assert {complaint.partition(":")[0] for complaint in seen.complaints} >= {"failed"}
    assert any("Unexpected" in complaint or "missing" in complaint for complaint in seen.complaints)
    kinds = {barrier.removeprefix("light: ").partition(" ")[0] for barrier in seen.barriers}
    assert {"color-contrast", "image-alt"} <= kinds
