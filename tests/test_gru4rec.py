"""Session-parallel GRU4Rec against an implementation of its own in NumPy, forward, backward and Adagrad."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

from config import ConfigError, override
from tests.test_contract import SAMPLE, hit_rate, prepared_sample, train
from tests.test_sequences import ITEMS, catalogue, histories
from zoo import artifacts, backends, registry, training
from zoo.data.histories import Histories
from zoo.data.loaders.session_parallel import SessionParallelLoader, take_turns
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN
from zoo.layers.embedding import RowEmbedding

SPEC = registry.get("gru4rec")
SLOTS, NEGATIVES, DIM = 8, 5, 6
V = NUM_SPECIALS + ITEMS


def configured(*assignments):
    config = override(SPEC.preset("tiny"), ["training=session_parallel", f"batch_size={SLOTS}", *assignments])
    return override(config, [f"num_negatives={NEGATIVES}"])


def sessions(count=60, seed=0):
    """Some with too little in them, and not in the order of time."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 9, count)
    lengths[-1] = 25
    log = histories(lengths, seed, unknown=False)
    start = np.repeat(rng.permutation(count) * 10**6, lengths)
    time = start + np.arange(len(log.item))
    return Histories(log.user, log.offsets, log.item, time)


# ------------------------------------------------------------------------------------------------------- schedule


@given(st.lists(st.integers(1, 6), max_size=40), st.integers(1, 7))
def test_sessions_take_turns(counts, slots):
    batch, slot = take_turns(np.array(counts, np.int64), slots)
    free_at = [0] * slots
    for count, begin, chosen in zip(counts, batch, slot, strict=True):
        assert chosen == free_at.index(min(free_at)) and begin == free_at[chosen]
        free_at[chosen] += count


