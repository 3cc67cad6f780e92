"""The command line as a person uses it: what it prints, what it writes, how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import main

ROOT = Path(__file__).parent.parent
SMALL = "sample.num_users=150,sample.num_items=60,sample.num_days=40,sample.events_per_user=16"
QUICK = f"{SMALL},train.epochs=2"


@pytest.fixture
def zoo(tmp_path, monkeypatch, capsys):
    """Runs main in this process in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = main.main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(error):
    lines = [line for line in error.strip().splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def test_the_whole_run_writes_what_it_promises(zoo, tmp_path):
    code, output, _ = zoo("--run-dir", "run", "--preset", "tiny", "--override", QUICK)
    assert code == 0
    run = tmp_path / "run"
    for directory in (run, run / "production"):
        for file in ("config.json", "vocabulary.npz", "model.weights.h5", "history.csv"):
            assert (directory / file).stat().st_size > 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"validation", "test", "audit"} <= set(metrics)
    assert 0 < metrics["test"]["hit_rate@10"] <= 1 and 0 < metrics["test"]["ndcg@10"] <= 1
    assert len(metrics["audit"]["split_sha256"]) == 64
    recommendations = json.loads((run / "recommendations.json").read_text())
    assert len(recommendations) == 150
    for items in recommendations.values():
        assert len({item for item, _ in items}) == len(items) > 0
        scores = [score for _, score in items]
        assert scores == sorted(scores, reverse=True)
    assert (tmp_path / "figures" / "report.html").exists()
    assert "hit_rate@10" in output
    assert not list(run.rglob(".*")) and not (run / "unfinished").exists()


def test_each_action_finds_the_run_of_the_one_before(zoo, tmp_path):
    arguments = ("--model", "item_knn", "--run-dir", "run", "--override", SMALL)
    assert zoo("train_validation_model", *arguments)[0] == 0
    code, _output, _ = zoo("evaluate", "--run-dir", "run", "--override", "evaluate.exclude_seen=false")
    assert code == 0
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["audit"]["seen_items"] != "excluded"
    code, _, error = zoo(
        "compute_predictions", "--run-dir", "run", "--override", "num_recommendations=3,predict.format=jsonl"
    )
    assert code == 0, error
    lines = (tmp_path / "run" / "recommendations.jsonl").read_text().splitlines()
    assert len(lines) == 150 and all(len(json.loads(line)["items"]) == 3 for line in lines)


