"""The judge: the validator's rules, the table, and what it does where there is little to measure."""

import json
from dataclasses import replace

import numpy as np
import pytest

from config import ConfigError, JudgeConfig, SampleConfig
from tests.small_behaviour import log_of
from zoo import judging, probe
from zoo.data.behaviour import labels, windows
from zoo.data.behaviour.labels import PROPENSITIES, TASKS, Task
from zoo.data.behaviour.log import ADD, BUY
from zoo.data.behaviour.sources import sample
from zoo.data.dataset import DataError
from zoo.judge_metrics import auroc, diversity, list_popularity

RELEVANT = np.array([7, 3, 11, 5])
QUICK = JudgeConfig(probe_epochs=2, probe_batch=32)


def entry(ids=RELEVANT, width=6, dtype=np.float16, seed=0):
    return np.array(ids), np.random.default_rng(seed).standard_normal((len(ids), width)).astype(dtype)


def write(folder, ids, vectors, **files):
    np.save(folder / "client_ids.npy", ids)
    np.save(folder / "embeddings.npy", vectors)
    for name, content in files.items():
        (folder / f"{name}.npy").write_bytes(content)


# ---------------------------------------------------------------------------------------- the validator


@pytest.mark.once
def test_a_shuffled_entry_is_one(tmp_path):
    write(tmp_path, *entry(RELEVANT[::-1]))
    ids, vectors = judging.read_entry(tmp_path, RELEVANT)
    assert ids.tolist() == RELEVANT[::-1].tolist() and vectors.shape == (4, 6)


def spoilt(value, row=2):
    ids, vectors = entry()
    vectors[row, 1] = value
    return ids, vectors


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((RELEVANT[:, None], entry()[1]), r"client ids of shape \(4, 1\); wanted one dimension"),
        ((RELEVANT.astype(np.int32), entry()[1]), "client ids of type int32; wanted int64"),
        ((RELEVANT.astype(np.float64), entry()[1]), "client ids of type float64"),
        ((RELEVANT.astype(str), entry()[1]), "wanted int64, as in the log"),
        (entry(RELEVANT[:3]), "3 client ids; wanted the 4 relevant clients"),
        (entry([7, 3, 11, 12]), "1 relevant clients are missing, such as 5"),
        (entry([7, 3, 11, 11]), "1 relevant clients are missing, such as 5"),
        ((RELEVANT, np.zeros(4, np.float16)), r"embeddings of shape \(4,\); wanted two dimensions"),
        ((RELEVANT, np.zeros((4, 2, 1), np.float16)), r"embeddings of shape \(4, 2, 1\)"),
        (entry(width=2049), "2,049 wide; wanted 2,048 at most"),
        (entry(dtype=np.float32), "embeddings of type float32; wanted float16"),
        ((RELEVANT, np.zeros((4, 2), np.int64)), "embeddings of type int64"),
        (spoilt(np.nan), "a number that is NaN, first in row 3"),
        (spoilt(-np.inf), "a number that is infinite, first in row 3"),
        ((RELEVANT, entry()[1][:3]), "4 client ids and 3 embeddings"),
        (entry(width=0), "0 wide"),
    ],
)
def test_each_rule_of_the_validator_is_one_line(tmp_path, content, message):
    write(tmp_path, *content)
    with pytest.raises(DataError, match=message) as error:
        judging.read_entry(tmp_path, RELEVANT)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.once