def test_an_epoch_reads_every_session_once_in_one_slot():
    log = sessions()
    loader = SessionParallelLoader(log, catalogue(), configured())
    loader.set_epoch(0)
    read, open_ = {}, [None] * SLOTS
    begun = []
    for i in range(len(loader)):
        x, y, weight = loader[i]
        assert x["item"].shape == x["fresh"].shape == y.shape == weight.shape == (SLOTS, 1)
        for slot in range(SLOTS):
            item, following = int(x["item"][slot, 0]), int(y[slot, 0])
            assert (weight[slot, 0] > 0) == (following != PAD) == (item != PAD)
            if item == PAD:
                assert not x["fresh"][slot, 0]
                continue
            if x["fresh"][slot, 0]:
                open_[slot] = len(begun)
                begun.append(slot)
                read[open_[slot]] = [item]
            assert read[open_[slot]][-1] == item
            read[open_[slot]].append(following)
    lists = [log.item[a:b].tolist() for a, b in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    by_time = sorted((r for r in range(len(log)) if len(lists[r]) > 1), key=lambda r: log.timestamp[log.offsets[r]])
    assert list(read.values()) == [lists[r] for r in by_time]


def test_batches_depend_on_seed_epoch_and_index_alone():
    configs = [configured("loss=bpr_max", f"seed={seed}") for seed in (0, 0, 1)]
    first, twin, other = (SessionParallelLoader(sessions(), catalogue(), config) for config in configs)
    first.set_epoch(3)
    before = first[2]
    first[0], first[5]
    twin.set_epoch(3)
    for key, value in twin[2][0].items():
        np.testing.assert_array_equal(value, before[0][key])
    np.testing.assert_array_equal(twin[2][1], before[1])
    twin.set_epoch(4)
    other.set_epoch(3)
    for changed in (twin, other):
        np.testing.assert_array_equal(changed[2][1], before[1])  # no shuffle
        assert (changed[2][0]["negatives"][SLOTS:] != before[0]["negatives"][SLOTS:]).any()


def test_a_log_without_times_is_read_in_its_own_order_and_weights_count():
    log = histories([3, 2, 4])
    x, _, weight = SessionParallelLoader(log, catalogue(), configured())[0]
    assert x["item"][:4, 0].tolist() == [*log.item[log.offsets[:-1]], PAD]
    following = log.item[log.offsets[:-1] + 1]
    expected = np.where(following > UNKNOWN, log.columns["weight"][log.offsets[:-1] + 1], 0)
    np.testing.assert_array_equal(weight[:3, 0], expected.astype(np.float32))


def test_empty_slots_are_no_candidates():
    x, _, weight = SessionParallelLoader(histories([3, 2]), catalogue(), configured("loss=bpr_max"))[0]
    assert weight[2:].sum() == 0
    assert x["excluded"][:, 2:SLOTS].all() and not x["excluded"][:, SLOTS:].any()
    assert x["excluded"][:2, :2].tolist() == [[True, weight[1, 0] == 0], [weight[0, 0] == 0, True]]


# ------------------------------------------------------------------------------------ the whole of it, in NumPy


class Reference:
    """One layer of GRU4Rec as the official code trains it, in float64: the batch shrinks where sessions run out."""

    def __init__(self, config, weights, counts):
        self.config, self.counts = config, counts
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.squares = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.moments = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.input = "item_id" if config.model.constrained_embedding else "input_id"

    def epoch(self, lists, drawn):
        """Loss of each batch. `drawn` gives the negatives of the i-th."""
        waiting = list(range(len(lists)))
        running = [[waiting.pop(0), 0] for _ in range(min(SLOTS, len(lists)))]
        hidden = np.zeros((len(running), DIM))
        found = []
        while running:
            items = np.array([lists[s][i] for s, i in running])
            targets = np.array([lists[s][i + 1] for s, i in running])
            loss, hidden = self.step(items, hidden, np.concatenate([targets, drawn(len(found))]))
            found.append(loss)
            kept = []
            for row, place in enumerate(running):
                place[1] += 1
                if place[1] + 1 == len(lists[place[0]]):
                    hidden[row] = 0
                    if not waiting:
                        continue
                    place[:] = waiting.pop(0), 0
                kept.append(row)
            running, hidden = [running[row] for row in kept], hidden[kept]
        return found

    def step(self, items, hidden, candidates):
        w = self.w
        x = w[self.input][items]
        a, b = x @ w["kernel"] + w["bias"], hidden @ w["recurrent_kernel"] + w["recurrent_bias"]
        reset, update = expit(a[:, :DIM] + b[:, :DIM]), expit(a[:, DIM : 2 * DIM] + b[:, DIM : 2 * DIM])
        new = np.tanh(a[:, 2 * DIM :] + reset * b[:, 2 * DIM :])
        state = (1 - update) * new + update * hidden
        scores = state @ w["item_id"][candidates].T + w["bias_id"][candidates, 0]
        losses, d_scores = getattr(self, self.config.model.loss)(scores, candidates)
        d_scores /= SLOTS
        d_state = d_scores @ w["item_id"][candidates]
        d_new = d_state * (1 - update) * (1 - new**2)
        d_update = d_state * (hidden - new) * update * (1 - update)
        d_reset = d_new * b[:, 2 * DIM :] * reset * (1 - reset)
        d_a = np.concatenate([d_reset, d_update, d_new], axis=1)
        d_b = np.concatenate([d_reset, d_update, d_new * reset], axis=1)
        gradients = {name: np.zeros_like(value) for name, value in w.items()}
        gradients["kernel"], gradients["bias"] = x.T @ d_a, d_a.sum(0)
        gradients["recurrent_kernel"], gradients["recurrent_bias"] = hidden.T @ d_b, d_b.sum(0)
        np.add.at(gradients["item_id"], candidates, d_scores.T @ state)
        np.add.at(gradients["bias_id"], candidates, d_scores.sum(0)[:, None])
        np.add.at(gradients[self.input], items, d_a @ w["kernel"].T)
        touched = {"item_id": candidates, "bias_id": candidates, self.input: items}
        if self.input == "item_id":
            touched["item_id"] = np.concatenate([candidates, items])
        for name, gradient in gradients.items():
            rows = np.unique(touched[name]) if name in touched else slice(None)
            self.squares[name][rows] += gradient[rows] ** 2
            step = self.config.train.learning_rate * gradient[rows] / np.sqrt(self.squares[name][rows] + 1e-6)
            self.moments[name][rows] = self.config.train.momentum * self.moments[name][rows] - step
            w[name][rows] += self.moments[name][rows]
        return losses.sum() / SLOTS, state

    def sampled_softmax(self, scores, candidates):
        n, model = len(scores), self.config.model
        count = np.log(self.counts[candidates])
        count[n:] *= model.popularity_power
        logits = scores - model.logq * count
        return -np.diag(log_softmax(logits, axis=1)), softmax(logits, axis=1) - np.eye(*scores.shape)

    def bpr_max(self, scores, candidates):
        model = self.config.model
        if model.elu:
            slope = np.where(scores > 0, 1, model.elu * np.exp(scores))
            scores = np.where(scores > 0, scores, model.elu * np.expm1(scores))
        own = np.eye(*scores.shape, dtype=bool)
        p = softmax(np.where(own, -np.inf, scores), axis=1)
        above = expit(scores[own][:, None] - scores)
        total = (p * above).sum(1, keepdims=True)
        size = (p * scores**2).sum(1, keepdims=True)
        bell = p * above * (1 - above)
        d = -(p * (above - total) - bell) / total + model.score_penalty * (p * (scores**2 - size) + 2 * p * scores)
        d[own] = -bell.sum(1) / total[:, 0]
        return -np.log(total[:, 0]) + model.score_penalty * size[:, 0], d * slope if model.elu else d

    def top1_max(self, scores, candidates):
        own = np.eye(*scores.shape, dtype=bool)
        p = softmax(np.where(own, -np.inf, scores), axis=1)
        below, size = expit(scores - scores[own][:, None]), expit(scores**2)
        each = (p * (below + size)).sum(1, keepdims=True)
        bell = p * below * (1 - below)
        d = p * (below + size - each) + bell + 2 * p * scores * size * (1 - size)
        d[own] = -bell.sum(1)
        return each[:, 0], d


@pytest.mark.parametrize(
    "options",
    [
        "loss=sampled_softmax,popularity_power=0.75,logq=1",
        "loss=sampled_softmax,popularity_power=0.5,logq=0.5,constrained_embedding=false,momentum=0.3",
        "loss=bpr_max,elu=0.5,score_penalty=0.9,momentum=0.15,popularity_power=0.3",
        "loss=bpr_max,elu=0.5,score_penalty=0.9,momentum=0.15,popularity_power=0.3,touched_items=true",
        "loss=sampled_softmax,constrained_embedding=false,touched_items=true",
        "loss=bpr_max,elu=0,score_penalty=0",
        "loss=top1_max,momentum=0.1",
    ],
)
def test_a_hundred_batches_as_in_numpy(options):
    """With sessions that run out: their last batches have fewer than there are slots."""
    config = configured(options, "item_bias=true,optimizer=adagrad,learning_rate=0.05,dropout=0,embedding_dim=6")
    log, items = sessions(), catalogue()
    model = SPEC.model(config.model, items)
    rng = np.random.default_rng(8)
    for variable in model.trainable_variables:
        variable.assign(rng.uniform(-0.4, 0.4, variable.shape))
    paths = [variable.path.split("/") for variable in model.trainable_variables]
    names = [path[-2] if path[-1] == "embeddings" else path[-1] for path in paths]
    weights = dict(zip(names, model.trainable_variables, strict=True))
    arrays = {name: keras.ops.convert_to_numpy(variable) for name, variable in weights.items()}
    reference = Reference(config, arrays, items.item_counts)
    loader = SPEC.stages[0].loader(log, items, config)
    loader.set_epoch(0)
    model(loader[0][0])
    rows = [layer for layer in model.layers if isinstance(layer, RowEmbedding)]
    model.compile(optimizer=training.make_optimizer(config.train, 0.05, model.trainable_variables, rows))
    lists = [log.item[a:b].tolist() for a, b in zip(log.offsets[:-1], log.offsets[1:], strict=True)]
    lists = sorted(zip(log.timestamp[log.offsets[:-1].clip(max=len(log.item) - 1)], lists, strict=True))
    lists = [items for _, items in lists if len(items) > 1]
    ours, theirs, epoch = [], [], 0
    while len(ours) < 100:
        loader.set_epoch(epoch)
        theirs += reference.epoch(lists, lambda i: loader[i][0]["negatives"][SLOTS:])
        for i in range(len(loader)):
            model.reset_metrics()
            batch = keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i])  # as `fit` does
            ours.append(float(model.train_on_batch(*batch)))
        epoch += 1
    assert loader[len(loader) - 1][2].sum() < SLOTS, "the last batch should not be full"
    assert epoch > 1 and len(ours) == len(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    for name, variable in weights.items():
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), reference.w[name], rtol=1e-3, atol=1e-3, err_msg=name
        )


