"""Requests of several models: measured alike, whatever their recipes."""

from argparse import Namespace

import pytest

from config import ConfigError
from zoo.request import MEASURED_ALIKE, resolve_many

pytestmark = pytest.mark.once


def ask(models, preset=None, data=None, override=()):
    options = Namespace(models=models, preset=preset, data=data, override=list(override), run_dir=None, resume=False)
    return {request.name: request for request in resolve_many(options)}


def test_the_recipe_of_one_says_how_all_are_measured():
    asked = ask("most_popular,repeat_last,sasrec", "t-ecd", "folder")
    assert [request.preset for request in asked.values()] == ["base", "base", "t-ecd"]
    study = asked["sasrec"].config
    assert study.data.path == "folder" and study.data.min_session_events == 3 and not study.evaluate.exclude_seen
    for request in asked.values():
        for section in MEASURED_ALIKE:
            assert getattr(request.config, section) == getattr(study, section)
    assert asked["sasrec"].config.train.epochs != asked["most_popular"].config.train.epochs


def test_without_a_preset_the_first_model_says_it():
    asked = ask("most_popular,repeat_last")
    assert asked["most_popular"].config.evaluate == asked["repeat_last"].config.evaluate
    assert asked["repeat_last"].config.evaluate.exclude_seen
    assert not ask("repeat_last,most_popular")["most_popular"].config.evaluate.exclude_seen


def test_an_override_changes_all():
    asked = ask("most_popular,sasrec", "t-ecd", "folder", ["split.strategy=leave_one_out,max_length=9"])
    assert {request.config.split.strategy for request in asked.values()} == {"leave_one_out"}
    assert asked["sasrec"].config.model.max_length == 9


def titles(models, override=()):
    options = Namespace(models=models, preset=None, data=None, override=list(override), run_dir=None, resume=False)
    return {request.title: request for request in resolve_many(options)}


def test_a_model_may_stand_there_with_knobs_of_its_own():
    asked = titles(
        " sasrec, sasrec[loss=gbce,num_negatives=64] ,most_popular,sasrec[block=ligr],sasrec", ["dropout=0.4"]
    )
    assert list(asked) == ["sasrec", "sasrec[loss=gbce,num_negatives=64]", "most_popular", "sasrec[block=ligr]"]
    plain, gbce, _, ligr = (request.config.model for request in asked.values())
    assert (plain.loss, gbce.loss, gbce.num_negatives, ligr.block) == ("softmax", "gbce", 64, "ligr")
    assert plain.dropout == gbce.dropout == ligr.dropout == 0.4
    folders = [request.run_dir.name for request in asked.values()]
    assert folders == ["sasrec", "sasrec_loss=gbce_num_negatives=64", "most_popular", "sasrec_block=ligr"]


def test_knobs_in_brackets_may_hold_lists():
    (request,) = titles("sasrec[action_order=[a,b],dropout=0.3]").values()
    assert request.config.model.action_order == ("a", "b") and request.config.model.dropout == 0.3


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("sasrec[evaluate.exclude_seen=false]", "are the same for all; use --override"),
        ("sasrec[bloc=ligr]", "did you mean"),
        ("sasrec[block=ligr", "not understood"),
        ("sasrec]", "not understood"),
        ("sasrec,[loss=gbce]", "not understood"),
        ("sasrec[action_order=[a,b],two_tower[dropout=0.1]", "not understood"),
        ("sasrec[seed=1]", "are the same for all"),
        (" , ", "needs --models"),
    ],
)
def test_what_is_no_list_of_models_is_refused(models, words):
    with pytest.raises(ConfigError, match=words):
        titles(models)


def test_a_preset_that_nobody_has_is_refused():
    with pytest.raises(ConfigError, match="--preset tecd: none of most_popular, sasrec has it"):
        ask("most_popular,sasrec", "tecd")
