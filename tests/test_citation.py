"""CITATION.cff is what GitHub and reference managers read of the project."""

import re

import pytest

from tests.helpers import ROOT

PAPERS = {"1406.2199", "1608.00859", "1611.08050", "1703.10667", "1212.0402"}


@pytest.fixture(scope="module")
def citation() -> dict:
    yaml = pytest.importorskip("yaml", reason="needs pip install pyyaml")
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_has_what_the_format_requires(citation):
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        assert all({"family-names", "given-names"} <= set(author) for author in reference["authors"])


def test_agrees_with_the_licence_and_the_readme(citation):
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    holder = re.search(r"Copyright \(c\) \d+ (.+)", licence)[1]
    assert licence.startswith(f"{citation['license']} License")
    assert citation["authors"] == [{"name": holder}]
    assert (ROOT / "README.md").read_text(encoding="utf-8").startswith(f"# {citation['title']}\n")


def test_cites_the_papers_of_the_method(citation):
    named = [reference["identifiers"][0]["value"] for reference in citation["references"]]
    assert set(named) == {f"arXiv:{number}" for number in PAPERS}
    for reference, name in zip(citation["references"], named, strict=True):
        assert reference["url"] == f"https://arxiv.org/abs/{name.removeprefix('arXiv:')}"
