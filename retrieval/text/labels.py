"""What a document or a row says of itself, under our names: dates in force, region, version, language, tags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from retrieval.text.dates import iso_date

NAMES = {
    "title": "title name heading subject titel titre título titolo 标题 名称 题目",
    "text": "text content contents body rule principle provision clause 内容 正文 条文 规则 regel vorschrift texte"
    " règle texto regla norma testo regola",
    "source": "source quelle origen fonte 来源 出处",
    "url": "url link uri href 链接 网址",
    "region": "region jurisdiction country territory state province 地区 省份 管辖 gebiet land juridiction pays"
    " jurisdicción país",
    "language": "language lang locale 语言 sprache langue idioma lingua",
    "kind": "kind type category 类型 类别 art-der-norm catégorie categoría",
    "tags": "tags tag keywords labels 标签 关键词",
    "in_force_from": "in_force_from effective effective_date date_effective effective_from valid_from in_force"
    " commencement commencement_date start_date 生效日期 施行日期 实施日期 gültig_ab inkrafttreten entrée_en_vigueur"
    " vigencia",
    "in_force_to": "in_force_to effective_to effective_until valid_to valid_until expires expiry expiry_date repealed"
    " repeal repeal_date end_date 失效日期 废止日期 gültig_bis außerkrafttreten abrogation derogación",
    "version": "version revision rev 版本 fassung",
    "id": "id _id key identifier",
    "row": "no nr number 编号 序号 lfd_nr numéro número n° rule_no",  # counts the rows of this table only
}
_KNOWN = {alias: name for name, aliases in NAMES.items() for alias in aliases.split()}
# Columns that hold the text where none is named like one of the above, the likeliest first.
_UNSURE = (
    "description requirement statement wording guideline details obligation policy beschreibung wortlaut inhalt"
    " anforderung exigence contenu descripción requisito contenido descrizione contenuto 要求 规定 描述 規程 説明 규정"
    " 내용"
)
WEAK = tuple(_UNSURE.split())


@lru_cache(4096)
def column(name: object) -> str:
    """Our name for a column or property, or the name itself in small letters."""
    key = re.sub(r"[\s-]+", "_", str(name).strip().strip("\ufeff").rstrip(".:").lower())
    return _KNOWN.get(key, _KNOWN.get(key.replace("_", "-"), key))


def named(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields, with those inside of "metadata", under our names.

    One that is named exactly as ours comes before another that means the same.
    """
    metadata = fields.get("metadata")
    fields = {**(metadata if isinstance(metadata, dict) else {}), **fields}
    made: dict[str, Any] = {}
    for name, value in fields.items():
        ours = name if name in ("_id", "row", "number", "no", "nr") else column(name)
        made.setdefault(name if ours != name and (ours in fields or ours in made) else ours, value)
    return made


def labels(properties: Mapping[Any, Any], problems: list[str] | None = None) -> dict[str, Any]:
    """Labels of a passage from a document's properties; a version becomes the tag "version=4.2".

    A date that cannot be read is left out and named in `problems`.

    Raises:
        ValueError: a date cannot be read, and no `problems` are asked for.
    """
    found: dict[str, Any] = {}
    for name, value in _spread(properties):
        ours = column(name)
        if ours in NAMES and ours not in {"text", "id", "row"} and value not in (None, "", []):
            found.setdefault(ours, value)
    for name in ("in_force_from", "in_force_to"):
        try:
            if name in found:
                found[name] = iso_date(found[name], name)
        except ValueError as error:
            if problems is None:
                raise
            problems.append(str(error))
            del found[name]
    if isinstance(found.get("language"), list | tuple) and len(found["language"]) != 1:
        del found["language"]  # a text in several
    tags = _tags(found.get("tags"))
    if "version" in found:
        tags.append(f"version={found.pop('version')}")
    if tags:
        found["tags"] = tags
    else:
        found.pop("tags", None)
    return {name: value if name == "tags" else _plain(value) for name, value in found.items()}


def _spread(properties: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Properties, with those inside of "metadata", and "in force: from, to" as two."""
    for name, value in properties.items():
        if not isinstance(value, Mapping):
            yield name, value
        elif column(name) == "in_force_from":
            yield from ((f"in_force_{key}", day) for key, day in value.items() if key in {"from", "to"})
        else:
            yield from value.items()


def _tags(value: Any) -> list[str]:
    if isinstance(value, str):
        return [tag.strip() for tag in re.split(r"[,;，；、]", value) if tag.strip()]
    return [str(tag) for tag in value if tag] if isinstance(value, list | tuple) else []


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()
