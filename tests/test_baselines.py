"""The baselines against the formulas, written out with loops; and against the numbers that others measured."""

from pathlib import Path

import numpy as np
import pytest

from config import ConfigError, DataConfig, RunConfig, SplitConfig
from zoo import evaluation, registry
from zoo.data import sources, splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.histories import Histories
from zoo.data.interactions import interaction_matrix, recency_matrix
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary
from zoo.models import ease
from zoo.models.ease import EASE, EASEConfig
from zoo.models.item_knn import ItemKNN, ItemKNNConfig
from zoo.models.most_popular import DAY, MostPopular, MostPopularConfig
from zoo.models.repeat_last import RepeatLast, RepeatLastConfig
from zoo.models.seq_item_knn import SeqItemKNN, SeqItemKNNConfig

ML_1M = Path(__file__).parents[2] / "shared" / "data" / "ml-1m" / "sasrec_ml-1m.txt.gz"
ITEMS = 12
V = ITEMS + NUM_SPECIALS


def catalogue_of(num_items=ITEMS, num_trained=None):
    items = Vocabulary(np.arange(num_items), num_items if num_trained is None else num_trained)
    return Catalogue(Vocabulary(np.arange(3), 3), items, np.zeros(items.size, np.int64))


def random_histories(seed=0, num=25, longest=15, low=UNKNOWN, weighted=False):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, num)
    item = rng.integers(low, V, lengths.sum()).astype(np.int32)
    columns = {"weight": rng.choice([0.0, 1.0, 3.0], len(item)).astype(np.float32)} if weighted else {}
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(np.full(num, UNKNOWN, np.int32), offsets, item, np.arange(len(item)) * DAY, columns)


