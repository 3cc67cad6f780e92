import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import EvaluateConfig
from zoo import evaluation, metrics
from zoo.data import splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.dataset import DataError, Dataset, Entities, Events
from zoo.data.features import FeatureTable
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN, Vocabulary
from zoo.evaluation import evaluate
from zoo.metrics import ACCURACY, MISS
from zoo.recommender import Scorer

DATA = Path(__file__).parents[2] / "shared" / "data"


class Table(Scorer):
    """Scores by user token, as written down."""

    def __init__(self, scores, catalogue):
        self.table, self.catalogue = np.asarray(scores, np.float32), catalogue

    def score(self, histories):
        return self.table[histories.user]


def make_catalogue(num_items, counts=None, num_users=50, num_trained=None):
    size = num_items + NUM_SPECIALS
    counts = np.arange(size) if counts is None else np.concatenate([np.zeros(NUM_SPECIALS, np.int64), counts])
    items = Vocabulary(np.arange(num_items), num_items if num_trained is None else num_trained)
    return Catalogue(Vocabulary(np.arange(num_users), num_users), items, counts)


def make_histories(lists):
    lengths = [len(one) for one in lists]
    items = np.array([item for one in lists for item in one], np.int32)
    return Histories(np.arange(len(lists), dtype=np.int32), np.cumsum([0, *lengths]), items)


def reference(scores, histories, targets, exclude_seen, ties_win=False):
    """Sorted ranks of every user's targets, one user and one item at a time."""
    result = []
    for row, (seen, wanted) in enumerate(zip(histories, targets, strict=True)):
        inside = {item for item in wanted if item != UNKNOWN}
        candidates = [
            i for i in range(NUM_SPECIALS, scores.shape[1]) if i in inside or not (exclude_seen and i in seen)
        ]
        candidates.sort(key=lambda i: (-scores[row, i], (i in inside) != ties_win))
        ranks = [candidates.index(item) + 1 for item in inside]
        result.append(sorted(ranks + [MISS] * wanted.count(UNKNOWN)))
    return result


def by_user(result):
    return [sorted(part.tolist()) for part in np.split(result.ranks["rank"], result.ranks["offsets"][1:-1])]


@st.composite
def cases(draw):
    num_items, num_users = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    token = st.integers(UNKNOWN, num_items + NUM_SPECIALS - 1)
    scores = draw(
        st.lists(
            st.lists(st.integers(-2, 2), min_size=num_items + NUM_SPECIALS, max_size=num_items + NUM_SPECIALS),
            min_size=num_users,
            max_size=num_users,
        )
    )
    histories = [draw(st.lists(token, max_size=6)) for _ in range(num_users)]
    targets = [draw(st.lists(token, min_size=1, max_size=5)) for _ in range(num_users)]
    return np.array(scores, np.float32), histories, targets


PLAIN = EvaluateConfig(bootstrap=0, top_k=(1, 2, 3))


# ---------------------------------------------------------------------------------------- ranks


