"""The base model's corpus, from a folder of permissively licensed sets.

    python -m trainers.pretraining.corpus --source DIR --out FOLDER

Reads DIR/text_novels_en, DIR/lawir_ca and DIR/gsm8k; writes FOLDER/train.jsonl, FOLDER/heldout.jsonl (whole books,
Acts and problems that train.jsonl never shows, in sheets neither) and FOLDER/manifest.json. The same folder and seed
give the same bytes. Not covered: near-duplicates, and texts whose wording is older than today's manners.
"""

import argparse
import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from trainers.data.jsonl import DataError, file_hash, read_lines
from trainers.pretraining.forbidden import MARKERS, evaluation_prompts, exemplar_lines, first_forbidden
from trainers.pretraining.sheets import Pair, draw_sheet

SOURCES = {
    "novels": ("text_novels_en/novels.jsonl.zst", "public domain (59 English novels, 1839-1928)"),
    "statutes": ("lawir_ca/corpus.en.jsonl.zst", "Open Government Licence - Canada (Acts of Canada)"),
    "problems": ("gsm8k/train.jsonl.zst", "MIT, Copyright (c) 2021 OpenAI (GSM8K, training part)"),
}
QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\ufeff": None, "\r": None, "\u00a0": " "})
PROFILES = Path(__file__).parents[2] / "prompt_opt" / "profiles"
DENSE = 300  # characters, at most, of a pair in a dense sheet
HELD_OUT = 20  # one group in so many is held out
CALCULATION = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Document:
    """A text and where it is from; `pairs` are the exemplars that sheets may take from it."""

    source: str
    group: str  # the book, Act or problem: what the split must not cut
    text: str
    pairs: tuple[Pair, ...] = ()  # what sheets may take from it


def novels(path: Path) -> Iterator[Document]:
    """Books in pieces of about 12,000 characters, cut between paragraphs."""
    for row in read_lines(path, ("id", "text")):
        paragraphs, apart = split_paragraphs(row["text"].translate(QUOTES))
        piece: list[str] = []
        for paragraph in paragraphs:
            piece.append(paragraph)
            if sum(map(len, piece)) > 12_000 or paragraph is paragraphs[-1]:
                text = ("\n\n" if apart else "\n").join(piece)
                yield Document("novels", row["id"], text, tuple(pairs_in(piece)) if apart else ())
                piece = []


def split_paragraphs(text: str) -> tuple[list[str], bool]:
    """Paragraphs, and whether blank lines part them (else each line counts as one). Wrapped lines are joined."""
    blocks = [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]
    if len(text) > 1_500 * len(blocks):
        return [line.strip() for line in text.split("\n") if line.strip()], False
    return [re.sub(r" *\n *", " ", block) if is_wrapped(block) else block for block in blocks], True


def is_wrapped(block: str) -> bool:
    """Whether the lines of a paragraph are prose cut at a column, and not verse or a list."""
    lines = block.split("\n")[:-1]
    return bool(lines) and min(len(line.strip()) for line in lines) > 40


def pairs_in(paragraphs: Sequence[str]) -> Iterator[Pair]:
    """A speech and its reply, or a paragraph and what comes after it."""
    for index, (first, second) in enumerate(pairwise(paragraphs)):
        if not 20 < len(first) < 500 or not 10 < len(second) < 900:
            continue
        speech = first[0] in "\"'" and second[0] in "\"'"
        more = [] if speech else paragraphs[index + 2 : index + 2 + len(first) % 3]
        sequel = "\n\n".join([second, *(text for text in more if len(text) < 500)])
        yield first, sequel


def statutes(path: Path) -> Iterator[Document]:
    """Sections of Acts; every second one, and none so long that it was cut off."""
    for index, row in enumerate(read_lines(path, ("title", "text"))):
        title, text = row["title"].translate(QUOTES), row["text"].translate(QUOTES)
        if index % 2 or len(text) > 2_500:
            continue
        pairs = ((title, text),) if len(text) < 900 else ()
        yield Document("statutes", title.rsplit(", s.", 1)[0], f"{title}\n\n{text}", pairs)


def problems(path: Path) -> Iterator[Document]:
    """Worked problems; the calculator's annotations are taken out."""
    for row in read_lines(path, ("question", "answer")):
        problem = row["question"].translate(QUOTES).strip()
        working = CALCULATION.sub("", row["answer"]).translate(QUOTES).replace("\n#### ", "\nResult: ").strip()
        yield Document("problems", problem, f"{problem}\n\n{working}", ((problem, working),))


READERS = {"novels": novels, "statutes": statutes, "problems": problems}


