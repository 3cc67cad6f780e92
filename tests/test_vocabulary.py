"""Ids to tokens and back, whatever the ids look like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_datasets import objects

from zoo.data.vocabulary import MASK, NUM_SPECIALS, PAD, UNKNOWN, Vocabulary

ODD_TEXTS = [
    "007",
    "7",
    " 7",
    "a b",
    "naïve",
    "🛒",
    'quo"te',
    "NaN",
    "None",
    "",
    "a\x00b",
    "a",
    "b",
    "nan",
    "\u00e9",
    "e\u0301",
]
id_arrays = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), unique=True).map(lambda ids: np.array(ids, np.int64)),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), unique=True).map(lambda ids: np.array(ids, np.float64)),
    st.lists(st.text(max_size=8), unique=True).map(objects),
)


def test_specials_come_first():
    assert (PAD, MASK, UNKNOWN, NUM_SPECIALS) == (0, 1, 2, 3)
    assert Vocabulary(np.array([5, 9]), 1).size == 5
    assert Vocabulary(np.array([5, 9]), 1).trained_size == 4


@given(id_arrays)
def test_encode_and_decode_are_inverse(ids):
    vocabulary = Vocabulary(ids, len(ids))
    tokens = vocabulary.encode(ids)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == list(range(NUM_SPECIALS, NUM_SPECIALS + len(ids)))
    back = vocabulary.decode(tokens)
    assert back.dtype == ids.dtype
    assert back.tolist() == ids.tolist()


@given(id_arrays, st.data())
def test_an_id_outside_is_unknown(ids, data):
    kept = data.draw(st.integers(0, len(ids)))
    tokens = Vocabulary(ids[:kept], kept).encode(ids)
    assert tokens.tolist() == [NUM_SPECIALS + row if row < kept else UNKNOWN for row in range(len(ids))]


def test_odd_texts_stay_apart():
    vocabulary = Vocabulary(objects(ODD_TEXTS), len(ODD_TEXTS))
    assert vocabulary.decode(vocabulary.encode(objects(ODD_TEXTS))).tolist() == ODD_TEXTS


@pytest.mark.parametrize(
    ("ids", "asked", "expected"),
    [
        (np.array([7, 8]), np.array([7.0, 7.5, np.nan]), [3, UNKNOWN, UNKNOWN]),
        (np.array([7, 8]), objects(["7", 8]), [UNKNOWN, 4]),
        (np.array([7, 8]), np.array(["7", "8"]), [UNKNOWN, UNKNOWN]),
        (np.array([7.0, 8.5]), np.array([7, 8]), [3, UNKNOWN]),
        (objects(["7", "a"]), np.array([7, 8]), [3, UNKNOWN]),
        (objects(["7", "a"]), objects([7, "a"]), [3, 4]),
        (objects(["7", "a"]), np.array(["a", "7", "x"]), [4, 3, UNKNOWN]),
        (objects(["7", "07"]), np.array([7]), [3]),
        (np.array([7, 8]), np.array([]), []),
        (objects(["7"]), np.array([]), []),
        (np.array([], np.int64), np.array([7]), [UNKNOWN]),
        (objects([]), objects(["a"]), [UNKNOWN]),
    ],
)
def test_ids_of_another_type(ids, asked, expected):
    assert Vocabulary(ids, len(ids)).encode(asked).tolist() == expected


def test_the_shape_is_kept():
    vocabulary = Vocabulary(np.array([5, 6, 7, 8]), 4)
    table = np.array([[8, 5], [6, 9]])
    assert vocabulary.encode(table).tolist() == [[6, 3], [4, UNKNOWN]]
    assert vocabulary.decode(np.array([[6, 3], [4, 4]])).tolist() == [[8, 5], [6, 6]]


@pytest.mark.parametrize("token", [-1, PAD, MASK, UNKNOWN])
def test_a_special_token_has_no_id(token):
    with pytest.raises(ValueError, match="special"):
        Vocabulary(np.array([5]), 1).decode(np.array([3, token]))


def test_the_fingerprint_sees_ids_order_type_and_what_was_trained():
    vocabularies = [
        Vocabulary(np.array([1, 2]), 2),
        Vocabulary(np.array([1, 2]), 1),
        Vocabulary(np.array([2, 1]), 2),
        Vocabulary(np.array([1.0, 2.0]), 2),
        Vocabulary(objects(["1", "2"]), 2),
        Vocabulary(objects(["1\x002"]), 2),
        Vocabulary(objects(["1", "2", ""]), 2),
    ]
    assert len({vocabulary.sha256 for vocabulary in vocabularies}) == len(vocabularies)
    assert Vocabulary(np.array([1, 2]), 2).sha256 == vocabularies[0].sha256
