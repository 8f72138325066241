"""What a document or a row says of itself, under our names: dates in force, region, version, language, tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

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
_MONTHS = {
    name: i
    for i, names in enumerate(
        (
            "january jan januar janvier enero gennaio", "february feb februar février febrero febbraio",
            "march mar märz mars marzo", "april apr avril abril aprile", "may mai mayo maggio",
            "june jun juni juin junio giugno", "july jul juli juillet julio luglio",
            "august aug août agosto", "september sep sept septembre septiembre settembre",
            "october oct oktober okt octobre octubre ottobre", "november nov novembre noviembre",
            "december dec dezember dez décembre diciembre dicembre",
        ),
        1,
    )
    for name in names.split()
}  # fmt: skip
_YEAR_FIRST = re.compile(r"(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})\s*日?(?:[T\s].*)?")
_COMPACT = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DOTTED = re.compile(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})")  # as German writes it: the day comes first
_NAMED = re.compile(r"(\d{1,2})(?:st|nd|rd|th|er|\.|º)?\s+(?:de\s+)?([^\W\d]+)\.?,?\s+(?:de\s+)?(\d{4})")
_NAMED_FIRST = re.compile(r"([^\W\d]+)\.?\s+(\d{1,2})(?:st|nd|rd|th)?,?\s+(\d{4})")


def column(name: object) -> str:
    """Our name for a column or property, or the name itself in small letters."""
    key = re.sub(r"[\s-]+", "_", str(name).strip().strip("\ufeff").rstrip(".:").lower())
    return _KNOWN.get(key, _KNOWN.get(key.replace("_", "-"), key))


def labels(properties: Mapping[Any, Any]) -> dict[str, Any]:
    """Labels of a passage from a document's properties; a version becomes the tag "version=4.2".

    Raises:
        ValueError: a date in force cannot be read.
    """
    found: dict[str, Any] = {}
    for name, value in properties.items():
        ours = column(name)
        if ours in NAMES and ours not in {"text", "id", "row"} and value not in (None, "", []):
            found.setdefault(ours, value)
    for name in ("in_force_from", "in_force_to"):
        if name in found:
            found[name] = iso_date(found[name], name)
    tags = _tags(found.get("tags"))
    if "version" in found:
        tags.append(f"version={found.pop('version')}")
    if tags:
        found["tags"] = tags
    else:
        found.pop("tags", None)
    return {name: value if name == "tags" else _plain(value) for name, value in found.items()}


def iso_date(value: object, name: str) -> str:
    """A date like 2026-01-31 from how people and files write it; "" for none.

    Raises:
        ValueError: it is no date, or day and month cannot be told apart (03/04/2025).
    """
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    text = str(value).strip()
    parts = _parts(text)
    if not text:
        return ""
    try:
        return date(*parts).isoformat() if parts else date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError(f"{name} is not a date like 2026-01-31: {text!r}") from None


def _parts(text: str) -> tuple[int, int, int] | None:
    if found := _YEAR_FIRST.fullmatch(text) or _COMPACT.fullmatch(text):
        return int(found[1]), int(found[2]), int(found[3])
    if found := _DOTTED.fullmatch(text):
        return int(found[3]), int(found[2]), int(found[1])
    if (found := _NAMED.fullmatch(text)) and found[2].lower() in _MONTHS:
        return int(found[3]), _MONTHS[found[2].lower()], int(found[1])
    if (found := _NAMED_FIRST.fullmatch(text)) and found[1].lower() in _MONTHS:
        return int(found[3]), _MONTHS[found[1].lower()], int(found[2])
    return None


def _tags(value: Any) -> list[str]:
    if isinstance(value, str):
        return [tag.strip() for tag in re.split(r"[,;，；、]", value) if tag.strip()]
    return [str(tag) for tag in value if tag] if isinstance(value, list | tuple) else []


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()
