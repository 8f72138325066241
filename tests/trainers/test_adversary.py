"""APO, the adversarial one: what its reward model learns of samples."""

from trainers.rounds.adversary import against_gold
from trainers.rounds.sample import Sample
from trainers.rounds.sources import Answered


def test_the_datas_answer_is_set_against_each_whole_sample_that_differs() -> None:
    samples = [Sample(0, 0, "own"), Sample(0, 1, " gold "), Sample(0, 2, "own"), Sample(0, 3, "cut", finish="length")]
    found = Answered(["p"], [samples], [[0.0] * 4])
    assert against_gold(found, [{"completion": "gold"}]) == [{"prompt": "p", "chosen": "gold", "rejected": "own"}]
    chat = [{"role": "user", "content": "p"}]
    found = Answered([chat], [samples[:1]], [[0.0]])
    [row] = against_gold(found, [{"completion": [{"role": "assistant", "content": "gold"}]}])
    assert row["chosen"] == [{"role": "assistant", "content": "gold"}]
    assert row["rejected"] == [{"role": "assistant", "content": "own"}]
