"""The two-tower on MovieLens-100K: what features and ratings are worth.

    python -m benchmarks.two_tower cold FOLDER      # ml-100k: items never trained on, with and without features
    python -m benchmarks.two_tower ratings FOLDER   # ml-100k: ratings used and ignored, everything else equal

Rankings are over the whole catalogue without the user's known items; ties lose. Epochs are chosen on validation by
ndcg@10. Every row is a mean over SEEDS with its standard deviation.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import mean_and_deviation, write_record
from config import DataConfig, RunConfig, override
from zoo import artifacts, backends, evaluation, registry, training
from zoo.data import sources, splits
from zoo.data.catalogue import Prepared, prepare
from zoo.data.dataset import Dataset
from zoo.recommender import Recommender

SEEDS = (0, 1, 2)
SPEC = registry.get("two_tower")
COLD_SHARE = 0.1  # of the items, all of whose events are test
LIKED, DISLIKED = 4, 2  # stars


def train(config: RunConfig, prepared: Prepared) -> tuple[Recommender, training.FitResult]:
    backends.seed(config.seed)
    model = artifacts.build("two_tower", config, prepared.catalogue)
    ranking = evaluation.RankingEvaluation(*prepared.cases("validation"), prepared.catalogue, config)
    with tempfile.TemporaryDirectory() as directory:
        result = training.fit(model, SPEC, prepared, config, Path(directory), [ranking])
    return model, result


def spread(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """{name: [mean, standard deviation over seeds]}."""
    return {name: [round(number, 4) for number in mean_and_deviation(row[name] for row in rows)] for name in rows[0]}


def report(name: str, row: dict[str, list[float]]) -> None:
    print(
        f"{name:<34}" + "  ".join(f"{metric} {mean:.4f} ±{std:.4f}" for metric, (mean, std) in row.items()), flush=True
    )


# ---------------------------------------------------------------------------------------------------- ml-100k


def cold_split(dataset: Dataset, seed: int) -> splits.Split:
    """A tenth of the items is never trained on: their events are the test. Validation is the last of the others."""
    rng = np.random.default_rng([seed, 0xC01D])
    items = np.unique(dataset.events.item)
    cold = np.isin(dataset.events.item, rng.choice(items, round(len(items) * COLD_SHARE), replace=False))
    part = np.where(cold, splits.TEST, splits.TRAIN).astype(np.int8)
    warm = np.flatnonzero(~cold)
    user = dataset.events.user[warm]
    part[warm[np.append(user[1:] != user[:-1], True)]] = splits.VALIDATION
    return splits.Split(dataset, part, "cold_items")


def auc_among_cold(model: Recommender, prepared: Prepared) -> float:
    """How often a cold item that the user took scores above one that he did not: .5 is chance, a tie counts half."""
    histories, targets = prepared.cases("test")
    first = prepared.catalogue.items.trained_size
    scores = model.vectors(histories) @ model.item_matrix()[first:].T
    taken = np.zeros(scores.shape, bool)
    taken[targets.row_of_event, targets.item - first] = True
    values = []
    for score, mine in zip(scores, taken, strict=True):
        if 0 < mine.sum() < len(mine):
            difference = score[mine][:, None] - score[~mine][None, :]
            values.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    return float(np.mean(values))


def cold_items(folder: str) -> dict[str, Any]:
    """With and without features on the same held-out items, candidates and hyperparameters; cold items drawn anew for
    each seed. Without features a cold item has neither vector nor bias: chance is what it can reach."""
    config = SPEC.preset("ml-100k")
    dataset = sources.load(DataConfig(path=folder), config.sample, 0)
    results = {}
    for name, knobs in (("features", []), ("no features", ["use_features=false"])):
        rows = []
        for seed in SEEDS:
            prepared = prepare(cold_split(dataset, seed))
            model, _ = train(override(config, [*knobs, f"seed={seed}"]), prepared)
            metrics = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, config.evaluate).metrics
            rows.append(
                {"auc among cold": auc_among_cold(model, prepared)}
                | {name: metrics[name] for name in ("hit_rate@20", "hit_rate@50", "ndcg@50")}
            )
        results[name] = spread(rows)
        report(name, results[name])
    return results


def last_fifth(dataset: Dataset) -> splits.Split:
    """The last fifth of each user's events is the test, the tenth before it the validation."""
    user = dataset.events.user
    counts = np.bincount(user, minlength=len(dataset.users))
    start = np.cumsum(counts) - counts
    place = (np.arange(len(user)) - start[user] + 0.5) / counts[user]
    part = np.select([place > 0.8, place > 0.7], [splits.TEST, splits.VALIDATION], splits.TRAIN).astype(np.int8)
    return splits.Split(dataset, part, "last_fifth")


def liked_above_disliked(model: Recommender, prepared: Prepared) -> float:
    """Share of pairs of a user's test items, one liked and one disliked, of which the liked one scores higher."""
    histories, targets = prepared.cases("test")
    vectors = model.vectors(histories)
    owner, known = targets.row_of_event, targets.item < prepared.catalogue.items.trained_size
    scores = (vectors[owner] * model.item_matrix()[targets.item]).sum(axis=1)
    stars, values = targets.columns["score"], []
    for row in range(len(targets)):
        mine = (owner == row) & known
        liked, disliked = scores[mine & (stars >= LIKED)], scores[mine & (stars <= DISLIKED)]
        if len(liked) and len(disliked):
            difference = liked[:, None] - disliked[None, :]
            values.append(((difference > 0) + 0.5 * (difference == 0)).mean())
    return float(np.mean(values))


def ratings(folder: str) -> dict[str, Any]:
    """Ratings used (`score_scaling=minmax`) and ignored (`none`), everything else equal: does the model tell what
    people will like from what they will dislike, and does it rank what they will like (four stars or more) higher?"""
    config = SPEC.preset("ml-100k")
    dataset = sources.load(DataConfig(path=folder), config.sample, 0)
    prepared = prepare(last_fifth(dataset))
    histories, targets = prepared.cases("test")
    liked = targets.columns["score"] >= LIKED
    counts = np.bincount(targets.row_of_event[liked], minlength=len(targets))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    good = type(targets)(targets.user, offsets, targets.item[liked])
    results = {}
    for name, knobs in (("ratings used", []), ("ratings ignored", ["score_scaling=none"])):
        rows = []
        for seed in SEEDS:
            model, _ = train(override(config, [*knobs, f"seed={seed}"]), prepared)
            metrics = evaluation.evaluate(model, histories, good, prepared.catalogue, config.evaluate).metrics
            rows.append(
                {"liked above disliked": liked_above_disliked(model, prepared)}
                | {f"liked {name}": metrics[name] for name in ("ndcg@10", "precision@10", "recall@50")}
            )
        results[name] = spread(rows)
        report(name, results[name])
    return results


BENCHMARKS = {"cold": cold_items, "ratings": ratings}


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in BENCHMARKS:
        raise SystemExit(__doc__)
    backends.configure(SPEC.preset("base").train)
    results = BENCHMARKS[sys.argv[1]](sys.argv[2])
    print(write_record(f"two_tower_{sys.argv[1]}", results, ("numpy", "keras", backends.name())))


if __name__ == "__main__":
    main()
