"""Tables are whole in any terminal."""

import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from billhook.render import Table, as_text, printable

_words = st.text("abcdefgh-0123456789,.%[/]", min_size=1, max_size=12)
_headings = st.lists(_words, min_size=1, max_size=3).map(" ".join)


@st.composite
def _tables(draw: st.DrawFn) -> Table:
    columns = draw(st.integers(2, 12))
    row = st.lists(_words, min_size=columns, max_size=columns)
    headings = draw(st.lists(_headings, min_size=columns, max_size=columns))
    keys = draw(st.integers(1, min(2, columns - 1)))
    return Table("title", headings, draw(st.lists(row, min_size=1, max_size=4)), keys)


def _lines(table: Table, width: int) -> list[str]:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


@given(table=_tables(), width=st.integers(60, 200))
def test_every_cell_is_whole_and_every_block_has_the_keys(table: Table, width: int) -> None:
    lines = _lines(table, width)
    assert max(map(len, lines)) <= width
    blocks = [block.splitlines() for block in re.findall(r"┡.*\n([^└]*)└", "\n".join(lines))]
    found: list[list[str]] = [[] for _ in table.rows]
    for block in blocks:
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in block]
        assert len(rows) == len(table.rows)  # nothing folded
        for number, row in enumerate(rows):
            assert row[: table.keys] == list(table.rows[number][: table.keys])
            found[number] += row[table.keys :]
    assert found == [list(row[table.keys :]) for row in table.rows]


def test_what_fits_is_one_block() -> None:
    table = Table("t", ("name", "two words"), [("a", "1")])
    assert len(_lines(table, 20)) == 6
    assert "two words" in _lines(table, 20)[2]


def test_a_text_longer_than_the_terminal_is_folded_and_not_cut() -> None:
    reason = "x" * 100
    lines = _lines(Table("t", ("run", "reason"), [("a", reason)]), 60)
    assert sum(line.count("x") for line in lines) == 100
    assert max(map(len, lines)) <= 60


@given(table=_tables(), width=st.integers(1, 59))
def test_no_terminal_is_too_narrow_to_print(table: Table, width: int) -> None:
    assert _lines(table, width)


@given(text=st.text(max_size=40))
def test_what_a_terminal_obeys_is_shown_instead(text: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in printable(text))
    table = Table(text, ("name", text), [("w", text), (text, "x")])
    drawn = as_text(table)
    assert all(c.isprintable() or c == "\n" for c in drawn)
    assert "\x1b" not in drawn


def test_a_hostile_name_reaches_no_terminal() -> None:
    name = "w\x1b]0;owned\x07\r\x1b[2K\u202egpj.exe\n| fake | row |"
    drawn = as_text(Table("t", ("tensor", "bytes"), [(name, "1")]))
    assert r"w\x1b]0;owned\x07\r\x1b[2K\u202egpj.exe\n| fake | row |" in drawn
    assert printable("\ud800") == r"\ud800"
