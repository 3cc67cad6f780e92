"""Feature tables against a plain Python reference, and the odd values that real tables hold."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data import features
from zoo.data.dataset import Entities
from zoo.data.features import MIN_ENTITIES, encode_features
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary


def objects(values: list) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def encode(columns: dict[str, np.ndarray], trained: int | None = None, tokens: np.ndarray | None = None):
    """The table of entities whose first `trained` are trained, in tokens 3, 4, 5, ... unless given."""
    count = len(next(iter(columns.values())))
    tokens = np.arange(count, dtype=np.int32) + NUM_SPECIALS if tokens is None else tokens
    known = int(np.count_nonzero(tokens != UNKNOWN))
    vocabulary = Vocabulary(np.arange(known), known if trained is None else trained)
    return encode_features(Entities(np.arange(count), columns), tokens, vocabulary)


def names_of(table, row: int) -> list[str]:
    bag = table.bags[row + NUM_SPECIALS]
    assert not bag[np.count_nonzero(bag) :].any()  # padding lies on the right
    return [table.names[token] for token in bag[bag > 0]]


def test_no_columns_no_table():
    assert encode_features(Entities(np.arange(3)), np.arange(3) + 3, Vocabulary(np.arange(3), 3)) is None


def test_a_table_of_every_kind():
    table = encode(
        {
            "genre": objects(["war", "love", "war", None, "love"]),
            "tags": objects([["a", "b"], ["b"], [], None, ["b", "a", "b"]]),
            "codes": np.array([[7, 1], [7, 2], [8, 1], [-1, -1], [8, 255]], np.int16),
            "year": np.array([1990.0, 2000.0, np.nan, 2010.0, 2000.0]),
        }
    )
    assert names_of(table, 0) == ["genre=war", "tags=a", "tags=b", "codes=0:7", "codes=1:1"]
    assert names_of(table, 1) == ["genre=love", "tags=b", "codes=0:7", "codes=other"]
    assert names_of(table, 2) == ["genre=war", "codes=0:8", "codes=1:1"]
    assert names_of(table, 3) == []
    assert sorted(names_of(table, 4)) == ["codes=0:8", "codes=other", "genre=love", "tags=a", "tags=b"]
    assert table.number_names == ("year", "year is missing")
    years = np.array([1990.0, 2000.0, 2010.0, 2000.0])
    expected = (years - years.mean()) / years.std()
    assert np.allclose(table.numbers[[3, 4, 6, 7], 0], expected)
    assert table.numbers[5].tolist() == [0, 1]
    assert not table.bags[:3].any()
    assert not table.numbers[:3].any()
    assert table.bags.dtype == np.int32
    assert table.numbers.dtype == np.float32


def test_values_are_those_of_trained_entities():
    table = encode({"genre": objects(["war", "war", "love", "poem", "opera"])}, trained=3)
    assert table.names == ("", "genre=war", "genre=other")  # one lover is no genre
    assert [names_of(table, row) for row in range(5)] == [
        ["genre=war"],
        ["genre=war"],
        ["genre=other"],
        ["genre=other"],
        ["genre=other"],
    ]
    numbers = encode({"price": np.array([1.0, 3.0, 1000.0])}, trained=2).numbers
    assert numbers[3:, 0].tolist() == [-1, 1, 10]  # standardised by the trained ones, clipped


def test_an_other_that_nobody_could_learn_is_missing():
    table = encode({"genre": objects(["war", "war", "opera"])}, trained=2)
    assert table.names == ("", "genre=war")
    assert names_of(table, 2) == []


def test_entities_without_a_token_are_left_out():
    tokens = np.array([4, UNKNOWN, 3], np.int32)
    table = encode({"genre": objects(["war", "love", "war"]), "x": np.array([1.0, 50.0, 3.0])}, tokens=tokens)
    assert names_of(table, 0) == names_of(table, 1) == ["genre=war"]
    assert table.numbers[[3, 4], 0].tolist() == [1, -1]
    assert not table.bags[UNKNOWN].any()


def test_titles_are_taken_as_words():
    titles = [f"The Return of Film {n} (19{n})" for n in range(70, 90)]
    table = encode({"title": objects([*titles, None])})
    assert set(names_of(table, 0)) == {"title=film", "title=of", "title=return", "title=the", "title=other"}
    assert names_of(table, 20) == []


def test_a_category_of_several_words_stays_whole():
    table = encode({"kind": objects(["cake tins", "cake tins", "espresso makers", "espresso makers", "mug"])})
    assert table.names == ("", "kind=cake tins", "kind=espresso makers", "kind=other")


def test_the_rarest_values_become_other(monkeypatch):
    monkeypatch.setattr(features, "MAX_VALUES", 2)
    table = encode({"kind": objects(["a"] * 2 + ["b"] * 4 + ["c"] * 3)})
    assert table.names == ("", "kind=b", "kind=c", "kind=other")


def test_one_odd_row_does_not_widen_the_table():
    table = encode({"tags": objects([[str(n) for n in range(5_000)], ["0"], ["1"]])})
    assert table.bags.shape[1] <= features.MAX_LABELS


@pytest.mark.parametrize(
    "values",
    [
        [np.nan, np.nan],
        [np.inf, 1.0],
        [5.0, 5.0],
        [0.1, 0.1, 0.1],
        [1e308, -1e308, 1e308],
        [1e-300, 2e-300],
        [0.0, 0.0],
        [1.7e12, 1.7e12 + 86_400_000],
    ],
)
def test_odd_numbers_stay_finite(values):
    table = encode({"x": np.array(values)})
    assert np.isfinite(table.numbers).all()
    finite = np.array(values)[np.isfinite(values)]
    if len(set(finite)) > 1:
        assert table.numbers[3:, 0].std() > 0.5
    else:
        assert not table.numbers[:, 0].any()


def test_a_number_far_from_the_trained_ones_stays_finite():
    assert np.isfinite(encode({"x": np.array([1e-300, 2e-300, 1e300])}, trained=2).numbers).all()


def test_integers_and_booleans_are_numbers():
    table = encode({"n": np.array([1, 3], np.int8), "b": np.array([True, False])})
    assert table.number_names == ("n", "b")
    assert table.numbers[3:].tolist() == [[-1, 1], [1, -1]]


def test_nobody_trained():
    table = encode({"genre": objects(["war", "war"]), "x": np.array([1.0, 2.0])}, trained=0)
    assert table.names == ("",)
    assert np.isfinite(table.numbers).all()


label = st.sampled_from(["a", "b", "c", "d", "e e", "ф", "🛒", ""])
cell = st.one_of(st.none(), st.lists(st.one_of(st.none(), label), max_size=5))


@given(st.lists(cell, min_size=1, max_size=30), st.data())
def test_multi_labels_agree_with_a_reference(cells, data):
    trained = data.draw(st.integers(0, len(cells)))
    if not any(isinstance(value, list) for value in cells):
        cells = [[]]
        trained = min(trained, 1)
    table = encode({"tags": objects(cells)}, trained=trained)
    sets = [[] if value is None else list(dict.fromkeys(v for v in value if v is not None)) for value in cells]
    counts = Counter(value for labels in sets[:trained] for value in labels)
    kept = {value for value, count in counts.items() if count >= MIN_ENTITIES}
    others = any(value not in kept for value in counts)
    for row, labels in enumerate(sets):
        expected = [f"tags={value}" for value in labels if value in kept]
        if others and any(value not in kept for value in labels):
            expected.append("tags=other")
        assert sorted(names_of(table, row)) == sorted(expected)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_text_codes_agree_with_a_reference(count, length, seed):
    codes = np.random.default_rng(seed).integers(-1, 4, (count, length)).astype(np.int16)
    table = encode({"codes": codes})
    counts = Counter((p, c) for row in codes.tolist() for p, c in enumerate(row) if c >= 0)
    for row in range(count):
        kept = {f"codes={p}:{c}" for p, c in enumerate(codes[row].tolist()) if counts[p, c] >= MIN_ENTITIES and c >= 0}
        rare = any(c >= 0 and counts[p, c] < MIN_ENTITIES for p, c in enumerate(codes[row].tolist()))
        assert set(names_of(table, row)) == kept | ({"codes=other"} if rare else set())


def test_small_unsigned_codes_do_not_overflow():
    codes = np.array([[255, 0], [255, 0], [0, 255], [0, 255]], np.uint8)
    table = encode({"codes": codes})
    assert set(table.names) == {"", "codes=0:255", "codes=1:0", "codes=0:0", "codes=1:255"}


@given(st.lists(st.one_of(st.none(), st.text(max_size=12)), min_size=1, max_size=20))
def test_any_text_is_a_category_or_words(values):
    table = encode({"text": objects(values)})
    for row, value in enumerate(values):
        for name in names_of(table, row):
            said = name.removeprefix("text=")
            assert said in ("other", value) or said in re.findall(r"\w+", str(value).lower())
