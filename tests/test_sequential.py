"""What all sequential recommenders share: every loss trains the same model."""

from typing import get_args

import pytest

from config import override
from tests.test_contract import hit_rate, prepared_sample, tiny, train
from zoo.sequential import SequentialConfig


@pytest.fixture(scope="module")
def popular(tmp_path_factory):
    config = tiny("most_popular")
    prepared = prepared_sample(config)
    return hit_rate(
        train("most_popular", config, prepared, tmp_path_factory.mktemp("popular")), prepared, config.evaluate
    )


LOSSES = get_args(SequentialConfig.model_fields["loss"].annotation)
EVERYWHERE = ("softmax", "sampled_softmax", "sce")  # each backend is held to the formulas of all in test_losses


@pytest.mark.parametrize(
    "loss, bias",
    [
        *(pytest.param(loss, False, marks=() if loss in EVERYWHERE else pytest.mark.once) for loss in LOSSES),
        *(pytest.param(loss, True, marks=pytest.mark.once) for loss in ("softmax", "sce")),
    ],
)
def test_every_loss_learns(loss, bias, popular, tmp_path):
    config = override(tiny("sasrec"), [f"loss={loss},item_bias={bias},num_negatives=32,epochs=8"])
    prepared = prepared_sample(config)
    reached, _ = hit_rate(train("sasrec", config, prepared, tmp_path), prepared, config.evaluate)
    assert reached > 1.8 * popular[0], f"{loss}: {reached}"