def is_held_out(document: Document) -> bool:
    """Whether a document is held out, by the hash of its source and group, so that no group is cut."""
    return place(f"{document.source}/{document.group}") % HELD_OUT == 0


def place(text: str) -> int:
    """A number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def sheets(documents: Sequence[Document], characters: int, seed: int, dense: bool, odd: bool) -> Iterator[Document]:
    """Sheets of about so many characters in all, from the pairs of these documents."""
    rng = random.Random(seed)  # noqa: S311 (not for secrets)
    pools: dict[str, list[Pair]] = {"problems": [], "statutes": [], "dialogue": [], "passages": []}
    for document in documents:
        for pair in document.pairs:
            if dense and len(pair[0]) + len(pair[1]) > DENSE:
                continue
            kind = "dialogue" if pair[0][0] in "\"'" and pair[1][0] in "\"'" else "passages"
            pools[kind if document.source == "novels" else document.source].append(pair)
    counts = Counter(word for d in documents if d.source == "novels" for word in re.findall("[a-z]{3,9}", d.text))
    words = sorted(word for word, _ in counts.most_common(5_000))
    reserved = {"question", "answer", "query", "user", "assistant", "instruction"}
    words = [word for word in words if word not in reserved]
    number = 0
    while characters > 0:
        text = draw_sheet(rng, pools, words, dense, odd)
        number += 1
        characters -= len(text)
        yield Document("sheets", f"sheet{number}", text)


def build(
    source: Path,
    out: Path,
    forbidden: Sequence[str],
    sheet_share: float,
    seed: int,
    dense: bool = False,
    percent: int = 100,
    odd: bool = False,
) -> dict[str, object]:
    """Write the corpus and return its manifest. `sheet_share`: sheets' characters per character of the rest."""
    documents: list[Document] = []
    for name, (file, _) in SOURCES.items():
        documents += READERS[name](source / file)
    documents = [d for d in documents if is_held_out(d) or place(d.text) % 100 < percent]
    out.mkdir(parents=True, exist_ok=True)
    prompts = evaluation_prompts(source)
    manifest: dict[str, object] = {
        "seed": seed,
        "sheet_share": sheet_share,
        "dense": dense,
        "percent": percent,
        "odd": odd,
        "evaluation_prompts": len(prompts),
    }
    manifest["sources"] = {
        name: {"file": file, "sha256": file_hash(source / file), "licence": licence}
        for name, (file, licence) in SOURCES.items()
    }
    for split, wanted in (("train", False), ("heldout", True)):
        kept = [document for document in documents if is_held_out(document) is wanted]
        clean = [d for d in kept if first_forbidden(d.text, forbidden) is None and not holds(d.text, prompts)]
        share = sum(len(document.text) for document in clean) * sheet_share
        drawn = list(sheets(clean, int(share), seed + wanted, dense, odd))
        clean_sheets = [d for d in drawn if first_forbidden(d.text, forbidden) is None and not holds(d.text, prompts)]
        dropped = len(kept) - len(clean) + len(drawn) - len(clean_sheets)
        manifest[split] = write(out / f"{split}.jsonl", [*clean, *clean_sheets], seed) | {"dropped": dropped}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def holds(text: str, prompts: Sequence[str]) -> bool:
    """Whether one of the prompts occurs in the text."""
    return any(prompt in text for prompt in prompts)


def write(path: Path, documents: list[Document], seed: int) -> dict[str, object]:
    """Shuffle and write documents; return what the manifest says of them."""
    if not documents:
        raise DataError(f"{path.name}: no document is left")
    random.Random(seed).shuffle(documents)  # noqa: S311 (not for secrets)
    rows = [{k: v for k, v in asdict(document).items() if k != "pairs"} for document in documents]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    counts: dict[str, dict[str, int]] = {}
    for document in documents:
        count = counts.setdefault(document.source, {"documents": 0, "characters": 0})
        count["documents"] += 1
        count["characters"] += len(document.text)
    return {"sha256": file_hash(path), "sources": counts}


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 where a source cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m trainers.pretraining.corpus", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder that holds the sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sheet-share", type=float, default=0.7, help="characters of sheets per other character")
    parser.add_argument("--dense", action="store_true", help="sheets of many short pairs, so mostly layout")
    parser.add_argument("--odd", action="store_true", help="fences that only copying can close, in half of the sheets")
    parser.add_argument("--percent", type=int, default=100, help="how much of the training documents to keep")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        forbidden = [*MARKERS, *exemplar_lines(PROFILES)]
        manifest = build(
            options.source,
            options.out,
            forbidden,
            options.sheet_share,
            options.seed,
            options.dense,
            options.percent,
            options.odd,
        )
    except (DataError, OSError) as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 1
    print(json.dumps(manifest, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
