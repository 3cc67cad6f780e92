"""Actions from a log to a result: their vocabulary, what is asked for and told, and what it is good for."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

import main
from config import EvaluateConfig, SampleConfig, SplitConfig, override
from tests.test_event_actions import ACTIONS, shop
from zoo import evaluation, registry
from zoo.audit import audit
from zoo.data import sources, splits
from zoo.data.catalogue import Catalogue, prepare, prepare_as
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN
from zoo.recommender import Scorer


@pytest.mark.once
def test_the_vocabulary_is_of_the_training_part():
    prepared = prepare(splits.leave_one_out(shop([[2, 0, 3, 1], [0, 2, 0, 2, 0]])))
    assert prepared.catalogue.actions.ids.tolist() == ["view", "buy"]
    assert prepared.action_token.tolist() == [3, UNKNOWN, 4, UNKNOWN]
    assert prepared.train.columns["action"].tolist() == [4, 3, 3, 4, 3]
    histories, targets = prepared.cases("test")
    assert targets.columns["action"].tolist() == [UNKNOWN, 3] == histories.query_action.tolist()
    assert histories.columns["action"].tolist() == [4, 3, UNKNOWN, 3, 4, 3, 4]
    back = Catalogue.from_arrays(prepared.catalogue.arrays())
    assert back.actions.ids.tolist() == ["view", "buy"]


@pytest.mark.once
def test_another_log_speaks_with_the_words_of_the_run():
    """Other codes, another order, new actions."""
    known = prepare(splits.everything(shop([[0, 1], [2, 2]]))).catalogue
    other = prepare_as(splits.everything(shop([[0, 1, 2], [1]], ("wish", "buy", "view"))), known)
    names = {3: "view", 4: "cart", 5: "buy", UNKNOWN: None}
    told = [names[token] for token in other.all_histories().columns["action"].tolist()]
    assert told == [None, "buy", "view", "buy"]


@pytest.mark.once
def test_targets_one_by_one_are_asked_for_one_by_one():
    rows = [[0, 1, 2, 0]] * 12
    config = SplitConfig(strategy="by_user", targets="all", fraction=0.2)
    prepared = prepare(splits.split(shop(rows), config))
    prefixes, _ = prepared.cases("test")
    asked = [part.query_action.tolist() for part in prefixes.batches(4)]
    assert list(itertools.chain.from_iterable(asked)) == [4, 5, 3] * (len(prefixes) // 3)
    assert prefixes.take(np.array([1, 2])).query_action.tolist() == [5, 3]
    only = prepare(splits.split(shop(rows), config.model_copy(update={"target_actions": ("buy",)})))
    prefixes, targets = only.cases("test")
    assert prefixes.lengths.tolist() == [2] * len(targets) and set(prefixes.query_action.tolist()) == {5}


@pytest.mark.once
@pytest.mark.parametrize("targets", ["last", "all"])
def test_targets_of_each_action_are_measured_on_their_own(targets):
    """The item of a view is ranked first, that of a purchase third."""

    class Fixed(Scorer):
        def score(self, histories):
            return np.tile(np.r_[[0] * NUM_SPECIALS, 3, 2, 1].astype(np.float32), (len(histories), 1))

    rows = [[1, 0, 2, 0][: 2 + user % 3] for user in range(40)]  # carts have the middle item, they are never targets
    items = [[{0: 0, 1: 1, 2: 2}[code] for code in row] for row in rows]
    config = SplitConfig(strategy="by_user", targets=targets, fraction=0.2)
    prepared = prepare(splits.split(shop(rows, items=items), config))
    order = prepared.catalogue.items.encode(np.arange(3))
    model = Fixed()
    ranks = {"view": int(order[0]) - NUM_SPECIALS + 1, "buy": int(order[2]) - NUM_SPECIALS + 1}
    rules = EvaluateConfig(exclude_seen=False, bootstrap=0, top_k=(3,))
    found = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, rules).slices
    assert set(found) >= {"action view", "action buy"} and "action cart" not in found
    for action, rank in ranks.items():
        assert found[f"action {action}"]["mrr@3"] == pytest.approx(1 / rank)
    only = config.model_copy(update={"target_actions": ("buy",)})
    prepared = prepare(splits.split(shop(rows, items=items), only))
    found = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, rules).slices
    assert not [name for name in found if name.startswith("action")]  # all are of one


@pytest.mark.once
@pytest.mark.parametrize(("tie", "share"), [("cart before the target", 1.0), ("view after it", 0.0)])
def test_ties_of_time_matter_where_they_touch_the_target(tie, share):
    split = splits.split(shop([[2, 2, 1, 2, 0]] * 3), SplitConfig(target_actions=("buy",)))
    order = np.array([0, 1, 2, 2, 3] if tie == "cart before the target" else [0, 1, 2, 3, 3])
    events = dataclasses.replace(split.dataset.events, timestamp=np.tile(order, 3))
    split = dataclasses.replace(split, dataset=dataclasses.replace(split.dataset, events=events))
    prepared = prepare(split)
    model = most_popular(prepared)
    result = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, EvaluateConfig(bootstrap=0))
    found = audit(prepared, "test", EvaluateConfig(), result)
    assert found["last_two_tie"] == share and found["target_actions"] == {"buy": 3}


def most_popular(prepared):
    spec = registry.get("most_popular")
    model = spec.model(spec.preset("base").model, prepared.catalogue)
    model.fit(prepared.train)
    return model


# ------------------------------------------------------------------------------------------------- what it is good for


@pytest.mark.once
def test_a_model_that_is_asked_what_they_buy_answers_better(tmp_path):
    """The built-in shop: what is bought was carted before, what is viewed next is the next of its kit."""
    from tests.test_contract import train

    plan = ["target_actions=buy,evaluate.exclude_seen=false,embedding_dim=32,use_actions=true,epochs=12"]
    reached = {}
    for asked in (False, True):
        config = override(registry.get("sasrec").preset("tiny"), [*plan, f"query_action={asked}"])
        config = config.model_copy(update={"sample": SampleConfig(num_users=300, num_items=90)})
        prepared = prepare(splits.split(sources.load(config.data, config.sample, 0), config.split))
        model = train("sasrec", config, prepared, tmp_path / str(asked))
        result = evaluation.evaluate(model, *prepared.cases("test"), prepared.catalogue, config.evaluate)
        reached[asked] = result.metrics["ndcg@10"]
    assert reached[True] > reached[False] + 0.05, reached


# -------------------------------------------------------------------------------------------------- the command line

SMALL = "sample.num_users=150,sample.num_items=60,sample.num_days=40,sample.events_per_user=16,epochs=1"


def run_main(capsys, *arguments):
    code = main.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.once
def test_the_command_line_says_what_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--model", "sasrec", "--preset", "tiny", "--run-dir", "run"]
    flags = f"{SMALL},use_actions=true,query_action=true"
    code, output, _ = run_main(capsys, "train_validation_model", *options, "--override", flags)
    assert (
        not code and "query action used" in output and "warning: the model is told the action of the target" in output
    )
    audited = json.loads((tmp_path / "run" / "metrics.json").read_text())["audit"]
    assert audited["query_action"] is True and sum(audited["target_actions"].values()) == audited["targets"]
    assert set(audited["target_actions"]) <= set(ACTIONS) and len(audited["target_actions"]) > 1

    lists = {}
    for action in (None, "view", "buy"):
        override_ = ["--override", f"predict.action={action}"] if action else []
        code, output, _ = run_main(capsys, "compute_predictions", "--run-dir", "run", *override_)
        lists[action] = (tmp_path / "run" / "recommendations.json").read_text()
        expected = (
            f"asked for {action}\n" if action else "asked for view, the most frequent action; predict.action asks"
        )
        assert not code and expected in output
    assert lists[None] == lists["view"] != lists["buy"]
    code, _, error = run_main(capsys, "compute_predictions", "--run-dir", "run", "--override", "predict.action=bought")
    assert code == 2 and "predict.action=bought: no such action; the model knows view, cart, buy, remove" in error

    item = next(iter(json.loads(lists["buy"]).values()))[0][0]
    (tmp_path / "new.csv").write_text(f"user,item\nsomebody,{item}\n")
    people = ["compute_predictions", "--run-dir", "run", "--override"]
    code, _, error = run_main(capsys, *people, "predict.histories=new.csv")
    assert code == 2 and "predict.action: these events have no known action; say which of view, cart, buy" in error
    assert not run_main(capsys, *people, "predict.histories=new.csv,predict.action=cart")[0]

    only = ["--run-dir", "buys", "--override", f"{flags},target_actions=buy"]
    code, output, _ = run_main(capsys, "train_validation_model", *options[:-2], *only)
    assert not code and "query action used" in output and "told the action" not in output  # all are asked the same
    audited = json.loads((tmp_path / "buys" / "metrics.json").read_text())["audit"]
    assert set(audited["target_actions"]) == {"buy"}


@pytest.mark.once
def test_a_model_that_is_not_told_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert not main.main(["train_validation_model", "--model", "most_popular", "--run-dir", "run", "--override", SMALL])
    assert "query action not used" in capsys.readouterr().out
    code, _, error = run_main(capsys, "compute_predictions", "--run-dir", "run", "--override", "predict.action=buy")
    assert code == 2 and "predict.action=buy: the model was trained with query_action=false" in error
    options = ["--model", "sasrec", "--preset", "tiny", "--run-dir", "other"]
    (tmp_path / "pairs.txt").write_text("".join(f"{user} {item}\n" for user in range(9) for item in range(user, 20)))
    options += ["--data", "pairs.txt", "--override", "layout=pairs,epochs=1,use_actions=true"]
    code, _, error = run_main(capsys, "train_validation_model", *options)
    assert code == 2 and "the events have no actions, which model.use_actions=true needs" in error


@pytest.mark.once
@pytest.mark.parametrize(
    ("strategy", "models"),
    [
        ("by_user", "most_popular,repeat_last,seq_item_knn,gru4rec,sasrec,sasrec[initial_items=runs/item2vec]"),
        ("leave_one_out", "repeat_last,gru4rec,sasrec[initial_items=runs/item2vec]"),
    ],
)
def test_the_study_of_t_ecd_runs_on_a_small_copy(strategy, models, tmp_path, monkeypatch, capsys):
    from tests.small_t_ecd import write

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "copy", users=80, bot_events=300)
    study = ["--data", "copy", "--preset", "t-ecd"]
    options = f"train.epochs=1,embedding_dim=16,split.strategy={strategy}"
    item2vec = ["--model", "item2vec", "--override", options]
    code, _, error = run_main(capsys, "train_validation_model", *study, *item2vec)
    assert not code, error
    read = json.loads((tmp_path / "runs" / "item2vec" / "config.json").read_text())["config"]["data"]
    assert "payments" in read["domains"]
    arguments = [*study, "--models", models, "--run-dir", "study", "--override", f"{options},num_negatives=64"]
    code, output, error = run_main(capsys, "compare_models", *arguments)
    assert not code, error
    assert "items start with the vectors of item2vec" in output and "trained on another split" not in output
    compared = json.loads((tmp_path / "study" / "comparison.json").read_text())
    assert list(compared["rows"]) == models.split(",")
    tables = [compared["rows"]] + [compared["events"]] * (strategy == "by_user")  # else there is one event a user
    assert all({"ndcg@5", "ndcg@10", "ndcg@20", "hit_rate@1"} <= set(table["gru4rec"]) for table in tables)
    aimed_at = compared["audit"]["gru4rec"]["target_actions"].keys()
    assert aimed_at >= {"view", "click"} and "buy" not in aimed_at
    config = json.loads((tmp_path / "study" / "gru4rec" / "config.json").read_text())["config"]
    assert config["model"]["use_actions"] and config["data"]["action_weights"]["added-to-cart"] == 4
