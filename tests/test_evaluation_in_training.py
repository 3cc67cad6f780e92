"""Evaluation while a model is trained, and of targets one by one."""

import keras
import numpy as np
import pytest

from config import ConfigError, EvaluateConfig, ModelConfig, RunConfig, override
from tests.test_evaluation import PLAIN, Table, make_histories, random_case
from zoo import evaluation
from zoo.data import splits
from zoo.data.catalogue import prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.histories import Prefixes
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.evaluation import evaluate
from zoo.recommender import Recommender, Scorer

# ---------------------------------------------------------------------------------------- during training


class Dots:
    """A loader for `Dot`: the user token is all it gives."""

    @staticmethod
    def inputs(histories, catalogue, model_config):
        return {"user": histories.user}


class Dot(Recommender):
    loader = Dots

    def __init__(self, catalogue, dim=4):
        super().__init__(ModelConfig(), catalogue)
        self.users = keras.layers.Embedding(catalogue.users.size, dim, embeddings_initializer="glorot_normal")
        self.items = keras.layers.Embedding(catalogue.items.size, dim, embeddings_initializer="glorot_normal")
        self.users.build()
        self.items.build()

    def call(self, x, training=False):
        return self.users(x["user"])

    def encode_users(self, inputs):
        return self(inputs)

    def item_embeddings(self):
        return keras.ops.convert_to_tensor(self.items.embeddings)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        scores = keras.ops.matmul(y_pred, keras.ops.transpose(self.item_embeddings()))
        return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, scores, from_logits=True))


@pytest.fixture
def trainable():
    keras.utils.set_random_seed(0)
    catalogue, _, histories, targets = random_case(num_users=30)
    model = Dot(catalogue)
    model.compile(optimizer=keras.optimizers.Adam(0.05))
    targets = [[max(one[0], NUM_SPECIALS)] for one in targets]
    return model, make_histories(histories), make_histories(targets)


def test_a_recommender_is_ranked_as_its_scores_are(trainable):
    model, histories, targets = trainable
    by_vectors = evaluate(model, histories, targets, model.catalogue, PLAIN)
    by_scores = evaluate(Table(model.score(histories), model.catalogue), histories, targets, model.catalogue, PLAIN)
    assert by_vectors.metrics == pytest.approx(by_scores.metrics)
    np.testing.assert_array_equal(by_vectors.ranks["rank"], by_scores.ranks["rank"])


def test_items_with_one_vector_tie_whatever_the_matrix_product_rounds(trainable):
    model, histories, targets = trainable
    random = np.random.default_rng(0)
    rows = random.normal(size=(2, 37)).astype(np.float32)
    items = np.where(np.arange(model.catalogue.items.size)[:, None] < 20, rows[:1], rows[1:])
    vectors = random.normal(size=(len(histories), 37)).astype(np.float32)
    model.item_matrix = lambda: items
    model.vector_batches = lambda histories: iter([(histories, vectors)])
    scores = np.where(np.arange(len(items)) < 20, *(vectors @ row[:, None] for row in rows))
    found = evaluate(model, histories, targets, model.catalogue, PLAIN)
    expected = evaluate(Table(scores, model.catalogue), histories, targets, model.catalogue, PLAIN)
    np.testing.assert_array_equal(found.ranks["rank"], expected.ranks["rank"])
    assert found.metrics == expected.metrics and found.gaps == expected.gaps


def run_config(*assignments):
    return override(RunConfig(), list(assignments))


