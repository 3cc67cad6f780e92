"""What the stages of the model across domains are shown: places, masks, what is to be predicted."""

import dataclasses
import itertools

import numpy as np
import pytest

from config import RunConfig
from tests.small_domains import LENGTH, TARGET, catalogue, histories
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.loaders.domains import DomainLoader, MaskedRepresentationLoader, recommending, representing
from zoo.data.vocabulary import MASK, UNKNOWN
from zoo.models.cross_domain import CrossDomain, CrossDomainConfig


@pytest.mark.once
def test_places_count_within_a_domain():
    log = Histories(np.zeros(1, np.int32), np.array([0, 6]), np.array([3, 5, 4, 6, 7, UNKNOWN], np.int32))
    live = CrossDomainConfig(max_length=LENGTH, fine_tune_users=True)
    x = DomainLoader.inputs(log, catalogue(), live)
    row, start = divmod(int(x["slot"][0]) - 5, LENGTH)
    assert x["item"][row, start : start + 6].tolist() == [3, 5, 4, 6, 7, UNKNOWN]
    assert x["aim"][row, start : start + 6].tolist() == [0, 1, 2, 2, 2, 3]
    assert x["latest"].tolist() == [x["slot"][0] - 1]  # 7: what comes after it is unknown
    x = DomainLoader.inputs(log, catalogue(), CrossDomainConfig(max_length=LENGTH, causal=False))
    row, start = divmod(int(x["slot"][0]) - 6, LENGTH)
    assert x["item"][row, start : start + 7].tolist() == [3, 5, 4, 6, 7, UNKNOWN, MASK]
    assert x["domain"][row, start : start + 7].tolist() == [2, 2, 1, 1, 2, 0, TARGET]
    assert x["place"][row, start : start + 7].tolist() == [0, 1, 0, 1, 2, 0, 3]
    assert x["aim"][row, start + 6] == 3 and x["latest"].tolist() == x["slot"].tolist()
    food = Histories(np.zeros(1, np.int32), np.array([0, 2]), np.array([4, 6], np.int32))
    x = DomainLoader.inputs(food, catalogue(), live)
    assert x["latest"].tolist() == x["slot"].tolist()
    x = DomainLoader.inputs(log, catalogue(), CrossDomainConfig(max_length=LENGTH))["alone"]
    place = divmod(int(x["slot"][0]), LENGTH)
    assert x["item"][place[0], place[1] - 2 : place[1] + 1].tolist() == [3, 5, 7]
    assert x["aim"][place] == 2


@pytest.mark.once
def test_each_event_of_the_target_is_predicted_from_the_event_before():
    log, known = histories([8, 9, 12, 1, 7, 3, 9, 0]), catalogue()
    config = RunConfig(model=CrossDomainConfig(max_length=LENGTH, all_events=True, fine_tune_users=True))
    loader = recommending(log, known, config)
    found = []
    for index in range(len(loader)):
        x, y, weight = loader[index]
        slots = x["slot"][weight > 0]
        before = x["item"].reshape(-1)[slots]
        found += list(zip(before.tolist(), y[weight > 0].tolist(), strict=True))
        for slot, latest in zip(slots.tolist(), x["latest"][weight > 0].tolist(), strict=True):
            begin = slot - x["position"].reshape(-1)[slot]
            own = begin + np.flatnonzero(x["domain"].reshape(-1)[begin : slot + 1] == TARGET)
            assert latest == (own[-1] if len(own) else slot)
        assert (np.diff(slots) > 0).all() and len(x["slot"]) == loader.num_slots
    rows = log.row_of_event
    pairs = [
        (int(log.item[i]), int(log.item[i + 1]))
        for i in range(len(log.item) - 1)
        if rows[i] == rows[i + 1] and known.item_domain[log.item[i + 1]] == TARGET
    ]
    assert sorted(found) == sorted(pairs)
    masked = RunConfig(model=CrossDomainConfig(causal=False))
    assert type(recommending(log, known, masked)) is DomainLoader


@pytest.mark.once
def test_the_target_domain_is_trained_on_alone():
    log, known = histories([8, 9, 12, 1, 7, 3, 9, 0]), catalogue()
    config = RunConfig(model=CrossDomainConfig(max_length=LENGTH))
    before = np.arange(len(log.item), dtype=np.float32)[:, None]
    loader = recommending(dataclasses.replace(log, columns={"specific": before, "cross": -before}), known, config)
    found = []
    for index in range(len(loader)):
        x, y, weight = loader[index]
        assert set(x["domain"][x["position"] > 0].tolist()) == {TARGET}
        assert (x["specific"] == -x["cross"]).all()
        event = x["specific"][weight > 0][:, 0].astype(int).tolist()  # that is predicted
        found += zip(event, x["item"][weight > 0].tolist(), y[weight > 0].tolist(), strict=True)
    wanted = []
    for start, end in zip(log.offsets[:-1], log.offsets[1:], strict=True):
        own = [i for i in range(start, end) if known.item_domain[log.item[i]] == TARGET]
        pairs = list(itertools.pairwise(own))
        if own and own[0] > start:
            pairs.insert(0, (own[0] - 1, own[0]))  # the last of another domain
        wanted += [(j, int(log.item[i]), int(log.item[j])) for i, j in pairs]
    assert sorted(found) == sorted(wanted)


