"""Recommendations and vectors in files: right, whole or absent, in the ids that came in."""

import errno
import json
import resource
import tracemalloc

import keras
import numpy as np
import pandas as pd
import pytest

from config import ModelConfig, PredictConfig
from zoo import recommending
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, UNKNOWN, Vocabulary
from zoo.recommender import Recommender, Scorer
from zoo.topk import top_of_scores

STRANGE = np.array(['a "b"', "007", "🎉", " sp ace ", "back\\slash", "é", "comma,\ttab"], dtype=object)
USERS, ITEMS, DIM = 30, 20, 4


class Loader:
    @staticmethod
    def inputs(histories, catalogue, config):
        return {"user": histories.user}


class Fixed(Recommender):
    """Vectors that are given, not learned."""

    loader = Loader

    def __init__(self, catalogue, users, items):
        super().__init__(ModelConfig(), catalogue)
        self.users, self.items = keras.ops.convert_to_tensor(users), keras.ops.convert_to_tensor(items)

    def encode_users(self, inputs):
        return keras.ops.take(self.users, inputs["user"], axis=0)

    def item_embeddings(self):
        return self.items

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        raise NotImplementedError


class Dense(Scorer):
    def __init__(self, catalogue, scores):
        self.catalogue, self.scores = catalogue, scores

    def score(self, histories):
        return self.scores[histories.user]


