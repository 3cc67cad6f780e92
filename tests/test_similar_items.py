"""Similar items: cosines against NumPy, never the item itself, and as a person asks for them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import main
from zoo import recommending
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.vocabulary import NUM_SPECIALS, Vocabulary

pytestmark = pytest.mark.once
SMALL = "sample.num_users=80,sample.num_items=40,sample.num_days=30,sample.events_per_user=12,train.epochs=2"


def vectors(count=30, dim=5, seed=0):
    made = np.random.default_rng(seed).normal(0, 3, (count, dim)).astype(np.float32)
    made[:NUM_SPECIALS] = 0
    return made


def lists(*arguments, **options):
    batches = list(recommending.similar_items(*arguments, **options))
    return np.concatenate([tokens for tokens, _ in batches]), np.concatenate([scores for _, scores in batches])


def test_nearest_by_cosine_without_itself():
    matrix = vectors()
    tokens = np.array([7, 3, 29], np.int64)
    found, scores = lists(matrix, tokens, 4)
    exact = matrix.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    for row, token in enumerate(tokens):
        cosines = {
            other: exact[token] @ exact[other] / lengths[token] / lengths[other]
            for other in range(NUM_SPECIALS, 30)
            if other != token
        }
        best = sorted(cosines, key=cosines.get, reverse=True)[:4]
        assert found[row].tolist() == best
        np.testing.assert_allclose(scores[row], [cosines[other] for other in best], rtol=1e-5)


def test_an_item_without_a_vector_is_similar_to_none():
    matrix = vectors(8)
    matrix[5] = 0
    found, scores = lists(matrix, np.arange(NUM_SPECIALS, 8), 7)
    assert 5 not in found
    assert np.isneginf(scores[5 - NUM_SPECIALS]).all() and np.isfinite(scores[0, :3]).all()


def test_only_allowed_items_are_found():
    allowed = np.zeros(30, bool)
    allowed[[4, 9]] = True
    found, _ = lists(vectors(), np.array([4, 5]), 3, allowed=allowed)
    assert found[0].tolist() == [9, 0, 0] and sorted(found[1].tolist()) == [0, 4, 9]


def test_a_vector_that_is_not_finite_is_an_error():
    matrix = vectors()
    matrix[9, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        lists(matrix, np.array([4]), 3)


def test_asked_items():
    items = Vocabulary(np.array(["a", "b", "c", None], object)[:-1], 3)
    catalogue = Catalogue(items, items, np.ones(6, np.int64))
    assert recommending.asked_items(catalogue, None).tolist() == [3, 4, 5]
    assert recommending.asked_items(catalogue, ("c", "a", "c")).tolist() == [5, 3]
    with pytest.raises(DataError, match=r"predict\.similar_to"):
        recommending.asked_items(catalogue, ("aa",))


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", "item2vec", "--preset", "tiny", "--run-dir", "run", "--override", SMALL]
    assert main.main(["train_validation_model", *arguments]) == 0
    assert main.main(["similar_items", "--run-dir", "run", "--override", "num_recommendations=5"]) == 0
    found = json.loads((tmp_path / "run" / "similar_items.json").read_text())
    assert len(found) == 40
    for item, near in found.items():
        assert len(near) == 5 and item not in {str(other) for other, _ in near}
        assert [score for _, score in near] == sorted((score for _, score in near), reverse=True)
    asked = "num_recommendations=2,similar_to=1003,1001,predict.format="
    assert main.main(["similar_items", "--run-dir", "run", "--override", asked + "jsonl"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "similar_items.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [1003, 1001]
    assert [line["items"] for line in lines] == [found["1003"][:2], found["1001"][:2]]
    assert main.main(["similar_items", "--run-dir", "run", "--override", asked + "parquet"]) == 0
    table = pq.read_table(tmp_path / "run" / "similar_items.parquet")
    assert table.column_names == ["item", "similar_item", "score", "rank"]
    assert table["item"].to_pylist() == [1003, 1003, 1001, 1001]
    capsys.readouterr()
    assert main.main(["similar_items", "--run-dir", "run", "--override", "similar_to=77"]) == 2
    assert "predict.similar_to: 1 of 1 items unknown, the first is '77'" in capsys.readouterr().err


def test_a_model_without_item_vectors_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--model", "item_knn", "--run-dir", "run", "--override", SMALL]
    assert main.main(["train_validation_model", *options]) == 0
    assert main.main(["similar_items", "--run-dir", "run"]) == 2
    assert "item_knn has no item vectors" in capsys.readouterr().err
