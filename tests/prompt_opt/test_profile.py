"""Profiles load, say what is wrong with them, and are in our own words; the original's files keep their bytes."""

import re
from pathlib import Path

import pytest

from prompt_opt import profile
from prompt_opt.core import Advice, Chat, Message, Policy, Profile
from prompt_opt.layout.order import lay_out
from prompt_opt.profile import ProfileError, load, parse_original, parse_toml

ORIGINAL = Path(__file__).parents[1] / "data" / "urial"
FILES = sorted(ORIGINAL.glob("inst_*.txt"))
EXEMPLAR = '[[exemplar]]\nuser = "one"\nassistant = "b"\n'


# ---------------------------------------------------------------- the shipped ones


def test_three_profiles_ship() -> None:
    assert profile.shipped() == ["default", "helpful", "plain"]
    assert {name: len(load(name).exemplars) for name in profile.shipped()} == {"default": 3, "helpful": 3, "plain": 0}
    assert load("plain").instruction == ""
    assert len({load(name).fence for name in profile.shipped()} | {"````"}) == 1


def test_shipped_profiles_decode_alike_so_that_the_zero_shot_arm_compares() -> None:
    decodings = [dict(load(name).decoding) for name in profile.shipped()]
    assert decodings == [{"temperature": 0.0, "repetition_penalty": 1.15, "max_tokens": 1024}] * 3


def test_only_the_helpful_profile_refuses_nothing() -> None:
    refusals = {
        name: [e.user for e in load(name).exemplars if re.search(r"sorry|can't help|decline", e.assistant)]
        for name in profile.shipped()
    }
    assert {name: len(rows) for name, rows in refusals.items()} == {"default": 1, "helpful": 0, "plain": 0}
    assert "decline" not in load("helpful").instruction


@pytest.mark.parametrize("name", profile.shipped())
def test_no_text_of_a_profile_begins_a_line_with_a_marker(name: str) -> None:
    shown = load(name)
    texts = [shown.framing, shown.instruction, *(t for e in shown.exemplars for t in (e.user, e.assistant))]
    for line in "\n".join(texts).splitlines():
        assert not line.strip().lower().startswith(("## question", "## answer"))
    assert all("````" not in text for text in texts)


def runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


@pytest.mark.parametrize("name", profile.shipped())
def test_profiles_share_no_eight_words_in_a_row_with_the_originals(name: str) -> None:
    theirs = set().union(*(runs(path.read_text("utf-8")) for path in FILES))
    assert len(theirs) > 1000
    assert runs((profile.SHIPPED / f"{name}.toml").read_text("utf-8")) & theirs == set()


def test_a_default_prompt_is_about_a_thousand_tokens() -> None:
    shown = load("default")
    policy = Policy("p", render="base", profile=shown)
    prompt = lay_out(Chat((Message("user", "Why?"),)), Advice(shown.instruction, shown.exemplars), policy)
    # A word counts as 1.1 tokens and a mark as one, about what a tokenizer of 32,000 or more makes of English.
    tokens = sum(1.1 if piece[0].isalnum() else 1 for piece in re.findall(r"\w+|[^\w\s]|\n+", prompt.text or ""))
    assert 700 < tokens < 1100


# ---------------------------------------------------------------- the original's files


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_original_file_keeps_its_bytes(path: Path) -> None:
    shown = load(path)
    assert (shown.preamble + "".join(e.raw for e in shown.exemplars)).encode() == path.read_bytes()
    assert len(shown.exemplars) == 3
    assert shown.name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_original_files_exemplars_are_found_without_fences_and_markers(path: Path) -> None:
    shown = load(path)
    assert shown.exemplars[0].user == "Can you tell me some common types of renewable energy sources?"
    for exemplar in shown.exemplars:
        assert exemplar.user in exemplar.raw
        assert exemplar.assistant in exemplar.raw
        assert not re.search("```|^# ", f"{exemplar.user}\n{exemplar.assistant}", re.MULTILINE)
    assert "respon" in shown.instruction
    assert shown.user_marker not in shown.instruction


@pytest.mark.parametrize(
    ("text", "form", "marker", "fence"),
    [
        ("Talk.\n\n# Query:\n```\na\n```\n\n# Answer:\n```\nb\n```\n", "fenced", "# Query:", "```"),
        ("Talk.\n\n# Query:\n```a```\n\n# Answer:\n```b```\n", "fenced", "# Query:", "```"),
        ("Talk.\n\n\n# User:\na\n\n\n# Assistant:\nb", "open", "# User:", ""),
        ("Talk.\n\n# User:\n\na\n\n\n# Assistant:\n\nb\n\n", "spaced", "# User:", ""),
        ("Talk.\n\n# Query:\na\n\n# Answer:\n\nb\n", "open", "# Query:", ""),
        (
            '# Instruction\n\n"## Human:" asks, "## AI:" answers.\n\n## Human:\na\n\n## AI:\nb\n',
            "open",
            "## Human:",
            "",
        ),
        (
            "# Instruction\n\nBe kind." + 2 * "\n\n[Q]\n```\na\n```\n\n[A]\n```\nb\n```",
            "fenced",
            "[Q]",
            "```",
        ),
    ],
)
def test_the_family_is_found_from_the_text(text: str, form: str, marker: str, fence: str) -> None:
    shown = parse_original(text, "x")
    assert (shown.form, shown.user_marker, shown.fence) == (form, marker, fence)
    assert {(e.user, e.assistant) for e in shown.exemplars} == {("a", "b")}
    assert shown.preamble + "".join(e.raw for e in shown.exemplars) == text


