import json
from dataclasses import replace

import numpy as np
import pytest

from config import ConfigError
from zoo.comparison import Result, compare, markdown, table
from zoo.metrics import ACCURACY, MISS

pytestmark = pytest.mark.once

AUDIT = {
    "part": "test",
    "data": "shop",
    "split": "leave_one_out",
    "split_sha256": "ab" * 32,
    "candidates": 50,
    "seen_items": "excluded",
    "users": 400,
    "targets": 400,
    "warnings": [],
}


def make_result(model, ranks, baseline=False, top_k=(5, 10), **audit):
    ranks = np.asarray(ranks, np.int32)
    offsets = np.arange(len(ranks) + 1)
    values = {f"{name}@{k}": f(ranks, offsets, k).mean() for k in top_k for name, f in ACCURACY.items()}
    test = {name: float(value) for name, value in values.items()} | {f"coverage@{k}": 0.5 for k in top_k}
    metrics = {"test": test, "intervals": {f"ndcg@{top_k[-1]}": [0.1, 0.2]}, "audit": AUDIT | audit}
    return Result(model, metrics, {"rank": ranks, "offsets": offsets}, baseline)


def draw(seed, strength):
    """Ranks of 400 users; a larger strength is a better model."""
    return np.random.default_rng(seed).geometric(strength, 400)


POOR, GOOD = make_result("poor", draw(0, 0.05), baseline=True), make_result("good", draw(1, 0.2))


def test_a_difference_is_measured_user_by_user():
    found = compare(GOOD, POOR)
    assert (found.model, found.against, found.metric, found.users) == ("good", "poor", "ndcg@10", 400)
    expected = GOOD.metrics["test"]["ndcg@10"] - POOR.metrics["test"]["ndcg@10"]
    assert found.difference == pytest.approx(expected)
    assert found.interval[0] < expected < found.interval[1]
    assert found.interval[0] > 0 and found.p_value < 0.001
    back = compare(POOR, GOOD)
    assert back.difference == -found.difference and back.p_value == found.p_value


def test_pairing_sees_what_two_intervals_hide():
    ranks = draw(2, 0.1)
    better = np.where(
        (np.arange(400) % 8 == 0) & (ranks > 1), ranks - 1, ranks
    )  # a little better for some, never worse
    assert compare(make_result("a", better), make_result("b", ranks), "mrr@10").p_value < 0.01


def test_a_model_does_not_differ_from_itself():
    found = compare(GOOD, GOOD)
    assert found.difference == 0 and found.interval == (0, 0) and found.p_value == 1


def test_the_same_seed_gives_the_same_test():
    assert compare(GOOD, POOR, resamples=500, seed=3) == compare(GOOD, POOR, resamples=500, seed=3)


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        ({"split_sha256": "cd" * 32}, r"the split differs \(abababababab and cdcdcdcdcdcd\)"),
        ({"candidates": 51}, r"the number of candidates differs \(50 and 51\)"),
        ({"seen_items": "included"}, r"the rule for seen items differs \(excluded and included\)"),
        ({"part": "validation"}, r"the part evaluated differs"),
    ],
)
def test_results_of_different_questions_are_refused_in_one_line(audit, words):
    other = make_result("other", draw(1, 0.2), **audit)
    for attempt in (lambda: compare(GOOD, other), lambda: table([GOOD, other])):
        with pytest.raises(ConfigError, match=rf"^good and other cannot be compared: {words}") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_ranks_of_other_targets_are_refused():
    other = replace(GOOD, model="other", ranks=make_result("x", [1, 2]).ranks)
    with pytest.raises(ConfigError, match="ranks are of different targets"):
        compare(GOOD, other)


@pytest.mark.parametrize("metric", ["coverage@10", "ndcg", "ndcg@0", "ndcg@x", "auc@10"])
def test_a_metric_without_values_per_user_is_refused(metric):
    with pytest.raises(ConfigError, match="no metric to test"):
        compare(GOOD, POOR, metric)


