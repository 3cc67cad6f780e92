"""Overrides: what a person may write, and what a mistake is answered with."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import ConfigError, ModelConfig, RunConfig, Section, override, rebuild


class Tower(Section):
    width: int = 8


class ToyConfig(ModelConfig):
    embedding_dim: int = 16
    hidden: tuple[int, ...] = (64,)
    tower: Tower = Tower()


TOY = RunConfig(model=ToyConfig())


def leaf(config: RunConfig, path: str):
    value = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.epochs=3", {"train.epochs": 3}),
        ("train.epochs=3,learning_rate=1e-4", {"train.epochs": 3, "train.learning_rate": 1e-4}),
        ("batch_size=1e3", {"train.batch_size": 1000}),
        (" batch_size = 64 , seed = 7 ", {"train.batch_size": 64, "seed": 7}),
        ("seed=1,seed=2", {"seed": 2}),
        ("model.embedding_dim=4", {"model.embedding_dim": 4}),
        ("tower.width=3", {"model.tower.width": 3}),
        ("width=3", {"model.tower.width": 3}),
        ("hidden=8", {"model.hidden": (8,)}),
        ("hidden=8,4,seed=1", {"model.hidden": (8, 4), "seed": 1}),
        ("hidden=[8, 4],seed=1", {"model.hidden": (8, 4), "seed": 1}),
        ("hidden=[]", {"model.hidden": ()}),
        ("top_k=5,10", {"evaluate.top_k": (5, 10)}),
        ("patience=null", {"train.patience": None}),
        ("patience=None,ema=.9", {"train.patience": None, "train.ema": 0.9}),
        ("evaluate.exclude_seen=False", {"evaluate.exclude_seen": False}),
        ("tensorboard=true", {"train.tensorboard": True}),
        ("columns.user=buyer", {"data.columns.user": "buyer"}),
        ("data.columns.user=the buyer", {"data.columns.user": "the buyer"}),
        ("since=2020", {"data.since": "2020"}),
        ("since=2020-01-31T12:00", {"data.since": "2020-01-31T12:00"}),
        ("path=7", {"data.path": "7"}),
        ("path=1e5", {"data.path": "1e5"}),
        ("path=null", {"data.path": "null"}),
        ("path=true", {"data.path": "true"}),
        ('path="null"', {"data.path": "null"}),
        ("path='a,seed=3'", {"data.path": "a,seed=3"}),
        ("path=bob's.csv,seed=3", {"data.path": "bob's.csv", "seed": 3}),
        ("path=data_[0-9].csv,seed=3", {"data.path": "data_[0-9].csv", "seed": 3}),
        ("path=odd[1.csv,seed=3", {"data.path": "odd[1.csv", "seed": 3}),
        ("path=один файл 🛒.csv", {"data.path": "один файл 🛒.csv"}),
        ("path=https://host/x?a=1&b=2", {"data.path": "https://host/x?a=1&b=2"}),
        ("actions=buy", {"data.actions": ("buy",)}),
        ("actions=view,buy,seed=2", {"data.actions": ("view", "buy"), "seed": 2}),
        ("actions=1,2", {"data.actions": ("1", "2")}),
        ('actions=["a,b", "c=d"]', {"data.actions": ("a,b", "c=d")}),
        ('actions="a,b",c', {"data.actions": ("a,b", "c")}),
        ("actions='a,b',c", {"data.actions": ("a,b", "c")}),
        ("actions='food'", {"data.actions": ("food",)}),
        ("actions=o'brien,smith's", {"data.actions": ("o'brien", "smith's")}),
        ('action_weights={"cart": 2, "buy": 3.5},seed=1', {"data.action_weights": {"cart": 2, "buy": 3.5}, "seed": 1}),
        ("predict.users=7", {"predict.users": (7,)}),
        ("predict.users=7,8", {"predict.users": (7, 8)}),
        ("predict.users=007,anna", {"predict.users": ("007", "anna")}),
        ("predict.users=file.txt", {"predict.users": "file.txt"}),
        (
            "query=SELECT buyer AS user, sku AS item, ts AS timestamp FROM data WHERE n >= 2",
            {"data.query": "SELECT buyer AS user, sku AS item, ts AS timestamp FROM data WHERE n >= 2"},
        ),
        (
            "query=\"SELECT a AS user, b=1 AS item, c FROM 'x/*.parquet'\",seed=3",
            {"data.query": "SELECT a AS user, b=1 AS item, c FROM 'x/*.parquet'", "seed": 3},
        ),
    ],
)
def test_overrides_that_are_read(text, expected):
    config = override(TOY, [text])
    for path, value in expected.items():
        assert leaf(config, path) == value
        assert type(leaf(config, path)) is type(value)
    assert leaf(TOY, "seed") == 0  # the original is untouched


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("", "expected key=value"),
        ("epoch=3", "did you mean 'train.epochs'"),
        ("trian.epochs=3", "did you mean 'train.epochs'"),
        ("train.embedding_dim=3", "did you mean 'model.embedding_dim'"),
        ("learning_rat=3", "did you mean 'train.learning_rate'"),
        ("zzzzzz=1", "show_config"),
        ("users=a,b", "write one of data.users, predict.users"),
        ("exclude_seen=no", "evaluate.exclude_seen, predict.exclude_seen"),
        ("action_weights.cart=2", 'data.action_weights={"cart": ...}'),
        ("epochs=0", "train.epochs=0: input should be greater"),
        ("epochs=abc", "train.epochs=abc"),
        ("epochs=3.5", "fractional"),
        ("epochs=null", "valid integer"),
        ("seed=3,", "seed=3,"),
        ("seed=5,6", "valid integer"),
        ("top_k=5,x", "evaluate.top_k=5,x"),
        ("min_score=nan", "finite"),
        ("learning_rate=Infinity", "finite"),
        ("noise=1.5", "less than or equal to 1"),
        ("duplicates=frist", "did you mean 'first'"),
        ("optimizer=adamm", "did you mean 'adam"),
        ("exclude_seen.x=1", "unknown key"),
        ("evaluate.exclude_seen=maybe", "boolean"),
    ],
)
def test_mistakes_are_named_in_one_line(text, words):
    with pytest.raises(ConfigError) as caught:
        override(TOY, [text])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_overrides_apply_in_order():
    assert override(TOY, ["epochs=3", "epochs=4,seed=1"]).train.epochs == 4
    assert override(TOY, []) == TOY


def test_a_model_keeps_its_type():
    config = override(TOY, ["seed=3"])
    assert type(config.model) is ToyConfig
    with pytest.raises(ConfigError, match=r"model\.embedding_dim='x'"):
        rebuild(TOY, {"model": {"embedding_dim": "x"}})


def test_config_survives_json():
    config = override(TOY, ["top_k=3,4", "hidden=5,6", 'action_weights={"buy": 2}', "predict.users=1,a"])
    assert rebuild(RunConfig(model=ToyConfig()), json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trian": {}}, "trian: unknown key"),
        ({"train": {"epoch": 3}}, "train.epoch=3: unknown key"),
        ({"train": 3}, "train=3"),
        ({"model": 3}, "model=3"),
        ({"model": {"width": 3}}, "model.width=3: unknown key"),
    ],
)
def test_foreign_values_are_refused(values, words):
    with pytest.raises(ConfigError) as caught:
        rebuild(TOY, values)
    assert words in str(caught.value)


def test_a_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TOY.train.epochs = 3  # type: ignore[misc]


@given(st.text())
def test_any_text_is_read_or_refused_with_a_config_error(text):
    with contextlib.suppress(ConfigError):
        override(TOY, [text])


@given(st.text(st.characters(codec="utf-8")))
def test_any_quoted_text_is_kept(text):
    assert override(TOY, [f"path={json.dumps(text)},seed=3"]).data.path == text


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.floats(1e-12, 1e3))
def test_lists_and_numbers_are_kept(top_k, rate):
    text = f"top_k={','.join(map(str, top_k))},learning_rate={rate!r},seed=5"
    config = override(TOY, [text])
    assert config.evaluate.top_k == tuple(top_k)
    assert config.train.learning_rate == rate
    assert config.seed == 5


def test_config_imports_no_keras():
    code = "import sys, config; sys.exit(any(m.split('.')[0] in ('keras', 'zoo', 'numpy') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False).returncode == 0


def test_a_saved_config_has_no_password():
    config = override(TOY, ["data.path=postgresql://me:se%40cret@host:5432/shop"])
    assert config.data.path.count("se%40cret") == 1
    saved = config.model_dump_json()
    assert "se%40cret" not in saved and "postgresql://me@host:5432/shop" in saved
