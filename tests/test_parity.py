"""Three backends, one model: the same weights give the same scores, gradients and thirty steps of Adam.

The reference in tests/golden was written by `python -m tests.test_parity [NAME...]` under one backend; each backend is
held to it. Weights are made by NumPy from the name of the variable, so no backend's random numbers take part.
"""

import hashlib
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from config import SampleConfig, override
from tests import autodiff
from zoo import artifacts, backends, checkpoints, registry, training
from zoo.data import sources, splits
from zoo.data.behaviour.log import Snapshot
from zoo.data.behaviour.prepared import prepare as prepare_behaviour
from zoo.data.behaviour.sources import sample
from zoo.data.catalogue import prepare
from zoo.recommender import Baseline

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = SampleConfig(num_users=120, num_items=50, num_days=40, events_per_user=16, noise=0.1)
STEPS = 30
VARIANTS = {
    # In front of a batch norm a bias has no gradient but rounding, of which Adam makes steps.
    "behav_e": ("behav_e", ["norm=layer"]),
    "cross_domain": ("cross_domain", ["representation_negatives=16"]),  # sampled, as among many items
    "gru4rec_actions": ("gru4rec", ["use_actions=true,query_action=true,action_order=view,cart,buy"]),
    "sasrec_relative": ("sasrec", ["relative_bias=true,num_heads=2,block=original"]),
    "bert4rec_relative": ("bert4rec", ["relative_bias=true"]),
}


def prepared_model(name, options=()):
    config = registry.get(name).preset("tiny").model_copy(update={"sample": SAMPLE})
    silent = [f"model.{knob}=0" for knob in type(config.model).model_fields if "dropout" in knob]
    config = override(config, [*silent, "train.batch_size=64", *options])
    if registry.get(name).log == "behaviour":
        behaviour = config.behaviour.model_copy(update={"window_days": 5, "min_visits": 3})
        config = config.model_copy(update={"behaviour": behaviour})
        clients = prepare_behaviour(sample.read(SAMPLE), behaviour)
        return config, clients, artifacts.build(name, config, clients.catalogue)
    prepared = prepare(splits.split(sources.load(config.data, config.sample, 0), config.split))
    return config, prepared, artifacts.build(name, config, prepared.catalogue)


def _names(model):
    """{path: variable} of what is trained, without the number that Keras gives a second model of the same name."""
    named = {re.sub(r"^([a-z0-9_]+?)_\d+/", r"\1/", variable.path): variable for variable in model.trainable_variables}
    assert len(named) == len(model.trainable_variables)
    return named


def set_numpy_weights(model):
    """Matrices are drawn anew; vectors (scales, biases) are nudged from where they start."""
    for path, variable in _names(model).items():
        name = f"{path} {tuple(variable.shape)}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        noise = np.random.default_rng(seed).normal(0, 0.1, variable.shape)
        start = keras.ops.convert_to_numpy(variable) if len(variable.shape) < 2 else 0.0
        variable.assign(start + noise)


def scores(model, histories):
    """What the model says: scores of items, or vectors of clients."""
    return model.vectors(histories) if isinstance(histories, Snapshot) else model.score(histories)


def measure(name):
    """Everything that must agree, as arrays by name."""
    name, options = VARIANTS.get(name, (name, ()))
    config, prepared, model = prepared_model(name, options)
    if registry.get(name).log == "behaviour":
        histories = prepared.everyone().take(np.arange(16))
        if not registry.get(name).stages:
            model.adapt(prepared.train)
            return {"scores": model.vectors(histories)}
    else:
        histories = prepared.cases("test")[0].take(np.arange(16))
    if isinstance(model, Baseline):
        model.fit(prepared.train)
        return {"scores": model.score(histories)}
    stages = registry.get(name).stages
    result = {}
    for stage in stages:
        keras.utils.set_random_seed(0)
        model.build_weights()
        set_numpy_weights(model)
        with training.frozen(model, stage):
            known = prepared.train if stage.prepare is None else stage.prepare(model, prepared.train)
            found = measure_stage(model, stage.loader(known, prepared.catalogue, config), histories)
        title = f"{stage.name} " if len(stages) > 1 else ""
        result |= {f"{title}{key}": value for key, value in found.items()}
    return result


def measure_stage(model, loader, histories):
    """Scores, gradients, and what thirty steps of Adam make of them."""
    loader.set_epoch(0)
    result = {"scores": scores(model, histories)}
    batches = [keras.tree.map_structure(keras.ops.convert_to_tensor, loader[i % len(loader)]) for i in range(STEPS)]
    x, y, weight = batches[0]

    def loss():
        return model.compute_loss(x=x, y=y, y_pred=model(x, training=True), sample_weight=weight, training=True)

    before = checkpoints.values(model.variables)
    gradients = autodiff.gradients(loss, model.trainable_variables)
    checkpoints.assign(model.variables, before)  # not every backend counts that as a step
    for path, gradient in zip(_names(model), gradients, strict=True):
        result[f"gradient {path}"] = keras.ops.convert_to_numpy(gradient)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=backends.name() == "jax")
    result["losses"] = np.array([float(model.train_on_batch(*batch, return_dict=True)["loss"]) for batch in batches])
    for path, variable in _names(model).items():
        result[f"weight {path}"] = keras.ops.convert_to_numpy(variable)
    result["scores after"] = scores(model, histories)
    return result


@pytest.mark.parametrize("name", dict.fromkeys([*registry.list_models(), *VARIANTS]))
def test_agrees_with_the_reference(name):
    path = GOLDEN / f"{name}.npz"
    assert path.exists(), f"{path.name} is missing: run python -m tests.test_parity"
    with np.load(path) as golden:
        mine = measure(name)
        assert set(mine) == set(golden)
        for key, value in mine.items():
            scale = np.abs(golden[key]).max()
            # Adam divides by the size of gradients: rounding of UBT's small ones, added up in any order, moves weights.
            near = 5e-4 if name == "ubt" and key.startswith("weight ") else 1e-4
            np.testing.assert_allclose(value, golden[key], rtol=near, atol=near * scale + 1e-8, err_msg=key)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for model_name in sys.argv[1:] or dict.fromkeys([*registry.list_models(), *VARIANTS]):
        np.savez_compressed(GOLDEN / f"{model_name}.npz", **measure(model_name))
        print(model_name)
