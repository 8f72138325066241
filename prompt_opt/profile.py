"""Load a profile: our own TOML, or a prompt text file of the original URIAL project.

In the original's files (Re-Align/URIAL) turns begin with markers, most often `# Query:` and `# Answer:` or `# User:`
and `# Assistant:`; others are recognised by how they alternate, or by the instruction that names them. Where the turns
have fences, the family is "urial_backticks"; without them it is "urial_v6", or "urial_v5" where a blank line follows
the marker. A file's text is kept to the byte; the exemplars in it, which may be none, are found so that they can be
dropped one by one when the context is short, or become turns in the chat render.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w

from prompt_opt.core import Exemplar, Form, Profile
from prompt_opt.layout.defuse import defuse

SHIPPED = Path(__file__).with_name("profiles")
_FIELDS = {
    "name",
    "source",
    "framing",
    "instruction",
    "user_marker",
    "assistant_marker",
    "fence",
    "decoding",
    "exemplar",
}
# What a request says for itself, or the layout does: no decoding default may.
_NOT_DECODING = ("messages", "prompt", "model", "stream", "stream_options", "stop", "n")
_FAMILIES = (("# Query:", "# Answer:"), ("# User:", "# Assistant:"))
# A line that begins with a label, such as "## Human:", "[Question]" or "<|user|>"; or a quoted one in running text.
_LABEL = r"(?:#{1,4} ?\w[\w ]{0,30}:?|\[\w[\w ]{0,30}\]:?|<\|?\w{1,30}\|?>|\w[\w ]{0,15}:)"
_LINE_LABEL = re.compile(rf"^({_LABEL})", re.MULTILINE)
_HEADING = re.compile(r"#{1,4} ?(?:Instruction|System|Context|Example)s?\b", re.IGNORECASE)
_QUOTED_LABEL = re.compile(rf"[\"“'`]({_LABEL})[\"”'`]")
# The settings of the original's greedy multi-turn runs (its MT-Bench script).
_ORIGINAL_DECODING = {"temperature": 0.0, "repetition_penalty": 1.15, "max_tokens": 2048}


class ProfileError(ValueError):
    """A profile file is wrong; the message names the file, what is wrong, and what would be right."""


def shipped() -> list[str]:
    """The names of the profiles that the package carries."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load(file: str | Path) -> Profile:
    """Read a profile from a path, or by the name of a shipped one.

    Raises:
        ProfileError: no such file or name, a file that is neither, or a field that does not exist.
    """
    path = Path(file)
    if not path.suffix and path.name == str(file) and (SHIPPED / f"{file}.toml").is_file():
        path = SHIPPED / f"{file}.toml"
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ProfileError(f"no profile {str(file)!r}: give a file, or one of {', '.join(shipped())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    return parse_toml(text, str(path)) if path.suffix == ".toml" else parse_original(text, path.stem)


def parse_toml(text: str, where: str) -> Profile:
    """A profile of our own; see `profiles/default.toml` for every field."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"{where}: {error}") from None
    if unknown := sorted(table.keys() - _FIELDS):
        raise ProfileError(f"{where}: unknown field {unknown[0]!r}; valid are {', '.join(sorted(_FIELDS))}")
    for name in _FIELDS - {"decoding", "exemplar"}:
        if not isinstance(table.get(name, ""), str):
            raise ProfileError(f"{where}: {name} must be a string")
    fence = table.get("fence", "````")
    if fence and (len(set(fence)) > 1 or fence[0] not in "`~" or len(fence) < 3):
        raise ProfileError(f"{where}: fence must be three or more ` or ~, or empty for none")
    user_marker, assistant_marker = _markers(table, where)
    rows = table.get("exemplar", [])
    if not isinstance(rows, list):
        raise ProfileError(f"{where}: exemplar must be a list of tables: [[exemplar]]")
    exemplars = tuple(_exemplar(row, i, where) for i, row in enumerate(rows))
    said = [("framing", table.get("framing", "")), ("instruction", table.get("instruction", ""))]
    said += [(f"exemplar {i + 1}", turn) for i, e in enumerate(exemplars) for turn in (e.user, e.assistant)]
    for name, turn in said:
        if "marker escaped" in defuse(turn, (user_marker, assistant_marker))[1]:
            raise ProfileError(f"{where}: a line of {name} begins with a marker, which would open a turn")
    return Profile(
        name=table.get("name", Path(where).stem),
        framing=table.get("framing", "").strip(),
        instruction=table.get("instruction", "").strip(),
        exemplars=exemplars,
        user_marker=user_marker,
        assistant_marker=assistant_marker,
        fence=fence,
        form="fenced" if fence else "open",
        decoding=_decoding(table.get("decoding", {}), where),
        source=table.get("source", ""),
    )


def _markers(table: dict[str, Any], where: str) -> tuple[str, str]:
    user, assistant = (
        table.get(name, default).strip()
        for name, default in (("user_marker", "## Question"), ("assistant_marker", "## Answer"))
    )
    for name, marker in (("user_marker", user), ("assistant_marker", assistant)):
        if len(marker.splitlines()) != 1 or not any(c.isalnum() for c in marker):
            raise ProfileError(f"{where}: {name} must be one line that holds a word")
    if user.startswith(assistant) or assistant.startswith(user):
        raise ProfileError(f"{where}: user_marker and assistant_marker must differ, and neither begin with the other")
    return user, assistant


def _decoding(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise ProfileError(f"{where}: decoding must be a table of request fields")
    if wrong := [name for name in _NOT_DECODING if name in table]:
        raise ProfileError(f"{where}: decoding.{wrong[0]} is not the profile's to say")
    tokens = table.get("max_tokens", 1)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise ProfileError(f"{where}: decoding.max_tokens must be a positive integer")
    return table


def _exemplar(row: Any, i: int, where: str) -> Exemplar:
    if not isinstance(row, dict) or row.keys() != {"user", "assistant"}:
        raise ProfileError(f"{where}: exemplar {i + 1} must have exactly the fields user and assistant")
    if not all(isinstance(value, str) and value.strip() for value in row.values()):
        raise ProfileError(f"{where}: exemplar {i + 1}: user and assistant must be non-empty strings")
    return Exemplar(row["user"].strip(), row["assistant"].strip())


def parse_original(text: str, name: str) -> Profile:
    """A prompt text file of the original project. Its bytes stay as they are; only its parts are found."""
    user_marker, assistant_marker = _original_markers(text, name)
    # A unit runs from the blank lines before a user marker to those before the next one.
    starts = [m.start() for m in re.finditer(rf"\n*^{re.escape(user_marker)}", text, re.MULTILINE)]
    units = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)] if starts else []
    preamble = text[: starts[0]] if starts else text
    form = _form(text, units, user_marker)
    return Profile(
        name=name,
        instruction=_behaviour(preamble, (user_marker, assistant_marker)),
        exemplars=tuple(_split(unit, user_marker, assistant_marker) for unit in units),
        user_marker=user_marker,
        assistant_marker=assistant_marker,
        fence="```" if form == "fenced" else "",
        form=form,
        decoding=_ORIGINAL_DECODING,
        preamble=preamble,
        source="Re-Align/URIAL, Apache-2.0",
    )


def _original_markers(text: str, name: str) -> tuple[str, str]:
    """The markers of a file's turns: those of a family, those that its instruction names, or that alternate.

    Raises:
        ProfileError: there are none of them.
    """
    labels = [label.rstrip() for label in _LINE_LABEL.findall(text)]
    quoted = tuple(dict.fromkeys(label for label in _QUOTED_LABEL.findall(text) if not _HEADING.match(label)))
    for user, assistant in (*_FAMILIES, quoted) if len(quoted) == 2 else _FAMILIES:
        if {user, assistant} <= set(labels):
            return user, assistant
    labels = [label for label in labels if not _HEADING.match(label)]
    for user, assistant in dict.fromkeys(pairwise(labels)):
        turns = [label for label in labels if label in (user, assistant)]
        if user != assistant and len(turns) >= 4 and turns == [user, assistant] * (len(turns) // 2):
            return user, assistant
    if len(quoted) == 2 and _HEADING.match(text.lstrip()):  # the instruction alone
        return quoted[0], quoted[1]
    known = " or ".join(f"{u!r} and {a!r}" for u, a in _FAMILIES)
    raise ProfileError(
        f"{name}: not a URIAL prompt file: no two markers, such as {known}, begin alternating lines, nor does "
        "an instruction name two in quotation marks"
    )


def _form(text: str, units: Sequence[str], user_marker: str) -> Form:
    if any("```" in unit for unit in units) or (not units and user_marker != _FAMILIES[1][0]):
        return "fenced"
    return "spaced" if re.search(rf"^{re.escape(user_marker)}[ \t]*\n[ \t]*\n", text, re.MULTILINE) else "open"


def _split(unit: str, user_marker: str, assistant_marker: str) -> Exemplar:
    user, _, assistant = unit.lstrip("\n").removeprefix(user_marker).partition(f"\n{assistant_marker}")
    return Exemplar(_bare(user), _bare(assistant), raw=unit)


def _bare(turn: str) -> str:
    """The turn's text without its fence, as the chat render wants it."""
    return re.sub(r"^\s*(```)[ \t]*\n?(.*?)\n?```\s*$", r"\2", turn, flags=re.DOTALL).strip()


def _behaviour(preamble: str, markers: tuple[str, str]) -> str:
    """The lines of the preamble that say how to behave, without the heading and those about the markers."""
    lines = [line.strip() for line in preamble.splitlines()]
    return "\n".join(
        line
        for line in lines
        if line
        and not line.startswith("# ")
        and not any(m in line for m in markers)
        and "list of conversations" not in line
    )


def to_toml(profile: Profile) -> str:
    """The profile as a file that `parse_toml` reads back.

    Raises:
        ValueError: it came from a file of the original project, whose exact text TOML has no field for.
    """
    if profile.preamble or profile.form == "spaced" or any(e.raw for e in profile.exemplars):
        raise ValueError(f"profile {profile.name!r} holds the text of a prompt file; copy that file instead")
    names = ("name", "source", "framing", "instruction", "user_marker", "assistant_marker", "fence")
    table = {name: getattr(profile, name) for name in names}
    if profile.decoding:
        table["decoding"] = dict(profile.decoding)
    if profile.exemplars:
        table["exemplar"] = [{"user": e.user, "assistant": e.assistant} for e in profile.exemplars]
    return tomli_w.dumps(table)
