"""Vectors in files: right, whole or absent, in the ids that came in."""

import pickle
import resource

import keras
import numpy as np
import pytest

from config import ConfigError, PredictConfig
from tests.test_recommending import DIM, STRANGE, USERS, Fixed, catalogue_of, world
from zoo import exporting
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS

__all__ = ["world"]  # a fixture


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_exported_vectors(world, tmp_path, dtype, monkeypatch):
    model, _, histories = world
    monkeypatch.setattr(exporting, "BATCH", 7)
    exporting.export_embeddings(model, histories, np.arange(USERS) * 10, tmp_path, PredictConfig(embedding_dtype=dtype))
    users, items = np.load(tmp_path / "embeddings.npy", mmap_mode="r"), np.load(tmp_path / "item_embeddings.npy")
    assert users.dtype == items.dtype == dtype
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    scores = model.score(histories)[:, NUM_SPECIALS:]
    np.testing.assert_allclose(users.astype(np.float32) @ items.astype(np.float32).T, scores, atol=tolerance)
    np.testing.assert_array_equal(np.load(tmp_path / "client_ids.npy"), np.arange(USERS) * 10)
    np.testing.assert_array_equal(np.load(tmp_path / "item_ids.npy"), model.catalogue.items.ids)
    assert np.load(tmp_path / "client_ids.npy").dtype == np.int64
    assert len(list(tmp_path.iterdir())) == 4


def test_exported_ids_may_be_text(tmp_path):
    catalogue = catalogue_of(items=STRANGE)
    model = Fixed(catalogue, np.ones((5, DIM), np.float32), np.ones((len(STRANGE) + NUM_SPECIALS, DIM), np.float32))
    histories = Histories(np.array([3, 4], np.int32), np.zeros(3, np.int64), np.zeros(0, np.int32))
    exporting.export_embeddings(model, histories, STRANGE[:2], tmp_path, PredictConfig())
    assert np.load(tmp_path / "item_ids.npy").tolist() == STRANGE.tolist()
    assert np.load(tmp_path / "client_ids.npy").tolist() == STRANGE[:2].tolist()


def test_a_full_disk_leaves_the_old_vectors(world, tmp_path):
    model, _, histories = world
    (tmp_path / "client_ids.npy").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        with pytest.raises(OSError, match="nothing was changed") as caught:
            exporting.export_embeddings(
                model, histories, np.arange(USERS), tmp_path, PredictConfig(embedding_dtype="float32")
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path) and str(caught.value).count("nothing was changed") == 1
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("client_ids.npy", "old")]


@pytest.mark.parametrize(("value", "message"), [(7e4, "embedding_dtype=float32"), (np.nan, "diverged")])
@pytest.mark.parametrize("where", ["users", "items"])
def test_what_float16_cannot_hold_is_not_written(world, tmp_path, value, message, where):
    model, _, histories = world
    array = keras.ops.convert_to_numpy(getattr(model, where)).copy()
    array[9, 1] = value
    setattr(model, where, keras.ops.convert_to_tensor(array))
    (tmp_path / "embeddings.npy").write_text("old")
    with pytest.raises(DataError, match=message):
        exporting.export_embeddings(model, histories, np.arange(USERS), tmp_path, PredictConfig())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("embeddings.npy", "old")]


class TwoViews(Fixed):
    def views(self):
        return super().views() | {"backwards": lambda inputs: keras.ops.flip(self.encode_users(inputs), axis=1)}


def test_further_views_have_files_of_their_own(world, tmp_path):
    model, _, histories = world
    model = TwoViews(model.catalogue, model.users, model.items)
    ids = np.arange(USERS) * 10
    knobs = PredictConfig(embedding_dtype="float32", embedding_pickle=True)
    exporting.export_embeddings(model, histories, ids, tmp_path, knobs)
    plain, turned = (np.load(tmp_path / f"{name}.npy") for name in ("embeddings", "backwards"))
    np.testing.assert_array_equal(turned, plain[:, ::-1])
    plainly = pickle.loads((tmp_path / "backwards.pkl").read_bytes())
    assert plainly == {int(user): row for user, row in zip(ids, turned.tolist(), strict=True)}
    assert {type(key) for key in plainly} == {int}


def test_one_view_may_be_asked_for(world, tmp_path):
    model, _, histories = world
    for name in ("embeddings.npy", "embeddings.pkl", "backwards.pkl"):
        (tmp_path / name).write_text("of an earlier call")
    model = TwoViews(model.catalogue, model.users, model.items)
    exporting.export_embeddings(
        model, histories, np.arange(USERS), tmp_path, PredictConfig(embedding_views=("backwards",))
    )  # other files would be of other users
    assert {path.name for path in tmp_path.iterdir()} == {
        "backwards.npy",
        "client_ids.npy",
        "item_ids.npy",
        "item_embeddings.npy",
    }
    with pytest.raises(ConfigError, match="embedding_views=sideways: this model has embeddings, backwards"):
        knobs = PredictConfig(embedding_views=("sideways",))
        exporting.export_embeddings(model, histories, np.arange(USERS), tmp_path, knobs)
