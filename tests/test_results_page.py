"""No number of RESULTS.md or of the README's table is typed: both are what the tables in figures/ give."""

from pathlib import Path

import results_page

ROOT = Path(__file__).parent.parent


def test_results_and_readme_are_what_the_tables_give(tmp_path):
    assert results_page.main(tmp_path) == 0
    for name in ("RESULTS.md", "README.md"):
        written = (tmp_path / name).read_text(encoding="utf-8")
        assert written == (ROOT / name).read_text(encoding="utf-8"), f"run tools/results_page.py: {name} is older than its tables"


def test_a_profile_made_by_earlier_code_says_so():
    told = results_page.of_profile("cifar10_small")
    assert "Made by earlier code" in told and "Made by earlier code" not in results_page.of_profile("digits")