def events(histories):
    """[(token, weight), ...] of every history."""
    weight = histories.columns.get("weight", np.ones(len(histories.item)))
    pairs = list(zip(histories.item.tolist(), weight.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(histories.offsets[:-1], histories.offsets[1:], strict=True)]


def binary(histories):
    matrix = np.zeros((len(histories), V))
    for row, history in enumerate(events(histories)):
        for token, weight in history:
            if token >= NUM_SPECIALS:
                matrix[row, token] = max(matrix[row, token], weight)
    return matrix


def fitted(model, config, histories, catalogue=None):
    made = model(config, catalogue or catalogue_of())
    made.fit(histories)
    return made


both = pytest.mark.parametrize("weighted", [False, True])


@both
def test_interaction_matrix(weighted):
    histories = random_histories(weighted=weighted)
    np.testing.assert_array_equal(interaction_matrix(histories, V).toarray(), binary(histories))


@both
@pytest.mark.parametrize(("last", "decay"), [(1, 0.0), (4, 0.7), (100, 1.0)])
def test_recency_matrix(last, decay, weighted):
    histories = random_histories(weighted=weighted)
    expected = np.zeros((len(histories), V))
    for row, history in enumerate(events(histories)):
        for rank, (token, weight) in enumerate(reversed(history), start=1):
            if rank <= last and token >= NUM_SPECIALS:
                expected[row, token] += weight * rank**-decay
    np.testing.assert_allclose(recency_matrix(histories, V, last, decay).toarray(), expected, rtol=1e-6)


@both
def test_most_popular_counts(weighted):
    histories = random_histories(weighted=weighted)
    expected = np.zeros(V)
    for history in events(histories):
        for token, weight in history:
            expected[token] += weight if token >= NUM_SPECIALS else 0
    scores = fitted(MostPopular, MostPopularConfig(), histories).score(histories)
    np.testing.assert_array_equal(scores, np.tile(expected, (len(histories), 1)))


@both
def test_repeat_last_is_the_own_items_by_recency_then_the_popular_ones(weighted):
    histories = random_histories(weighted=weighted)
    model = fitted(RepeatLast, RepeatLastConfig(), histories)
    popular = fitted(MostPopular, MostPopularConfig(), histories).score(histories.take([0]))[0]
    for history, scores in zip(events(histories), model.score(histories), strict=True):
        own = list(dict.fromkeys(token for token, _ in reversed(history)))
        others = sorted(set(range(NUM_SPECIALS, V)) - set(own), key=lambda token: -popular[token])
        assert np.argsort(-scores, kind="stable")[: len(own)].tolist() == own
        assert (np.diff(scores[others]) <= 0).all() and (scores[others] < 0).all()
        assert (np.diff(scores[others]) < 0).tolist() == (np.diff(popular[others]) < 0).tolist()


def test_most_popular_of_the_last_days():
    histories = random_histories(low=NUM_SPECIALS)
    scores = fitted(MostPopular, MostPopularConfig(window_days=5), histories).score(histories.take([0]))
    np.testing.assert_array_equal(scores[0], np.bincount(histories.item[-5:], minlength=V))


def test_most_popular_window_needs_timestamps():
    histories = random_histories()
    undated = Histories(histories.user, histories.offsets, histories.item)
    with pytest.raises(ConfigError, match=r"window_days=5.*no timestamps"):
        fitted(MostPopular, MostPopularConfig(window_days=5), undated)


@both
@pytest.mark.parametrize(("neighbors", "shrink"), [(1, 0.0), (3, 2.0), (100, 10.0)])
def test_item_knn(neighbors, shrink, weighted):
    histories = random_histories(weighted=weighted)
    users = binary(histories)
    similarity = np.zeros((V, V))  # row: candidate, column: what the user has
    for i in range(V):
        near = []
        for j in range(V):
            together = users[:, i] @ users[:, j]
            if i != j and together > 0:
                norms = np.linalg.norm(users[:, i]) * np.linalg.norm(users[:, j])
                near.append((np.float32(together / (norms + shrink)), -j))
        for value, j in sorted(near, reverse=True)[:neighbors]:
            similarity[i, -j] = value
    model = fitted(ItemKNN, ItemKNNConfig(neighbors=neighbors, shrink=shrink), histories)
    np.testing.assert_allclose(model.score(histories), users @ similarity.T, rtol=1e-5, atol=1e-6)


def test_item_knn_in_small_blocks_is_the_same(monkeypatch):
    histories = random_histories(num=200)
    whole = fitted(ItemKNN, ItemKNNConfig(neighbors=3), histories)
    monkeypatch.setattr("zoo.models.item_knn.BLOCK", 500)
    pieces = fitted(ItemKNN, ItemKNNConfig(neighbors=3), histories)
    assert (whole.similarity != pieces.similarity).nnz == 0 and whole.similarity.nnz


@both
def test_ease_is_ridge_regression_without_the_item_itself(weighted):
    """The definition of EASE, solved column by column: regress an item on all others with an L2 penalty."""
    histories = random_histories(num=60, weighted=weighted)
    users = binary(histories)
    expected = np.zeros((V, V))
    for j in range(NUM_SPECIALS, V):
        others = [i for i in range(NUM_SPECIALS, V) if i != j]
        design = users[:, others]
        expected[others, j] = np.linalg.solve(design.T @ design + 5 * np.eye(len(others)), design.T @ users[:, j])
    model = fitted(EASE, EASEConfig(l2=5.0), histories)
    np.testing.assert_allclose(model.score(histories), users @ expected, rtol=1e-4, atol=1e-5)
    asked = recency_matrix(histories, V, 3, 0.7).toarray()
    recent = fitted(EASE, EASEConfig(l2=5.0, last=3, decay=0.7), histories)
    np.testing.assert_allclose(recent.score(histories), asked @ expected, rtol=1e-4, atol=1e-5)


def test_ease_refuses_what_it_cannot_invert(monkeypatch):
    monkeypatch.setattr(ease, "MAX_ITEMS", 10)
    with pytest.raises(ConfigError, match=r"12 items are too many.*at most 10"):
        fitted(EASE, EASEConfig(), random_histories())


@both
@pytest.mark.parametrize("window", [1, 4, 50])
def test_seq_item_knn(window, weighted):
    histories = random_histories(weighted=weighted)
    follows = np.zeros((V, V))
    for history in events(histories):
        for b, (after, weight_after) in enumerate(history):
            for a in range(max(0, b - window), b):
                before, weight_before = history[a]
                if min(before, after) >= NUM_SPECIALS:
                    follows[before, after] += weight_before * weight_after / (b - a)
    scaled = follows / np.outer((follows.sum(1) + 1) ** 0.8, (follows.sum(0) + 1) ** 0.3)
    model = fitted(SeqItemKNN, SeqItemKNNConfig(window=window, last=5), histories)
    expected = recency_matrix(histories, V, 5, 1.0).toarray() @ scaled
    np.testing.assert_allclose(model.score(histories), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["most_popular", "item_knn", "ease", "seq_item_knn"])
def test_items_only_a_feature_table_knows_and_no_events_at_all(name):
    config = registry.get(name).preset("tiny").model
    catalogue = catalogue_of(ITEMS + 4, num_trained=ITEMS)
    model = fitted(registry.get(name).model, config, random_histories(), catalogue)
    scores = model.score(random_histories(seed=1))
    assert scores.shape == (25, V + 4) and not scores[:, V:].any()
    empty = Histories(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    model = fitted(registry.get(name).model, config, empty)
    assert not model.score(random_histories()).any()
    assert model.score(empty).shape == (0, V)


@pytest.mark.parametrize("name", ["most_popular", "item_knn", "ease", "seq_item_knn"])
def test_weights_come_back(name, tmp_path):
    spec, histories = registry.get(name), random_histories()
    model = fitted(spec.model, spec.preset("tiny").model, histories)
    model.save_weights(tmp_path / "model.weights.h5")
    other = spec.model(spec.preset("tiny").model, catalogue_of())
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(other.score(histories), model.score(histories))


@pytest.fixture(scope="module")
def ml_1m():
    if not ML_1M.exists():
        pytest.skip("no MovieLens data here")
    config = RunConfig(data=DataConfig(path=str(ML_1M), layout="pairs"))
    return prepare(splits.split(sources.load(config.data, config.sample, 0), SplitConfig(), 0))


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "hit_rate", "ndcg"), [("most_popular", 0.0369, 0.0180), ("seq_item_knn", 0.2871, 0.1685)]
)
def test_published_numbers_on_ml_1m(ml_1m, name, hit_rate, ndcg):
    """The quick two; benchmarks/baselines.py measures all."""
    config = registry.get(name).preset("ml-1m")
    model = fitted(registry.get(name).model, config.model, ml_1m.train, ml_1m.catalogue)
    options = config.evaluate.model_copy(update={"top_k": (10,), "bootstrap": 0})
    metrics = evaluation.evaluate(model, *ml_1m.cases("test"), ml_1m.catalogue, options).metrics
    assert (round(metrics["hit_rate@10"], 4), round(metrics["ndcg@10"], 4)) == (hit_rate, ndcg)
