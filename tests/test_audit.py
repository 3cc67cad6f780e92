import json
from dataclasses import replace

import numpy as np
import pytest

from config import EvaluateConfig, SplitConfig
from zoo.audit import SHOWN, audit, describe
from zoo.data import splits
from zoo.data.catalogue import prepare, prepare_as
from zoo.data.dataset import Dataset, Entities, Events
from zoo.evaluation import evaluate
from zoo.recommender import Scorer

pytestmark = pytest.mark.once


class Popular(Scorer):
    def __init__(self, catalogue):
        self.catalogue = catalogue

    def score(self, histories):
        return np.tile(self.catalogue.item_counts.astype(np.float32), (len(histories), 1))


def make_dataset(rows, clock="global"):
    """`rows`: (user, item, time), sorted by user and time."""
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    users, items = np.arange(user.max() + 1), np.arange(item.max() + 1)
    timestamp = None if clock == "order" else time.astype(np.int64)
    events = Events(user.astype(np.int32), item.astype(np.int32), timestamp)
    return Dataset(events, Entities(users), Entities(items), clock)


# Four users; the last event of each is the test target, the one before it the validation target.
ROWS = [
    *[(0, 0, 10), (0, 1, 20), (0, 2, 30), (0, 3, 40)],
    *[(1, 1, 5), (1, 2, 5), (1, 0, 60), (1, 1, 60)],  # its last two tie; its target is a repeat
    *[(2, 0, 70), (2, 1, 80), (2, 2, 90), (2, 4, 95)],  # its target is in nobody's training part
    *[(3, 3, 1), (3, 0, 2)],  # too short to be tested
]


def audited(split, config=None, part="test", query_time=False, catalogue=None):
    config = config or EvaluateConfig(bootstrap=50)
    prepared = prepare(split) if catalogue is None else prepare_as(split, catalogue)
    result = evaluate(Popular(prepared.catalogue), *prepared.cases(part), prepared.catalogue, config)
    return audit(prepared, part, config, result, query_time), result


def test_the_audit_of_a_small_log():
    split = splits.leave_one_out(make_dataset(ROWS))
    found, result = audited(split)
    assert found["split"] == "leave_one_out" and found["part"] == "test"
    assert found["split_sha256"] == split.sha256 and found["data_sha256"] == split.dataset.sha256()
    assert (found["users"], found["targets"], found["candidates"]) == (3, 3, 4)  # item 4 is no candidate
    assert found["targets_outside_catalogue"] == found["repeat_targets"] == 1
    assert found["timestamp_ties"] == pytest.approx(2 / 10)  # of ten steps from an event to the next
    assert found["last_two_tie"] == pytest.approx(1 / 3)
    # Training ends at 20, 5 and 80; the targets are at 40, 60 and 95: only user 2 trains after another's target.
    assert found["trained_after_others_target"] == pytest.approx(1 / 3)
    # Training events are at 10 20 5 5 70 80 1 2: after 40 and 60 come two, after 95 none.
    assert found["future_training_events"] == pytest.approx((2 / 8 + 2 / 8 + 0) / 3)
    assert found["seen_items"] == "excluded" and found["query_time"] is found["trained_on_targets"] is False
    assert found["tie_gap"] == result.gaps
    text = "\n".join(found["warnings"])
    for words in ("outside the catalogue", "seen before", "bear one time", "knows the future"):
        assert words in text
    json.dumps(found, allow_nan=False)


def test_validation_is_audited_by_its_own_targets():
    found, _ = audited(splits.leave_one_out(make_dataset(ROWS)), part="validation")
    # Validation targets are at 30, 60 and 90, training ends at 20, 5 and 80.
    assert found["trained_after_others_target"] == pytest.approx(1 / 3)
    assert found["future_training_events"] == pytest.approx((2 / 8 + 2 / 8 + 0) / 3)