@given(cases(), st.booleans(), st.sampled_from([1, 60, 10**6]))
@settings(deadline=None, max_examples=100)
def test_ranks_are_those_of_brute_force(case, exclude_seen, block_bytes):
    scores, histories, targets = case
    catalogue = make_catalogue(scores.shape[1] - NUM_SPECIALS)
    config = PLAIN.model_copy(update={"exclude_seen": exclude_seen})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "BLOCK_BYTES", block_bytes)
        result = evaluate(
            Table(scores, catalogue), make_histories(histories), make_histories(targets), catalogue, config
        )
    distinct = [list({i for i in one if i != UNKNOWN}) + [UNKNOWN] * one.count(UNKNOWN) for one in targets]
    expected = reference(scores, histories, distinct, exclude_seen)
    assert by_user(result) == expected
    optimistic = reference(scores, histories, distinct, exclude_seen, ties_win=True)
    offsets = np.cumsum([0, *map(len, expected)])
    for name, function in ACCURACY.items():
        mean = function(np.concatenate(expected).astype(int), offsets, 3).mean()
        best = function(np.concatenate(optimistic).astype(int), offsets, 3).mean()
        assert result.metrics[f"{name}@3"] == pytest.approx(mean, abs=1e-12)
        assert result.gaps[f"{name}@3"] == pytest.approx(best - mean, abs=1e-12)
    assert result.counts["targets"] + result.counts["targets_merged"] == sum(map(len, targets))
    assert result.counts["targets_outside_catalogue"] == sum(one.count(UNKNOWN) for one in targets)
    seen = sum(item in history for history, one in zip(histories, distinct, strict=True) for item in one if item > 2)
    assert result.counts["repeat_targets"] == seen


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_of_users_and_of_items_and_a_constant_change_nothing(case, random):
    scores, histories, targets = case
    catalogue = make_catalogue(scores.shape[1] - NUM_SPECIALS)
    # Every list is a whole catalogue, for which of equal items stands first does depend on their tokens.
    config = EvaluateConfig(bootstrap=0, top_k=(1, 2, 20))
    stable = [*(f"{name}@{k}" for name in ACCURACY for k in config.top_k), "coverage@20", "novelty@20", "popularity@20"]

    def measured(scores, histories, targets, catalogue=catalogue):
        model = Table(scores, catalogue)
        result = evaluate(model, make_histories(histories), make_histories(targets), catalogue, config)
        return {name: result.metrics[name] for name in stable}

    expected = pytest.approx(measured(scores, histories, targets), abs=1e-12)
    assert measured(scores + 7, histories, targets) == expected
    users = random.sample(range(len(scores)), len(scores))
    assert measured(scores[users], [histories[u] for u in users], [targets[u] for u in users]) == expected
    items = np.arange(scores.shape[1])
    items[NUM_SPECIALS:] = random.sample(range(NUM_SPECIALS, scores.shape[1]), scores.shape[1] - NUM_SPECIALS)
    moved, counts = np.empty_like(scores), np.empty_like(catalogue.item_counts)
    moved[:, items], counts[items] = scores, catalogue.item_counts
    renamed = [[[int(items[i]) for i in one] for one in lists] for lists in (histories, targets)]
    assert measured(moved, *renamed, replace(catalogue, item_counts=counts)) == expected


def test_a_constant_model_gets_the_worst_rank():
    catalogue = make_catalogue(10)
    model = Table(np.zeros((2, 13)), catalogue)
    result = evaluate(model, make_histories([[3, 4], []]), make_histories([[5], [6, 7]]), catalogue, PLAIN)
    assert by_user(result) == [[8], [9, 10]]  # ten items less two seen; two targets share the end
    assert result.metrics["ndcg@3"] == 0
    assert result.gaps["ndcg@3"] == pytest.approx(1)  # all of what `>` would have given it


def test_special_tokens_are_no_candidates_whatever_their_scores():
    catalogue = make_catalogue(4)
    scores = np.array([[np.nan, np.inf, 1e9, 1, 2, 3, 4]])
    result = evaluate(Table(scores, catalogue), make_histories([[UNKNOWN]]), make_histories([[6]]), catalogue, PLAIN)
    assert result.ranks["rank"].tolist() == [1]
    result = evaluate(Table(scores, catalogue), make_histories([[]]), make_histories([[UNKNOWN]]), catalogue, PLAIN)
    assert result.ranks["rank"].tolist() == [MISS] and result.counts["targets_outside_catalogue"] == 1


def test_a_repeat_is_ranked_among_unseen_items():
    catalogue = make_catalogue(4)
    model = Table([[0, 0, 0, 4, 3, 2, 1]], catalogue)
    histories, targets = make_histories([[3, 4, 5]]), make_histories([[5]])
    assert evaluate(model, histories, targets, catalogue, PLAIN).ranks["rank"].tolist() == [1]
    included = PLAIN.model_copy(update={"exclude_seen": False})
    result = evaluate(model, histories, targets, catalogue, included)
    assert result.ranks["rank"].tolist() == [3]
    assert result.counts["repeat_targets"] == result.slices["repeat_targets"]["targets"] == 1
    assert result.slices["new_targets"] == {"users": 0, "targets": 0}


def test_minus_infinity_is_a_miss():
    catalogue = make_catalogue(3)
    model = Table([[0, 0, 0, -np.inf, 1, 2]], catalogue)
    result = evaluate(model, make_histories([[]]), make_histories([[3, 5]]), catalogue, PLAIN)
    assert result.ranks["rank"].tolist() == [MISS, 1]


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_diverged_model_is_an_error_that_names_it(score):
    catalogue = make_catalogue(3)
    model = Table([[0, 0, 0, 1, score, 2]], catalogue)
    with pytest.raises(DataError, match=r"^Table scores NaN or infinity: .*learning_rate"):
        evaluate(model, make_histories([[]]), make_histories([[3]]), catalogue, PLAIN)


