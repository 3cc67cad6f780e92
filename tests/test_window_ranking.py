"""Ranks of what clients buy behind the cut-off, against sorting by hand."""

from dataclasses import replace

import numpy as np
import pytest

from tests.behaviour_logs import prepared, random_log
from zoo import window_ranking
from zoo.data.behaviour.log import BUY, WITH_PRODUCT
from zoo.data.behaviour.prepared import prepare_as
from zoo.data.vocabulary import NUM_SPECIALS

pytestmark = pytest.mark.once
WIDTH = 5


def vectors(found, seed=0):
    rng = np.random.default_rng(seed)
    sizes = {"product": found.catalogue.items.size, "category": found.catalogue.categories.size}
    tables = {what: rng.normal(size=(size, WIDTH)).astype(np.float32) for what, size in sizes.items()}
    return rng.normal(size=(len(found.everyone()), WIDTH)).astype(np.float32), tables


def by_hand(found, what, scores_of):
    """[hit_rate@10, recall@10, ndcg@10], by a loop over the clients' own rows of the log."""
    log, rows = found.tokens, []
    for client, row in enumerate(found.everyone().client):
        events = slice(log.offsets[row], log.offsets[row + 1])
        kind, time, ref = log.kind[events], log.time[events], log.ref[events]
        label = (lambda refs: refs) if what == "product" else (lambda refs: found.catalogue.category[refs])
        bought = set(label(ref[(kind == BUY) & (time >= found.windows.start)]).tolist())
        if not bought:
            continue
        before = label(ref[np.isin(kind, WITH_PRODUCT) & (time < found.windows.start)]).tolist()
        scores = scores_of(client, before)
        # Whatever is equal stands before a target, but for further targets, which take their turns.
        rivals = [score for token, score in enumerate(scores) if token >= NUM_SPECIALS and token not in bought]
        alone = sorted(1 + sum(rival >= scores[token] for rival in rivals) for token in bought if token >= NUM_SPECIALS)
        places = [ahead + place for ahead, place in enumerate(alone)]
        found_at = [place for place in places if place <= 10]
        ideal = sum(1 / np.log2(1 + place) for place in range(1, min(len(bought), 10) + 1))
        gain = sum(1 / np.log2(1 + place) for place in found_at)
        rows.append([bool(found_at), len(found_at) / len(bought), gain / ideal])
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("what", ["product", "category"])
def test_ranks_are_those_of_a_loop(what):
    found = prepared(random_log(seed=3, products=40, categories=20))
    users, tables = vectors(found)
    ranked = window_ranking.rank(found, "mine", users, tables)
    popular = found.catalogue.buy_counts
    if what == "category":
        popular = np.bincount(found.catalogue.category, popular, minlength=found.catalogue.categories.size)

    def repeated(client, before):
        last = {token: place for place, token in enumerate(before, start=1)}
        return [last.get(token, count / (popular.max() + 1)) for token, count in enumerate(popular)]

    expected = {
        "mine": by_hand(found, what, lambda client, _: users[client] @ tables[what].T),
        "most_popular": by_hand(found, what, lambda *_: popular),
        "repeat_last": by_hand(found, what, repeated),
    }
    for name, numbers in expected.items():
        row = ranked["rows"][what][name]
        assert [row[metric] for metric in window_ranking.METRICS] == pytest.approx(numbers.tolist()), name
    mine = ranked["rows"][what]["mine"]
    assert mine["interval"][0] < mine["ndcg@10"] < mine["interval"][1]


def test_what_was_not_learned_has_no_rows_and_unknown_products_are_found_by_nobody():
    found = prepared(random_log(seed=3))
    users, tables = vectors(found)
    ranked = window_ranking.rank(found, "mine", users, tables | {"category": np.zeros_like(tables["category"])})
    assert set(ranked["rows"]) == {"product"} and "product, mine" in window_ranking.markdown(ranked)
    # In the tokens of a catalogue that knows none of the products, no purchase can be foretold.
    log = random_log(seed=3)
    stranger = replace(log, products=replace(log.products, ids=log.products.ids + 1_000))
    unknown = prepare_as(stranger, found.catalogue, found.cut, found.windows)
    rows = window_ranking.rank(unknown, "mine", users, tables)["rows"]["product"]
    assert all(row["recall@10"] == 0 for row in rows.values())