def test_a_row_forgets_what_another_session_left():
    """The state of the slot whose session is over, and of no other, begins at zero."""
    model = SPEC.model(configured().model, catalogue())
    first = {"item": np.array([[4], [5]], np.int32), "fresh": np.array([[True], [True]])}
    then = {"item": np.array([[6], [7]], np.int32), "fresh": np.array([[False], [True]])}
    model(first)
    states = keras.ops.convert_to_numpy(model(then))
    log = Histories(np.zeros(2, np.int32), np.array([0, 2, 3]), np.array([4, 6, 7], np.int32))
    np.testing.assert_allclose(states, model.vectors(log), rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------ it is a model of the zoo


@pytest.mark.parametrize("options", ["loss=bpr_max,elu=1", "loss=sampled_softmax,num_layers=2,units=24,momentum=0.2"])
def test_it_learns_is_saved_and_loaded(options, tmp_path):
    config = configured(options, "batch_size=64,optimizer=adagrad,learning_rate=0.2,epochs=4")
    config = override(config, ["num_negatives=32"])
    config = config.model_copy(update={"sample": SAMPLE})
    prepared = prepared_sample(config)
    model = train("gru4rec", config, prepared, tmp_path / "training")
    popular = train("most_popular", registry.get("most_popular").preset("tiny"), prepared, tmp_path / "popular")
    rules = config.evaluate
    assert hit_rate(model, prepared, rules)[0] > 1.3 * hit_rate(popular, prepared, rules)[0]
    artifacts.save(tmp_path, "gru4rec", config, model, trained_on="train", facts={})
    loaded = artifacts.load(tmp_path).model
    some = prepared.cases("test")[0].take(np.arange(20))
    np.testing.assert_array_equal(loaded.score(some), model.score(some))


def test_shared_negatives_are_what_session_parallel_has():
    with pytest.raises(ConfigError, match="share_negatives=true"):
        configured("share_negatives=false")


def test_a_wide_state_and_several_layers_see_their_own_history_only():
    config = override(SPEC.preset("tiny"), ["units=9,num_layers=2,embedding_dim=4,constrained_embedding=false"])
    backends.seed(0)
    model = SPEC.model(config.model, catalogue())
    log = histories([3, 9, 1, 30, 5])
    alone = np.concatenate([model.vectors(log.take(slice(i, i + 1))) for i in range(len(log))])
    np.testing.assert_allclose(model.vectors(log), alone, rtol=1e-5, atol=1e-6)