def test_the_table_has_baselines_first_and_tests_against_first_and_best():
    middle = make_result("middle", draw(3, 0.1))
    compared = table([GOOD, middle, POOR])
    assert list(compared["rows"]) == ["poor", "good", "middle"]
    assert compared["best"] == "good" and compared["metric"] == "ndcg@10"
    pairs = [(pair["model"], pair["against"]) for pair in compared["paired"]]
    assert pairs == [("good", "poor"), ("middle", "poor"), ("poor", "good"), ("middle", "good")]
    assert json.loads(json.dumps(compared, allow_nan=False))["rows"]["good"] == GOOD.metrics["test"]


def test_the_best_of_a_table_may_be_its_first_row():
    best = make_result("best", np.ones(400), baseline=True)
    compared = table([best, GOOD])
    assert [(pair["model"], pair["against"]) for pair in compared["paired"]] == [("good", "best")]


def test_the_table_falls_back_on_a_cut_that_all_have():
    few = [
        make_result(name, draw(seed, 0.1), top_k=cuts)
        for seed, (name, cuts) in enumerate({"a": (3, 7), "b": (7,)}.items())
    ]
    assert table(few)["metric"] == "ndcg@7"
    assert "ndcg@7" in markdown(table(few))
    with pytest.raises(ConfigError, match="no cut of NDCG in common"):
        table([few[1], GOOD])
    with pytest.raises(ConfigError, match="no result"):
        table([])


def test_markdown_reads_as_a_table():
    warned = make_result("good", GOOD.ranks["rank"], warnings=["mind the gap", "the log is old"])
    text = markdown(table([warned, make_result("poor", POOR.ranks["rank"], True, warnings=["the log is old"])]))
    lines = text.splitlines()
    header = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert header == ["model", "hit_rate@10", "ndcg@10", "mrr@10", "coverage@10", "ndcg@10 − poor", "ndcg@10 − good"]
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith("| poor |") and "**" not in lines[2]
    good = GOOD.metrics["test"]
    assert f"| **{good['hit_rate@10']:.4f}** | **{good['ndcg@10']:.4f}** [0.1000, 0.2000] |" in lines[3]
    assert "p = 0.0001" in lines[3] and "–" in lines[3].rpartition("p =")[2]
    assert "abababababab" in text and "400 users" in text and "* good: mind the gap" in text
    assert text.count("* all: the log is old") == text.count("the log is old") == 1


def test_targets_ranked_one_by_one_are_averaged_per_user_before_they_are_tested():
    """Three users, one of whom has as many targets as the others together: each counts alike."""
    owner, ranks = np.array([0, 0, 1, 2, 2, 2]), {"a": np.ones(6), "b": np.array([1, 1, 1, 20, 20, 20])}
    results = []
    for name, rank in ranks.items():
        made = make_result(name, rank, users=3, targets=6)
        one_by_one = {"slices": {"events": {"users": 3, "targets": 6, **made.metrics["test"]}}}
        results.append(replace(made, metrics=made.metrics | one_by_one, ranks=made.ranks | {"owner": owner}))
    found = compare(*results)
    assert found.users == 3 and found.difference == pytest.approx(1 / 3)
    compared = table(results)
    assert compared["events"]["b"]["hit_rate@10"] == 0.5
    text = markdown(compared)
    assert "recall@10" not in text.splitlines()[0]
    assert "| per user | hit_rate@5 | ndcg@5 | hit_rate@10 | ndcg@10 |" in text and "| per event | hit_rate@5 |" in text
    assert "per event" not in markdown(table([GOOD, POOR]))


def test_recall_and_precision_are_shown_where_they_say_something():
    many = [
        make_result(name, np.where(ranks > 90, MISS, ranks), targets=900)
        for name, ranks in (("a", draw(0, 0.1)), ("b", draw(1, 0.1)))
    ]
    assert "recall@10" in markdown(table(many)).splitlines()[0]
