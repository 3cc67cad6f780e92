"""Targets of one domain, histories of all: the split on the merged clock, and whose items are candidates."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

import main
from config import ConfigError, DataConfig, EvaluateConfig, PredictConfig, SampleConfig, SplitConfig
from zoo import evaluation, recommending
from zoo.data import sources, splits
from zoo.data.catalogue import Catalogue, prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.vocabulary import NUM_SPECIALS
from zoo.registry import get

pytestmark = pytest.mark.once
SAMPLE = SampleConfig(num_users=60, num_items=40, num_days=60, events_per_user=12)
AIM = SplitConfig(target_domains=("kitchen",))


@pytest.fixture(scope="module")
def dataset():
    return sources.load(DataConfig(), SAMPLE, 0)


def log(*users):
    """A letter an event, `f` food and `k` kitchen; every event has an item of its own."""
    letters = "".join(users)
    user = np.repeat(np.arange(len(users)), [len(one) for one in users]).astype(np.int32)
    domain = np.array([letter == "k" for letter in letters], np.int8)
    count = len(letters)
    events = Events(user, np.arange(count, dtype=np.int32), np.arange(count), {"domain": domain})
    return Dataset(
        events, Entities(np.arange(len(users))), Entities(np.arange(count)), labels={"domain": ("food", "kitchen")}
    )


def test_nothing_of_any_domain_after_the_target_is_trained_on():
    split = splits.split(log("fkfkfkf", "kkff", "ffkf"), AIM)
    names = {
        splits.TRAIN: "t",
        splits.VALIDATION: "V",
        splits.TEST: "T",
        splits.TEST_CONTEXT: "c",
        splits.DROPPED: "-",
    }
    told = "".join(names[part] for part in split.part.tolist())
    # Of the second user nothing precedes the first of two targets, the third has one target alone: trained on whole.
    assert told == "tttVcT-" + "tttt" + "tttt"
    assert split.notes[-1] == "targets and candidates are of kitchen alone"


def test_what_happens_at_the_time_of_a_target_is_not_known_before_it():
    data = log("fkfkfk", "fkkf")
    time = np.array([0, 1, 5, 5, 7, 7, 0, 3, 3, 3])
    data = dataclasses.replace(data, events=dataclasses.replace(data.events, timestamp=time))
    split = splits.split(data, AIM)
    # The third event of the first user bears the time of the validation target, the fifth that of the test target.
    assert split.dataset.events.item.tolist()[:6] == data.events.item[[0, 1, 3, 2, 5, 4]].tolist()
    assert split.part.tolist()[:6] == [
        splits.TRAIN, splits.TRAIN, splits.VALIDATION, splits.TEST_CONTEXT, splits.TEST, splits.DROPPED,
    ]  # fmt: skip
    assert split.part.tolist()[6:] == [splits.TRAIN, splits.VALIDATION, splits.TEST, splits.DROPPED]
    assert split.notes[-1] == "at equal times kitchen comes first, other domains count as later: 4 events moved"
    assert prepare(split).cases("test")[0].lengths.tolist() == [4, 2]
    assert splits.everything(data, AIM).dataset.events.item.tolist() == split.dataset.events.item.tolist()


def test_the_file_orders_equal_times_where_it_is_believed():
    data = log("fkfkfk", "fkkf")
    data = dataclasses.replace(data, events=dataclasses.replace(data.events, timestamp=np.zeros(10, np.int64)))
    believed = AIM.model_copy(update={"equal_times": "file"})
    for result in (splits.split(data, believed), splits.everything(data, believed)):
        assert result.dataset.events.item.tolist() == data.events.item.tolist()
    assert splits.everything(data, AIM).dataset.events.item.tolist() != data.events.item.tolist()


def test_domains_are_those_that_training_has(dataset):
    labels = {**dataset.labels, "domain": ("attic", *dataset.labels["domain"])}
    columns = {**dataset.events.columns, "domain": dataset.events.columns["domain"] + 1}
    more = dataclasses.replace(dataset, labels=labels, events=dataclasses.replace(dataset.events, columns=columns))
    one, two = (prepare(splits.split(log, AIM)).catalogue for log in (dataset, more))
    assert two.labels["domain"] == one.labels["domain"] == dataset.labels["domain"]
    assert (two.item_domain == one.item_domain).all()


def test_candidates_are_the_trained_items_of_the_target_domain(dataset):
    prepared = prepare(splits.split(dataset, AIM))
    train = prepared.split.events(splits.TRAIN)
    code = dataset.labels["domain"].index("kitchen")
    expected = np.unique(prepared.item_token[train.item[train.columns["domain"] == code]])
    assert np.flatnonzero(prepared.catalogue.candidates).tolist() == expected.tolist()
    assert 0 < prepared.catalogue.num_candidates < prepared.catalogue.items.size - NUM_SPECIALS
    back = Catalogue.from_arrays(prepared.catalogue.arrays())
    assert (back.candidates == prepared.catalogue.candidates).all()
    assert prepare(splits.split(dataset, SplitConfig())).catalogue.candidates is None


def test_items_of_other_domains_are_no_rivals(dataset):
    """Popularity counted by hand among the kitchen's items."""
    prepared = prepare(splits.split(dataset, AIM))
    model = get("most_popular").model(get("most_popular").preset("base").model, prepared.catalogue)
    model.fit(prepared.train)
    histories, targets = prepared.cases("test")
    found = evaluation.evaluate(model, histories, targets, prepared.catalogue, EvaluateConfig(exclude_seen=False))
    scores = model.score(histories)[0]
    rivals = scores[prepared.catalogue.candidates]
    for rank, target in zip(found.ranks["rank"].tolist(), found.ranks["target"].tolist(), strict=True):
        if prepared.catalogue.candidates[target]:
            assert rank == int((rivals >= scores[target]).sum())
    lists = [tokens for tokens, _ in recommending.recommend(model, histories, 5, True, prepared.catalogue.candidates)]
    listed = np.concatenate(lists)
    assert prepared.catalogue.candidates[listed[listed > 0]].all()
    allowed = recommending.allowed_items(prepared.catalogue, PredictConfig(deny=(prepared.catalogue.items.ids[0],)))
    assert not allowed[NUM_SPECIALS] and not (allowed & ~prepared.catalogue.candidates).any()


