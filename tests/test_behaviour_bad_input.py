"""What may be wrong with a log of behaviour, from the command line: it runs and tells, or one line says what to do."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import main
from zoo.data.behaviour.log import KINDS

pytestmark = pytest.mark.once

START = np.datetime64("2022-06-01T00:00:00")
COLUMN = dict(zip(KINDS, ("sku", "sku", "sku", "url", "query"), strict=True))
MODELS = ("client_stats", "behav_e", "ubt")


def shop(clients=24, days=60, seed=0):
    """{kind: [client, second, about]}: every client does something every other day."""
    rng = np.random.default_rng(seed)
    events = {kind: [] for kind in KINDS}
    for client in range(clients):
        for day in np.arange(client % 2, days, 2):
            kind = str(rng.choice(KINDS))
            about = {"url": int(rng.integers(0, 6)), "query": f"[{rng.integers(0, 9)} {rng.integers(0, 9)}]"}
            events[kind].append((client, int(day) * 86_400 + client, about.get(COLUMN[kind], int(rng.integers(0, 12)))))
    return events


PROPERTIES = {
    "sku": list(range(12)),
    "category": [i % 4 for i in range(12)],
    "price": [8 * i for i in range(12)],
    "name": [f"[{i} {i + 1}]" for i in range(12)],
}


def write(folder, events, properties=PROPERTIES, relevant=None):
    folder.mkdir()
    for kind, rows in events.items():
        table = {
            "client_id": pa.array([row[0] for row in rows], pa.int64()),
            "timestamp": pa.array([START + np.timedelta64(row[1], "s") for row in rows], pa.timestamp("s")),
            COLUMN[kind]: pa.array([row[2] for row in rows], pa.string() if COLUMN[kind] == "query" else pa.int64()),
        }
        pq.write_table(pa.table(table), folder / f"{kind}.parquet")
    pq.write_table(pa.table(properties), folder / "product_properties.parquet")
    clients = sorted({row[0] for rows in events.values() for row in rows}) if relevant is None else relevant
    (folder / "input").mkdir()
    np.save(folder / "input" / "relevant_clients.npy", np.array(clients, np.int64))
    return folder


def run(tmp_path, model, folder, *knobs):
    """Exit code of a validation run."""
    knobs = ["behaviour.min_visits=2", *([] if model == "client_stats" else ["train.epochs=1"]), *knobs]
    preset = [] if model == "client_stats" else ["--preset", "tiny"]
    arguments = ["--model", model, *preset, "--data", str(folder), "--run-dir", str(tmp_path / "run")]
    return main.main(["train_validation_model", *arguments, "--override", ",".join(knobs)])


def exported(tmp_path, model, folder):
    """(ids, vectors) that the run gives."""
    arguments = ["--run-dir", str(tmp_path / "run"), "--data", str(folder)]
    assert main.main(["export_embeddings", *arguments]) == 0
    return np.load(tmp_path / "run" / "client_ids.npy"), np.load(tmp_path / "run" / "embeddings.npy")


def without(events, wanted):
    """Events but those that `wanted` picks by (kind, row)."""
    return {kind: [row for row in rows if not wanted(kind, row)] for kind, rows in events.items()}


STRANGE = {  # what is told as JSON is the log's own; each trains and gives every relevant client a finite vector
    "clients without events": {"relevant": [*range(24), 1_000, 1_001]},
    "a sku that properties do not know": {"events": {"product_buy": [(1, 86_400, 77), (2, 40 * 86_400, 78)]}},
    "odd spacing of codes": {"events": {"search_query": [(1, 86_400, "[  7   8 ]"), (2, 9, "[1\n 2]"), (3, 5, "[]")]}},
    "fewer categories than negatives": {"properties": PROPERTIES | {"category": [1] * 12}},
    "one product": {"properties": {name: column[:1] for name, column in PROPERTIES.items()}, "one_product": True},
    "nobody searches or visits": {"lost": ("search_query", "page_visit")},
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", STRANGE)
def test_strange_logs_are_learned_from(tmp_path, monkeypatch, case, model):
    monkeypatch.chdir(tmp_path)
    told = STRANGE[case]
    events = shop()
    for kind, rows in told.get("events", {}).items():
        events[kind] += rows
    if told.get("one_product"):
        events = {
            kind: [(row[0], row[1], 0 if COLUMN[kind] == "sku" else row[2]) for row in rows]
            for kind, rows in events.items()
        }
    events = without(events, lambda kind, _: kind in told.get("lost", ()))
    folder = write(tmp_path / "log", events, told.get("properties", PROPERTIES), told.get("relevant"))
    assert run(tmp_path, model, folder) == 0
    ids, vectors = exported(tmp_path, model, folder)
    np.testing.assert_array_equal(ids, np.load(folder / "input" / "relevant_clients.npy"))
    assert np.isfinite(vectors.astype(np.float32)).all() and np.ptp(vectors.astype(np.float32), axis=0).max() > 0
    judged = json.loads((tmp_path / "run" / "metrics.json").read_text())["judge"]
    assert judged["random"]["mean"] >= 0


def test_merged_vectors_are_of_the_clients_whom_the_owner_asks_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "log", shop(), relevant=[5, 1_000, 2, 9])
    block = tmp_path / "block"
    block.mkdir()
    np.save(block / "client_ids.npy", np.array([2, 3, 9, 5]))
    np.save(block / "embeddings.npy", np.array([[2], [3], [9], [5]], np.float16))
    arguments = ["--data", str(folder), "--run-dir", str(tmp_path / "merged"), "--override", f"folders={block}"]
    assert main.main(["merge_embeddings", *arguments]) == 0
    assert np.load(tmp_path / "merged" / "client_ids.npy").tolist() == [5, 1_000, 2, 9]
    vectors = np.load(tmp_path / "merged" / "embeddings.npy")[:, 0]
    assert vectors[1] == 0 and np.argsort(vectors).tolist() == [2, 0, 1, 3]  # 2, 5, their mean, 9
    assert "1 of 4 clients are not in it" in capsys.readouterr().out


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("everybody", [True, False])
def test_labels_of_one_class_are_told(tmp_path, monkeypatch, capsys, everybody, model):
    """Everybody buys in the windows, or one client alone: the run says what cannot be measured and goes on."""
    monkeypatch.chdir(tmp_path)
    events = without(shop(), lambda kind, row: kind == "product_buy" and row[1] >= 32 * 86_400)
    events["product_buy"] += [(0, 33 * 86_400, 1), (0, 59 * 86_400, 1)]  # the windows end with the last one
    if everybody:
        events["product_buy"] += [(c, day * 86_400, c % 12) for c in range(24) for day in (33, 34, 50, 58)]
    assert run(tmp_path, model, write(tmp_path / "log", events)) == 0
    told = capsys.readouterr().out
    assert "are the same for all" in told or "is left out" in told, told


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("one second", "windows"),
        ("an empty input", "windows"),
        ("one client", "one client"),
        ("nothing bought", "purchases"),
    ],
)
def test_logs_of_which_nothing_can_be_learned_are_refused_in_one_line(
    tmp_path, monkeypatch, capsys, case, words, model
):
    monkeypatch.chdir(tmp_path)
    events = shop()
    if case == "one second":
        events = {kind: [(row[0], 0, row[2]) for row in rows] for kind, rows in events.items()}
    elif case == "an empty input":
        events = without(events, lambda _, row: row[1] < 33 * 86_400)
    elif case == "one client":
        events = without(events, lambda _, row: row[0] > 0)
    else:
        events = without(events, lambda kind, _: kind == "product_buy")
    if not events["product_buy"] and case != "nothing bought":
        events["product_buy"].append((0, 59 * 86_400, 1))
    code = run(tmp_path, model, write(tmp_path / "log", events))
    if case == "one client" and model == "client_stats":  # who counts learns from nobody else
        assert code == 0
        return
    message = capsys.readouterr().err.strip()
    assert code == 2 and message.count("\n") == 0 and message.startswith("error: "), message
    assert words in message and not (tmp_path / "run" / "model.weights.h5").exists()
