"""RESULTS and the README's table of claims show the numbers of the committed results."""

from shutil import copytree

import pages

from unlearn_utils.paths import ROOT


def test_the_texts_hold_what_the_committed_results_give(tmp_path, monkeypatch):
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")}
    copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "README.md").write_text(pages.BLOCK.sub(r"\1\2", texts["README.md"]), encoding="utf-8")
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert pages.BLOCK.search(texts["README.md"])
    pages.main()
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in texts} == texts
