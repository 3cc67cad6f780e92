"""A training that is killed and started again ends with the bits of one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tiny_recommender as tiny

from config import ConfigError
from zoo import checkpoints

ROOT = Path(__file__).parent.parent
# All that has a memory: dropout, moments, averages, half-gathered gradients, the schedule, patience, and threads.
OPTIONS = [
    "epochs=6,optimizer=adamw,weight_decay=0.01,schedule=cosine,warmup_steps=3,ema=0.9,accumulate=3,clip_norm=1",
    "model.dropout=0.3,patience=4,workers=2,threads=2",
]


class Interruption(tiny.TinyScore):
    """Stops a training as Ctrl-C would, while an epoch is being evaluated or in the middle of its batches."""

    def __init__(self, at_epoch, at_batch=None, **kwargs):
        super().__init__(**kwargs)
        self.at_epoch, self.at_batch, self.epochs = at_epoch, at_batch, 0

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.epochs += 1
        if self.at_batch is None and self.epochs == self.at_epoch:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        if self.epochs + 1 == self.at_epoch and batch == self.at_batch:
            raise KeyboardInterrupt


def start(directory, *options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, tiny.__file__, str(directory), *OPTIONS, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return output, output.rpartition("weights ")[2].strip()


def while_writing(directory, process):
    """Returns when the third checkpoint is half-written."""
    seen = set()
    while process.poll() is None and len(seen) < 3:
        seen |= {name for name in os.listdir(directory) if name.startswith(f".{checkpoints.FILE}.")}


def between_batches(directory, process):
    """Returns at some moment after the second epoch."""
    while process.poll() is None and "main epoch 2/" not in process.stdout.readline():
        pass
    time.sleep(np.random.default_rng().uniform(0, 0.05))


def test_killed_and_resumed_it_ends_with_the_same_bits(tmp_path):
    undisturbed = start(tmp_path / "undisturbed")
    directory = tmp_path / "killed"
    directory.mkdir()
    kills = 0
    for moment in (while_writing, between_batches):
        process = start(directory, *(["--resume"] if kills else []))
        moment(directory, process)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if checkpoints.exists(directory):
            checkpoints.read(directory / checkpoints.FILE)  # whole, whenever the process died
    assert kills
    output, weights = finish(start(directory, "--resume"))
    assert "resuming after epoch" in output or "is finished" in output
    assert weights == finish(undisturbed)[1]
    assert sorted(os.listdir(directory)) == [checkpoints.FILE, "history.csv"]


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (tiny.SPEC, "optimizer=adam,reduce_on_plateau=1,patience=3,model.dropout=0.5"),
        (tiny.SPEC, "optimizer=adagrad,ema=0.8,schedule=one_cycle"),
        (tiny.SPEC, "optimizer=rmsprop,clip_norm=0.1,weight_decay=0.1"),
        (tiny.SPEC, "optimizer=adam,precision=mixed_float16,patience=1"),
        (tiny.TWO_STAGES, "optimizer=sgd,accumulate=4,ema=0.5,warmup_steps=2"),
        (tiny.TWO_STAGES, "optimizer=lion,schedule=linear,monitor=loss,epochs=2"),
    ],
)
def test_interrupted_anywhere_it_ends_with_the_same_bits(tmp_path, spec, options):
    try:
        whole = tiny.train(tmp_path / "whole", options, spec=spec)
        for at_epoch, at_batch in ((1, None), (2, 3), (3, 0)):  # two-stage runs are hit in either stage
            with pytest.raises(KeyboardInterrupt):
                tiny.train(
                    tmp_path / "parts",
                    options,
                    spec=spec,
                    score=Interruption(at_epoch, at_batch),
                    resume=at_epoch > 1,
                )
                raise KeyboardInterrupt  # patience may have ended the training before
        parts = tiny.train(tmp_path / "parts", options, spec=spec, resume=True)
    finally:
        keras.config.set_dtype_policy("float32")
    for one, other in zip(parts.weights, whole.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in parts.result.history] == [
        {k: v for k, v in row.items() if k not in drop} for row in whole.result.history
    ]
    assert (parts.result.best_epoch, parts.result.best_value) == (whole.result.best_epoch, whole.result.best_value)


@pytest.mark.parametrize("options", ["ema=0.9", "epochs=5,patience=1,monitor=loss", "patience=null,monitor=nothing"])
def test_killed_after_its_last_epoch_it_only_ends(tmp_path, monkeypatch, options):
    whole = tiny.train(tmp_path / "whole", options)

    def interrupt(self, finished):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Progress, "next_stage", interrupt)
        tiny.train(tmp_path / "parts", options)
    score = tiny.TinyScore()
    parts = tiny.train(tmp_path / "parts", options, score=score, resume=True)
    assert not score.seen
    assert tiny.fingerprint(parts.weights) == tiny.fingerprint(whole.weights)
    assert parts.result.best_epoch == whole.result.best_epoch


def test_a_finished_training_is_taken_as_it_is(tmp_path, capsys):
    first = tiny.train(tmp_path)
    again = tiny.train(tmp_path, resume=True)
    assert "is finished; nothing is left to resume" in capsys.readouterr().out
    assert tiny.fingerprint(again.weights) == tiny.fingerprint(first.weights)
    assert again.result == first.result


def test_nothing_to_resume_is_a_training_from_the_start(tmp_path, capsys):
    fresh = tiny.train(tmp_path / "a")
    resumed = tiny.train(tmp_path / "b", resume=True)
    assert f"nothing to resume in {tmp_path / 'b'}: training from the start" in capsys.readouterr().out
    assert tiny.fingerprint(fresh.weights) == tiny.fingerprint(resumed.weights)


def test_a_new_start_keeps_what_was_interrupted(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, score=Interruption(2))
    old = (tmp_path / checkpoints.FILE).read_bytes()
    tiny.train(tmp_path)
    assert (tmp_path / checkpoints.PREVIOUS).read_bytes() == old
    assert "starting anew" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["learning_rate=0.5", "seed=5", "model.dropout=0.1", "epochs=4", "threads=2"])
def test_other_options_are_refused(tmp_path, option):
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, score=Interruption(2))
    old = (tmp_path / checkpoints.FILE).read_bytes()
    with pytest.raises(ConfigError) as error:
        tiny.train(tmp_path, option, resume=True)
    assert f"{option} (it began with " in str(error.value) and "\n" not in str(error.value)
    assert (tmp_path / checkpoints.FILE).read_bytes() == old


def test_a_knob_that_is_new_since_the_checkpoint_was_as_its_default_is(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, score=Interruption(2))
    with h5py.File(tmp_path / checkpoints.FILE, "r+") as file:
        identity = json.loads(file.attrs["identity"])
        del identity["train.momentum"], identity["model.dropout"]
        file.attrs["identity"] = json.dumps(identity)
    with pytest.raises(ConfigError, match=r"model\.dropout=0\.1"):
        tiny.train(tmp_path, "model.dropout=0.1", resume=True)
    assert tiny.train(tmp_path, resume=True).result.history


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not HDF5", lambda b: b""])
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, score=Interruption(2))
    path = tmp_path / checkpoints.FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"checkpoint\.h5: not a checkpoint of this version .*without --resume"):
        tiny.train(tmp_path, resume=True)


def test_a_checkpoint_of_another_file_format_is_named(tmp_path):
    with h5py.File(tmp_path / checkpoints.FILE, "w") as file:
        file.create_group("model")
    with pytest.raises(ConfigError, match="not a checkpoint of this version"):
        checkpoints.read(tmp_path / checkpoints.FILE)


def test_a_full_disk_leaves_the_checkpoint_whole(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        tiny.train(tmp_path, score=Interruption(2))
    old = (tmp_path / checkpoints.FILE).read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tiny.train(tmp_path, resume=True)
    assert (tmp_path / checkpoints.FILE).read_bytes() == old
    assert not list(tmp_path.glob(".*"))