def catalogue_of(users=USERS, items=ITEMS):
    vocabularies = [
        Vocabulary(
            np.arange(size) * 10 if isinstance(size, int) else size, size if isinstance(size, int) else len(size)
        )
        for size in (users, items)
    ]
    return Catalogue(*vocabularies, np.zeros(vocabularies[1].size, np.int64))


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    catalogue = catalogue_of()
    users = rng.standard_normal((catalogue.users.size, DIM)).astype(np.float32)
    items = rng.standard_normal((catalogue.items.size, DIM)).astype(np.float32)
    lengths = rng.integers(0, 12, USERS)
    lengths[3], lengths[4] = 0, ITEMS
    item = rng.integers(UNKNOWN, catalogue.items.size, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    item[offsets[4] : offsets[5]] = np.arange(ITEMS) + NUM_SPECIALS  # a user with every item
    histories = Histories(np.arange(USERS, dtype=np.int32) + NUM_SPECIALS, offsets, item)
    return Fixed(catalogue, users, items), Dense(catalogue, users @ items.T), histories


def together(batches):
    tokens, scores = zip(*batches, strict=True)
    return np.concatenate(tokens), np.concatenate(scores)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("some", [True, False])
def test_vectors_and_scores_recommend_the_same(world, exclude_seen, some, monkeypatch):
    fixed, dense, histories = world
    allowed = np.arange(ITEMS + NUM_SPECIALS) % 2 == 0 if some else None
    expected = dense.scores[histories.user].copy()
    if some:
        expected[:, ~allowed] = -np.inf
    if exclude_seen:
        expected[histories.row_of_event, histories.item] = -np.inf
    expected = top_of_scores(expected, 8)
    monkeypatch.setattr(recommending, "BATCH", 7)
    for model in (fixed, dense):
        tokens, scores = together(recommending.recommend(model, histories, 8, exclude_seen, allowed))
        np.testing.assert_array_equal(tokens, expected[0])
        np.testing.assert_allclose(scores, expected[1], rtol=1e-5)
    assert exclude_seen != np.isfinite(scores[4]).any()


def test_a_models_own_scores_are_left_alone(world):
    _, dense, histories = world
    kept = dense.scores[NUM_SPECIALS:]
    dense.score = lambda part: kept[: len(part)]
    before = kept.copy()
    together(recommending.recommend(dense, histories, 3))
    np.testing.assert_array_equal(kept, before)


@pytest.mark.parametrize("which", [0, 1])
def test_a_model_without_numbers_is_refused(world, which):
    model, histories = world[which], world[2]
    if which:
        model.scores[9, 9] = np.nan
    else:
        model.items = keras.ops.convert_to_tensor(np.full((ITEMS + NUM_SPECIALS, DIM), np.nan, np.float32))
    with pytest.raises(DataError, match="diverged"):
        together(recommending.recommend(model, histories, 3))


# ------------------------------------------------------------------------------------------------------- writers

TOKENS = np.array([[3, 9, 5], [4, 0, 0], [0, 0, 0]], np.int32)
SCORES = np.array([[5, 1 / 3, -1e-7], [1e22, -np.inf, -np.inf], [-np.inf] * 3], np.float32)
WANTED = [[(0, 5.0), (6, 1 / 3), (2, -1e-7)], [(1, 1e22)], []]


def ids_of(kind, size):
    if kind == "str":
        return STRANGE[:size]
    return np.arange(size) * (2**40 + 1) if kind == "int" else np.arange(size) + 0.5


def write(path, kind, file_format=None, tokens=TOKENS, scores=SCORES, split=2):
    batches = [(tokens[:split], scores[:split]), (tokens[split:], scores[split:])]
    file_format = file_format or path.suffix[1:]
    return recommending.write(path, file_format, ids_of(kind, len(tokens)), Vocabulary(ids_of(kind, 7), 7), batches)


@pytest.mark.parametrize("kind", ["str", "int", "float"])
@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_ids_and_scores_come_back_as_they_went_in(tmp_path, kind, file_format, capsys):
    path = tmp_path / f"recommendations.{file_format}"
    assert write(path, kind) == 3
    users, items = ids_of(kind, 3).tolist(), ids_of(kind, 7).tolist()
    if file_format == "json":
        found = list(json.loads(path.read_text("utf-8")).items())
        users = [str(user) for user in users]
    elif file_format == "jsonl":
        found = [(line["user"], line["items"]) for line in map(json.loads, path.read_text("utf-8").splitlines())]
    else:
        frame = pd.read_parquet(path)
        assert frame["rank"].tolist() == [1, 2, 3, 1]
        found = [
            (user, frame.loc[frame["user"] == user, ["item", "score"]].astype(object).to_numpy().tolist())
            for user in users
        ]
    expected = [[[items[i], float(np.float32(s))] for i, s in pairs] for pairs in WANTED]
    assert [user for user, _ in found] == users
    for pairs, wanted in zip([pairs for _, pairs in found], expected, strict=True):
        assert [item for item, _ in pairs] == [item for item, _ in wanted]
        assert [type(item) for item, _ in pairs] == [type(item) for item, _ in wanted]
        assert [np.float32(score) for _, score in pairs] == [np.float32(score) for _, score in wanted]
        assert all(isinstance(score, float) for _, score in pairs)
    assert "warning: 2 of 3 users get a list shorter than 3" in capsys.readouterr().out


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_no_user_at_all(tmp_path, file_format):
    path = tmp_path / f"none.{file_format}"
    assert write(path, "int", tokens=TOKENS[:0], scores=SCORES[:0]) == 0
    if file_format == "parquet":
        assert pd.read_parquet(path).empty
    else:
        assert json.loads(path.read_text() or "{}") == {}


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_writes_nothing(tmp_path, file_format, score):
    path = tmp_path / f"old.{file_format}"
    path.write_text("old")
    scores = SCORES.copy()
    scores[1, 0] = score
    with pytest.raises(DataError, match="diverged"):
        write(path, "str", scores=scores)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(path.name, "old")]


def interrupted():
    yield TOKENS, SCORES
    raise KeyboardInterrupt


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_an_interruption_leaves_the_old_file(tmp_path, file_format):
    path = tmp_path / "old"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        recommending.write(path, file_format, np.arange(9), Vocabulary(STRANGE, 7), interrupted())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old", "old")]


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_a_full_disk_leaves_the_old_file(tmp_path, file_format):
    path = tmp_path / "old"
    path.write_text("old")
    tokens = np.random.default_rng(0).integers(3, 10, (20_000, 3)).astype(np.int32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="nothing was changed") as caught:
            recommending.write(
                path, file_format, np.arange(20_000), Vocabulary(STRANGE, 7), [(tokens, tokens.astype(np.float32))]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path) and caught.value.errno == errno.EFBIG
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("old", "old")]