def test_users_without_target_are_left_out_and_nobody_is_an_error():
    catalogue = make_catalogue(3)
    model = Table([[0, 0, 0, 1, 2, 3]] * 3, catalogue)
    histories = make_histories([[], [5], []])
    result = evaluate(model, histories, make_histories([[], [4], []]), catalogue, PLAIN)
    assert result.counts["users_without_target"] == 2 and result.ranks["user"].tolist() == [1]
    assert result.metrics["hit_rate@1"] == 1
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(model, histories, make_histories([[], [], []]), catalogue, PLAIN)


def test_the_models_own_array_is_left_alone():
    catalogue = make_catalogue(4)
    scores = np.arange(14, dtype=np.float32).reshape(2, 7)
    model = Table(scores, catalogue)
    model.score = lambda histories: model.table
    evaluate(model, make_histories([[3], [4]]), make_histories([[5], [6]]), catalogue, PLAIN)
    np.testing.assert_array_equal(model.table, scores)
    model.score = lambda histories: np.broadcast_to(scores[0], (2, 7))  # may not be written to
    evaluate(model, make_histories([[3], [4]]), make_histories([[5], [6]]), catalogue, PLAIN)


# ---------------------------------------------------------------------------------------- lists, intervals, slices


def random_case(num_users=300, num_items=40, seed=0):
    random = np.random.default_rng(seed)
    catalogue = make_catalogue(num_items, random.integers(0, 30, num_items), num_users)
    scores = random.normal(size=(num_users, num_items + NUM_SPECIALS)).round(1)
    draw = lambda low, high: random.integers(UNKNOWN, num_items + NUM_SPECIALS, random.integers(low, high)).tolist()  # noqa: E731
    histories = [draw(0, 12) for _ in range(num_users)]
    return catalogue, scores, histories, [draw(1, 4) for _ in range(num_users)]


def test_metrics_of_lists_are_those_of_the_recommended_lists():
    catalogue, scores, histories, targets = random_case()
    result = evaluate(
        Table(scores, catalogue), make_histories(histories), make_histories(targets), catalogue, EvaluateConfig()
    )
    lists = []
    for row, seen in enumerate(histories):
        unseen = [i for i in range(NUM_SPECIALS, scores.shape[1]) if i not in seen]
        lists.append(sorted(unseen, key=lambda i: (-scores[row, i], i))[:10])
    lists = np.array(lists)
    held = np.zeros((scores.shape[1], len(histories)))
    for row, seen in enumerate(histories):
        held[[i for i in seen if i != UNKNOWN], row] += 1
    vectors = metrics.item_vectors(*np.nonzero(held), scores.shape[1])
    counts = catalogue.item_counts
    bits = -np.log2(np.maximum(counts, 1) / counts.sum())
    percentile = [np.mean((counts[3:] < c) + (counts[3:] == c) / 2) for c in counts]
    assert result.metrics["coverage@10"] == len(np.unique(lists)) / 40
    assert result.metrics["novelty@10"] == pytest.approx(bits[lists].mean())
    assert result.metrics["popularity@10"] == pytest.approx(np.array(percentile)[lists].mean())
    assert result.metrics["diversity@10"] == pytest.approx(metrics.diversity(lists, vectors).mean(), abs=0.02)
    assert "diversity@1" not in result.metrics  # one item is no pair


def test_items_are_described_by_their_features_where_there_are_any():
    catalogue, scores, histories, targets = random_case()
    bags = np.full((43, 2), PAD, np.int32)
    bags[NUM_SPECIALS:, 0] = 1  # all items are alike
    table = FeatureTable(bags, ("", "genre=drama"), np.zeros((43, 0), np.float32), ())
    alike = replace(catalogue, item_features=table)
    result = evaluate(Table(scores, alike), make_histories(histories), make_histories(targets), alike, PLAIN)
    assert result.metrics["diversity@3"] == pytest.approx(0, abs=1e-6)


