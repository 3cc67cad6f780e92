"""Does any preset of BEHAV-E or UBT diverge or collapse? Each is trained whole on a small generated log.

    python -m benchmarks.behaviour_presets [CLIENTS] [--only MODEL:PRESET,...]

500 clients where none are given, 100 looks each. Shown of the last stage: the loss in the first and the last epoch and
its highest (one that is no number ends the training), on validation clients the lowest; BEHAV-E's divergence (KL, nats,
all dimensions; presets with free bits pay nothing below `floor`) and the variance that its encoder gives; UBT's loss of
names beside that of a guess among the sampled names alone (those of the batch come on top); `still`, the share of the
vectors' coordinates that are alike for all clients (deviation below a hundredth of the largest). Results are kept after
each preset; a call goes on where one stopped, as long as recipes are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.behaviour import generated
from benchmarks.record import RESULTS, write_record
from config import BehaviourConfig, RunConfig
from zoo import artifacts, backends, registry, training
from zoo.behaviour import Validation, held_out
from zoo.data.behaviour.prepared import BehaviourPrepared, prepare
from zoo.request import Request

MODELS = ("behav_e", "ubt")


def measure(name: str, preset: str, config: RunConfig, prepared: BehaviourPrepared, folder: Path) -> dict[str, Any]:
    """What became of one preset."""
    spec: Any = registry.get(name)
    backends.configure(config.train)
    backends.seed(config.seed)
    model: Any = artifacts.build(name, config, prepared.catalogue)
    learned, others = held_out(prepared, config.seed)
    watch = Validation(others, Request(name, name, preset, config, folder, False))
    fitted = training.fit(model, spec, learned, config, folder, [watch], resume=(folder / "checkpoint.h5").exists())
    rows = [row for row in fitted.history if row["stage"] == spec.stages[-1].name]
    vectors = model.vectors(prepared.everyone())
    deviation = vectors.std(axis=0)
    found = {
        "epochs": len(rows),
        "loss": [rows[0]["loss"], rows[-1]["loss"], max(row["loss"] for row in rows)],
        "lowest val_loss": min(row["val_loss"] for row in rows),
        "still": float(np.mean(deviation < 0.01 * deviation.max())),
        "finite": bool(np.isfinite(vectors).all()),
        "seconds": round(fitted.seconds),
    }
    for metric in ("kl", "variance", "name_loss"):
        if metric in rows[0]:
            found[metric] = [rows[0][metric], rows[-1][metric]]
    if "kl" in found:
        found["floor"] = config.model.free_bits * config.model.embedding_dim
    if "name_loss" in found:
        found["guess"] = math.log(config.model.name_negatives + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", type=int, nargs="?", default=500)
    parser.add_argument("--only", default="", help="MODEL:PRESET,...")
    options = parser.parse_args()
    every = [(name, preset) for name in MODELS for preset in registry.get(name).presets]
    asked = [tuple(one.split(":")) for one in options.only.split(",")] if options.only else every
    prepared = prepare(generated(options.clients, 0), BehaviourConfig())
    title = f"behaviour_presets_{options.clients}"
    path = RESULTS / f"{title}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    for name, preset in asked:
        config = registry.get(name).preset(preset)
        recipe = hashlib.sha256((config.model_dump_json() + prepared.sha256).encode()).hexdigest()[:12]
        row = results.get(f"{name}:{preset}")
        if row is None or row["recipe"] != recipe:
            folder = Path("runs") / "quality" / title / f"{name}_{preset}_{recipe}"
            row = {"recipe": recipe} | measure(name, preset, config, prepared, folder)
            results[f"{name}:{preset}"] = row
            write_record(title, results, ("numpy", "keras", backends.name()))
        line = "  ".join(f"{key} {_text(value)}" for key, value in row.items() if key != "recipe")
        print(f"{name + ':' + preset:<24} {line}", flush=True)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
