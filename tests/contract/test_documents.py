"""What the documents promise is there: the tests that they name, the files that they link to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("deploy", "docs", "proto")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(each for folder in _FOLDERS for each in ROOT.glob(f"{folder}/**/*.md"))]
)


def links(document: Path) -> Iterator[str]:
    """Targets of Markdown links and pictures that lie in the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            yield target


def test_every_test_that_a_guarantee_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+|Test\w+)`", (ROOT / "docs" / "guarantees.md").read_text()))
    modules = [
        *(ROOT / "tests").rglob("test_*.py"),
        *(ROOT / "clients" / "go").rglob("*_test.go"),
        *(ROOT / "services" / "tamiyo_go").rglob("*_test.go"),
    ]
    there = {
        name
        for module in modules
        for name in re.findall(r"(?:def|func) ([tT]est\w+)", module.read_text())
    }
    assert named
    assert named <= there, sorted(named - there)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    broken = [target for target in links(document) if not (document.parent / target).exists()]
    assert not broken


def test_every_decision_record_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert records == set(links(folder / "README.md"))