def test_intervals_hold_the_means_and_are_seeded():
    catalogue, scores, histories, targets = random_case()
    cases = make_histories(histories), make_histories(targets)
    first, again, other = (
        evaluate(Table(scores, catalogue), *cases, catalogue, EvaluateConfig(), seed) for seed in (1, 1, 2)
    )
    assert first.intervals == again.intervals != other.intervals
    assert first.metrics == other.metrics
    assert set(first.metrics) - set(first.intervals) == {f"coverage@{k}" for k in (1, 5, 10, 20, 50)}
    for name, (low, high) in first.intervals.items():
        assert low <= first.metrics[name] <= high, name
    assert not evaluate(Table(scores, catalogue), *cases, catalogue, PLAIN).intervals


def test_slices_are_means_over_their_own_targets():
    catalogue, scores, histories, targets = random_case()
    result = evaluate(
        Table(scores, catalogue), make_histories(histories), make_histories(targets), catalogue, EvaluateConfig()
    )
    offsets, target, rank = (result.ranks[name] for name in ("offsets", "target", "rank"))
    hits = {name: [] for name in result.slices}
    for row, history in enumerate(histories):
        mine = slice(offsets[row], offsets[row + 1])
        chosen = {
            "cold_items": [t == UNKNOWN or catalogue.item_counts[t] <= 5 for t in target[mine]],
            "short_histories": [len(history) <= 5] * (mine.stop - mine.start),
            "repeat_targets": [t != UNKNOWN and t in history for t in target[mine]],
            "new_targets": [t == UNKNOWN or t not in history for t in target[mine]],
        }
        for name, mask in chosen.items():
            if any(mask):
                hits[name].append(np.mean(rank[mine][mask] <= 10))
    for name, values in hits.items():
        assert result.slices[name]["users"] == len(values)
        assert result.slices[name]["recall@10"] == pytest.approx(np.mean(values))
    halves = ("repeat_targets", "new_targets")
    assert sum(result.slices[name]["targets"] for name in halves) == result.counts["targets"]


def test_cuts_may_come_in_any_order_and_twice():
    catalogue, scores, histories, targets = random_case()
    cases = make_histories(histories), make_histories(targets)
    config = EvaluateConfig(top_k=(10, 5, 10), bootstrap=0)
    result = evaluate(Table(scores, catalogue), *cases, catalogue, config)
    assert (
        result.metrics == evaluate(Table(scores, catalogue), *cases, catalogue, EvaluateConfig(top_k=(5, 10))).metrics
    )


def test_memory_is_that_of_a_block(monkeypatch):
    num_users, num_items = 1500, 20_000
    catalogue = make_catalogue(num_items, num_users=num_users)
    row = np.random.default_rng(0).normal(size=(1, num_items + NUM_SPECIALS)).astype(np.float32)
    model = Table(row, catalogue)
    model.score = lambda histories: np.broadcast_to(row, (len(histories), row.shape[1]))
    monkeypatch.setattr(evaluation, "BLOCK_BYTES", 2**22)
    cases = make_histories([[3]] * num_users), make_histories([[4]] * num_users)
    tracemalloc.start()
    evaluate(model, *cases, catalogue, PLAIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < num_users * num_items * 4 / 3  # bytes


# ---------------------------------------------------------------------------------------- real data


def test_popularity_on_movielens_1m_is_that_of_the_literature():
    path = DATA / "ml-1m" / "sasrec_ml-1m.txt.gz"
    if not path.exists():
        pytest.skip("needs the pairs file of MovieLens-1M")
    pairs = pd.read_csv(path, sep=" ", header=None).to_numpy()
    users, user = np.unique(pairs[:, 0], return_inverse=True)
    items, item = np.unique(pairs[:, 1], return_inverse=True)
    order = np.argsort(user, kind="stable")
    events = Events(user[order].astype(np.int32), item[order].astype(np.int32))
    prepared = prepare(splits.leave_one_out(Dataset(events, Entities(users), Entities(items), clock="order")))
    model = Table(np.zeros((1, 1)), prepared.catalogue)
    popularity = prepared.catalogue.item_counts.astype(np.float32)
    model.score = lambda histories: np.broadcast_to(popularity, (len(histories), len(popularity)))
    histories, targets = prepared.cases("test")
    result = evaluate(model, histories, targets, prepared.catalogue, EvaluateConfig())
    assert round(result.metrics["hit_rate@10"], 4) == 0.0369
    assert round(result.metrics["ndcg@10"], 4) == 0.0180
    assert round(result.metrics["hit_rate@50"], 4) == 0.1391
    assert result.counts["users"] == 6040