def test_lists_must_match_the_users(tmp_path):
    with pytest.raises(ValueError, match="3 lists for 4 users"):
        recommending.write(tmp_path / "x", "json", np.arange(4), Vocabulary(STRANGE, 7), [(TOKENS, SCORES)])
    with pytest.raises(ValueError, match="more lists than the 2 users"):
        recommending.write(tmp_path / "x", "json", np.arange(2), Vocabulary(STRANGE, 7), [(TOKENS, SCORES)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file_format", ["json", "jsonl", "parquet"])
def test_many_users_need_little_memory(tmp_path, file_format):
    """40 k users × 20 items would be more than 80 MB as Python objects."""
    rng = np.random.default_rng(0)
    tokens, scores = rng.integers(3, 10, (1000, 20)).astype(np.int32), rng.random((1000, 20), np.float32)
    users = np.arange(40_000)
    tracemalloc.start()
    try:
        batches = ((tokens, scores) for _ in range(40))
        recommending.write(tmp_path / "x", file_format, users, Vocabulary(STRANGE, 7), batches)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------- who and what is asked


def test_users_by_list_and_by_file(tmp_path):
    numbers, texts = np.array([30, 10, 20]), np.array(["30", "010", "x y"], dtype=object)
    assert recommending.asked_rows(numbers, (20, "30", 20)).tolist() == [2, 0]
    assert recommending.asked_rows(texts, ("x y", 30)).tolist() == [2, 0]
    assert recommending.asked_rows(np.array([0.5, 2.0]), (2, "0.5")).tolist() == [1, 0]
    assert recommending.asked_rows(texts, "010").tolist() == [1]
    path = tmp_path / "users.txt"
    path.write_bytes("\ufeff10\r\n\r\n20\r\n".encode())
    assert recommending.asked_rows(numbers, str(path)).tolist() == [1, 2]
    path.write_text("x y\n010", "utf-8")
    assert recommending.asked_rows(texts, str(path)).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (("ann", "bob"), r"predict.users: 1 of 2 users unknown, the first is 'bob'; did you mean 'bo'"),
        ((7, 8, "ann"), r"predict.users: 2 of 3 users unknown, the first is '7'; known are 'ann', 'bo'"),
        ("nobody", r"predict.users='nobody': neither a file with one id a line nor one of the users"),
    ],
)
def test_unknown_users(users, message):
    with pytest.raises(DataError, match=message):
        recommending.asked_rows(np.array(["ann", "bo"], dtype=object), users)


def test_bad_files_of_ids(tmp_path):
    path = tmp_path / "users.txt"
    for content, message in ((b"", "is empty"), (b"\n \n", "is empty"), (b"\xff\xfe1", "not UTF-8"), (b"1\nx", "'x'")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            recommending.asked_rows(np.arange(3), str(path))


def test_allow_and_deny():
    catalogue = catalogue_of()
    assert recommending.allowed_items(catalogue, PredictConfig()) is None
    allowed = recommending.allowed_items(catalogue, PredictConfig(allow=(0, 20, 30), deny=("20", 100)))
    assert np.flatnonzero(allowed).tolist() == [NUM_SPECIALS, NUM_SPECIALS + 3]
    denied = recommending.allowed_items(catalogue, PredictConfig(deny=(0,)))
    assert np.flatnonzero(~denied).tolist() == [0, 1, 2, NUM_SPECIALS]
    with pytest.raises(DataError, match="leave no item"):
        recommending.allowed_items(catalogue, PredictConfig(allow=(10,), deny=(10,)))
    with pytest.raises(DataError, match=r"predict.deny: 1 of 1 items unknown, the first is '7'"):
        recommending.allowed_items(catalogue, PredictConfig(deny=(7,)))
