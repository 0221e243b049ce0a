"""The pages name what is there: every file of the project, every link, every command of `make`."""

import re
from pathlib import Path

import pytest

from tests.processes import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        found = (page.parent / target).resolve() if target else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor[1:] in anchors(found), f"{page.name} links to {target}{anchor}"


def test_the_architecture_names_every_file() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = [file for top in ("pipeline", "workers", "flows", "deploy") for file in (ROOT / top).rglob("*.py")]
    assert files
    missing = [str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py" and file.name not in text]
    assert not missing


def test_the_readme_is_read_in_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_what_the_pages_say_to_make_can_be_made() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"^make ([a-z-]+) +#|`make ([a-z-]+)`", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        unknown = {name for pair in named for name in pair if name} - targets
        assert not unknown, f"{page.name} says to make {unknown}"