def test_the_callback_gives_each_epoch_the_numbers_of_evaluate(trainable):
    model, histories, targets = trainable
    callback = evaluation.RankingEvaluation(histories, targets, model.catalogue, run_config("monitor=val_recall@7"))
    reported = []

    class Reader(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            result = evaluate(self.model, histories, targets, model.catalogue, EvaluateConfig(top_k=(7, 10)))
            reported.append((dict(logs), result.metrics))

    x, y = {"user": histories.user}, targets.item
    history = model.fit(x, y, epochs=4, batch_size=30, shuffle=False, verbose=0, callbacks=[callback, Reader()]).history
    assert set(history) == {"loss", "val_hit_rate@10", "val_ndcg@10", "val_recall@7"}
    for logs, expected in reported:
        for name in ("hit_rate@10", "ndcg@10", "recall@7"):
            assert logs[f"val_{name}"] == pytest.approx(expected[name])
    assert history["val_ndcg@10"][-1] > history["val_ndcg@10"][0]  # the weights it saw were those of the epoch


def test_early_stopping_reads_the_callback(trainable):
    model, histories, targets = trainable
    ranking = evaluation.RankingEvaluation(histories, targets, model.catalogue, run_config())
    stopping = keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", patience=1, min_delta=1)
    x, y = {"user": histories.user}, targets.item
    history = model.fit(x, y, epochs=9, batch_size=30, verbose=0, shuffle=False, callbacks=[ranking, stopping]).history
    assert len(history["val_ndcg@10"]) == 2


def test_validation_users_are_drawn_by_the_seed(trainable):
    model, histories, targets = trainable
    few = [
        evaluation.RankingEvaluation(histories, targets, model.catalogue, run_config("validation_users=8", f"seed={s}"))
        for s in (0, 0, 1)
    ]
    users = [callback.histories.user.tolist() for callback in few]
    assert users[0] == users[1] != users[2] and len(set(users[0])) == 8
    assert few[0].targets.user.tolist() == users[0]


@pytest.mark.parametrize("monitor", ["val_ndgc@10", "val_ndcg@ten", "val_ndcg@0", "val_diversity@1", "val_@3"])
def test_a_monitor_that_does_not_exist_is_refused(trainable, monitor):
    model, histories, targets = trainable
    with pytest.raises(ConfigError, match=rf"train.monitor={monitor}: "):
        evaluation.RankingEvaluation(histories, targets, model.catalogue, run_config(f"monitor={monitor}"))


def test_targets_one_by_one_are_ranked_after_all_that_came_before():
    """A rolling split of users: each event but the first is a target, and its history what its user did before it."""
    random = np.random.default_rng(4)
    user = np.sort(random.integers(0, 40, 300)).astype(np.int32)
    item = random.integers(0, 12, 300).astype(np.int32)
    dataset = Dataset(Events(user, item), Entities(np.arange(40)), Entities(np.arange(12)), clock="order")
    split = splits.by_user(dataset, 0.2, 0, rolling=True)
    prepared = prepare(split)
    histories, targets = prepared.cases("test")

    class LastItem(Scorer):
        """Scores by the last item, with another table for each."""

        catalogue = prepared.catalogue
        table = random.random((prepared.catalogue.items.size, prepared.catalogue.items.size)).astype(np.float32)

        def score(self, histories):
            return self.table[histories.item[histories.offsets[1:] - 1]]

    model = LastItem()
    found = evaluate(model, histories, targets, prepared.catalogue, EvaluateConfig(exclude_seen=False))
    hits: dict[int, list[bool]] = {}
    ranks = []
    for person in split.users("test"):
        mine = prepared.item_token[item[user == person]]
        for place in range(1, len(mine)):
            scores = model.table[mine[place - 1], NUM_SPECIALS:]
            ranks.append(int((scores >= scores[mine[place] - NUM_SPECIALS]).sum()))
            hits.setdefault(person, []).append(ranks[-1] <= 5)
    assert found.ranks["rank"].tolist() == ranks
    assert found.metrics["hit_rate@5"] == pytest.approx(np.mean([np.mean(one) for one in hits.values()]))
    assert found.slices["events"]["hit_rate@5"] == pytest.approx(np.mean([hit for one in hits.values() for hit in one]))
    assert found.counts["users"] == len(hits) and found.counts["targets"] == len(ranks)
    assert np.bincount(found.ranks["owner"]).tolist() == [len(one) for one in hits.values()]
    early = [one[:5] for one in hits.values()]  # the histories of up to five events
    assert found.slices["short_histories"]["users"] == len(hits)
    assert found.slices["short_histories"]["hit_rate@5"] == pytest.approx(np.mean([np.mean(one) for one in early]))
    low, high = found.intervals["hit_rate@5"]
    assert low <= found.metrics["hit_rate@5"] <= high


def test_the_users_of_a_quick_validation_bring_all_their_targets(trainable):
    model, _, _ = trainable
    lengths = np.array([1, 2, 3, 1, 2])
    people = make_histories([[3, 4, 5, 6]])
    targets = make_histories([[7]] * 5)
    owner = np.array([0, 0, 1, 2, 2])
    prefixes = Prefixes(people.take(np.zeros(3, np.int64)), owner, lengths)
    callback = evaluation.RankingEvaluation(prefixes, targets, model.catalogue, run_config("validation_users=1"))
    drawn = np.unique(callback.histories.owner)
    assert len(drawn) == 1 and len(callback.targets) == len(callback.histories) == np.count_nonzero(owner == drawn)
