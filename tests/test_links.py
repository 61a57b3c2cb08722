"""Links and names in the pages lead somewhere: to files, headings, well-formed addresses, and code.

Whether an outside address answers is for ``sphinx-build -b linkcheck``, which needs a network.
"""

import importlib
import json
import re
import urllib.parse
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.glob("*.md")),
    *sorted((ROOT / "helios_jax" / "assets").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
    *sorted((DOCS / "notebooks").glob("*.ipynb")),
]
MADE = re.compile(r"(reference|figures|tutorials)/")
"""Folders of docs/ that the build of the site fills."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(x["source"]) for x in cells if x["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where the links and pictures of a page lead."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    found = re.findall(r"\]\(\s*<?([^)>\s]+)", text)
    return found + re.findall(r'<(?:img|a)[^>]*?(?:src|href)="([^"]+)"', text)


def anchors(page: Path) -> set[str]:
    """What a link may name of a page: its headings, as GitHub and Sphinx write them."""
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading).lower())
        found.add(words.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_link_within_the_project_leads_to_a_file_and_a_heading(page):
    for link in links(page):
        address, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link) or (page.parent == DOCS and MADE.match(address)):
            continue
        target = page.parent / address if address else page
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_an_outside_link_is_well_formed(page):
    for link in links(page):
        if not re.match(r"[a-z]+:", link):
            continue
        parts = urllib.parse.urlsplit(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", parts.netloc), link
        assert re.fullmatch(r"(/[\w.~%@+-]*)*", parts.path), link
        if parts.netloc == "github.com":  # an owner and a repository, at least
            assert re.match(r"/[\w-]+/[\w.-]+", parts.path), link


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_file_of_the_project_that_a_page_names_is_there(page):
    library = ROOT / "helios_jax"
    bases = (ROOT, library, ROOT / "tests")
    folders = {each.name for base in (ROOT, library) for each in base.iterdir() if each.is_dir()}
    for word in re.findall(r"`([\w.-]+/[\w./-]*)`", prose(page)):
        if word.split("/")[0] in folders - {"data", "runs", "build", "dist"}:
            assert any((base / word).exists() for base in bases), word


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_python_name_that_a_page_names_is_there(page):
    for word in re.findall(r"`(helios_jax(?:\.\w+)+)(?:\([^`]*\))?`", prose(page)):
        if not word.endswith((".json", ".md")):  # those are files
            assert resolves(word), word


def resolves(dotted: str) -> bool:
    """Whether a module, or what it defines, has this name."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False
