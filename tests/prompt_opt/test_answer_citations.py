"""Citations of an answer: the same whatever its pieces, unknown marks taken out, quotations held against the rules."""

from __future__ import annotations

import random

import pytest

from prompt_opt.citation.marks import Rules
from prompt_opt.citation.report import Report, footnotes, report
from prompt_opt.citation.scanner import Scanner, Unknown
from prompt_opt.core import Advice, Principle
from prompt_opt.layout.quotation import pinned, retrieved, shown

RECORDS = Principle(
    "law-12",
    "Keep records for ten years.",
    "Records Act, 12",
    "Official Gazette",
    index="law",
    url="https://law.test/12",
)
NOTICE = Principle("law-7", "Notice is given in writing, thirty days before the end.", index="law")
ART = Principle("dsgvo-Artikel-6a", "Die Verarbeitung ist nur rechtmäßig, wenn eine Einwilligung vorliegt.", index="eu")
RULES = Rules([RECORDS, NOTICE, ART])
PIECES = [
    "[",
    "]",
    "(",
    ")",
    " ",
    "\n",
    "`",
    "```",
    "law-12",
    "law-99",
    "law 7",
    ", ",
    "a",
    "Article 5",
    "1",
    "【",
    "】",
]
PIECES += ["】", "!", "\\", "“", "”", "x y ", "é", "第5条", ". "]


def scanned(text: str, unknown: Unknown = "keep", given: str = "") -> tuple[str, Scanner]:
    scanner = Scanner(RULES, unknown, given)
    return scanner.feed(text) + scanner.close(), scanner


def cites(text: str, given: str = "") -> Report:
    _, scanner = scanned(text, given=given)
    return report(RULES, scanner.text, scanner.marks, given)


def cut(text: str, dice: random.Random) -> list[str]:
    out = []
    while text:
        n = dice.choice((1, 1, 2, 3, 7, 20))
        out.append(text[:n])
        text = text[n:]
    return out


@pytest.mark.parametrize("unknown", ["keep", "remove"])
def test_an_answer_in_pieces_is_read_as_the_whole_is(unknown: Unknown) -> None:
    dice = random.Random(7)
    for _ in range(3000):
        text = "".join(dice.choice(PIECES) for _ in range(dice.randint(0, 25)))
        whole, marks = scanned(text, unknown)
        scanner = Scanner(RULES, unknown)
        passed = []
        for piece in cut(text, dice):
            passed.append(scanner.feed(piece))
            if unknown == "keep":
                assert passed[-1] == piece
            assert len(scanner._held) <= RULES.longest + 2
        assert "".join([*passed, scanner.close()]) == whole
        assert scanner.marks == marks.marks
        if unknown == "keep":
            assert whole == text


def test_a_text_without_a_bracket_passes_at_once() -> None:
    scanner = Scanner(RULES, "remove")
    assert scanner.feed("Keep them.") == "Keep them."
    assert Scanner(RULES).feed("Keep them ") == "Keep them "


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Keep them [law-99].", "Keep them."),
        ("Keep them [law-99] for long.", "Keep them for long."),
        ("[law-99] Keep them.", "Keep them."),
        ("Keep them [law-12, law-99].", "Keep them [law-12]."),
        ("Keep them [law-99][law-12].", "Keep them[law-12]."),
        ("Keep them [law-12].", "Keep them [law-12]."),
        ("See [Article 5].", "See."),
        ("See [Article 5](https://x.test).", "See [Article 5](https://x.test)."),
        ("a[1] and [x] and [Your Name] and [ ]", "a[1] and [x] and [Your Name] and [ ]"),
        ("```\nx[law-99] = [1]\n```\n", "```\nx[law-99] = [1]\n```\n"),
        ("An open [law-99", "An open [law-99"),
    ],
)
def test_only_the_mark_of_a_rule_that_was_not_shown_is_taken_out(text: str, left: str) -> None:
    assert scanned(text, "remove")[0] == left


