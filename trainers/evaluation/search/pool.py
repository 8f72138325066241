"""What a profile may be made of: instructions and exemplars, from profiles and from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prompt_opt import profile
from prompt_opt.core import Exemplar
from trainers.data.jsonl import DataError
from trainers.data.rows import rows_of


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates, each once, in the order of their sources. "" among the instructions stands for none."""

    instructions: tuple[str, ...]
    exemplars: tuple[Exemplar, ...]


def read_pool(files: Sequence[str], profiles: Sequence[str]) -> Pool:
    """The instructions and exemplars of `profiles` (shipped ones by name, or files) and of JSONL `files`.

    A row has `instruction`, or `user` and `assistant`, or `prompt` and `chosen` (of a preference pair, whose better
    answer is then an example).

    Raises:
        DataError: a row is none of these, or there is no exemplar. ProfileError: no such profile.
    """
    loaded = [profile.load(name) for name in profiles]
    instructions = ["", *(each.instruction for each in loaded)]
    exemplars = [Exemplar(e.user, e.assistant) for each in loaded for e in each.exemplars]
    for file in files:
        if not Path(file).is_file():
            raise DataError(f"{file}: no such file")
        for place, row in rows_of(file):
            if isinstance(row.get("instruction"), str) and "user" not in row:
                instructions.append(row["instruction"].strip())
                continue
            user, assistant = row.get("user", row.get("prompt")), row.get("assistant", row.get("chosen"))
            if not (isinstance(user, str) and isinstance(assistant, str) and user.strip() and assistant.strip()):
                raise DataError(f"{place}: neither an instruction, nor user and assistant, nor prompt and chosen")
            exemplars.append(Exemplar(user.strip(), assistant.strip()))
    if not exemplars:
        raise DataError("no exemplar to choose from")
    return Pool(tuple(dict.fromkeys(instructions)), tuple(dict.fromkeys(exemplars)))