def test_resuming_a_finished_run_changes_nothing(zoo, tmp_path):
    arguments = ("--run-dir", "run", "--preset", "tiny", "--override", QUICK)
    for action in ("train_validation_model", "train_production_model"):
        assert zoo(action, *arguments)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    for action in ("train_validation_model", "train_production_model"):
        code, output, _ = zoo(action, *arguments, "--resume")
        assert code == 0 and "nothing to resume" in output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_compare_models_writes_table_json_and_figure(zoo, tmp_path):
    arguments = ("--models", "most_popular,seq_item_knn,two_tower", "--preset", "tiny", "--run-dir", "cmp")
    code, output, error = zoo("compare_models", *arguments, "--override", QUICK)
    assert code == 0, error
    rows = json.loads((tmp_path / "cmp" / "comparison.json").read_text())["rows"]
    assert set(rows) == {"most_popular", "seq_item_knn", "two_tower"}
    assert all(0 <= row["ndcg@10"] <= 1 for row in rows.values())
    assert "two_tower" in (tmp_path / "cmp" / "comparison.md").read_text()
    assert (tmp_path / "cmp" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    code, output, _ = zoo("compare_models", *arguments, "--override", QUICK)
    assert code == 0 and output.count("already trained") == 3


def test_embeddings_line_up_with_their_ids(zoo, tmp_path):
    arguments = ("--run-dir", "run", "--preset", "tiny", "--override", QUICK)
    assert zoo("train_validation_model", *arguments)[0] == 0
    assert zoo("export_embeddings", "--run-dir", "run")[0] == 0
    run = tmp_path / "run"
    users, vectors = np.load(run / "client_ids.npy"), np.load(run / "embeddings.npy")
    items, matrix = np.load(run / "item_ids.npy"), np.load(run / "item_embeddings.npy")
    assert len(users) == len(vectors) == 150 and len(items) == len(matrix) and vectors.shape[1] == matrix.shape[1]
    assert np.isfinite(vectors.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("users", "items"),
    [
        (list(range(1, 13)), list(range(100, 112))),
        ([f"00{i}" for i in range(12)], [f"item {i}" for i in range(12)]),
        ([f'"u{i}"' for i in range(12)], [f"🎁{i},x" for i in range(12)]),
    ],
    ids=["integers", "zeros and spaces", "quotes and emoji"],
)
def test_ids_come_back_as_they_went_in(zoo, tmp_path, users, items):
    import pandas as pd

    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        [(user, item, 1_600_000_000 + int(rng.integers(1e6))) for user in users for item in rng.permutation(items)[:6]],
        columns=["user_id", "item_id", "timestamp"],
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    arguments = ("--model", "most_popular", "--data", "log.csv", "--run-dir", "run")
    assert zoo("train_production_model", *arguments)[0] == 0
    code, _, error = zoo("compute_predictions", *arguments, "--override", "num_recommendations=5")
    assert code == 0, error
    result = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    assert set(result) == {str(user) for user in users}
    assert {item for row in result.values() for item, _ in row} <= set(items)


def test_people_never_trained_on_get_recommendations(zoo, tmp_path):
    assert zoo("train_validation_model", "--model", "item_knn", "--run-dir", "run", "--override", SMALL)[0] == 0
    assert zoo("compute_predictions", "--run-dir", "run")[0] == 0
    known = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    item = next(iter(known.values()))[0][0]
    (tmp_path / "new.csv").write_text(f"user,item\nsomebody,{item}\nnobody,{item}\n")
    code, _, error = zoo("compute_predictions", "--run-dir", "run", "--override", "predict.histories=new.csv")
    assert code == 0, error
    result = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    assert set(result) == {"somebody", "nobody"} and result["somebody"] == result["nobody"]


def test_show_config_prints_json_with_the_overrides(zoo):
    code, output, _ = zoo("show_config", "--model", "two_tower", "--override", "epochs=7,top_k=3,9", "--data", "x.csv")
    assert code == 0
    config = json.loads(output)
    assert (
        config["train"]["epochs"] == 7 and config["evaluate"]["top_k"] == [3, 9] and config["data"]["path"] == "x.csv"
    )


def test_list_models_names_them_all(zoo):
    from zoo import registry

    code, output, _ = zoo("list_models")
    assert code == 0 and all(name in output for name in registry.list_models())


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["train_validation_modle"], "train_validation_model"),
        (["show_config", "--model", "two_towers"], "two_tower"),
        (["show_config", "--preset", "huge"], "base"),
        (["show_config", "--override", "epocs=3"], "epochs"),
        (["show_config", "--override", "epochs=three"], "integer"),
        (["show_config", "--override", "epochs"], "key=value"),
        (["train_validation_model", "--data", "nowhere.csv"], "nowhere.csv"),
        (["compute_predictions", "--run-dir", "nowhere"], "train one first"),
        (["compare_models"], "--models"),
        (["show_config", "--model", "sasrec", "--override", "num_heads=3"], "model: embedding_dim=64 is no multiple"),
        (["export_embeddings", "--run-dir", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_gets_one_line_and_exit_code_2(zoo, tmp_path, arguments, hint):
    code, _, error = zoo(*arguments)
    assert code == 2
    assert hint in one_line(error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", ["truncate config", "foreign json", "other weights", "other vocabulary", "no weights"]
)
def test_a_damaged_run_is_refused(zoo, tmp_path, damage):
    arguments = ("--model", "most_popular", "--override", SMALL)
    assert zoo("train_validation_model", *arguments, "--run-dir", "run")[0] == 0
    run = tmp_path / "run"
    if damage == "truncate config":
        (run / "config.json").write_text((run / "config.json").read_text()[:50])
    elif damage == "foreign json":
        (run / "config.json").write_text('{"model": "sasrec"}')
    elif damage == "no weights":
        (run / "model.weights.h5").unlink()
    else:
        assert zoo("train_validation_model", *arguments, "--run-dir", "b", "--override", "sample.num_items=50")[0] == 0
        file = "model.weights.h5" if damage == "other weights" else "vocabulary.npz"
        (run / file).write_bytes((tmp_path / "b" / file).read_bytes())
    code, _, error = zoo("compute_predictions", "--run-dir", "run")
    assert code == 2 and "run" in one_line(error)
    assert not (run / "recommendations.json").exists()


def test_a_full_disk_leaves_what_was_there(zoo, tmp_path, monkeypatch):
    arguments = ("--model", "most_popular", "--run-dir", "run", "--override", SMALL)
    assert zoo("train_validation_model", *arguments)[0] == 0
    assert zoo("compute_predictions", "--run-dir", "run")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device", "run")

    monkeypatch.setattr(os, "replace", full)
    for command in (("compute_predictions", "--run-dir", "run"), ("train_validation_model", *arguments)):
        code, _, error = zoo(*command)
        assert code == 2 and "No space left" in one_line(error)
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in (tmp_path / "run").iterdir() if path.is_file()} == set(before)


@pytest.mark.once
def test_a_disk_that_fills_up_in_training_ends_it_in_one_line(tmp_path):
    """In a process of its own: HDF5 dies of a full disk."""
    limited = (
        "import resource, sys; limit = resource.getrlimit(resource.RLIMIT_FSIZE);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]));"  # no file may grow beyond
        f"sys.path.insert(0, {str(ROOT)!r}); import main; sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", limited, "train_validation_model", "--model", "sasrec", "--preset", "tiny"]
    options = ["--run-dir", str(tmp_path / "run"), "--override", f"{SMALL},epochs=1"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2, result.stderr[-2000:]
    assert "error: " in result.stderr and "File too large" in result.stderr and "Traceback" not in result.stderr
    assert not list((tmp_path / "run").glob("**/*.h5"))


def test_a_run_of_another_model_is_refused(zoo):
    assert zoo("train_validation_model", "--model", "most_popular", "--run-dir", "run", "--override", SMALL)[0] == 0
    for action in ("evaluate", "compute_predictions", "export_embeddings"):
        code, _, error = zoo(action, "--model", "ease", "--run-dir", "run")
        assert code == 2 and "holds a run of most_popular" in one_line(error)
    assert zoo("evaluate", "--run-dir", "run")[0] == 0


@pytest.mark.once
@pytest.mark.parametrize("backend", ["jaxx", "tensorflow"])
def test_a_backend_that_is_not_there(backend, tmp_path):
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import importlib.util as u; f = u.find_spec\nu.find_spec = lambda n, p=None: n == 'jax' and f(n)"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, str(ROOT / "main.py"), "list_models"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert ("did you mean 'jax'" if backend == "jaxx" else "not installed") in one_line(result.stderr)


@pytest.mark.once
def test_a_run_of_one_backend_recommends_the_same_under_the_others(tmp_path):
    def command(backend, *arguments):
        environment = {**os.environ, "KERAS_BACKEND": backend}
        subprocess.run([sys.executable, str(ROOT / "main.py"), *arguments], env=environment, cwd=tmp_path, check=True)

    command("jax", "train_validation_model", "--run-dir", "run", "--preset", "tiny", "--override", QUICK)
    results = {}
    for backend in ("jax", "tensorflow", "torch"):
        command(backend, "compute_predictions", "--run-dir", "run", "--override", "num_recommendations=10")
        results[backend] = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    for backend in ("tensorflow", "torch"):
        assert results[backend].keys() == results["jax"].keys()
        for user, expected in results["jax"].items():
            assert [item for item, _ in results[backend][user]] == [item for item, _ in expected], (backend, user)
            np.testing.assert_allclose([s for _, s in results[backend][user]], [s for _, s in expected], rtol=1e-4)