@pytest.mark.parametrize("name", ["client_ids", "embeddings"])
def test_a_file_that_is_missing_empty_a_pickle_or_no_array(tmp_path, name):
    import pickle

    write(tmp_path, *entry())
    path = tmp_path / f"{name}.npy"
    whole = path.read_bytes()
    np.savez(tmp_path / "several.npz", whole=np.zeros(3))
    several = (tmp_path / "several.npz").read_bytes()
    broken = [b"", pickle.dumps([1, 2]), whole[:-3], b"text", several[:40], whole[:20]]
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    for content in (*broken, (tmp_path / "objects.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.npy: not a file of numpy.save without pickle") as error:
            judging.read_entry(tmp_path, RELEVANT)
        assert "\n" not in str(error.value)
    path.write_bytes(several)
    with pytest.raises(DataError, match="holds several arrays"):
        judging.read_entry(tmp_path, RELEVANT)
    path.unlink()
    with pytest.raises(DataError, match=f"no {name}.npy"):
        judging.read_entry(tmp_path, RELEVANT)


@pytest.mark.once
def test_the_first_broken_rule_is_named_in_the_official_order():
    ids, vectors = entry(RELEVANT[:3], width=2049, dtype=np.float32)
    vectors[0] = np.nan
    broken = [
        ((ids[:, None].astype(np.int32), vectors[None]), "one dimension"),
        ((ids.astype(np.int32), vectors[None]), "int64"),
        ((ids, vectors[None]), "3 client ids"),
        ((RELEVANT, vectors[None]), "two dimensions"),
        ((RELEVANT, vectors), "wide"),
        ((RELEVANT, vectors[:, :5]), "float16"),
        ((RELEVANT, vectors[:, :5].astype(np.float16)), "NaN"),
        ((RELEVANT, np.full((3, 5), np.inf, np.float16)), "infinite"),
        ((RELEVANT, vectors[1:, :5].astype(np.float16)), "4 client ids and 2"),
    ]
    for arrays, message in broken:
        with pytest.raises(DataError, match=message):
            judging.check(arrays, RELEVANT, "entry")


@pytest.mark.once
def test_text_ids_are_those_of_a_log_with_text_ids():
    names = np.array(["b", "a", "ä"], object)
    judging.check((np.array(["a", "ä", "b"]), np.zeros((3, 1), np.float16)), names, "entry")
    with pytest.raises(DataError, match="wanted text"):
        judging.check((np.arange(3), np.zeros((3, 1), np.float16)), names, "entry")


# ---------------------------------------------------------------------------------------- one score


@pytest.mark.once
def test_a_score_weighs_its_parts_and_counts_labels_of_one_class_officially_as_zero():
    rng = np.random.default_rng(0)
    truth = (rng.random((50, 4)) < 0.3).astype(np.float32)
    truth[:, 1] = 0
    everyone, popularity = np.ones(50, bool), np.array([4.0, 3, 2, 1])
    logits = (rng.standard_normal((50, 4)) - 6).astype(np.float32)
    found = judging.score(Task("propensity_sku", everyone, truth, truth, popularity), logits)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    areas = auroc(truth, probabilities)[[0, 2, 3]]
    rest = 0.1 * (1 - list_popularity(probabilities, popularity).mean()) ** 100 + 0.1 * diversity(probabilities).mean()
    assert found["score"] == pytest.approx(0.8 * areas.mean() + rest)
    assert found["official"] == pytest.approx(0.8 * areas.sum() / 4 + rest)
    churn = judging.score(Task("churn", everyone, truth, truth), logits)
    assert churn["score"] == pytest.approx(areas.mean()) and "novelty" not in churn


@pytest.mark.once
def test_logits_within_zero_and_one_are_logits():
    """There, such a batch is taken for probabilities; novelty would tell."""
    truth = np.eye(4, dtype=np.float32)
    task = Task("propensity_sku", np.ones(4, bool), truth, truth, np.ones(4))
    logits = np.full((4, 4), 0.25, np.float32)
    expected = (1 - 1 / (1 + np.exp(-0.25))) ** 100
    assert judging.score(task, logits)["novelty"] == pytest.approx(expected)


# ---------------------------------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def world():
    """(log, windows, rows of clients, tasks)."""
    log = sample.read(SampleConfig(num_users=300, num_items=90, num_days=60, events_per_user=24))
    targets = windows.official(log, 14)
    return log, targets, log.relevant(), labels.tasks(log, log.relevant(), targets, 20)


@pytest.fixture(scope="module")
def table(world):
    log, targets, clients, tasks = world
    oracle = np.concatenate([tasks[name].validation - tasks[name].validation.mean(axis=0) for name in tasks], axis=1)
    blank = np.ones((len(clients), 2), np.float16)
    order = np.random.default_rng(0).permutation(len(clients))
    entries = {
        "oracle": (log.clients[clients], oracle),
        "shuffled": (log.clients[clients][order], oracle[order]),
        "blank": (log.clients[clients], blank),
    }
    return judging.judge(log, targets, clients, entries, QUICK, 20)


def test_nothing_random_and_statistics_stand_in_every_table(table):
    assert list(table.rows) == ["zeros", "random", "stats", "oracle", "shuffled", "blank"]
    for row in table.rows.values():
        assert set(row["tasks"]) == set(TASKS)
        for name, task in row["tasks"].items():
            assert 0 <= task["score"] <= 1 and task["epoch"] in (1, 2)
            assert task["official"] <= task["score"] + 1e-12
            assert ("novelty" in task) == (name in PROPENSITIES)
        low, high = row["interval"]
        assert low <= row["mean"] <= high
        assert row["mean"] == pytest.approx(np.mean([task["score"] for task in row["tasks"].values()]))
    mean = {name: row["mean"] for name, row in table.rows.items()}
    assert mean["oracle"] > 0.7 and min(mean.values()) > 0.4
    assert max(mean[name] for name in ("zeros", "random", "stats", "blank")) < 0.6
    assert table.rows["zeros"]["tasks"]["churn"]["score"] == 0.5  # one vector for all: every pair a tie
    assert table.rows["oracle"]["tasks"]["conversion"]["score"] > 0.99


def test_the_order_of_an_entry_does_not_matter(table):
    ours, theirs = (dict(table.rows[name]) for name in ("oracle", "shuffled"))
    del ours["seconds"], theirs["seconds"]
    assert ours == theirs


def test_points_differences_and_notes(table):
    points = [row["borda"] for row in table.rows.values()]
    assert sum(points) == len(TASKS) * 5 * 6 / 2 and max(points) == table.rows["oracle"]["borda"]
    first = {(pair["embeddings"], pair["against"]): pair for pair in table.paired}
    assert set(first) == {(name, "stats") for name in ("oracle", "shuffled", "blank")} | {
        ("oracle", "shuffled"),
        ("oracle", "blank"),
    }
    assert first["oracle", "shuffled"]["interval"] == [0, 0]
    low, high = first["oracle", "stats"]["interval"]
    assert 0 < low < first["oracle", "stats"]["difference"] < high
    assert "blank: 2 of 2 columns are the same for all clients" in table.notes
    assert any("300 clients, thin probe, best of 2 epochs" in note for note in table.notes)
    json.dumps(table.rows, allow_nan=False)
    text = table.markdown()
    assert len(text.split("\n\n")[0].splitlines()) == 2 + 6
    assert "| oracle |" in text and "oracle against stats: +" in text


@pytest.mark.once
def test_logistic_regression_may_ask(world):
    log, targets, clients, tasks = world
    # What is learned and what is asked, in one sum: logistic regression finds the one and so ranks by the other.
    oracle = np.concatenate([tasks[name].train + tasks[name].validation for name in tasks], axis=1)
    linear = JudgeConfig(probe="linear")
    table = judging.judge(log, targets, clients, {"oracle": (log.clients[clients], oracle)}, linear, 20)
    mean = {name: row["mean"] for name, row in table.rows.items()}
    assert mean["oracle"] > 0.8 and max(mean["zeros"], mean["random"]) < 0.6
    assert any("300 clients, linear probe, seed 0" in note for note in table.notes)
    few = judging.judge(log, targets, clients[:3], {}, linear, 20)
    assert all(np.isfinite(task["score"]) for row in few.rows.values() for task in row["tasks"].values())


@pytest.mark.once
def test_the_same_seed_gives_the_same_table_and_another_another(world):
    log, targets, clients, _ = world
    scores = [
        [row["mean"] for row in judging.judge(log, targets, clients[:80], {}, QUICK, 10, seed).rows.values()]
        for seed in (0, 0, 1)
    ]
    assert scores[0] == scores[1] and scores[0][1] != scores[2][1]


@pytest.mark.once
def test_entries_that_break_a_rule_or_take_a_name(world):
    log, targets, clients, _ = world
    ids = log.clients[clients]
    for vectors, message in (
        (np.full((300, 2), 1e6, np.float32), "ours: embeddings hold 1e"),
        (np.full((300, 2), np.nan, np.float32), "ours: .*NaN"),
        (np.ones((299, 2), np.float16), "ours: 300 client ids and 299"),
    ):
        with pytest.raises(DataError, match=message):
            judging.judge(log, targets, clients, {"ours": (ids, vectors)}, QUICK, 20)
    with pytest.raises(ConfigError, match="'stats': that row is always in the table"):
        judging.judge(log, targets, clients, {"stats": (ids, np.ones((300, 2)))}, QUICK, 20)


# ---------------------------------------------------------------------------------------- little to measure


def little(events, num_clients, **asked):
    log = log_of(events, num_clients, category=[0, 0, 1], price=[1, 2, 3], asked=asked)
    return log, windows.official(log, 5), log.relevant()


def test_tasks_with_labels_of_one_class_are_left_out_and_said():
    """Everybody buys in the second window, and always product 0; category 1 and the other products have no buyer."""
    before = [(client, ADD, 1, 0) for client in range(6)] + [(0, BUY, 2, 0), (1, BUY, 3, 2), (2, BUY, 4, 1)]
    first = [(client, BUY, 22, 0) for client in range(3)]
    second = [(client, BUY, 28, 0) for client in range(6)]
    log, targets, clients = little(before + first + second, 6)
    table = judging.judge(log, targets, clients, {}, QUICK, 20)
    assert table.rows["stats"]["tasks"] == {} and table.rows["stats"]["mean"] is None
    assert table.rows["stats"]["borda"] == 0
    left_out = [note for note in table.notes if "left out" in note]
    assert len(left_out) == 6
    assert any(note.startswith("churn: left out; in the second window its labels are the same") for note in left_out)
    assert any(note.startswith("propensity_new_sku: left out; nothing was bought") for note in left_out)
    assert "| stats |" in table.markdown()


@pytest.mark.once
def test_fewer_labels_than_ten_and_some_without_buyers():
    before = [(client, BUY, client % 3, client % 3) for client in range(12)]
    first = [(client, BUY, 22, 0) for client in range(4)]
    second = [(client, BUY, 28, client % 2) for client in range(5)]
    log, targets, clients = little(before + first + second, 12)
    table = judging.judge(log, targets, clients, {}, QUICK, 20)
    tasks = table.rows["stats"]["tasks"]
    assert set(tasks) == set(TASKS) - {"propensity_new_sku"}
    assert any(note.startswith("propensity_sku: 1 of 3 labels are the same for all") for note in table.notes)
    assert (
        "propensity_sku: the rarer outcome occurs 5 times in the second window; the score is mostly chance"
        in table.notes
    )
    sku = tasks["propensity_sku"]
    assert sku["official"] < sku["score"]
    assert np.isfinite([task["score"] for task in tasks.values()]).all()


def test_one_client_and_none_active():
    log, targets, clients = little([(0, BUY, 1, 0), (0, BUY, 22, 1), (0, BUY, 28, 1)], 1)
    table = judging.judge(log, targets, clients, {"ours": entry([100])}, QUICK, 20)
    assert table.rows["ours"]["mean"] is None and table.paired == []
    nobody = replace(log, asked={"active_clients": np.zeros(0, np.int64)})
    table = judging.judge(nobody, targets, clients, {}, QUICK, 20)
    assert "churn: left out; none of the 1 clients is active" in table.notes


@pytest.mark.once
def test_the_full_probe_is_as_large_as_the_challenges(monkeypatch):
    """Asked about one task: nobody bought before the targets, and the first window's product not in the second."""
    made = []

    def kept(*arguments):
        made.append(probe.Probe(*arguments))
        return made[-1]

    monkeypatch.setattr(judging, "Probe", kept)
    monkeypatch.setattr(judging, "_always", lambda *_: {"random": entry(range(6))[1]})  # a row takes a second or two
    monkeypatch.setattr(probe, "PREDICTED", 8)  # else a thousand copies of the last client are predicted, too
    before = [(client, ADD, 1, client % 3) for client in range(6)]
    log, targets, clients = little([*before, (0, BUY, 22, 0), (1, BUY, 22, 0), (1, BUY, 28, 1), (2, BUY, 28, 1)], 6)
    table = judging.judge(log, targets, clients, {}, JudgeConfig(probe="full", probe_epochs=1, probe_batch=6), 20)
    assert made[0].count_params() - 2_048 * (made[0].dim + 1) == pytest.approx(50.4e6, rel=1e-3)
    row = table.rows["random"]
    assert list(row["tasks"]) == ["conversion"] and np.isfinite([row["mean"], *row["interval"]]).all()
    assert any("6 clients, full probe, epoch, seed 0" in note for note in table.notes)


@pytest.mark.once
def test_churn_counts_active_clients_alone(world):
    log, targets, clients, tasks = world
    active = tasks["churn"].clients
    assert 0 < active.sum() < len(clients)
    # Knows who churns among the active, and misleads about all others.
    truth = tasks["churn"].validation[:, 0] - 0.5
    vectors = np.where(active, truth, -truth)[:, None].astype(np.float16)
    table = judging.judge(log, targets, clients, {"ours": (log.clients[clients], vectors)}, QUICK, 20)
    assert table.rows["ours"]["tasks"]["churn"]["score"] > 0.99 > table.rows["ours"]["tasks"]["conversion"]["score"]
