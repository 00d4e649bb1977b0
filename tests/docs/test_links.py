"""Links from one page to another lead somewhere."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT, anchors, links, page_id, pages


def broken(page: Path) -> list[str]:
    found = []
    for line, target in links(page):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists():
            found.append(f"{page_id(page)}:{line}: there is no {target}")
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked):
            found.append(f"{page_id(page)}:{line}: {path or 'the page'} has no heading #{anchor}")
    return found


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = {
        (page.parent / unquote(target).partition("#")[0]).resolve()
        for page in pages()
        for _, target in links(page)
        if "://" not in target
    }
    folders = [p.parent for p in linked if p.name == "README.md"] + [
        p for p in linked if p.is_dir()
    ]
    lost = [
        page_id(page)
        for page in pages()
        if page.is_relative_to(ROOT / "docs") and page not in linked and page.parent not in folders
    ]
    assert not lost


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n\n[a](gone.md) [b](#one-heading) [c](#two) [d](https://example.org/x)\n"
        "```\n[e](in-a-block.md)\n```\n`[f](in-code.md)`\n"
    )
    assert broken(page) == [
        "page.md:3: there is no gone.md",
        "page.md:3: the page has no heading #two",
    ]