@pytest.mark.parametrize(
    "mark",
    ["[law-12]", "[LAW-12]", "[law 12]", "[law‑12]", "(law-12)", "【law-12】", "[law/law-12]", "[Rule law-12]",
     "[law-12: Records Act]", "[**law-12**]", "[law-12, § 2]"],
)  # fmt: skip
def test_a_mark_is_known_however_it_is_written(mark: str) -> None:
    found = cites(f"Keep them {mark}.")
    assert found.cited == (RECORDS,)
    assert found.unknown == ()


def test_brackets_of_the_clients_own_are_no_marks() -> None:
    given = "Our manual [doc-3] says so. What about [law-99]?"
    assert cites("As [doc-3] says; [law-99] is none of the rules.", given).unknown == ()
    assert cites("As [doc-4] says.", given).unknown == ("doc-4",)


@pytest.mark.parametrize(
    "text",
    ["The Act says “keep records for ten years” [law-12].", '[law-12]: "Keep records for ten years."',
     "> Keep records\n> for ten years.\n\n[law-12]", "“Keep […] for ten years” [law-12]",
     "„Die Verarbeitung ist nur rechtmäßig, wenn …“ [dsgvo-Artikel-6a]", "The “old sort” of thing [law-12]."],
)  # fmt: skip
def test_a_quotation_that_is_word_for_word_is_not_altered(text: str) -> None:
    assert cites(text).altered == ()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("The Act says “keep records for five years” [law-12].", RECORDS),
        ("[law-7]: “notice may be given by phone, thirty days before the end”", NOTICE),
        ("It says “12 days” [law-7].", NOTICE),
        ("- [law-12] Records Act, 12: Keep all records for twenty years.\n", RECORDS),
        ("Records Act, 12 (Official Gazette): Notice is given in writing, thirty days before the end.\n", RECORDS),
        ("“Die Verarbeitung ist immer rechtmäßig, wenn eine Einwilligung vorliegt” [dsgvo-Artikel-6a].", ART),
        ("“Notice was given in writing, thirty days before the end”, says the law.", NOTICE),
    ],
)
def test_a_quotation_with_other_words_is_altered(text: str, rule: Principle) -> None:
    assert [it.rule for it in cites(text).altered] == [rule]


def test_a_quotation_under_another_rules_mark_says_whose_it_is() -> None:
    (it,) = cites("“Notice is given in writing” [law-12].").altered
    assert (it.rule, it.found) == (RECORDS, NOTICE)


def test_a_quotation_without_its_mark_is_unmarked() -> None:
    assert cites("The law says “notice is given in writing, thirty days before”.").unmarked == (NOTICE,)
    assert cites("You asked “notice is given in writing?”.", "Notice is given in writing?").unmarked == ()


def test_a_rule_that_is_copied_with_its_title_is_a_quotation() -> None:
    assert cites("1. Records Act, 12: Keep records for ten years.\n").unmarked == (RECORDS,)
    assert cites("[law-12] Records Act, 12: Keep records for ten ye") == Report((RECORDS,))
    assert cites("[law-12] Records Act, 12: it is about how long one keeps papers.\n") == Report((RECORDS,))


def test_footnotes_name_title_source_and_link() -> None:
    assert footnotes((RECORDS,)) == "\n\n- [law-12] Records Act, 12, Official Gazette, https://law.test/12"
    assert footnotes(()) == ""


def test_a_prompt_asks_for_marks_only_where_the_policy_does() -> None:
    rules = (NOTICE, RECORDS)
    assert "square brackets" not in retrieved(rules, "quoted")[0] + pinned(rules)
    assert "for example [law-12]" in retrieved(rules, "quoted", "marks")[0]
    assert "[law-12]" in pinned(rules, "marks").splitlines()[-1]
    assert "例如 [law-12]" in retrieved(rules, "opo-zh", "marks")[0]
    assert Advice().cite == ""


def test_only_rules_that_had_room_are_shown() -> None:
    text = retrieved((RECORDS,), "quoted", "marks")[0]
    assert shown((RECORDS, NOTICE), text) == (RECORDS,)
