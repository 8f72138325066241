import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.backends.local import columns
from retrieval.passage import Filter, Passage, parse_filter

REGIONS = st.sampled_from(["", "全国", "national", "江苏", "Ontario"])
LANGUAGES = st.sampled_from(["", "zh", "zh-CN", "en", "EN_gb", "fr"])
DATES = st.sampled_from(["", "2001-01-01", "2010-06-30", "2020-12-31"])
PASSAGES = st.builds(
    lambda n, region, language, kind, tags, dates: Passage(
        f"p{n}", "text", region=region, language=language, kind=kind, tags=tuple(sorted(tags)),
        in_force_from=min(dates) if all(dates) else dates[0], in_force_to=max(dates) if all(dates) else dates[1],
    ),
    st.integers(0, 99), REGIONS, LANGUAGES, st.sampled_from(["", "law", "rule"]),
    st.sets(st.sampled_from(["a", "b", "c"])), st.tuples(DATES, DATES),
)  # fmt: skip
FILTERS = st.builds(
    Filter, region=st.none() | REGIONS, language=st.none() | LANGUAGES.filter(bool),
    kind=st.none() | st.sampled_from(["law", "rule"]), tags=st.sets(st.sampled_from(["a", "b", "z"])).map(tuple),
    on=st.none() | DATES.filter(bool), strict=st.booleans(),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PASSAGES, max_size=20), FILTERS)
def test_the_columns_admit_exactly_what_the_filter_admits(passages: list[Passage], where: Filter) -> None:
    labels = [
        (n, p.region, p.language, p.kind, json.dumps(list(p.tags)), p.in_force_from, p.in_force_to)
        for n, p in enumerate(passages, 1)
    ]
    half = len(labels) // 2
    import numpy as np

    found = columns.load(labels[:half], np.zeros(0, np.int64)).extended(labels[half:]).mask(where)
    assert found.tolist() == [where.admits(p) for p in passages]


def test_a_national_rule_bears_on_every_region_unless_strict() -> None:
    everywhere, here, there = Passage("1", "t"), Passage("2", "t", region="江苏"), Passage("3", "t", region="山东")
    assert [Filter(region="江苏").admits(p) for p in (everywhere, here, there)] == [True, True, False]
    assert [Filter(region="江苏", strict=True).admits(p) for p in (everywhere, here, there)] == [False, True, False]


def test_the_last_day_in_force_is_in_force() -> None:
    rule = Passage("1", "t", in_force_from="2020-01-01", in_force_to="2020-12-31")
    days = ["2019-12-31", "2020-01-01", "2020-12-31", "2021-01-01"]
    assert [Filter(on=day).admits(rule) for day in days] == [False, True, True, False]


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"id": " "}, "id is empty"),
        ({"id": "a\tb"}, "tab"),
        ({"text": " \n"}, "text is empty"),
        ({"text": "nul \0"}, "NUL"),
        ({"text": "half \ud800"}, "surrogate"),
        ({"in_force_from": "2020-13-01"}, "not a date"),
        ({"in_force_to": "20200101"}, "not a date"),
        ({"in_force_from": "2021-01-01", "in_force_to": "2020-01-01"}, "before"),
        ({"tags": ["a"]}, "tags"),
        ({"title": 3}, "title must be text"),
    ],
)
def test_a_passage_that_makes_no_sense_is_refused(fields: dict, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Passage(**{"id": "a", "text": "t", **fields})


def test_filters_are_read_from_a_command_line() -> None:
    assert parse_filter(["region=江苏", "tag=a,b", "on=2026-01-31", "strict"]) == Filter(
        region="江苏", tags=("a", "b"), on="2026-01-31", strict=True
    )
    with pytest.raises(ValueError, match="unknown filter 'colour=red'"):
        parse_filter(["colour=red"])
    with pytest.raises(ValueError, match="on is not a date"):
        parse_filter(["on=tomorrow"])


def test_the_content_hash_sees_through_white_space_and_the_signature_does_not() -> None:
    a, b = Passage("a", "one  two"), Passage("b", "one two")
    assert a.content_hash == b.content_hash
    assert a.signature != b.signature
