"""HSTU against a slow NumPy reference; what it may know of the future, of the clock and of its neighbours in a row."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from keras import ops
from scipy.special import expit

import main
from config import ConfigError, RunConfig, TrainConfig, override
from tests.test_parity import set_numpy_weights
from tests.test_sequences import catalogue
from zoo import registry
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.sequences import NextItemLoader
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.layers.hstu import time_buckets
from zoo.models.hstu import HSTU, HSTUConfig

MAX_LENGTH = 9
ITEMS = 20
LENGTHS = [1, 2, 3, 5, 9, 14]


def histories(lengths=LENGTHS, seed=0):
    """Histories with times: seconds, minutes, days and years apart, some at once."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item = rng.integers(NUM_SPECIALS, NUM_SPECIALS + ITEMS, offsets[-1]).astype(np.int32)
    gaps = 1000 * rng.choice([0, 1, 7, 100, 5_000, 90_000, 4_000_000], offsets[-1])
    times = 10**12 + np.concatenate([np.cumsum(gaps[a:b]) for a, b in itertools.pairwise(offsets)])
    asked = times[offsets[1:] - 1] + 1000 * rng.choice([0, 3, 50_000], len(lengths))
    return Histories(np.arange(len(lengths), dtype=np.int32), offsets, item, times.astype(np.int64), {}, asked)


def model_of(**knobs):
    config = {"embedding_dim": 8, "num_heads": 2, "max_length": MAX_LENGTH, "dropout": 0.0, "temperature": 1.0}
    model = HSTU(HSTUConfig(**config | knobs), catalogue())
    set_numpy_weights(model)
    return model


def normalise(x):
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)


def silu(x):
    return x * expit(x)