@pytest.mark.parametrize(
    ("user", "assistant"), [("# Query:", "# Answer:"), ("### Request", "### Response"), ("<|user|>", "<|bot|>")]
)
def test_an_instruction_alone_is_a_profile_without_exemplars(user: str, assistant: str) -> None:
    text = f'# Instruction\n\nRequests stand under "{user}", your words under "{assistant}".\nBe brief and kind.\n'
    shown = parse_original(text, "only")
    assert (shown.user_marker, shown.assistant_marker, shown.exemplars) == (user, assistant, ())
    assert (shown.preamble, shown.instruction) == (text, "Be brief and kind.")
    prompt = lay_out(
        Chat((Message("user", "Why?"),)), Advice(shown.instruction), Policy("p", render="base", profile=shown)
    )
    assert (prompt.text or "").startswith(text)
    assert f"{user}\n```\nWhy?\n```\n\n{assistant}\n```\n" in (prompt.text or "")


def test_a_code_block_in_an_originals_answer_stays() -> None:
    shown = parse_original("T\n\n# Query:\n```\na\n```\n\n# Answer:\n```\nb\n```py\nc\n```\n```\n", "x")
    assert shown.exemplars[0].assistant == "b\n```py\nc\n```"


@pytest.mark.parametrize("text", ["", "Just a text.", "# Query:\nwithout the other", 'Says "# Query:" and "# Answer:"'])
def test_another_text_is_no_profile(text: str, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"notes: not a URIAL prompt file: .*'# Query:' and '# Answer:'"):
        load(path)


# ---------------------------------------------------------------- our own files


def test_every_field_of_a_profile_is_read() -> None:
    text = (
        'name = "n"\nsource = "s"\nframing = " f "\ninstruction = "i"\nuser_marker = "Q:"\nassistant_marker = "A:"\n'
        f'fence = "~~~"\n{EXEMPLAR}[decoding]\nmax_tokens = 7\ntop_p = 0.5\n'
    )
    shown = parse_toml(text, "x.toml")
    assert shown == Profile(
        name="n",
        source="s",
        framing="f",
        instruction="i",
        user_marker="Q:",
        assistant_marker="A:",
        fence="~~~",
        exemplars=shown.exemplars,
        decoding={"max_tokens": 7, "top_p": 0.5},
    )
    assert [(e.user, e.assistant, e.raw) for e in shown.exemplars] == [("one", "b", "")]
    assert parse_toml('fence = ""', "x.toml").form == "open"
    assert parse_toml("", "folder/x.toml").name == "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "Invalid value"),
        ('marker = "x"', "unknown field 'marker'; valid are assistant_marker, decoding"),
        ("instruction = 3", "instruction must be a string"),
        ('fence = "``"', "fence must be three or more"),
        ('fence = "``~"', "fence must be three or more"),
        ('fence = "----"', "fence must be three or more"),
        ('user_marker = ""', "user_marker must be one line"),
        ('user_marker = "a\\nb"', "user_marker must be one line"),
        ('assistant_marker = "##:"', "assistant_marker must be one line"),
        ('user_marker = "Q"\nassistant_marker = "Q"', "must differ"),
        ('user_marker = "Turn"\nassistant_marker = "Turn of the other"', "must differ"),
        ('framing = """\n## question is whose?"""', "a line of framing begins with a marker"),
        ('instruction = "Say:\\n## Answer"', "a line of instruction begins with a marker"),
        (EXEMPLAR + EXEMPLAR.replace('"b"', '"b\\n## answer"'), "a line of exemplar 2 begins with a marker"),
        ("decoding = 3", "decoding must be a table"),
        ('decoding = { stop = "x" }', "decoding.stop"),
        ('decoding = { prompt = "x" }', "decoding.prompt"),
        ("decoding = { max_tokens = 0 }", "max_tokens must be a positive"),
        ('decoding = { max_tokens = "9" }', "max_tokens must be a positive"),
        ("decoding = { max_tokens = true }", "max_tokens must be a positive"),
        ("exemplar = 3", "exemplar must be a list"),
        ("[exemplar]\nuser = 'a'\nassistant = 'b'", "exemplar must be a list"),
        (f"{EXEMPLAR}[[exemplar]]\nuser = 'a'", "exemplar 2 must have exactly"),
        (f"{EXEMPLAR}note = 'x'", "exemplar 1 must have exactly"),
        ("[[exemplar]]\nuser = 'a'\nassistant = ' '", "exemplar 1: user and assistant must be non-empty"),
    ],
)
def test_a_wrong_profile_says_where_and_what(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "house.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_missing_profile_names_the_choices() -> None:
    with pytest.raises(ProfileError, match=r"no profile 'defualt': give a file, or one of default, helpful, plain"):
        load("defualt")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    for wrong in (path, tmp_path):
        with pytest.raises(ProfileError, match="cannot be read as UTF-8 text"):
            load(wrong)


@pytest.mark.parametrize("name", profile.shipped())
def test_a_profile_written_as_a_file_is_read_back_as_it_was(name: str) -> None:
    whole = load(name)
    assert parse_toml(profile.to_toml(whole), "copy.toml") == whole


def test_a_profile_with_any_characters_is_read_back_as_it_was() -> None:
    odd = Profile(
        "odd", instruction='say "\\ \x7f\t😀\nb', decoding={"temperature": 0.5, "max_tokens": 9, "echoes": [1]}
    )
    assert parse_toml(profile.to_toml(odd), "odd.toml") == odd


def test_an_original_prompt_file_is_not_written_as_toml() -> None:
    with pytest.raises(ValueError, match="copy that file instead"):
        profile.to_toml(
            parse_original("# Instruction\n\nBe kind.\n\n# Query:\n```\nHi\n```\n\n# Answer:\n```\nHello\n```\n", "x")
        )
