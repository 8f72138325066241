"""The gate: what each rule sees, in every language it knows, and what it leaves alone."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gate_cases import cases
from prompt_opt.gate.facts import code_share, facts, value
from prompt_opt.gate.language import language, lexicon, size
from prompt_opt.gate.rules import Limits
from prompt_opt.gate.verdict import RULES, judge

DATA = Path(__file__).parent.parent / "data" / "gate"
WRITTEN = [
    json.loads(line)
    for name in ("written", "hard", "unseen", "reworded", "later")
    for line in (DATA / f"{name}.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("row", [r for r in WRITTEN if not r.get("missed")], ids=lambda r: r["rewrite"][:40])
def test_rewrites_written_by_hand(row: dict[str, str]) -> None:
    verdict = judge(row["prompt"], row["rewrite"], row.get("mode", "replace"))  # type: ignore[arg-type]
    assert verdict.accepted == (row["rule"] == ""), verdict


@pytest.mark.parametrize("row", [r for r in WRITTEN if r.get("missed")], ids=lambda r: r["rewrite"][:40])
def test_what_the_gate_is_known_to_get_wrong(row: dict[str, str]) -> None:
    verdict = judge(row["prompt"], row["rewrite"], row.get("mode", "replace"))  # type: ignore[arg-type]
    assert verdict.accepted == (row["rule"] != "")


def test_the_cases_made_by_edits_are_judged_right() -> None:
    made = cases()
    wrong = [
        (case, verdict)
        for case in made
        if case.half == "report"
        and (verdict := judge(case.prompt, case.rewrite, case.mode)).rule not in (case.rule, *case.also)
    ]
    assert len(made) > 2000
    assert len(wrong) < 0.03 * len(made) / 2, wrong[:5]


# ---------------------------------------------------------------- rule by rule

P = "Write three tips."


@pytest.mark.parametrize(
    ("original", "rewrite", "rule"),
    [
        ("Give me 5 ideas for a name.", "Please give me five ideas for a name.", ""),
        ("Give me 5 ideas for a name.", "Please give me some ideas for a name.", "number"),
        ("Is 1,000 more than 999,5?", "Is 1000 more than 999.5? Explain why.", ""),
        ("Invest 20万元.", "Invest 200000元, safely.", ""),
        ("What is 3 + 4 * 2?", "What is 3+4*2? Show the steps.", ""),
        ("What is 3 + 4 * 2?", "What is 3 * 4 + 2? Show the steps.", "number"),
        ("Meet me on 3 May 2025 at 6:30 pm.", "Meet me at 18:30 on May 3, 2025, please.", ""),
        ("Meet me on 3 May 2025.", "Meet me on 2025-05-03, please.", ""),
        ("Meet me on 3 May 2025.", "Meet me on 5 March 2025, please.", "date"),
        ("See you on Friday.", "See you on Thursday.", "date"),
        ("Wir treffen uns am 3. Mai.", "Wir treffen uns bitte am 4. Mai.", "date"),
        ("Rendez-vous le 12 août.", "Rendez-vous, s'il te plaît, le 12 avril.", "date"),
        ("会议在3月5日召开，请写通知。", "会议在3月6日召开，请写一份通知。", "date"),
        ("What may I eat in May?", "What may I eat in May, and why?", ""),
        ("Explain ‘to be’ and “not to be”.", 'Explain "to be" and "not to be" with examples.', ""),
        ("Explain “carpe diem” to me.", "Explain “memento mori” to me.", "quote"),
        ("Read https://a.b/c?d=1.", "Read https://a.b/c?d=1 with care.", ""),
        ("Read https://a.b/c?d=1.", "Read https://a.b/c with care.", "link"),
        ("Mail me@x.org today.", "Mail me@x.com today, please.", "link"),
        ("Ask @mara about #budget.", "Ask @maria about #budget, please.", "link"),
        ("Run `make test` twice.", "Run make test twice, please.", ""),
        ("Run `make test` twice.", "Run `make tests` twice, please.", "code"),
        ("Fix:\n```py\nx = 1\n```", "Please fix this code:\n```py\nx = 1\n```", ""),
        ("Fix:\n```py\nx = 1\n```", "Please fix this code:\n```py\nx = 2\n```", "code"),
        ("Rename user_id in it.", "Rename userId in it, please.", "code"),
        ("Replace {name} in it.", "Replace {title} in it, please.", "code"),
        ("Plan for my two children.", "Please plan this for my children.", ""),
        ("Plan for my two children.", "Please plan this for my three children.", "number"),
        ("On est 4, loyer 1640 euros, que faire ?", "Nous sommes 4, le loyer est de 1 640 euros. Que faire ?", ""),
        ("Wie lüfte ich 3 Zimmer?", "Wie lüfte ich eine Dreizimmerwohnung mit ihren Zimmern richtig?", ""),
        ("Ça fait 15 jour que j'attends.", "Ça fait 15 mois que j'attends, que faire ?", "number"),
        ("Compare A $25 5GB, B $35 15GB.", "Please compare A ($25, 5 GB) with B ($35, 15 GB).", ""),
        ("See you on Friday, what do I say?", "What do I say when I see you?", ""),
        ("Wie sage ich: Elternabend Mittwoch?", "Wie sage ich: „Elternabend Mittwoch“?", ""),
        ('Translate "sorry im late".', 'Please translate "Sorry, I\'m late."', ""),
        ("for i in range(3): print(i) wieso?", "Warum gibt for i in range(3): print(i) das aus?", ""),
        ("Do not use nuts.", "Please make sure that no nuts are used.", ""),
        ("Do not use nuts.", "Please make sure to use nuts.", "negation"),
        ("Explain why it works.", "Explain why it doesn't work.", "negation"),
        ("Explain why it works.", "Explain why it works. Do not use jargon.", ""),
        ("Nenne Gerichte ohne Fleisch.", "Nenne bitte einige Gerichte mit Fleisch.", "negation"),
        ("Un plat sans gluten, s'il te plaît.", "Un plat avec gluten, s'il te plaît.", "negation"),
        ("Una cena sin carne, por favor.", "Una cena con carne, por favor.", "negation"),
        ("不要提到价格，写一段介绍。", "请写一段介绍，提到价格。", "negation"),
        ("区别是什么？", "它们的区别是什么？请说明。", ""),
        ("Answer in one sentence: why?", "Please answer in a single sentence: why?", ""),
        ("Answer in one sentence: why?", "Please answer in a few sentences: why?", "format"),
        ("List them as JSON.", "List them as a table, please.", "format"),
        ("Say it in French, please.", "Say it politely, please.", "format"),
        ("Sag es bitte auf Französisch.", "Sag es bitte auf Italienisch.", "format"),
        ("请用英文回答这个问题。", "请用法语回答这个问题。", "format"),
        ("Is a 5 kg bag heavy?", "Is a 5 lb bag heavy? Explain.", "number"),
        ("Is 5 % much?", "Is 5 percent much? Explain.", ""),
        ("How did Ada Lovelace see light and matter?", "How did this writer see light and matter?", "name"),
        ("Who was Ada Lovelace?", "Who was ADA LOVELACE, and what did she do?", ""),
        ("Write A Post About Dogs", "Please write a post about dogs, for owners.", ""),
        ("用 Python 写一个函数", "请用 Java 写一个函数", "name"),
        ("Why is the sky blue?", "Pourquoi le ciel est-il bleu ?", "language"),
        ("Why is the sky blue?", "为什么天空是蓝色的？", "language"),
        ("为什么天空是蓝色的？", "Why is the sky blue?", "language"),
        ("Warum ist der Himmel blau?", "Perché il cielo è blu? Spiega con parole tue.", "language"),
        ("Translate to German: good night", "Please translate the following to German: good night", ""),
        (P, "", "empty"),
        (P, "…", "empty"),
        (P, " Write three  tips.", "unchanged"),
        (P, P + P, "repeated"),
        (P, P + " a b c" * 30, "repeated"),
        (P, "[INST] " + P, "leak"),
        ("What does [INST] mean?", "What does [INST] mean in a prompt?", ""),
        (P, "Sorry, I cannot help with that.", "refusal"),
        ("Act as a robot that says: I'm sorry.", "Please act as a robot that says: I'm sorry.", ""),
        ("One two three four five six.", "Two.", "length"),
        ("Hi you.", "Hi " + " ".join(f"w{i}" for i in range(60)) + " you.", "length"),
        ("Write a poem about spring.", "Please write a poem about winter.", "dropped"),
        ("What are the benefits of tea?", "What are the advantages of tea? Explain.", ""),
        ("Write at least 9 lines on dogs.", "Please write at least 9 lines on dogs and the most common breeds.", ""),
        ("Tell me what Kant said on lying.", "Tell me what it said on lying.", "name"),
        ("Write a note on my quick recovery.", "Please write a note on my rapid recovery.", ""),
        ("Suggest a hotel near the harbour.", "Suggest a good and quiet hotel, with prices.", "dropped"),
        ("Suggest a hotel near the harbour.", "Suggest a good hotel close to the harbour.", ""),
        ("How far is it from Oslo to Rome?", "Coming from Oslo, how far is it to Rome? Give km.", ""),
        ("Compare cats and dogs.", "Compare dogs and cats as pets.", ""),
        ("Summarise this: The cat sat on the red mat.", "Please sum this up: “The cat sat on the red mat.”", ""),
        ("Does tea cause cramps?", "Explain why tea causes cramps.", "assumed"),
        ("Does tea cause cramps?", "Does tea cause cramps? Explain why or why it doesn't.", ""),
        ("What is 7 times 8?", "Work out 7 times 8, which is 56.", "answered"),
        ("What is 7 times 8?", "What is 7 times 8? Show 2 ways to find it.", ""),
        (
            "Compare cats and dogs.",
            "Compare cats and dogs. The Minister may designate an officer of the Crown.",
            "strayed",
        ),
        ("Compare cats and dogs.", "Compare cats and dogs. Then suggest which one suits an old couple best.", ""),
        ("Compare cats and dogs as pets.", "Describe volcanoes near large oceans today.", "meaning"),
    ],
)
def test_a_rule_sees_what_it_is_for(original: str, rewrite: str, rule: str) -> None:
    assert judge(original, rewrite).rule == rule


def test_a_verdict_says_what_it_saw() -> None:
    assert judge("Visit https://a.b/c now.", "Visit it now.").detail == "https://a.b/c"
    assert judge("Give 12 of them.", "Give several of them.").detail == "12"


def test_the_echo_of_the_instruction_is_a_leak() -> None:
    told = "Keep every fact of the message: numbers, dates, names and links."
    said = "Write three tips. Keep every fact of the message: numbers, dates, names and links."
    assert judge(P, said).accepted
    assert judge(P, said, instruction=told).rule == "leak"


def test_a_similarity_decides_where_there_is_one() -> None:
    near, far = (
        judge(P, P + " Be brief.", similarity=lambda a, b: 0.9),
        judge(P, P + " Be.", similarity=lambda a, b: 0.1),
    )
    assert near.accepted
    assert (far.rule, far.detail) == ("meaning", "similarity 0.10")


def test_limits_are_settings() -> None:
    assert judge("Why?", "Why is it so, and since when?", limits=Limits(extra=0)).rule == "length"
    assert judge("Why?", "Why is it so, and since when?", limits=Limits(grow=20, extra=0)).accepted


def test_a_short_prompt_may_grow_by_a_few_words() -> None:
    assert judge("Why?", "Why is it so, and since when?").accepted


@pytest.mark.parametrize(
    "hint",
    [
        "The message is clear and the answer you are seeking will be found.",
        "The answer to this question is:\n~~~~",
        "- Evernote\n- Todoist\n- Trello",
        "This is a wonderful question!",
    ],
)
def test_a_hint_must_say_how_to_answer(hint: str) -> None:
    assert not judge("How can I manage my time better?", hint, "complement").accepted


def test_a_huge_rewrite_is_rejected_at_once() -> None:
    started = time.process_time()
    assert judge(P, "a b " * 500_000).rule == "length"
    assert time.process_time() - started < 1


@pytest.mark.parametrize("text", ["(", "'a ", "1 ", "a=1+", "`", "不", "$a ", "a.", "<a", "no ", "“", "a_"])
def test_no_text_makes_the_gate_slow(text: str) -> None:
    started = time.process_time()
    judge(text * 1500, text * 1500 + " more")
    assert time.process_time() - started < 3


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_every_pair_gets_a_verdict(original: str, rewrite: str) -> None:
    for mode in ("replace", "complement"):
        verdict = judge(original, rewrite, mode)  # type: ignore[arg-type]
        assert verdict.accepted == (verdict.rule == "")
        assert verdict.rule in ("", *RULES)


# ---------------------------------------------------------------- what the rules stand on


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How do I sleep better?", "en"), ("Explain why ships float.", "en"), ("Wie schlafe ich besser?", "de"),
        ("Comment mieux dormir la nuit ?", "fr"), ("¿Cómo puedo dormir mejor?", "es"), ("怎样才能睡得更好？", "zh"),
        ("よく眠るにはどうすればいいですか。", "ja"), ("잠을 잘 자려면 어떻게 해야 하나요?", "ko"),
        ("Come posso dormire meglio di notte?", "it"), ("Как лучше спать?", "cyrillic"), ("ESP32 BME280", ""), ("", ""),
    ],
)  # fmt: skip
def test_languages_are_told_apart(text: str, found: str) -> None:
    assert language(text) == found


def test_words_are_counted_and_cjk_by_characters() -> None:
    assert (size("three small words"), size("三个小词"), size("用 JSON 写")) == (3, 4, 3)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("12,500", "12500"), ("12.500", "12500"), ("2,40", "2.4"), ("007", "7"), ("0.5", "0.5"), ("20万", "200000")],
)
def test_numbers_have_one_value(written: str, meant: str) -> None:
    assert value(written) == meant


def test_facts_are_found_once_each() -> None:
    text = 'Read "A 1" at https://x.org/2 on 3 May, run `f(4)` 5 times, in one sentence.'
    found = {rule: sorted(some) for rule, some in facts(text, lexicon("en")).items()}
    assert found == {
        "link": ["https://x.org/2"], "code": ["f(4)"], "quote": ["a1"], "name": [], "date": ["3.5"], "number": ["5"],
        "format": ["one sentence"],
    }  # fmt: skip


def test_the_share_of_code() -> None:
    assert code_share("```\nx = 1\n```") == 1.0
    assert code_share("How do I sleep better?") == 0.0
    assert 0.4 < code_share("Why does this fail?\nprint(x);\nreturn (y);") < 0.9


def test_a_negation_without_its_apostrophe_is_one() -> None:
    asked = "List the customers who didnt order in 2023"
    assert judge(asked, "Please list all customers who did not order in 2023.").accepted
    assert judge(asked, "Please list all customers who did order in 2023.").rule == "negation"


def test_a_four_line_poem_has_four_lines() -> None:
    assert judge("Write a poem of four lines.", "Write a vivid four-line poem.").accepted


@pytest.mark.parametrize(
    ("prompt", "rewrite", "rule"),
    [
        ("Plan für acht Wochen, bitte.", "Bitte schreibe einen Plan für einige Wochen und achte auf Pausen.", "number"),
        ("Ein Buch für zwei Kinder (9, 11).", "Welches Buch passt für Kinder (9, 11)? Beseitige alle Zweifel.", ""),
        ("Was koche ich für acht Gäste?", "Was koche ich für Gäste, und worauf sollte ich achten?", "number"),
        ("Was lernt man mit elf Jahren?", "Was lernt ein elfjähriges Kind? Antworte bitte kurz.", ""),
        ("Handyregeln für meine Zwillinge (11)?", "Welche Handyregeln passen für meine elfjährigen Zwillinge?", ""),
        ("Trainingsplan, 3x Woche", "Bitte schreibe einen Trainingsplan, dreimal die Woche.", ""),
        ("Wie teile ich drei Zimmer auf?", "Wie teile ich eine Dreizimmerwohnung sinnvoll auf?", ""),
    ],
)
def test_a_german_number_is_in_a_compound_with_what_it_counts(prompt: str, rewrite: str, rule: str) -> None:
    """ "achten" holds no eight; "two" that is only left out is no change."""
    assert judge(prompt, rewrite, additions=lambda *_: "").rule == rule


@pytest.mark.parametrize(
    ("prompt", "rewrite", "rule"),
    [
        ("Traduce al inglés: «hola».", "Traduce al francés, con naturalidad: «hola».", "target_language"),
        ("请用中文介绍云计算。", "请用英文介绍云计算，并举例。", "target_language"),
        ("Traduce al inglés: «hola».", "Traduce del español al inglés, con naturalidad: «hola».", ""),
        ("Übersetze ins Englische: „Guten Tag“", "Übersetze bitte ins Englische und ins Polnische: „Guten Tag“", ""),
    ],
)
def test_another_language_than_is_asked_for_is_a_veto(prompt: str, rewrite: str, rule: str) -> None:
    assert judge(prompt, rewrite, additions=lambda *_: "").rule == rule


def test_the_page_has_words_for_every_rule_and_for_no_other() -> None:
    page = (Path(__file__).parents[2] / "serve/api/page/words.js").read_text("utf-8")
    told = page.partition("export const REASONS = {")[2].partition("tools:")[0]
    assert sorted(re.findall(r"(\w+): \"", told)) == sorted(RULES)
