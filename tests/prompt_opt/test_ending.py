"""An answer ends where it should, however its text is cut into pieces, and keeps everything else."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompt_opt.core import Profile
from prompt_opt.layout.ending import Ending
from prompt_opt.layout.turns import stops

OURS = (stops(Profile("ours"), "````"), "````")
THREE = (("\n# Query:",), "```")  # the original's fenced files
OPEN = (("\n# User:",), "")  # its later ones
LAYOUTS = [OURS, THREE, OPEN]


def answer(text: str, layout: tuple[tuple[str, ...], str], client: tuple[str, ...] = ()) -> str:
    ending = Ending(*layout, client)
    return ending.feed(text) + ending.close()


def streamed(pieces: list[str], layout: tuple[tuple[str, ...], str], client: tuple[str, ...] = ()) -> list[str]:
    ending = Ending(*layout, client)
    return [*(ending.feed(piece) for piece in pieces), ending.close()]


NASTY = (
    "`", "``", "```", "````", "`````", "\n", "\n\n", "\r\n", " ", "\t", "a", "bc", "# ", "#", "## Question", "Que",
    "py", "# User:", "# Query:", "\n# Query", "\n## Question\n````", "ry:", "END", "E", "\n```\n", "\n````\n",
)  # fmt: skip
nasty = st.lists(st.sampled_from(NASTY), max_size=14).map("".join)
clients = st.lists(st.sampled_from(["END", "\n\n", "a", "```", "EE", "\nbc", "`\n`", ""]), max_size=2).map(tuple)


# ---------------------------------------------------------------- pieces make no difference


@pytest.mark.parametrize("layout", LAYOUTS)
@given(text=nasty, cuts=st.lists(st.integers(0, 60), max_size=8), client=clients)
@settings(deadline=None, max_examples=200)
def test_any_split_gives_the_answer_of_the_whole(layout, text: str, cuts: list[int], client: tuple[str, ...]) -> None:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = answer(text, layout, client)
    assert "".join(streamed(pieces, layout, client)) == whole
    assert "".join(streamed(list(text), layout, client)) == whole
    assert text.startswith(whole)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(text=nasty, more=nasty, client=clients)
@settings(deadline=None, max_examples=200)
def test_what_is_passed_on_belongs_to_every_answer_it_may_become(layout, text: str, more: str, client) -> None:
    ending = Ending(*layout, client)
    passed = "".join(ending.feed(char) for char in text)
    assert ending.length == len(passed)
    assert answer(text, layout, client).startswith(passed)
    assert answer(text + more, layout, client).startswith(passed)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(text=nasty)
@settings(deadline=None, max_examples=200)
def test_nothing_is_removed_but_a_stop_a_closing_fence_and_blank_lines(layout, text: str) -> None:
    """Whatever follows the answer begins, after blank lines, with a fence alone on its line or with a stop."""
    rest = text.removeprefix(answer(text, layout)).lstrip("\n")
    line, _, _ = rest.partition("\n")
    fence = layout[1]
    closes = bool(fence) and line.startswith(fence) and line.rstrip(" \t\r").strip("`") == ""
    assert not rest or closes or any(rest.startswith(stop.lstrip("\n")) for stop in layout[0])


def test_ordinary_text_is_passed_on_at_once() -> None:
    ending = Ending(*OURS)
    assert [ending.feed(piece) for piece in ("Hello", " wor", "ld.")] == ["Hello", " wor", "ld."]
    assert ending.feed("\n") == ""
    assert ending.feed("New") == "\nNew"


# ---------------------------------------------------------------- our own fence of four


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize(
    "kept",
    [
        "Try:\n\n```python\nprint(1)\n```\n\nThat prints 1.",
        "```\ncode first\n```",
        "a\n~~~~\nb\n~~~~",
        "x = 1\n# User\n# Query\n# Query: all\ny = 2\n## Question\nz = 3",
        "````python\nprint('````')\nis an opening line",
        "run ```` inside a line, ````\tno closing",
        " ````\nindented",
        "blank lines stay\n\n",
        "",
        "\n\nso do these",
    ],
)
def test_an_answer_is_kept_whole_up_to_its_closing_fence(kept: str, size: int) -> None:
    for closing in ("\n````\n\n## Question\n````\nMore?", "\n````", "\n`````` \t\r\nrambling", "\n````\n## Answer"):
        text = kept + closing
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert "".join(streamed(pieces, OURS)) == kept


def test_a_new_turn_ends_an_answer_that_was_not_closed() -> None:
    assert answer("Yes.\n## Question\n````\nMore?", OURS) == "Yes."


def test_an_answer_that_is_cut_off_is_kept_to_its_last_character() -> None:
    for text in ("Yes and\n```", "Yes\n``", "Yes\n## Quest", "Yes\n## Question\n```", "Yes\n"):
        assert answer(text, OURS) == text
        assert "".join(streamed(list(text), OURS)) == text


def test_an_answer_that_closes_at_once_is_empty() -> None:
    for text in ("````", "````\n", "`````\nx", "## Question\n````\n"):
        assert answer(text, OURS) == ""


def test_a_longer_fence_lets_four_backticks_through() -> None:
    layout = (stops(Profile("ours"), "`````"), "`````")
    assert answer("```` md\n````\nx\n````\n`````\n", layout) == "```` md\n````\nx\n````"


def test_after_the_end_nothing_is_passed_on() -> None:
    ending = Ending(*OURS)
    assert ending.feed("Yes.\n````\nmore") == "Yes."
    assert ending.ended
    assert [ending.feed("more"), ending.close()] == ["", ""]
    assert ending.length == 4


# ---------------------------------------------------------------- the original's fence of three, and none


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Paris.\n```\n\n# Query:\n```\nMore?", "Paris."),
        ("Paris.\n```", "Paris."),
        ("Paris.\n```\n\n", "Paris."),
        ("Paris.\n\n# Query: more", "Paris."),
        ("Do:\n```py\nx = 1\n```\nDone.\n```\n\n# Query:", "Do:\n```py\nx = 1\n```\nDone."),
        ("Do:\n```py\nx = 1\n```\n```\n\n# Query:", "Do:\n```py\nx = 1\n```"),
        ("Do:\n```\nx = 1\n```\nDone.\n```", "Do:\n```\nx = 1\n```\nDone."),
        ("Do:\n```py\nx = 1\n```", "Do:\n```py\nx = 1\n```"),
        (
            "Do:\n```py\n# Query all users\n# User\nx = 1\n```\n\n# Query:",
            "Do:\n```py\n# Query all users\n# User\nx = 1\n```",
        ),
        ("```inline``` code.\n```\n\n# Query:", "```inline``` code."),
        ("````md\n```\nx\n````\n```\n", "````md\n```\nx\n````"),
        ("Paris.\n``", "Paris.\n``"),
    ],
)
def test_under_a_fence_of_three_the_one_left_open_is_removed(text: str, kept: str) -> None:
    assert answer(text, THREE) == kept
    assert "".join(streamed(list(text), THREE)) == kept


@pytest.mark.parametrize("text", ["Yes.\n\n\n# User:\nMore?", "Yes.\n\n\n", "Yes.\n# User:", "Yes."])
def test_without_a_fence_the_blank_lines_before_the_next_turn_are_removed(text: str) -> None:
    assert answer(text, OPEN) == "Yes."


def test_a_comment_that_is_no_marker_does_not_cut() -> None:
    text = "```py\nx = 1  # User: me\n# User\n# Users: all\n```"
    assert answer(text, OPEN) == text


def test_a_heading_that_begins_like_a_marker_does_not_cut() -> None:
    layout = (stops(Profile("open", fence="", form="open"), ""), "")
    assert answer("Plan\n## Questions to ask\n- one\n\n\n## Question\nMore?", layout) == (
        "Plan\n## Questions to ask\n- one"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("closing", ["\n````\n\n## Question\n````", "\n```\n\n# Query:\n```", "\n\n\n# User:\n"])
def test_an_engine_that_stops_by_itself_gives_the_same_answer(layout, closing: str) -> None:
    """The engine cuts before the stop that it was given; what we get then ends as what we cut ourselves."""
    text = "One.\n\nTwo." + closing
    cut = min((text.index(stop) for stop in layout[0] if stop in text), default=len(text))
    assert answer(text[:cut], layout) == answer(text, layout)


# ---------------------------------------------------------------- the client's stops


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_clients_stop_cuts_inside_a_word(layout) -> None:
    assert answer("one unstoppable two", layout, ("stop",)) == "one un"
    assert streamed(["one un", "sto", "p", "pable"], layout, ("stop",)) == ["one un", "", "", "", ""]
    assert streamed(["one un", "st", "ar"], layout, ("stop",)) == ["one un", "", "star", ""]


def test_a_clients_stop_may_overlap_itself() -> None:
    assert "".join(streamed(list("aababaabab!"), OURS, ("abaabab",))) == "aab"


def test_the_start_of_an_answer_is_no_newline_to_the_client() -> None:
    assert answer("bc\nbc", OURS, ("\nbc",)) == "bc"


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("unit", ["word and `code`\n", "\n", "`", "\n```\n"])
def test_a_long_answer_in_single_characters_takes_linear_time(layout, unit: str) -> None:
    text = unit * (200_000 // len(unit))
    started = time.process_time()
    streamed(list(text), layout, ("\n# Query and then what never comes",))
    assert time.process_time() - started < 4