@pytest.mark.once
def test_encoders_of_users_predict_what_comes_next_in_what_they_see():
    log, known = histories([8, 9, 12, 1, 7, 3, 9, 0]), catalogue()
    loader = representing(log, known, RunConfig(model=CrossDomainConfig(max_length=LENGTH)))
    found, found_there = [], []
    for index in range(len(loader)):
        x, y, weight = loader[index]
        found += zip(x["item"][weight > 0].tolist(), y[weight > 0].tolist(), strict=True)
        there = x["weight_there"] > 0
        found_there += zip(x["item"][there].tolist(), x["next_there"][there].tolist(), strict=True)
    wanted, wanted_there = [], []
    for start, end in itertools.pairwise(log.offsets.tolist()):
        items = log.item[start:end].tolist()
        wanted += itertools.pairwise(items)
        for domain in (1, 2):
            wanted_there += itertools.pairwise(i for i in items if known.item_domain[i] == domain)
    assert sorted(found) == sorted(wanted) and sorted(found_there) == sorted(wanted_there)


@pytest.mark.once
@pytest.mark.parametrize("causal", [True, False])
def test_windows_of_one_history_are_told(causal):
    log, known = histories([30, 0, 9, 25, 4]), catalogue()
    config = RunConfig(model=CrossDomainConfig(max_length=LENGTH, causal=causal, mask_share=0.2))
    loader, found = representing(log, known, config), []
    for index in range(len(loader)):
        x, _, _ = loader[index]
        item, position = x["item"].reshape(-1), x["position"].reshape(-1)
        for slot, history in zip(x["person"][x["people"] > 0], x["history"][x["people"] > 0], strict=True):
            window = item[slot - position[slot] : slot + 1]
            events = log.item[log.offsets[history] : log.offsets[history + 1]]
            whole = np.lib.stride_tricks.sliding_window_view(events, len(window))
            assert ((window == whole) | (window == MASK)).all(axis=1).any()
            found.append(int(history))
    assert sorted(found) == [0, 0, 0, 0, 2, 3, 3, 3, 4]


@pytest.mark.once
@pytest.mark.parametrize("causal", [True, False])
def test_a_length_that_few_users_fill_costs_little_more_than_their_events(causal):
    lengths = np.clip(np.random.default_rng(0).lognormal(2.3, 0.9, 3000).astype(int), 2, 150)
    assert np.median(lengths) < 15 < 150 == lengths.max()
    log = histories(lengths)
    config = RunConfig(model=CrossDomainConfig(max_length=150, causal=causal))
    loader = representing(log, catalogue(), config)
    loader.set_epoch(0)
    batches = [loader[index][0]["segment"] for index in range(len(loader))]
    real = sum(int((segment > 0).sum()) for segment in batches)
    assert real >= lengths.sum() - len(lengths)
    assert sum(segment.size for segment in batches) <= 1.15 * real


@pytest.mark.once
def test_each_stage_masks_its_own():
    log, known = histories([8, 9, 12, 5, 7, 3, 9]), catalogue()
    config = RunConfig(
        model=CrossDomainConfig(max_length=LENGTH, mask_share=0.5, last_share=0.0, representation_epochs=10)
    )
    first, second = (loader(log, known, config) for loader in (MaskedRepresentationLoader, DomainLoader))
    for loader in (first, second):
        loader.set_epoch(0)
        x, y, weight = loader[0]
        assert (x["item"].reshape(-1)[x["slot"]][weight > 0] == MASK).all()
        assert (known.item_domain[y[weight > 0]] == x["domain"].reshape(-1)[x["slot"]][weight > 0]).all()
    assert set(known.item_domain[y[weight > 0]].tolist()) == {TARGET}
    _, y, weight = first[0]
    assert set(known.item_domain[y[weight > 0]].tolist()) == {1, 2}
    strengths = []
    for epoch in (0, 5, 50):
        first.set_epoch(epoch)
        strengths.append(float(first[0][0]["reversal"][0]))
    assert 0.2 < strengths[0] < 0.3 and 0.9 < strengths[1] < strengths[2] <= 1.0


@pytest.mark.once
def test_it_asks_for_one_target_domain():
    for labels in ({}, {"domain": ("food",)}):
        with pytest.raises(DataError, match="no column of two domains"):
            CrossDomain(CrossDomainConfig(), catalogue(labels=labels))
    with pytest.raises(DataError, match=r"split.target_domains is one of food, kitchen"):
        CrossDomain(CrossDomainConfig(), catalogue(labels={"domain": ("food", "kitchen")}))


@pytest.mark.once
@pytest.mark.parametrize("loader", [DomainLoader, MaskedRepresentationLoader, recommending, representing])
def test_items_of_two_domains_are_refused(loader):
    log = Histories(np.zeros(1, np.int32), np.array([0, 6]), np.array([3, 5, 4, 3, 6, 7], np.int32))
    config = RunConfig(model=CrossDomainConfig())
    for domain, refused in (([1, 1, 0, 1, 0, 1], False), ([1, 1, 0, 0, 0, 1], True)):
        marked = dataclasses.replace(log, columns={"domain": np.array(domain, np.int16)})
        if refused:
            with pytest.raises(DataError, match="1 items occur in more than one domain, such as 0;"):
                loader(marked, catalogue(), config)
        else:
            assert len(loader(marked, catalogue(), config)) == 1
