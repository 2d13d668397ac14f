"""The tables of results are those that the committed rows make."""

import json
import math

import pytest

from benchmarks import tables


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_tables_have_not_drifted_from_their_rows(page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "run `python benchmarks/tables.py --write`"


def test_every_result_is_shown_and_every_mark_is_known():
    texts = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    shown = [match[2] for match in tables.MARKED.finditer(texts)]
    assert {*shown} == {*tables.TABLES}
    assert texts.count("<!-- table:") == texts.count("<!-- end of table -->") == len(shown)
    used = {name for name, _ in tables.TABLES.values()}
    assert used == {path.stem for path in tables.RESULTS.glob("*.jsonl")}


def test_a_changed_row_is_seen(tmp_path, monkeypatch):
    rows = tables.read("seeds")
    rows[0]["return"] -= 1000
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = tables.PAGES[1].read_text(encoding="utf-8").split("## `speed.py`")[0]
    assert tables.filled(page) == page
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert tables.filled(page) != page


def test_a_table_by_hand():
    run = dict(algorithm="VPG", task="CartPole-v1", kind="16 environments", cpu_seconds=2.0)
    rows = [
        run | {"seed": 1, "return": 500.0, "steps_to_bar": 1500, "cpu_seconds_to_bar": 1.0},
        run | {"seed": 0, "return": 400.0, "steps_to_bar": None, "cpu_seconds_to_bar": None},
        run | {"seed": 2, "return": 480.0, "steps_to_bar": 2500, "cpu_seconds_to_bar": 3.0},
    ]
    assert tables.seeds(rows).splitlines()[2] == (
        "| VPG | CartPole-v1 (475) | 300,000 | 16 environments | 2 of 3 | 480.0 | 400.0 | 2.0 "
        "| 3.0 | 2,500 |"
    )
    assert tables.seed_by_seed(rows) == "- VPG, CartPole-v1, 16 environments: 400.0, 500.0, 480.0"
    assert not tables.solved(rows)
    assert tables.solved(rows[::2][:1])
    assert tables.median([1.0, None, None]) == math.inf
