"""Does a query that cites an article find that article first?

  python benchmarks/citations.py zh=INDEX en=INDEX fr=INDEX de=INDEX [--draws 75] [--seed 1] [--misses 20]

Draws titles that cite an article ("BGB § 433", "刑法 第十二条", "Excise Act, 2001, s. 230") from each index, writes
each in six forms, and prints hit@1 by form and language, and the misses. A title that several documents have counts as
found where one of them comes first.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from retrieval.search.index import Index
from retrieval.text.numeral import value

TITLE = re.compile(
    r"(?P<name>.+?)[, ]+(?:第(?P<han>[^第条]+)条$|s\. (?P<s>[\w.]+)$|art\. (?P<art>[\w.]+)$|§ (?P<par>\w+)$)"
)
FORMS = {
    "zh": ("{short}第{han}条", "{short}第{digits}条", "{short}{digits}条", "《{name}》第{han}条规定了什么？",
           "第{digits}条 {short}", "{short}{han}条"),
    "en": ("{name}, s. {n}", "section {n} of the {name}", "{name} section {n}", "s. {n}(1) {name}",
           "What does section {n} of the {name} say?", "{name} § {n}"),
    "fr": ("{name}, art. {n}", "article {n} de la {name}", "{name} article {n}", "art. {n} {name}",
           "Que dit l'article {n} de la {name} ?", "{name}, Article {n} (1)"),
    "de": ("§ {n} {name}", "{name} § {n}", "§{n} {name}", "Was steht in § {n} {name}?", "§ {n} Abs. 1 {name}",
           "{name}, § {n}"),
}  # fmt: skip


def drawn(index: Index, count: int, seed: int) -> list[tuple[str, dict[str, str]]]:
    """Titles with what the forms need of them."""
    titles = sorted({p.title for p in index.documents() if TITLE.fullmatch(p.title)})
    found = []
    for title in random.Random(seed).sample(titles, min(count, len(titles))):
        match = TITLE.fullmatch(title)
        assert match is not None
        han = match["han"] or ""
        number = match["s"] or match["art"] or match["par"] or ""
        name = match["name"].rstrip(",")
        digits = str(value(han.partition("之")[0]) or "") if han else ""
        short = name.removeprefix("中华人民共和国")
        found.append((title, {"name": name, "short": short, "n": number, "han": han, "digits": digits}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("indexes", nargs="+", metavar="LANGUAGE=INDEX")
    parser.add_argument("--draws", type=int, default=75)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--misses", type=int, default=20)
    arguments = parser.parse_args()
    hits, asked, misses = Counter[str](), Counter[str](), []
    for language, _, folder in (pair.partition("=") for pair in arguments.indexes):
        with Index.open(folder, readonly=True) as index:
            for title, parts in drawn(index, arguments.draws, arguments.seed):
                for form in FORMS[language]:
                    query = form.format(**parts)
                    found = index.search(query, 1)
                    key = f"{language}  {form}"
                    asked[key] += 1
                    hits[key] += bool(found) and found[0].title == title
                    if not found or found[0].title != title:
                        misses.append(f"{query!r} wants {title!r}, got {found[0].title if found else None!r}")
    for key, count in asked.items():
        print(f"{hits[key] / count:6.1%}  {key}")
    print(f"hit@1 {sum(hits.values()) / sum(asked.values()):.2%} of {sum(asked.values())} queries")
    for miss in misses[: arguments.misses]:
        print("miss:", miss)


if __name__ == "__main__":
    main()
