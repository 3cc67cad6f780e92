"""From runs to judged vectors, as main.py does it: exported, merged, judged, and never made of what is asked."""

import json

import numpy as np
import pytest

import main
from zoo import judging
from zoo.data.dataset import DataError

SMALL = "sample.num_users=150,behaviour.min_visits=2,judge.probe_epochs=1"

pytestmark = pytest.mark.once


def run(action, directory, *knobs):
    options = ["--model", "client_stats"] if action.startswith("train") else []
    return main.main([action, *options, "--run-dir", str(directory), "--override", ",".join([SMALL, *knobs])])


def test_vectors_are_exported_merged_and_judged(tmp_path, capsys):
    made, merged = tmp_path / "stats", tmp_path / "merged"
    assert run("train_validation_model", made) == 0
    assert run("export_embeddings", made) == 0
    assert np.load(made / "embeddings.npy").dtype == np.float16
    assert run("merge_embeddings", merged, f"folders={made},{made}") == 0
    assert json.loads((merged / "entry.json").read_text()) == json.loads((made / "entry.json").read_text())
    assert run("evaluate_embeddings", merged, f"folders={made},{merged}") == 0
    rows = json.loads((merged / "judge.json").read_text())["rows"]
    assert set(rows) == {str(made), str(merged), "zeros", "random", "stats"}
    assert rows[str(merged)]["width"] == 2 * rows[str(made)]["width"]
    # What the whole log has made is not judged by its end.
    assert run("train_production_model", made) == 0
    assert run("export_embeddings", made) == 0
    capsys.readouterr()
    for folder in (made, merged):
        run("merge_embeddings", merged, f"folders={made},{made}")
        assert run("evaluate_embeddings", merged, f"folders={folder}") == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{folder}: knows events before" in error and "predict.production=false" in error
    assert run("export_embeddings", made, "predict.production=false") == 0
    assert run("evaluate_embeddings", merged, f"folders={made}") == 0
    again = json.loads((merged / "judge.json").read_text())["rows"][str(made)]
    assert again["mean"] == rows[str(made)]["mean"]
    # Of vectors that do not say what they know, the merged ones do not say it either.
    (made / "entry.json").unlink()
    assert run("merge_embeddings", merged, f"folders={made}") == 0
    assert not (merged / "entry.json").exists()
    (made / "entry.json").write_text("{")
    assert run("evaluate_embeddings", merged, f"folders={made}") == 2
    assert "entry.json: is damaged; export the vectors again" in capsys.readouterr().err


def test_a_run_that_the_judge_refuses_is_there_and_resumed_is_judged_alone(tmp_path, monkeypatch, capsys):
    made, metrics = tmp_path / "made", tmp_path / "made" / "metrics.json"
    made.mkdir()
    metrics.write_text("{}")  # of an earlier run
    knobs = f"{SMALL},sample.num_days=60,sample.events_per_user=8,judge.probe=linear,train.epochs=1,text_epochs=0"
    command = ["train_validation_model", "--model", "behav_e", "--preset", "tiny", "--run-dir", str(made)]
    command += ["--override", knobs]

    def refuse(*_):
        raise DataError("refused")

    with monkeypatch.context() as patched:
        patched.setattr(judging, "judge", refuse)
        assert main.main(command) == 2
    assert capsys.readouterr().err.strip().endswith("error: refused") and not metrics.exists()
    assert run("export_embeddings", made) == 0
    vectors = np.load(made / "embeddings.npy")
    for told in ("the training in", "this run is finished"):
        capsys.readouterr()
        assert main.main([*command, "--resume"]) == 0
        output = capsys.readouterr().out
        assert told in output and "epoch 1/1" not in output
        assert "behav_e" in json.loads(metrics.read_text())["judge"]
    assert not (made / "unfinished").exists()
    assert run("export_embeddings", made) == 0
    np.testing.assert_array_equal(np.load(made / "embeddings.npy"), vectors)


def test_knobs_that_nothing_would_read_are_refused(tmp_path, capsys):
    assert run("train_validation_model", tmp_path, "data.until=2020-01-01") == 2
    assert "data.until is for interactions" in capsys.readouterr().err
    assert run("train_validation_model", tmp_path) == 0
    assert run("export_embeddings", tmp_path, "predict.histories=new.csv") == 2
    assert "predict.histories is for models of interactions" in capsys.readouterr().err
    assert run("export_embeddings", tmp_path, "predict.users=3,5") == 0
    assert np.load(tmp_path / "client_ids.npy").tolist() == [3, 5]
