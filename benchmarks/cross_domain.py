"""What other domains are worth: recommenders of one domain, of all in one sequence, and `cross_domain`, on one test.

    python -m benchmarks.cross_domain FOLDER TARGET [--windows join] [--seeds 3] [--only NAME;NAME] [--set K=V,...]
        [--equal-times file]

FOLDER, or a file, is a log of several domains in a known layout, TARGET the domain that is recommended from. The last
event of each user in it is the test, the one before validation. A contestant is a model, knobs in brackets,
and what it sees: `alone` the target domain, `merged` all domains, each up to the target. All rank the items of the
target domain that were trained on.

    full            the whole catalogue of the domain without the user's known items; ties lose
    sampled, range  among 999 ids drawn between the smallest and the largest of the domain, most of which may be
                    nobody's: TriGRec's protocol. The test item alone is not drawn. Ids that training does not know
                    score below all others, and a test item that it does not know loses to all.
    sampled, known  among 999 items that occur in the domain

Every row is the mean over seeds, for accuracy over users as well; the tests against the first contestant flip signs of
differences in NDCG@10 of the full ranking user by user (means over seeds; of users that both have tested), of all of
them and of those with at most FEW known events in the domain. Results are kept after each training; a call goes on
where one stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import RESULTS, write_record
from config import DataConfig, EvaluateConfig, RunConfig, SplitConfig, override
from zoo import artifacts, backends, evaluation, metrics, registry, training
from zoo.data import cleaning, sources, splits
from zoo.data.catalogue import Prepared, prepare
from zoo.data.vocabulary import UNKNOWN
from zoo.recommender import Baseline, Scorer

CONTESTANTS = (
    "cross_domain merged",
    "cross_domain[gating=none] merged",
    "cross_domain[gating=none,representation_epochs=0] merged",
    "sasrec merged",
    "sasrec alone",
    "bert4rec alone",
    "seq_item_knn merged",
    "seq_item_knn alone",
    "most_popular alone",
)
CANDIDATES = 999
CUTS = {"sampled": (1, 5, 10), "full": (10, 50)}
BLOCK = 512  # users at once
FEW = 5


def load(options: argparse.Namespace, alone: bool, config: RunConfig) -> Prepared:
    data = DataConfig(path=options.folder, windows=options.windows, domains=(options.target,) if alone else None)
    dataset = cleaning.clean(sources.load(data, config.sample, 0), data)
    aim = SplitConfig(target_domains=(options.target,), equal_times=options.equal_times)
    split = splits.split(dataset, aim, 0)
    print(split.summary(), *split.notes, sep="\n  ", flush=True)
    return prepare(split)


def sampled_ranks(model: Scorer, prepared: Prepared, ids: np.ndarray | None, seed: int = 0) -> np.ndarray:
    """(n,) rank of each test item among candidates, from 1; ties lose.

    Args:
        ids: that candidates are drawn from; None: all numbers between the smallest and the largest.
    """
    histories, targets = prepared.cases("test")
    items, dataset = prepared.catalogue.items, prepared.split.dataset
    test = prepared.split.events(splits.TEST)
    wanted = dataset.items.ids[test.item].astype(np.int64)
    assert len(test) == len(targets) and (np.diff(test.user) > 0).all()
    pool = _ids(prepared) if ids is None else ids
    low, high = int(pool.min()), int(pool.max())
    rng, result = np.random.default_rng(seed), []
    for start in range(0, len(wanted), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(wanted)))
        own = wanted[rows, None]
        if ids is None:
            drawn = rng.integers(low, high, (len(rows), CANDIDATES))  # one number fewer, for the test item's place
            drawn += drawn >= own
        else:
            place = np.searchsorted(ids, own)
            drawn = rng.integers(0, len(ids) - 1, (len(rows), CANDIDATES))
            drawn = ids[drawn + (drawn >= place)]
        scores = np.array(model.score(histories.take(rows)))  # those of a backend may be read-only
        scores[:, : UNKNOWN + 1] = -np.inf
        token, candidates = items.encode(own)[:, 0], items.encode(drawn)
        mine = scores[np.arange(len(rows)), token][:, None]
        theirs = np.take_along_axis(scores, candidates, axis=1)
        result.append(1 + np.count_nonzero(theirs >= mine, axis=1))
    return np.concatenate(result)


def _ids(prepared: Prepared) -> np.ndarray:
    """Sorted ids of the items of the target domain, by every event of the log."""
    dataset, split = prepared.split.dataset, prepared.split
    (target,) = prepared.catalogue.labels["target_domains"]
    code = dataset.codes("domain", [target], "TARGET")[0]
    mine = split.dataset.events.columns["domain"] == code
    return np.unique(dataset.items.ids[dataset.events.item[mine]].astype(np.int64))


def recipe(prepared: Prepared, config: RunConfig) -> str:
    """Fingerprint of the knobs and the split: results of another one are measured again."""
    knobs = config.model_dump_json(include={"model", "train", "seed"})
    return hashlib.sha256((knobs + prepared.split.sha256).encode()).hexdigest()[:12]


def measure(prepared: Prepared, config: RunConfig, name: str, folder: Path) -> dict[str, Any]:
    """One seed: metrics, and values by user."""
    backends.seed(config.seed)
    model, seconds = artifacts.build(name, config, prepared.catalogue), 0.0
    row: dict[str, Any] = {"seed": config.seed, "recipe": recipe(prepared, config)}
    if isinstance(model, Baseline):
        model.fit(prepared.train)
    else:
        ranking = evaluation.RankingEvaluation(*prepared.cases("validation"), prepared.catalogue, config)
        resume = (folder / "checkpoint.h5").exists()
        fitted = training.fit(model, registry.get(name), prepared, config, folder, [ranking], resume=resume)
        seconds = fitted.seconds
        row |= {"val_ndcg@10": round(fitted.best_value or 0.0, 4), "best_epoch": fitted.best_epoch}
    tested = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, EvaluateConfig(bootstrap=0))
    ranks = {"full": tested.ranks["rank"]}
    if prepared.split.dataset.items.ids.dtype.kind == "i":
        ranks |= {"sampled, range": sampled_ranks(model, prepared, None)}
        ranks |= {"sampled, known": sampled_ranks(model, prepared, _ids(prepared))}
    for protocol, places in ranks.items():
        offsets = np.arange(len(places) + 1)
        for k in CUTS[protocol.partition(",")[0]]:
            for metric in ("hit_rate", "ndcg"):
                values = metrics.ACCURACY[metric](places, offsets, k)
                row[f"{protocol} {metric}@{k}"] = round(float(values.mean()), 4)
    row |= {"seconds": round(seconds)}
    folder.mkdir(parents=True, exist_ok=True)
    test = prepared.split.events(splits.TEST)
    values = metrics.ACCURACY["ndcg"](ranks["full"], np.arange(len(ranks["full"]) + 1), 10)
    np.savez(folder / "values.npz", user=prepared.split.dataset.users.ids[test.user].astype(str), value=values)
    return row


def known_events(prepared: Prepared) -> dict[str, int]:
    """How many events of the target domain lie before the test, by user."""
    dataset = prepared.split.dataset
    (target,) = prepared.catalogue.labels["target_domains"]
    mine = dataset.events.columns["domain"] == dataset.codes("domain", [target], "TARGET")[0]
    counts = np.bincount(dataset.events.user[mine], minlength=len(dataset.users)) - 1  # the test is one of them
    return dict(zip(dataset.users.ids.astype(str).tolist(), counts.tolist(), strict=True))


def paired(
    first: list[dict[str, np.ndarray]], other: list[dict[str, np.ndarray]], known: dict[str, int]
) -> dict[str, list[float]]:
    """By how much the first is ahead and how likely that is by chance, of the users that both have tested."""
    users, mine, his = np.intersect1d(first[0]["user"], other[0]["user"], return_indices=True)
    means = [np.mean([seed["value"] for seed in seeds], axis=0) for seeds in (first, other)]
    assert len(users) and all((seed["user"] == first[0]["user"]).all() for seed in first)
    ahead = means[0][mine] - means[1][his]
    few = np.array([known[user] <= FEW for user in users.tolist()])
    parts = {"all": ahead, f"{few.sum():,} users with at most {FEW} known events": ahead[few]}
    return {
        name: [round(float(part.mean()), 5), round(float(metrics.sign_flip(part, 10_000)), 4)]
        for name, part in parts.items()
        if len(part)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("target")
    parser.add_argument("--windows", default="keep", choices=("keep", "join"))
    parser.add_argument("--equal-times", default="target_first", choices=("target_first", "file"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=";".join(CONTESTANTS))
    parser.add_argument("--set", default="", dest="knobs", help="knobs of all trained models; those in brackets win")
    options = parser.parse_args()
    knobs = re.findall(r"[\w.=-]+", options.knobs)
    target = re.sub(r"\W+", "_", options.target)
    log = Path(options.folder).absolute()
    log = log.parent if log.is_file() else log
    order = ["file"] if options.equal_times == "file" else []
    title = "_".join(["cross_domain", log.name, target, options.windows, *order, *knobs])
    path = RESULTS / f"{title}.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    prepared: dict[bool, Prepared] = {}
    asked = options.only.split(";")
    values: dict[str, list[dict[str, np.ndarray]]] = {contestant: [] for contestant in asked}
    for contestant in asked:
        match = re.fullmatch(r"(\w+)(?:\[(.*)\])? (alone|merged)", contestant)
        if match is None:
            raise SystemExit(f"--only {contestant}: wanted `model[knobs] alone` or `... merged`")
        name, own, alone = match[1], match[2] or "", match[3] == "alone"
        spec = registry.get(name)
        common = options.knobs if spec.stages else ""
        config = override(spec.preset("base"), [given for given in (common, own) if given])
        backends.configure(config.train)
        if alone not in prepared:
            prepared[alone] = load(options, alone, config)
        rows = results.setdefault(contestant, [])
        for seed in range(options.seeds if spec.stages else 1):
            seeded = override(config, [f"seed={seed}"])
            mine = recipe(prepared[alone], seeded)
            folder = Path("runs") / "quality" / title / re.sub(r"\W+", "_", contestant) / mine
            if all(row.get("recipe") != mine for row in rows) or not (folder / "values.npz").exists():
                rows[:] = [row for row in rows if row["seed"] != seed]
                tests = results.get("paired", {})
                results["paired"] = {
                    pair: test for pair, test in tests.items() if contestant not in pair.split(" against ")
                }
                rows.append(measure(prepared[alone], seeded, name, folder))
                write_record(title, results, ("numpy", "keras", backends.name()))
            values[contestant].append(dict(np.load(folder / "values.npz")))
        shown = {key: round(float(np.mean([row[key] for row in rows])), 4) for key in rows[0] if "@10" in key}
        line = "  ".join(f"{key} {value:.4f}" for key, value in shown.items())
        if contestant != asked[0]:
            tests = paired(values[asked[0]], values[contestant], known_events(prepared[alone]))
            known, pair = results.setdefault("paired", {}), f"{asked[0]} against {contestant}"
            if known.get(pair) != tests:  # a record keeps the commit that measured it
                known[pair] = tests
                write_record(title, results, ("numpy", "keras", backends.name()))
            line += "".join(f"  first ahead by {ahead:.4f}, p {p:.4f} ({name})" for name, (ahead, p) in tests.items())
        print(f"{contestant:<58} {line}", flush=True)


if __name__ == "__main__":
    main()
