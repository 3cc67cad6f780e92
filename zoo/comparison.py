"""Comparison of runs on one split: a paired test between any two, and a table of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from config import ConfigError
from zoo import metrics

SAME = {  # what two results must share, by its key in the audit, and how to say it
    "part": "the part evaluated",
    "split_sha256": "the split",
    "candidates": "the number of candidates",
    "seen_items": "the rule for seen items",
}


@dataclass(frozen=True)
class Result:
    """What was measured of a model.

    Attributes:
        model: its name.
        metrics: contents of its metrics.json.
        ranks: contents of its ranks.npz.
        baseline: stands before the trained models in a table.
    """

    model: str
    metrics: dict[str, Any]
    ranks: dict[str, np.ndarray]
    baseline: bool = False


@dataclass(frozen=True)
class Paired:
    """Mean over users of `metric` of `model` − `metric` of `against`, on the very same targets.

    Attributes:
        interval: [low, high], 95 % bootstrap interval over users.
        p_value: two-sided, by flipping signs; not corrected for the number of comparisons in a table.
        users: how many.
    """

    model: str
    against: str
    metric: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    users: int


def compare(a: Result, b: Result, metric: str = "ndcg@10", resamples: int = 10_000, seed: int = 0) -> Paired:
    """Tests whether `a` and `b` differ in a metric of accuracy, user by user.

    Raises:
        ConfigError: the two were not asked the same question (another split, candidates or rule), or the metric is none
            of accuracy.
    """
    _check_same(a, b)
    name, _, k = metric.partition("@")
    if name not in metrics.ACCURACY or not k.isdecimal() or int(k) < 1:
        raise ConfigError(f"{metric}: no metric to test; wanted {', '.join(metrics.ACCURACY)}, with a cut such as @10")
    values = [metrics.ACCURACY[name](result.ranks["rank"], result.ranks["offsets"], int(k)) for result in (a, b)]
    differences = values[0] - values[1]
    if "owner" in a.ranks:  # targets ranked one by one: those of one user are no independent draws
        differences = metrics.per_user(differences, a.ranks["owner"])
    return Paired(
        a.model,
        b.model,
        metric,
        float(differences.mean()),
        metrics.bootstrap(differences, resamples, seed),
        metrics.sign_flip(differences, resamples, seed),
        len(differences),
    )


def _check_same(a: Result, b: Result) -> None:
    for key, meaning in SAME.items():
        one, other = a.metrics["audit"][key], b.metrics["audit"][key]
        if one != other:
            short = [value[:12] if key.endswith("sha256") else value for value in (one, other)]
            raise ConfigError(
                f"{a.model} and {b.model} cannot be compared: {meaning} differs ({short[0]} and {short[1]}); "
                "evaluate both on the same data with the same options"
            )
    if not np.array_equal(a.ranks["offsets"], b.ranks["offsets"]):
        raise ConfigError(
            f"{a.model} and {b.model} cannot be compared: their ranks are of different targets although their audits "
            "agree; a ranks.npz does not belong to its metrics.json, train that run again"
        )


def table(results: Sequence[Result], metric: str | None = None, seed: int = 0) -> dict[str, Any]:
    """All results side by side, JSON-able: baselines first, otherwise in the order given.

    Args:
        metric: what differences are tested in; ndcg@10 where all have it, otherwise their NDCG with the largest cut.

    Returns:
        `rows` {model: {metric: value}}, `intervals` {model: {metric: [low, high]}}, `audit` {model: audit}, `events`
        {model: {metric: value}} with means over targets where these were ranked one by one, else empty, `metric`,
        `best`: the model with the highest `metric`, and `paired`: a record (see `Paired`) of each model against the
        first row and of each against the best.

    Raises:
        ConfigError: no results, or results that do not compare.
    """
    if not results:
        raise ConfigError("there is no result to compare")
    ordered = [r for r in results if r.baseline] + [r for r in results if not r.baseline]
    for result in ordered[1:]:
        _check_same(ordered[0], result)
    metric = metric or _common_ndcg(ordered)
    best = max(ordered, key=lambda result: result.metrics["test"][metric])
    pairs = [(r, ordered[0]) for r in ordered[1:]]
    pairs += [(r, best) for r in ordered if r is not best and best is not ordered[0]]
    paired = [vars(compare(a, b, metric, seed=seed)) for a, b in pairs]
    return {
        "metric": metric,
        "best": best.model,
        "rows": {r.model: r.metrics["test"] for r in ordered},
        "intervals": {r.model: r.metrics["intervals"] for r in ordered},
        "events": {r.model: r.metrics["slices"]["events"] for r in ordered if "events" in r.metrics.get("slices", {})},
        "paired": paired,
        "audit": {r.model: r.metrics["audit"] for r in ordered},
    }


def _common_ndcg(results: Sequence[Result]) -> str:
    names = set.intersection(*({n for n in r.metrics["test"] if n.startswith("ndcg@")} for r in results))
    if not names:
        raise ConfigError("the results have no cut of NDCG in common; evaluate all with the same evaluate.top_k")
    return "ndcg@10" if "ndcg@10" in names else max(names, key=lambda name: int(name.partition("@")[2]))


def markdown(compared: dict[str, Any]) -> str:
    """A `table` for people: the best of each metric of accuracy in bold, differences with interval and p."""
    rows, metric = compared["rows"], compared["metric"]
    audit = next(iter(compared["audit"].values()))
    cut = metric.partition("@")[2]
    columns = [name for name in next(iter(rows.values())) if name.partition("@")[2] == cut]
    if audit["users"] == audit["targets"] or compared["events"]:  # of one target, these say what hit rate and MRR say
        columns = [name for name in columns if name.partition("@")[0] not in ("recall", "precision", "map")]
    against = list(dict.fromkeys(pair["against"] for pair in compared["paired"]))
    header = ["model", *columns, *(f"{metric} − {name}" for name in against)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" + "---:|" * (len(header) - 1)]
    tested = {(pair["model"], pair["against"]): pair for pair in compared["paired"]}
    for model, row in rows.items():
        cells = [model]
        for name in columns:
            cell = f"{row[name]:.4f}"
            if name.partition("@")[0] in metrics.ACCURACY and row[name] == max(other[name] for other in rows.values()):
                cell = f"**{cell}**"
            if name == metric and name in compared["intervals"][model]:
                cell += " [{:.4f}, {:.4f}]".format(*compared["intervals"][model][name])
            cells.append(cell)
        cells += [_difference(tested.get((model, name))) for name in against]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *_by_cut(rows, "per user")]
    if compared["events"]:
        lines += ["", *_by_cut(compared["events"], "per event")]
    lines += ["", _rules(audit)]
    warned: dict[str, list[str]] = {}
    for model, each in compared["audit"].items():
        for warning in each["warnings"]:
            warned.setdefault(warning, []).append(model)
    for warning, models in warned.items():
        lines.append("* " + ("all" if len(models) == len(rows) else ", ".join(models)) + f": {warning}")
    return "\n".join(lines) + "\n"


def _by_cut(rows: dict[str, dict[str, float]], title: str) -> list[str]:
    """Hit rate and NDCG at every cut that all have; those at 1 are one, what classifiers call accuracy."""
    names = [name for name in next(iter(rows.values())) if all(name in row for row in rows.values())]
    names = [name for name in names if name.partition("@")[0] in ("hit_rate", "ndcg") and name != "ndcg@1"]
    titles = ["accuracy (hit_rate@1)" if name == "hit_rate@1" else name for name in names]
    lines = ["| " + " | ".join([title, *titles]) + " |", "|---|" + "---:|" * len(names)]
    for model, row in rows.items():
        lines.append("| " + " | ".join([model, *(f"{row[name]:.4f}" for name in names)]) + " |")
    return lines


def _difference(pair: dict[str, Any] | None) -> str:
    if pair is None:
        return "–"
    low, high = pair["interval"]
    return f"{pair['difference']:+.4f} [{low:+.4f}, {high:+.4f}], p = {pair['p_value']:.2g}"


def _rules(audit: dict[str, Any]) -> str:
    return (
        f"{audit['data']}, split {audit['split']} (sha256 {audit['split_sha256'][:12]}), {audit['part']}: "
        f"{audit['users']:,} users, {audit['targets']:,} targets, {audit['candidates']:,} candidates, seen items "
        f"{audit['seen_items']}, ties lose. Brackets: 95 % bootstrap intervals over users. p: paired, by sign flips."
    )