def test_a_domain_that_is_not_there_is_named(dataset):
    with pytest.raises(ConfigError, match=r"split.target_domains.*'kichen'; did you mean 'kitchen'"):
        splits.split(dataset, SplitConfig(target_domains=("kichen",)))
    with pytest.raises(ConfigError, match=r"split.target_domains.*no column of domains"):
        splits.everything(
            Dataset(Events(np.zeros(1, np.int32), np.zeros(1, np.int32)), dataset.users, dataset.items), AIM
        )


def test_from_the_command_line(tmp_path, capsys):
    options = ["--model", "sasrec", "--preset", "tiny", "--run-dir", str(tmp_path / "run")]
    knobs = "target_domains=kitchen,epochs=1,num_users=60,num_items=40,sample.num_days=60,events_per_user=12"
    for action in ("train_validation_model", "train_production_model", "compute_predictions"):
        assert main.main([action, *options, "--override", knobs]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "targets and candidates are of kitchen alone" in metrics["audit"]["notes"]
    assert metrics["audit"]["candidates"] < 40
    data = sources.load(DataConfig(), SAMPLE, 0)
    kitchen = data.events.columns["domain"] == data.labels["domain"].index("kitchen")
    there = set(data.items.ids[data.events.item[kitchen]].tolist())
    lists = json.loads((tmp_path / "run" / "recommendations.json").read_text())
    listed = {item for item, _ in itertools.chain.from_iterable(lists.values())}
    assert listed and listed <= there
