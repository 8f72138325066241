"""A model's name in answers: put right in any pieces, and nowhere else."""

from __future__ import annotations

import random

from serve.dialects.renamed import Renamed

EVENTS = b"".join(
    b'data: {"id":"1","model":"aligned@main","choices":[{"delta":{"content":"%s"}}]}\n\n' % text
    for text in (b"Hi", rb"\"model\":\"aligned@main\"", b"aligned@main", b'"')
)


def test_the_name_is_put_right_in_whatever_pieces_a_stream_comes() -> None:
    right = EVENTS.replace(b'"model":"aligned@main"', b'"model":"aligned"')
    draw = random.Random(5)
    for _ in range(200):
        names, out, at = Renamed("aligned@main", "aligned"), [], 0
        while at < len(EVENTS):
            size = draw.choice((1, 3, 20, 200))
            out.append(names.feed(EVENTS[at : at + size]))
            at += size
        assert b"".join([*out, names.close()]) == right
    assert Renamed("aligned@main", "aligned").whole(EVENTS) == right


def test_nothing_is_held_back_at_the_end_of_an_event_or_lost_at_the_end_of_a_stream() -> None:
    names = Renamed("a@main", "a")
    assert names.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"
    assert names.feed(b'x"mod') == b"x"
    assert names.close() == b'"mod'
    assert names.close() == b""