def reference(model, items, seconds, next_seconds):
    """The states after each event of one history, a pair of events at a time, in float64."""
    config = model.config
    weights = {w.path.split("/", 1)[1]: np.float64(ops.convert_to_numpy(w)) for w in model.trainable_variables}
    table = weights["item_id/embeddings"] * (np.arange(NUM_SPECIALS + ITEMS) >= NUM_SPECIALS)[:, None]
    x = table[items] * np.sqrt(config.embedding_dim) + weights["position/embeddings"][: len(items)]
    heads, query_dim, value_dim = config.num_heads, model.query_dim, model.value_dim
    for block in range(config.num_blocks):
        part = {name.split("/", 1)[1]: w for name, w in weights.items() if name.startswith(f"block_{block}/")}
        projected = silu(normalise(x) @ part["gate_value_query_key/kernel"])
        gate, value, query, key = np.split(projected, heads * np.cumsum([value_dim, value_dim, query_dim]), axis=1)
        mixed = np.zeros_like(value)
        for i in range(len(items)):
            for j in range(i + 1):
                bias = part["bias/by_distance/table"][0, i - j]
                if config.use_time:
                    apart = max(abs(next_seconds[i] - seconds[j]), 1)
                    bias = bias + part["bias/by_time"][0, min(int(np.log(apart) / 0.301), 128)]
                for h in range(heads):
                    q, v = slice(h * query_dim, (h + 1) * query_dim), slice(h * value_dim, (h + 1) * value_dim)
                    mixed[i, v] += silu(query[i, q] @ key[j, q] + bias) / config.max_length * value[j, v]
        x = x + (normalise(mixed) * gate) @ part["output/kernel"] + part["output/bias"]
    return x


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"query_time": True},
        {"use_time": False, "num_blocks": 3},
        {"query_dim": 3, "value_dim": 5, "num_blocks": 1},
        {"num_heads": 1, "query_time": True},
    ],
)
def test_equals_the_reference(knobs):
    model, log = model_of(**knobs), histories()
    vectors = model.vectors(log)
    for row, (start, stop) in enumerate(itertools.pairwise(log.offsets)):
        start = max(start, stop - MAX_LENGTH)
        seconds = (log.timestamp[start:stop] - log.timestamp[start]) // 1000
        following = seconds
        if model.config.query_time:
            following = np.append(seconds[1:], (log.query_time[row] - log.timestamp[start]) // 1000)
        last = reference(model, log.item[start:stop], seconds, following)[-1]
        np.testing.assert_allclose(vectors[row], last / np.linalg.norm(last), rtol=1e-5, atol=1e-5)


def test_buckets_are_of_the_logarithm():
    edges = np.exp(0.301 * np.arange(1, 72)).astype(np.int64)  # the last second of each bucket, where rounding shows
    seconds = np.unique(np.concatenate([[0, 60, 3600, 86_400, 2**31 - 1], edges, edges + 1]))
    apart = seconds[None].astype(np.int32)
    found = ops.convert_to_numpy(time_buckets(np.zeros((1, 1), np.int32), apart))[0, :, 0]
    assert found.tolist() == [int(np.log(max(seconds, 1)) / 0.301) for seconds in apart[0].tolist()]
    backwards = ops.convert_to_numpy(time_buckets(apart, np.zeros((1, 1), np.int32)))[0, 0]
    assert backwards.tolist() == found.tolist() and found.max() == 71


@pytest.mark.parametrize("query_time", [False, True])
@pytest.mark.parametrize("shift", [1, 500, 10**11, -(10**11)])
def test_a_shift_of_the_clock_changes_nothing(query_time, shift):
    model, log = model_of(query_time=query_time), histories()
    later = dataclasses.replace(log, timestamp=log.timestamp + shift, query_time=log.query_time + shift)
    np.testing.assert_array_equal(model.vectors(later), model.vectors(log))


def test_time_is_seen():
    model, log = model_of(), histories()
    start = log.timestamp[log.offsets[:-1]].repeat(log.lengths)
    slower = dataclasses.replace(log, timestamp=start + 50 * (log.timestamp - start))
    assert np.abs(model.vectors(slower) - model.vectors(log)).max() > 1e-4


def test_only_the_flag_shows_when_the_item_is_asked_for():
    log = histories()
    later = dataclasses.replace(log, query_time=log.query_time + 10**10)
    blind, told = model_of(), model_of(query_time=True)
    np.testing.assert_array_equal(blind.vectors(later), blind.vectors(log))
    assert np.abs(told.vectors(later) - told.vectors(log)).max() > 1e-4
    own = dataclasses.replace(log, query_time=log.timestamp[log.offsets[1:] - 1])
    np.testing.assert_array_equal(told.vectors(dataclasses.replace(log, query_time=None)), told.vectors(own))


def test_the_future_is_not_seen():
    """Neither later items nor later times change the state after an event."""
    model, seed = model_of(), np.random.default_rng(3)
    row = {
        "item": seed.integers(NUM_SPECIALS, NUM_SPECIALS + ITEMS, (1, MAX_LENGTH)).astype(np.int32),
        "position": np.arange(MAX_LENGTH, dtype=np.int32)[None],
        "segment": np.ones((1, MAX_LENGTH), np.int32),
        "time": np.cumsum(seed.integers(0, 10**5, (1, MAX_LENGTH)), axis=1).astype(np.int32),
    }
    states = ops.convert_to_numpy(model.states(row))
    for key, change in (("item", 1), ("time", 10**6)):
        other = {**row, key: row[key] + np.int32(change) * (np.arange(MAX_LENGTH) >= 5).astype(np.int32)}
        changed = ops.convert_to_numpy(model.states(other))
        np.testing.assert_allclose(changed[:, :5], states[:, :5], rtol=1e-6, atol=1e-6)
        assert np.abs(changed[:, 5:] - states[:, 5:]).max() > 1e-4


@pytest.mark.parametrize("query_time", [False, True])
def test_training_and_serving_see_the_same(query_time):
    """The state of every slot of a packed training row is that of its own beginning, served alone."""
    model, log = model_of(query_time=query_time), histories()
    config = RunConfig(model=model.config, train=TrainConfig(batch_size=len(log)))
    loader = NextItemLoader(log, catalogue(), config)
    x, _, _ = loader[0]
    states = ops.convert_to_numpy(model(x)).reshape(*x["item"].shape, -1)
    compared = 0
    for row in range(len(x["item"])):
        for segment in range(1, x["segment"][row].max() + 1):
            slots = np.flatnonzero(x["segment"][row] == segment)
            times = x["time"][row, slots].astype(np.int64) * 1000
            for n in range(1, len(slots) + 1):
                asked = x["next_time"][row, slots[n - 1], None].astype(np.int64) * 1000 if query_time else None
                start = Histories(np.zeros(1, np.int32), np.array([0, n]), x["item"][row, slots[:n]], times[:n])
                alone = model.vectors(dataclasses.replace(start, query_time=asked))
                np.testing.assert_allclose(states[row, slots[n - 1]], alone[0], rtol=1e-5, atol=1e-5)
                compared += 1
    assert compared == sum(min(n - 1, MAX_LENGTH) for n in LENGTHS)


@pytest.mark.parametrize("knobs", [{}, {"query_time": True}, {"use_time": False}])
def test_neighbours_in_the_row_change_nothing(knobs):
    model, log = model_of(**knobs), histories()
    alone = np.concatenate([model.vectors(log.take(slice(i, i + 1))) for i in range(len(log))])
    np.testing.assert_allclose(model.vectors(log), alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("query_time", [False, True])
def test_events_appended_with_their_times(query_time):
    """One event at a time through the cache is the whole history at once."""
    model, log = model_of(query_time=query_time), histories([MAX_LENGTH] * 4)
    items, stamps = log.item.reshape(4, -1), log.timestamp.reshape(4, -1)
    seconds = ((stamps - stamps[:, :1]) // 1000).astype(np.int32)
    cache = model.empty_cache(4)
    for n in range(MAX_LENGTH):
        first = max(n - 1, 0) if query_time else n  # when an item comes, it is known when the one before was followed
        events = slice(first, n + 1)
        inputs = {
            "item": items[:, events],
            "position": np.tile(np.arange(first, n + 1, dtype=np.int32), (4, 1)),
            "time": seconds[:, events],
        }
        beginning = Histories(log.user, np.arange(5) * (n + 1), items[:, : n + 1].ravel(), stamps[:, : n + 1].ravel())
        if query_time:
            asked = seconds[:, n] + 77
            inputs["next_time"] = np.column_stack([seconds[:, first + 1 : n + 1], asked]).astype(np.int32)
            beginning = dataclasses.replace(beginning, query_time=stamps[:, n] + 77_000)
        inputs, cache = ({k: ops.convert_to_tensor(v) for k, v in given.items()} for given in (inputs, cache))
        states, cache = model.extend(inputs, cache)
        mine = ops.convert_to_numpy(model.compared(states[:, -1]))
        np.testing.assert_allclose(mine, model.vectors(beginning), rtol=1e-5, atol=1e-5)


def test_a_log_without_times():
    log, model = histories(), model_of()
    timeless = dataclasses.replace(log, timestamp=None, query_time=None)
    at_once = dataclasses.replace(log, timestamp=np.zeros_like(log.timestamp))
    np.testing.assert_allclose(model.vectors(timeless), model.vectors(at_once), rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match=r"no timestamps.*query_time"):
        model_of(query_time=True).vectors(timeless)
    config = RunConfig(model=HSTUConfig(query_time=True, max_length=MAX_LENGTH))
    with pytest.raises(DataError, match=r"no timestamps.*query_time"):
        NextItemLoader(timeless, catalogue(), config)


def test_an_empty_history_among_timed_ones_is_scored():
    log = histories([3, 4])
    offsets = np.array([0, 3, 3, 7])
    log = Histories(np.zeros(3, np.int32), offsets, log.item, log.timestamp, {}, np.full(3, 2 * 10**12))
    model = model_of(query_time=True)
    vectors = model.vectors(log)
    assert np.isfinite(vectors).all()
    nobody = Histories(log.user[:1], np.zeros(2, np.int64), log.item[:0], log.timestamp[:0], {}, log.query_time[:1])
    np.testing.assert_allclose(model.vectors(nobody)[0], vectors[1], rtol=1e-5, atol=1e-6)


def test_knobs_that_do_not_fit_are_refused():
    preset = registry.get("hstu").preset("tiny")
    with pytest.raises(ConfigError, match="query_time=true needs use_time=true"):
        override(preset, ["query_time=true,use_time=false"])
    with pytest.raises(ConfigError, match="no multiple of num_heads"):
        override(preset, ["embedding_dim=10,num_heads=3"])
    assert override(preset, ["embedding_dim=10,num_heads=3,query_dim=4,value_dim=4"]).model.num_heads == 3


@pytest.mark.once
def test_the_command_line_says_when_the_item_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sample = "sample.num_users=80,sample.num_items=40,sample.num_days=40,sample.events_per_user=12"
    options = ["--model", "hstu", "--preset", "tiny", "--run-dir", "run"]
    main.main(["train_validation_model", *options, "--override", f"{sample},epochs=1,query_time=true"])
    assert "query time used" in capsys.readouterr().out
    audit = json.loads((tmp_path / "run" / "metrics.json").read_text())["audit"]
    assert audit["query_time"] is True and any("told the time of the target" in line for line in audit["warnings"])
    main.main(["compute_predictions", "--run-dir", "run"])
    assert "the end of the log; predict.time sets another" in capsys.readouterr().out
    latest = (tmp_path / "run" / "recommendations.json").read_text()
    main.main(["compute_predictions", "--run-dir", "run", "--override", "predict.time=2040-01-31"])
    assert "asked at 2040-01-31" in capsys.readouterr().out
    assert (tmp_path / "run" / "recommendations.json").read_text() != latest
    (tmp_path / "pairs.txt").write_text("".join(f"{user} {item}\n" for user in range(9) for item in range(user, 20)))
    timeless = ["--data", "pairs.txt", "--override", "layout=pairs,epochs=1"]
    assert (
        main.main(["train_validation_model", *options[:-1], "other", *timeless, "--override", "query_time=true"]) == 2
    )
    assert "no timestamps" in capsys.readouterr().err
    assert not main.main(["train_validation_model", *options[:-1], "other", *timeless])
    assert "query time not used" in capsys.readouterr().out
