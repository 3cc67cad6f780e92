"""item2vec: its loss against NumPy, its vectors of users, and what its items have for neighbours."""

from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from config import RunConfig, SampleConfig, override
from zoo import artifacts, backends, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.histories import Histories
from zoo.data.sources import synthetic
from zoo.data.vocabulary import NUM_SPECIALS, Vocabulary
from zoo.models.item2vec import Item2Vec, Item2VecConfig
from zoo.topk import top_k

SAMPLE = SampleConfig(num_users=240, num_items=90, num_days=60, events_per_user=24, noise=0.1)
ITEMS = 9


def model(**knobs):
    items = Vocabulary(np.arange(ITEMS + 2), ITEMS)  # the last two are known from features only
    catalogue = Catalogue(Vocabulary(np.arange(3), 3), items, np.ones(items.size, np.int64))
    made = Item2Vec(Item2VecConfig(embedding_dim=4, **knobs), catalogue)
    made.item_id.table.assign(np.random.default_rng(1).normal(0, 3, (ITEMS + NUM_SPECIALS, 4)))
    return made


def info_nce(anchors, positives, temperature, negative):
    """Both directions, row by row; `negative(b, token)` says whether a token is a negative of row b."""
    total = []
    for vectors, candidates in ((anchors, positives), (positives, anchors)):
        for b, (token, vector) in enumerate(vectors):
            logits = [vector @ candidates[b][1] / temperature]
            own = candidates[b][0]
            logits += [
                vector @ other / temperature
                for c, (name, other) in enumerate(candidates)
                if c != b and name not in (own, token) and negative(b, name)
            ]
            total.append(np.log(np.exp(logits).sum()) - logits[0])
    return np.mean(total)


@pytest.mark.parametrize("masked", [True, False])
def test_the_loss_is_info_nce_without_duplicates_and_known_pairs(masked):
    item2vec = model(mask_known=masked, temperature=0.2)
    anchor = np.array([3, 4, 3, 8, 5, 9], np.int32)
    positive = np.array([5, 5, 7, 3, 9, 6], np.int32)  # 5 is twice a positive, 3 and 9 are on both sides
    known = np.random.default_rng(0).random((6, 12)) < 0.3
    tokens = np.concatenate([anchor, positive])
    known = (known[:, None, :] & (tokens[:, None] == tokens[None, :])[None]).any(axis=2)  # of a token, not of a place
    x = {"history": anchor[:, None]} | ({"known": known} if masked else {})
    loss = item2vec.compute_loss(x, positive, item2vec(x), np.ones(6, np.float32))
    matrix = item2vec.item_matrix().astype(np.float64)
    pairs = [[(token, matrix[token]) for token in side.tolist()] for side in (anchor, positive)]
    expected = info_nce(*pairs, 0.2, lambda b, token: not (masked and known[b, tokens.tolist().index(token)]))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(loss), expected, rtol=1e-5)


def test_a_row_of_weight_zero_is_neither_row_nor_candidate():
    item2vec = model(mask_known=False)
    anchor, positive = np.array([3, 4, 5, 6], np.int32), np.array([7, 8, 9, 10], np.int32)

    def loss(rows, weight):
        x = {"history": anchor[:rows, None]}
        found = item2vec.compute_loss(x, positive[:rows], item2vec(x), np.array(weight, np.float32))
        return keras.ops.convert_to_numpy(found)

    np.testing.assert_allclose(loss(4, [1, 1, 1, 0]), loss(3, [1, 1, 1]), rtol=1e-6)


def test_a_users_vector_is_the_decayed_mean_of_his_last_items():
    item2vec = model(max_length=3, half_life=2.0)
    table = keras.ops.convert_to_numpy(item2vec.item_id.table).astype(np.float64)
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    lists = [[3], [4, 5], [6, 7, 8, 9]]
    offsets = np.cumsum([0, *map(len, lists)])
    histories = Histories(np.full(3, 3, np.int32), offsets, np.concatenate(lists).astype(np.int32))
    half = 0.5**0.5  # half a half-life
    sums = [unit[3], half * unit[4] + unit[5], half**2 * unit[7] + half * unit[8] + unit[9]]
    expected = np.stack([vector / np.linalg.norm(vector) for vector in sums])
    np.testing.assert_allclose(item2vec.vectors(histories), expected, atol=1e-5)
    scores = item2vec.score(histories)
    np.testing.assert_allclose(scores[0, 3], 1, atol=1e-5)
    assert np.abs(scores).max() <= 1 + 1e-5, "a cosine"
    assert not item2vec.item_matrix()[[0, 1, 2, ITEMS + 3, ITEMS + 4]].any(), "special and untrained items are zero"