@pytest.mark.parametrize(("clock", "ties"), [("relative", True), ("order", False)])
def test_without_a_clock_for_all_there_is_no_timeline(clock, ties):
    found, _ = audited(splits.leave_one_out(make_dataset(ROWS, clock)))
    assert found["trained_after_others_target"] is found["future_training_events"] is None
    assert (found["timestamp_ties"] is not None) == (found["last_two_tie"] is not None) == ties


def test_a_temporal_split_knows_no_future():
    random = np.random.default_rng(0)
    rows = sorted((int(u), int(i), int(t)) for u, i, t in random.integers(0, [20, 9, 10**6], (600, 3)))
    rows.sort(key=lambda row: (row[0], row[2]))
    found, _ = audited(splits.split(make_dataset(rows), SplitConfig(strategy="temporal")))
    assert found["trained_after_others_target"] == found["future_training_events"] == 0
    assert not [line for line in found["warnings"] if "future" in line]


def test_only_one_user_has_no_others():
    found, _ = audited(splits.leave_one_out(make_dataset(ROWS[:4])))
    assert found["trained_after_others_target"] == 0


def test_a_model_that_saw_the_targets_is_found_out():
    dataset = make_dataset(ROWS)
    production = prepare(splits.everything(dataset)).catalogue
    found, _ = audited(splits.leave_one_out(dataset), catalogue=production)
    assert found["trained_on_targets"] is True
    assert "its targets may be among them" in found["warnings"][0]


def test_ties_that_matter_are_a_warning():
    dataset = make_dataset([(user, (user + step) % 12, step) for user in range(12) for step in range(5)])
    found, result = audited(splits.leave_one_out(dataset))  # all items are equally popular
    assert result.gaps["ndcg@1"] == 1
    assert any("would be 1.0000 if they counted for it" in line for line in found["warnings"])
    clear = replace(result, gaps=dict.fromkeys(result.gaps, 0.0))
    prepared = prepare(splits.leave_one_out(dataset))
    assert not any("equal scores" in line for line in audit(prepared, "test", EvaluateConfig(), clear)["warnings"])


def test_options_that_make_results_incomparable_are_stated():
    split = splits.leave_one_out(make_dataset(ROWS))
    found, _ = audited(split, EvaluateConfig(exclude_seen=False, bootstrap=0), query_time=True)
    assert found["seen_items"] == "included" and found["query_time"] is True
    assert any("time of the target" in line for line in found["warnings"])
    assert not any("seen before" in line for line in found["warnings"])


@pytest.mark.parametrize("top_k", [(5, 10), (3, 7)])
def test_a_result_in_words(top_k):
    config = EvaluateConfig(bootstrap=50, top_k=top_k)
    found, result = audited(splits.leave_one_out(make_dataset(ROWS)), config)
    metrics = {"validation": result.metrics, "test": result.metrics, "intervals": result.intervals, "audit": found}
    header, validation, test, low, high, rules, *warnings = describe(metrics).splitlines()
    k = top_k[1]
    assert header.split() == [f"{name}@{k}" for name in SHOWN]
    place = header.index(f"ndcg@{k}") + len(f"ndcg@{k}")
    values = [result.metrics[f"ndcg@{k}"]] * 2 + result.intervals[f"ndcg@{k}"]
    for line, value in zip((validation, test, low, high), values, strict=True):
        assert line[:place].endswith(f" {value:.4f}")
    assert found["split_sha256"][:12] in rules and "seen items excluded" in rules
    assert len(warnings) == len(found["warnings"]) > 0
    assert describe(metrics | {"intervals": {}}).splitlines()[3] == rules


def test_a_result_without_a_pair_has_no_diversity_and_is_still_described():
    config = EvaluateConfig(bootstrap=0, top_k=(1,))
    found, result = audited(splits.leave_one_out(make_dataset(ROWS)), config)
    text = describe({"validation": result.metrics, "test": result.metrics, "intervals": {}, "audit": found})
    assert "ndcg@1" in text and "diversity" not in text
