"""Tables of the configuration, from its dataclasses and the comments in the complete example."""

from __future__ import annotations

import ast
import inspect
import io
import json
import re
import textwrap
import tokenize
import types
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from docs.parts.markdown import codes, table

EXAMPLE = Path(__file__).resolve().parent.parent / "examples/full.toml"
KINDS = {str: "text", int: "integer", float: "number", bool: "true or false"}


def configuration() -> str:
    """A table for each section of `trimtab.toml`."""
    from prompt_opt.core import Policy
    from prompt_opt.pipeline import STAGES, options
    from serve import config

    sections: list[tuple[str, type]] = [
        ("[server]", config.Server),
        ("[engine.NAME]", config.Engine),
        ("[index.NAME]", config.IndexSpec),
        ("[rewriter.NAME]", config.RewriterSpec),
        ("[policy.NAME]", Policy),
        *((f"[policy.NAME.{stage}]", kind) for stage in STAGES if (kind := options(stage)) is not None),
        ("[alias]", config.Alias),
        ("[[key]]", config.Key),
        ("[limits]", config.Limits),
        ("[limits.key], [limits.tenant]", config.Allowance),
        ("[account]", config.AccountSpec),
        ("[marking]", config.Marking),
    ]
    parts = [_section(title, kind) for title, kind in sections]
    parts.append(f"Rights of a key: {codes(config.RIGHTS)}.\n")
    return "\n".join(parts)


_HIDDEN = {"Policy": {"name", "options", "digest", "change"}}  # what the file does not set
_ALIAS = {"policy": "the policy that the name stands for", "model": "the engine's name for the model"}


def _section(title: str, kind: type) -> str:
    section = re.sub("NAME", "", title.partition(",")[0]).strip("[].").replace("..", ".")
    shown = _ALIAS if section == "alias" else example_comments().get(section, {})
    told, hints = comments(kind), get_type_hints(kind)
    hidden = _HIDDEN.get(kind.__name__, {"name"})
    rows = [
        (f"`{f.name}`", type_text(hints[f.name]), default_text(f), shown.get(f.name) or told.get(f.name, ""))
        for f in fields(kind)
        if f.name not in hidden
    ]
    return f"### `{title}`\n\n" + table(("Setting", "Type", "Default", "Meaning"), rows)


def example_comments() -> dict[str, dict[str, str]]:
    """Section -> setting -> the comment beside it in docs/examples/full.toml; `policy.opo` is `[policy.NAME.opo]`."""
    out: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in EXAMPLE.read_text("utf-8").splitlines():
        if match := re.match(r"\[+([a-z]+)(?:\.[a-z]+)?(\.[a-z]+)?\]", line):
            section = out.setdefault(match[1] + (match[2] or ""), {})
        elif match := re.match(r"(?:# )?([a-z0-9_]+) = .*?\s+# (.*)", line):
            section.setdefault(match[1], match[2])
    return out


def comments(kind: type) -> dict[str, str]:
    """The comment that stands beside each field of a dataclass."""
    source = textwrap.dedent(inspect.getsource(kind))
    found: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = token.string.lstrip("# ")
    out = {}
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            out[node.target.id] = " ".join(found[line] for line in lines if line in found)
    return out


def type_text(hint: Any) -> str:
    """A type in TOML's words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(f'`"{choice}"`' for choice in parts if choice)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in parts if part is not type(None))
    if origin in (tuple, list):
        return f"list of {type_text(parts[0])}"
    if origin is not None or not isinstance(hint, type) or is_dataclass(hint):
        return "table"
    return KINDS.get(hint, "text")


def default_text(each: Field[Any]) -> str:
    """A field's default as TOML writes it."""
    value = each.default
    if value is MISSING:
        return "" if each.default_factory is not MISSING else "required"
    if value is None or value == () or is_dataclass(value):
        return ""
    return f"`{json.dumps(value)}`"