def trained(config: RunConfig, prepared, directory):
    backends.seed(config.seed)
    made = artifacts.build("item2vec", config, prepared.catalogue)
    training.fit(made, registry.get("item2vec"), prepared, override(config, ["train.monitor=loss"]), directory)
    return made


def tiny(**sections):
    return registry.get("item2vec").preset("tiny").model_copy(update={"sample": SAMPLE, **sections})


@pytest.mark.once
def test_nearest_are_the_complement_and_the_category(tmp_path):
    config = tiny()
    plan = synthetic.shop(SAMPLE, 0).plan
    prepared = prepare(splits.split(sources.load(config.data, SAMPLE, 0), config.split, 0))
    matrix = trained(config, prepared, tmp_path).item_matrix()
    items = prepared.catalogue.items
    tokens = np.arange(NUM_SPECIALS, items.trained_size)
    itself = Histories(tokens, np.arange(len(tokens) + 1), tokens)
    nearest, _ = top_k(matrix[tokens], matrix, 5, exclude=itself)
    item, near = items.decode(tokens) - 1_000, items.decode(nearest) - 1_000  # the shop counts its items from 1000
    has = plan.complement[item] >= 0
    found = (plan.complement[item[has], None] == near[has]).any(axis=1).mean()
    alike = (plan.category[item][:, None] == plan.category[near]).mean()
    chance = np.mean([np.mean(plan.category[np.delete(item, i)] == plan.category[item[i]]) for i in range(len(item))])
    assert found > 0.9 and alike > 0.8, "by chance they would be .06 and .08"
    assert chance < 0.1


def test_of_an_item_in_no_pair_nothing_is_said(tmp_path):
    """Its random start would be drawn, recommended and handed on as if it had been learned."""
    items = [[0, 1, 2, 0, 4], [1, 0, 2, 1, 5], [2, 1, 0, 2, 6]] * 4
    minutes = [0, 1, 2, 3, 9000]
    log = {
        "user": np.repeat(np.arange(12), 5),
        "item": np.concatenate(items),
        "timestamp": np.tile(np.array(minutes) * 60, 12),
    }
    pd.DataFrame(log).to_csv(tmp_path / "log.csv", index=False)
    config = override(tiny(), ["path=" + str(tmp_path / "log.csv"), "epochs=2,batch_size=8,patience=null"])
    dataset = sources.load(config.data, SAMPLE, 0)
    prepared = prepare(splits.everything(dataset))
    matrix = trained(config, prepared, tmp_path).item_matrix()
    lonely = prepared.catalogue.items.encode(np.array([4, 5, 6]))
    assert not matrix[lonely].any()
    others = prepared.catalogue.items.encode(np.array([0, 1, 2]))
    np.testing.assert_allclose(np.linalg.norm(matrix[others], axis=1), 1, rtol=1e-5)


@pytest.mark.once
def test_only_training_users_are_seen(tmp_path):
    """By user: what those of validation and test do, all of it, changes nothing."""
    config = tiny(split=tiny().split.model_copy(update={"strategy": "by_user"}))
    split = splits.split(sources.load(config.data, SAMPLE, 0), config.split, 0)
    events = split.dataset.events
    other = events.item.copy()
    held_out = split.part != splits.TRAIN
    assert held_out.any()
    other[held_out] = np.random.default_rng(5).choice(np.unique(events.item[~held_out]), held_out.sum())
    changed = replace(split, dataset=replace(split.dataset, events=replace(events, item=other)))
    short = override(config, ["train.epochs=2"])
    one, two = (trained(short, prepare(part), tmp_path / str(i)) for i, part in enumerate((split, changed)))
    np.testing.assert_array_equal(one.item_matrix(), two.item_matrix())
