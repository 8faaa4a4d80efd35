"""The documents say what the code has: tables of options and the map are made from it."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_tables_and_the_map_are_those_of_the_code():
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    make_tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_tables)
    found = set()
    for page in make_tables.PAGES:
        text = page.read_text()
        assert make_tables.filled(text) == text, f"python docs/make_tables.py changes {page.name}"
        found |= {name for _, name, _ in make_tables._PLACE.findall(text)}
    assert found == set(make_tables.TABLES)
    assert make_tables._row("|x|", "y") == r"| \|x\| | y |"
    assert "| `tables.py` | The tables of a grid" in make_tables.PAGES[0].read_text()
    assert "| `alpha` | 0.2 | QAMRO's margin" in make_tables.table(make_tables.TABLES["recipe"])
