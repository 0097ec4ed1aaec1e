"""Rendering: what staging adds to a page, strictness, and that a failed build leaves the last one."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from pypdf import PdfReader

from book.__main__ import main
from book.pipeline import render as rendering
from book.pipeline.errors import BookError
from book.pipeline.parameters import load_build
from book.pipeline.project import load_project
from book.pipeline.provenance import RUN_TIMES_MARK
from tests.pages import Pages, letters
from tests.small_project import ROOT, edit

pytestmark = pytest.mark.xdist_group("rendered")


@pytest.fixture(scope="module")
def built(rendered_once) -> Path:
    """The small project, executed and rendered in the quick profile."""
    return rendered_once


@pytest.fixture(scope="module")
def pages(built) -> Pages:
    return Pages(built / "_build/quick/html")


@pytest.fixture
def changed(built):
    """The rendered project, for a test that changes it; afterwards everything is as before."""
    aside = built.with_name("aside")
    shutil.copytree(built, aside, copy_function=shutil.copy2)
    yield built
    shutil.rmtree(built)
    aside.rename(built)


def render(root):
    return rendering.render(load_build(load_project(root), "quick"))


def test_numbers_tables_and_figures_of_one_chapter_show_on_another_page(pages):
    page = pages.page("book/chapters/introduction")
    assert "The sum is 2.50, see Fig. 1.1 in the first chapter." in page.get_text()
    assert page.select_one("table td span.math") is not None, "a glued Markdown table with mathematics"
    figure = page.select_one("figure#fig-line-again")
    assert figure.img["alt"] == "A line that rises"
    assert figure.img["src"].endswith(".svg")
    assert "Fig. 1 The line once more." in figure.get_text()


def test_a_figure_of_another_chapter_stands_in_a_card_that_links_there(pages):
    card = pages.page("book/chapters/introduction").select_one(".sd-card")
    assert card.img["alt"] == "A small line"
    assert card.img["src"].endswith(".svg")
    assert card.select_one("a.sd-stretched-link")["href"] == "first.html"


def test_a_cells_figure_has_caption_number_and_alternative(pages):
    figure = pages.page("book/chapters/first").select_one("figure#fig-line")
    assert figure.img["alt"] == "A rising line"
    assert "Fig. 1.1 A line." in figure.get_text()


def test_a_page_shows_the_projects_own_source(pages):
    assert "return helper.plus(a, b)" in pages.page("book/chapters/first").get_text()


def test_every_page_of_a_profile_that_is_not_full_says_so_and_lists_what_differs(pages):
    for name in ("introduction", "first", "second"):
        page = pages.page(f"book/chapters/{name}")
        assert "Quick profile: reduced settings" in page.select_one(".admonition.danger").get_text()
        assert "(quick profile)" in page.title.get_text()
    banner = pages.page("book/chapters/first").select_one(".admonition.danger").get_text()
    assert "num_epochs = 2 instead of 3" in banner


def test_every_page_says_how_it_was_made(pages):
    made = pages.page("book/chapters/first").select(".admonition.dropdown")[-1].get_text()
    assert "num_epochs = 2: an integer, at least 1" in made or "num_epochs = 2: an integer at least 1" in made
    assert "CPU minutes" in made
    assert "MiB of memory" in made
    assert "Seed: 7" in made
    assert "matplotlib 3." in made
    assert "logical cores" in made
    made = pages.page("book/chapters/introduction").select(".admonition.dropdown")[-1].get_text()
    assert "Results of The first chapter: executed" in made


def test_a_page_offers_its_executed_notebook_for_download(built, pages):
    page = pages.page("book/chapters/first")
    link = page.select_one("a.btn-download-source-button")["href"]
    notebook = nbformat.read(built / "_build/quick/html/book/chapters" / link, as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert sources[0].startswith("# Makes this notebook run outside of the pipeline")
    assert sources[1].startswith("# The first chapter")
    assert sources[2].startswith("num_epochs = 3")
    assert sources[3] == "# Parameters\nnum_epochs = 2\n"
    assert [cell.outputs[0].text for cell in notebook.cells if "print(" in cell.source] == ["total 2.5\n"]
    assert notebook.metadata.book.profile == "quick"


def test_a_page_is_launched_from_the_published_notebooks_of_the_configured_repository(pages):
    configuration = yaml.safe_load((ROOT / "_config.yml").read_text())
    url, branch = (configuration["repository"][name] for name in ("url", "branch"))
    place = url.removeprefix("https://github.com/")
    links = [link["href"] for link in pages.page("book/chapters/first").select(".dropdown-launch-buttons a")]
    assert links == [
        f"https://mybinder.org/v2/gh/{place}/{branch}?urlpath=lab/tree/results/first.ipynb",
        f"https://colab.research.google.com/github/{place}/blob/{branch}/results/first.ipynb",
    ]


def test_a_page_without_code_offers_nothing_to_launch_and_no_notebook(pages):
    page = pages.page("book/chapters/introduction")
    assert page.select(".dropdown-launch-buttons a, a.btn-download-source-button") == []


def test_pages_have_no_script_twice_and_none_of_thebe(pages):
    scripts = [script.get("src") or script.get_text() for script in pages.page("book/chapters/first").head("script")]
    declared = [re.match(r"const (\w+)", script)[1] for script in scripts if script.startswith("const ")]
    assert len(declared) == len(set(declared))
    assert [script for script in scripts if "thebe" in script.lower()] == []


def test_the_injected_parameters_and_the_glue_cell_do_not_show(pages):
    text = pages.page("book/chapters/first").get_text()
    assert "# Parameters" not in text
    assert "glue(" not in text


def test_links_are_alive_images_have_alternatives_and_nothing_comes_from_a_network(pages):
    assert pages.dead_links() == []
    assert pages.images_without_alternative() == []
    assert pages.loaded_from_a_network() == []
    assert pages.error_outputs() == []


def text_of(pdf: Path) -> str:
    return letters("".join(page.extract_text() for page in PdfReader(pdf).pages))


def test_the_book_as_pdf_has_all_chapters_and_the_same_numbers_and_not_the_report(built):
    text = text_of(built / "_build/quick/book.pdf")
    for expected in (
        "Introduction",
        "Chapter 1",
        "The first chapter",
        "The second chapter",
        "The sum is 2.50, see Fig. 1.1",
    ):
        assert letters(expected) in text
    assert letters("Quick profile: reduced settings") in text
    assert letters("The sum is 2.50, from") not in text


def test_the_pdf_leaves_out_folded_code_and_how_a_page_was_made_and_keeps_the_figure(built, pages):
    text = text_of(built / "_build/quick/book.pdf")
    assert "ax.plot" in pages.page("book/chapters/first").get_text()
    assert letters("ax.plot(range(num_epochs))") not in text
    assert letters("How this page was made") not in text
    assert letters("total = compute.add(num_epochs, learning_rate)") in text
    assert letters("Fig. 1.1: A line.") in text


def test_the_report_shows_figure_output_and_number_of_a_chapter_and_names_the_books_page(built, pages):
    text = text_of(built / "_build/quick/report.pdf")
    book = PdfReader(built / "_build/quick/book.pdf")
    found = [
        label for label, page in zip(book.page_labels, book.pages, strict=True) if "1.1 The sum" in page.extract_text()
    ]
    label = next(label for label in found if label.isdecimal())  # the contents name it too, on pages i, ii, ...
    assert letters(f"The sum is 2.50, from The sum (book, page {label})") in text
    assert letters("Fig. 1: A line.") in text
    assert letters("total 2.5") in text
    shown = pages.page("book/chapters/report")
    assert shown.select_one("figure#shown-fig-line").img["alt"] == "A rising line"
    assert shown.select_one("a[href='first.html#sec-sum']").get_text() == "The sum"


def test_images_have_their_alternative_texts_in_the_pdfs_too(built):
    for name in ("book", "report"):
        contents = [page.get_contents().get_data() for page in PdfReader(built / f"_build/quick/{name}.pdf").pages]
        texts = [found.decode("utf-16-be") for found in alternatives(contents)]
        assert any("A rising line" in text for text in texts), name


def alternatives(contents: list[bytes]) -> list[bytes]:
    """Find the properties ``Alt`` of marked contents, which are UTF-16 in hexadecimal digits or in a literal text."""
    found = []
    for content in contents:
        found += [bytes.fromhex(match.decode()) for match in re.findall(rb"/Alt\s*<([0-9a-fA-F]+)>", content)]
        for match in re.findall(rb"/Alt\s*\(((?:\\.|[^\\)])*)\)", content, re.DOTALL):
            octal = re.sub(rb"\\([0-7]{3})", lambda digits: bytes([int(digits[1], 8)]), match)
            found.append(re.sub(rb"\\(.)", rb"\1", octal, flags=re.DOTALL))
    return found


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("first/fig-line", "first/fig-circle", "shows first/fig-circle, but the figures of first are fig-line"),
        (":holds: total", ":holds: product", "with 'product', but 0 outputs are so; the section has: total 2.5"),
        ("first/sec-sum", "third/sec-sum", "shows third/sec-sum, but no chapter third runs"),
    ],
)
def test_a_figure_or_output_that_the_chapter_does_not_have_is_named(changed, old, new, message):
    edit(changed / "book/chapters/report.md", old, new)
    with pytest.raises(BookError, match=re.escape(message)):
        render(changed)


def test_the_index_of_terms_is_in_the_side_bar_and_in_the_book(changed):
    edit(changed / "book/chapters/second.md", "# The second chapter\n", "# The second chapter\n\nA **{index}`sum`**.\n")
    html = render(changed)[0]
    page = Pages(html.parent).page("genindex")
    assert page.select_one("nav.bd-links a[href='#']") or page.select("nav a[href*='genindex']")
    assert page.select_one(".genindextable a[href^='book/chapters/second.html']").get_text() == "sum"
    last = PdfReader(changed / "_build/quick/book.pdf").pages[-1].extract_text()
    assert "Index" in last
    assert re.search(r"sum, \d", last)


def test_pages_of_the_appendix_have_no_number_and_show_the_run_times(changed):
    edit(
        changed / "_toc.yml",
        """options:
  numbered: true
