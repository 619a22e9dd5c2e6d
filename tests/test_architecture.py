"""The house is as docs/architecture.md draws it, and nothing in it imports upward."""

import pytest

from tests.architecture import BASE, PAGE, RANK, STAGES, drawing, imports, page_with, rooms


def test_every_room_has_its_place() -> None:
    assert set(rooms()) <= set(RANK)


def test_nothing_imports_upward() -> None:
    upward = [str(i) for i in imports() if RANK[i.imported] > RANK[i.room]]
    assert not upward, "\n".join(upward)


def test_rooms_of_one_line_do_not_import_in_circles() -> None:
    level = {(i.room, i.imported) for i in imports() if RANK[i.room] == RANK[i.imported]}
    both = {tuple(sorted(pair)) for pair in level if pair[::-1] in level}
    assert not {pair for pair in both if not set(pair) <= set(BASE)}, both


def test_the_drawing_is_of_this_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page_with(drawing()) == text, "python -m tests.architecture draws it anew"


@pytest.mark.parametrize("room", [r for r in rooms() if r != "__init__"])
def test_every_room_has_its_line(room: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"| `{room}` |" in text or (room in STAGES and f"`{room}`" in text)
