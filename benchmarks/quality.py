"""What a preset reaches on a file, over seeds: test scores of the epoch that is best on validation.

    python -m benchmarks.quality MODEL PRESET FILE [LAYOUT] [SEEDS] [K=V,...]

Leave-one-out, ranking over the whole catalogue without the user's known items; ties lose. LAYOUT is `pairs` where none
is given, SEEDS the number of seeds (3), K=V overrides. Each seed is written to benchmarks/results as soon as it is
done; a call that finds seeds there goes on with the others, and a seed that was interrupted goes on with its next
epoch (runs/quality keeps the checkpoints).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, mean_and_deviation, write_record
from config import DataConfig, RunConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Prepared, prepare

METRICS = ("hit_rate@10", "ndcg@10", "hit_rate@50", "ndcg@50")


def measure(name: str, config: RunConfig, prepared: Prepared, directory: Path) -> dict[str, Any]:
    """One seed, trained and tested."""
    backends.seed(config.seed)
    model = artifacts.build(name, config, prepared.catalogue)
    ranking = evaluation.RankingEvaluation(*prepared.cases("validation"), prepared.catalogue, config)
    resume = (directory / "checkpoint.h5").exists()
    fitted = training.fit(model, registry.get(name), prepared, config, directory, [ranking], resume=resume)
    tested = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, config.evaluate, config.seed)
    return {
        "seed": config.seed,
        "val_ndcg@10": round(fitted.best_value or 0.0, 4),
        **{metric: round(tested.metrics[metric], 4) for metric in METRICS},
        "interval ndcg@10": [round(end, 4) for end in tested.intervals["ndcg@10"]],
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "seconds": round(fitted.seconds),
    }


def main() -> None:
    if not 4 <= len(sys.argv) <= 7:
        raise SystemExit(__doc__)
    name, preset, file = sys.argv[1:4]
    given = sys.argv[4:]
    layout, seeds, overrides = (*given, *("pairs", "3", "")[len(given) :])
    spec = registry.get(name)
    config = override(spec.preset(preset), [overrides] if overrides else [])
    backends.configure(config.train)
    dataset = sources.load(DataConfig(path=file, layout=layout), config.sample, 0)
    prepared = prepare(splits.split(dataset, config.split, 0))
    # Overrides make another recipe: its record must not take the place of the preset's.
    title = "_".join(["quality", name, preset, *re.findall(r"[\w.=-]+", overrides)])
    path = RESULTS / f"{title}.json"
    knobs, plain = (
        json.loads(each.model_dump_json(include={"model", "train"}))
        for each in (config, RunConfig(model=type(config.model)()))
    )
    known = json.loads(path.read_text())["results"] if path.exists() else {"config": {}}
    before = {section: plain[section] | known["config"].get(section, {}) for section in plain}  # knobs that are new
    rows = known["seeds"] if before == knobs else []
    for seed in range(int(seeds)):
        if all(row["seed"] != seed for row in rows):
            seeded = override(config, [f"seed={seed}"])
            rows.append(measure(name, seeded, prepared, Path("runs") / "quality" / f"{title}_{seed}"))
        spread = {
            metric: [round(number, 4) for number in mean_and_deviation(row[metric] for row in rows)]
            for metric in ("val_ndcg@10", *METRICS)
        }
        results = {"mean and deviation": spread, "seeds": rows, "config": knobs, "split_sha256": prepared.split.sha256}
        write_record(title, results, ("numpy", "keras", backends.name()))
    print(f"{title:<30}" + "  ".join(f"{metric} {mean:.4f} ±{std:.4f}" for metric, (mean, std) in spread.items()))


if __name__ == "__main__":
    main()