chapters:
  - file: book/chapters/first
  - file: book/chapters/second
  - file: book/chapters/report
""",
        """parts:
  - caption: Chapters
    numbered: true
    chapters:
      - file: book/chapters/first
      - file: book/chapters/second
  - caption: Appendix
    chapters:
      - file: book/chapters/times
""",
    )
    # And without a page for the report there is none.
    (changed / "book/chapters/times.md").write_text(f"# Times\n\n{RUN_TIMES_MARK}\n")
    html, pdf = render(changed)
    pages = Pages(html.parent)
    times, machines, versions, renderers = pages.page("book/chapters/times").select("article table")
    cells = [[cell.get_text() for cell in row.select("td")] for row in times.select("tbody tr")]
    assert [row[0] for row in cells] == ["The first chapter", "The second chapter", "all"]
    assert [len(row) for row in cells] == [6, 6, 6]
    assert float(cells[0][5].replace(",", "")) > 0
    assert "logical cores" in machines.get_text()
    assert "matplotlib" in versions.get_text()
    assert "Sphinx" in renderers.get_text()
    assert pdf.name == "book.pdf"
    titles = [entry.title for entry in PdfReader(pdf).outline if not isinstance(entry, list)]
    assert titles == ["Introduction", "The first chapter", "The second chapter", "Times"]
    text = "".join(page.extract_text() for page in PdfReader(pdf).pages)
    assert "Chapter 2" in text
    assert "Chapter 3" not in text
    assert pages.dead_links() == []


def test_nothing_is_rendered_when_nothing_changed(built, monkeypatch):
    monkeypatch.setattr(rendering, "_jupyter_book", None)
    html, pdf = render(built)
    assert (html, pdf) == (built / "_build/quick/html/index.html", built / "_build/quick/report.pdf")


def test_a_pdf_that_is_not_the_one_that_was_rendered_is_made_anew(changed):
    pdf = changed / "_build/quick/report.pdf"
    pdf.write_bytes(b"")
    render(changed)
    assert letters("The sum is 2.50, from") in text_of(pdf)


@pytest.mark.parametrize("variables", [{"MPLBACKEND": "none"}, {"MATPLOTLIBRC": "matplotlibrc"}])
def test_the_readers_settings_of_matplotlib_do_not_keep_the_pages_from_being_rendered(tmp_path, variables):
    (tmp_path / "matplotlibrc").write_bytes(b"\xff")
    program = "from book.pipeline.render import _fonts; print(len(_fonts()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("4\n", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sphinx:", "sphinx:\nother:", "'sphinx' must be names with values; got None"),
        ("  config:", "  config:\n  other:", "'config' must be names with values; got None"),
        ("html_context: {default_mode: auto}", "html_context: auto", "'html_context' must be names with values"),
        ("repository:", "repository:\nother:", "'repository' must be names with values; got None"),
        ("bibtex_bibfiles:", "bibtex_bibfiles: x\nother:", "'bibtex_bibfiles' must be a list of files; got 'x'"),
    ],
)
def test_an_entry_of_the_configuration_that_is_not_what_it_must_be_is_named_with_the_remedy(changed, old, new, message):
    edit(changed / "_config.yml", old, new)
    with pytest.raises(BookError, match=rf"_config\.yml: {message}.*; 'git checkout -- _config.yml'"):
        render(changed)


def test_changed_prose_renders_without_executing_and_a_warning_leaves_the_last_pages(changed, capsys):
    page = changed / "_build/quick/html/book/chapters/second.html"
    before = page.read_bytes()
    edit(
        changed / "book/chapters/second.md",
        "# The second chapter\n",
        "# The second chapter\n\nSee {numref}`nowhere`.\n",
    )
    assert main(["build", "--profile", "quick"], changed) == 1
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert "running" not in error
    assert page.read_bytes() == before


def test_a_glued_name_that_another_chapter_does_not_have_is_named(changed):
    edit(changed / "book/chapters/introduction.md", "first/total:.2f", "first/sum:.2f")
    with pytest.raises(BookError, match="shows first/sum, but first offers fig-line, line, table, total"):
        render(changed)


def test_without_latex_there_are_pages_and_advice_but_no_old_report(changed, monkeypatch, capsys):
    monkeypatch.setattr(rendering.programs, "missing_latex", lambda: ["xelatex"])
    assert main(["build", "--profile", "quick"], changed) == 0
    out = capsys.readouterr().out
    assert "no PDF: xelatex missing; on Debian or Ubuntu: sudo apt-get install" in out
    assert out.rstrip().endswith("index.html")
    assert not (changed / "_build/quick/report.pdf").exists()


@pytest.mark.parametrize("content", ["", "{", '{"html": "x", "pdf": "x"}'])
def test_a_damaged_record_of_rendering_counts_as_none(tmp_path, content):
    path = tmp_path / "render.json"
    path.write_text(content)
    assert rendering._read_record(path) == {}


def test_a_killed_renderer_is_named_with_a_remedy(tmp_path):
    command = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(BookError, match=r"LaTeX was killed \(SIGKILL\).*run the command again"):
        rendering.Renderers().run("LaTeX", command, tmp_path, {})


def test_renderers_get_none_of_the_users_settings(monkeypatch):
    for name in ("PYTHONSTARTUP", "SPHINXOPTS", "JUPYTER_PATH"):
        monkeypatch.setenv(name, "x")
    assert not {"PYTHONSTARTUP", "SPHINXOPTS", "JUPYTER_PATH"} & rendering._environment().keys()


@pytest.mark.parametrize("name", ["_config.yml", "book/references.bib"])
@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_missing_or_undecodable_file_is_named(changed, name, content):
    path = changed / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BookError, match=path.name):
        render(changed)


def test_a_killed_pipeline_leaves_no_renderer(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from book.pipeline.render import Renderers
code = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, file=open('pid', 'w')); "
Renderers().run("a renderer", [sys.executable, "-c", code + "child.wait()"], Path({str(tmp_path)!r}), None)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as pipeline:
        pid = tmp_path / "pid"
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        descendants = psutil.Process(pipeline.pid).children(recursive=True)
        assert int(pid.read_text()) in [process.pid for process in descendants]
        pipeline.kill()
    assert not psutil.wait_procs(descendants, timeout=3)[1]
