"""No text costs more than its length: the cheap part of benchmarks/doubling.py."""

from collections.abc import Iterator

import pytest

from benchmarks.doubling import KINDS, Subject, dialects, gate, layout, ratio, retrieval
from retrieval.text import citation, numeral

SUSPECTS = (
    "digits", "hashes", "hash, zero-width", "markers", "ticks", "backslashes", "brackets", "distinct words", "newlines",
    "blank lines", "particles", "leaders",
)  # fmt: skip
CERTAIN = 3.0  # times: between twice and four times
TRIES = 4  # of a suspect: other tests beside us can slow one of them, but what grows with the square fails all


def subjects() -> Iterator[Subject]:
    """One of each kind of work, the gate's comparison too, and all of retrieval's."""
    for make, most in ((dialects, 2**20), (layout, 2**18), (gate, 2**14)):
        yield next(make(most))
    yield [*gate(2**14)][-1]
    yield from retrieval(2**16)


@pytest.mark.parametrize("subject", list(subjects()), ids=lambda subject: subject.name)
def test_twice_the_text_takes_twice_the_time(subject: Subject) -> None:
    slow = [name for name in SUSPECTS if all(ratio(subject, KINDS[name], 0.002)[0] > CERTAIN for _ in range(TRIES))]
    assert not slow


def test_a_number_of_thousands_of_digits_is_no_article() -> None:
    for number in ("1" * 5000, "一" * 5000):
        assert numeral.value(number) is None
        assert not list(citation.citations(f"第{number}条, Art. {number} GDPR, {number}조"))
    assert [it.number for it in citation.citations("제12조의3, 형법 제 7 조 and 형법 5조")] == ["12.3", "7", "5"]
