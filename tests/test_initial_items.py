"""A run's item vectors as the start of another model's item table: matched by id, scaled, or refused in one line."""

from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from config import ConfigError, RunConfig, SampleConfig, override
from zoo import artifacts, backends, initial_items, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.vocabulary import NUM_SPECIALS

SAMPLE = SampleConfig(num_users=80, num_items=40, num_days=30, events_per_user=10)


def shop(names=str, items=slice(None)):
    """The sample; item i is called names(i), and only `items` of them are there."""
    dataset = sources.load(RunConfig().data, SAMPLE, 0)
    kept = np.zeros(len(dataset.items), bool)
    kept[items] = True
    events = dataset.events.take(kept[dataset.events.item])
    ids = np.array([*map(names, dataset.items.ids.tolist())], object if names is str else np.int64)
    return Dataset(
        Events(events.user, events.item, events.timestamp), dataset.users, Entities(ids), dataset.clock, name="shop"
    )


def fresh(name, prepared, *assignments):
    config = override(registry.get(name).preset("tiny"), ["train.epochs=1,train.monitor=loss", *assignments])
    backends.seed(0)
    return config, artifacts.build(name, config, prepared.catalogue)


def saved(directory, name, split, trained_on="train", **knobs):
    """A run of random vectors."""
    prepared = prepare(split)
    config, model = fresh(name, prepared, *(f"model.{key}={value}" for key, value in knobs.items()))
    facts = {"split_sha256": split.sha256}
    artifacts.save(directory, name, config, model, trained_on=trained_on, facts=facts)
    return SimpleNamespace(model=model, catalogue=prepared.catalogue)


def table(model):
    return keras.ops.convert_to_numpy(model.item_id.table)


def cosine(one, other):
    return (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "bert4rec", "hstu", "two_tower", "item2vec"])
def test_items_of_the_same_id_start_alike_and_others_at_random(tmp_path, name, capsys):
    """The source knows the odd items alone, as texts; here they are numbers, so that tokens differ."""
    source = saved(tmp_path, "item2vec", splits.leave_one_out(shop(str, slice(1, None, 2))))
    prepared = prepare(splits.leave_one_out(shop(int)))
    _, model = fresh(name, prepared)
    before = table(model).copy()
    initial_items.start_from(tmp_path, model, prepared)
    after = table(model)
    ids = prepared.catalogue.items.ids[: prepared.catalogue.items.num_trained].tolist()
    there = dict(zip(source.catalogue.items.ids.tolist(), source.model.item_vectors()[NUM_SPECIALS:], strict=True))
    known = np.array([str(item) in there for item in ids])
    assert 0 < known.sum() < len(ids)
    rows, start = after[NUM_SPECIALS:], before[NUM_SPECIALS:]
    wanted = np.stack([there[str(item)] for item, found in zip(ids, known, strict=True) if found])
    np.testing.assert_allclose(cosine(rows[known], wanted), 1, rtol=1e-5)
    np.testing.assert_array_equal(rows[~known], start[~known])
    np.testing.assert_array_equal(after[:NUM_SPECIALS], before[:NUM_SPECIALS])
    np.testing.assert_allclose(np.square(rows[known]).mean(), np.square(start).mean(), rtol=1e-4)
    assert f"{known.sum()} of {len(ids)} items start" in capsys.readouterr().out


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "tables", "knobs"),
    [
        ("gru4rec", ["item_id", "input_id"], "constrained_embedding=false"),
        ("two_tower", ["item_id", "history_id"], "max_length=8,shared_items=false"),
        ("cross_domain", ["user_items"], "num_blocks=1"),
    ],
)
def test_every_table_of_items_starts_with_them(tmp_path, name, tables, knobs):
    split = splits.leave_one_out(sources.load(RunConfig().data, SAMPLE, 0))
    if name == "cross_domain":
        split = splits.split(split.dataset, registry.get(name).preset("tiny").split, 0)
    source = saved(tmp_path, "item2vec", split, embedding_dim=16)
    _, model = fresh(name, prepare(split), f"embedding_dim=16,{knobs}")
    initial_items.start_from(tmp_path, model, prepare(split))
    for each in tables:
        rows = keras.ops.convert_to_numpy(getattr(model, each).table)[NUM_SPECIALS:]
        wanted = source.model.item_vectors()[NUM_SPECIALS:][: len(rows)]
        np.testing.assert_allclose(cosine(rows, wanted), 1, rtol=1e-5)


@pytest.mark.once
def test_a_bias_is_no_part_of_a_vector(tmp_path):
    split = splits.leave_one_out(shop())
    source = saved(tmp_path, "two_tower", split, item_bias="true")
    assert source.model.item_matrix().shape[1] == source.model.item_vectors().shape[1] + 1
    prepared = prepare(split)
    _, model = fresh("sasrec", prepared)
    initial_items.start_from(tmp_path, model, prepared)


@pytest.mark.once
def test_training_begins_there_and_resumes_without_it(tmp_path):
    split = splits.leave_one_out(shop())
    source = saved(tmp_path / "source", "item2vec", split)
    prepared = prepare(split)
    config, model = fresh("sasrec", prepared, f"initial_items={tmp_path / 'source'},learning_rate=1e-12")
    training.fit(model, registry.get("sasrec"), prepared, config, tmp_path / "run")
    size = prepared.catalogue.items.trained_size
    np.testing.assert_allclose(
        cosine(table(model)[NUM_SPECIALS:], source.model.item_vectors()[NUM_SPECIALS:size]), 1, rtol=1e-5
    )
    (tmp_path / "source").rename(tmp_path / "gone")
    training.fit(model, registry.get("sasrec"), prepared, config, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match="train it first"):
        training.fit(model, registry.get("sasrec"), prepared, config, tmp_path / "run")


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("sasrec", {"name": "item2vec", "embedding_dim": 8}, "have width 8, the item table of SASRec has 16"),
        ("sasrec", {"name": "item_knn"}, "item_knn has no item vectors"),
        ("sasrec", {"name": "item2vec", "trained_on": "everything"}, "test part included; give its validation run"),
        ("sasrec", {"name": "item2vec", "split": splits.leave_one_out(shop(lambda i: i + 10**6))}, "none of the"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, name, source, message):
    split = splits.leave_one_out(shop(int))
    saved(tmp_path, **{"split": split, **source})
    prepared = prepare(split)
    _, model = fresh(name, prepared)
    with pytest.raises(ConfigError, match=message) as caught:
        initial_items.start_from(tmp_path, model, prepared)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.once
def test_a_source_of_another_split_is_warned_of_and_production_takes_production(tmp_path, capsys):
    dataset = shop()
    saved(tmp_path, "item2vec", splits.everything(dataset).__class__(dataset, splits.leave_one_out(dataset).part, "x"))
    prepared = prepare(splits.leave_one_out(shop(items=slice(0, 30))))
    initial_items.start_from(tmp_path, fresh("sasrec", prepared)[1], prepared)
    assert "warning: train.initial_items=" in capsys.readouterr().out
    production = Path(tmp_path / "production")
    saved(production, "item2vec", splits.everything(dataset), trained_on="everything")
    prepared = prepare(splits.everything(dataset))
    initial_items.start_from(tmp_path, fresh("sasrec", prepared)[1], prepared)
    output = capsys.readouterr().out
    assert str(production) in output and "warning" not in output
