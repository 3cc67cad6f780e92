"""The probe is the challenge's network, trained as there: compared with a plain training loop of PyTorch."""

import numpy as np
import pytest

from config import JudgeConfig
from zoo import probe as probe_module
from zoo.judge_metrics import auroc
from zoo.probe import LinearProbe, Probe

DIM, LABELS = 6, 5
WIDE = 9  # of the probe: vectors may be narrower
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def probe():
    return Probe(WIDE, LABELS, JudgeConfig(probe_batch=32, probe_epochs=3))


def drawn(n, labels=LABELS, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, DIM)).astype(np.float16)
    direction = rng.standard_normal((DIM, labels))
    return vectors, (vectors @ direction + rng.standard_normal((n, labels)) > 1).astype(np.float32)


def learned(probe, vectors, labels, seed=0):
    """Logits after each epoch."""
    epochs = []
    probe.learn(vectors, labels, seed, epochs.append)
    return np.stack(epochs)


def official(probe, vectors, labels, epochs, batch, seed, epsilon_first=False):
    """Logits after each epoch of the same network, trained by PyTorch from the same weights.

    Args:
        epsilon_first: whether AdamW adds its epsilon before it corrects the second moment, as Keras does.
    """
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.net = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            )

        def forward(self, x):
            return x + self.net(x)

    width = probe.project.kernel.shape[1]
    blocks = [Block(width) for _ in range(3)]
    net = nn.Sequential(
        nn.Linear(DIM, width), nn.LayerNorm(width), *blocks, nn.LayerNorm(width), nn.Linear(width, labels.shape[1])
    )
    probe.restart(seed, DIM, labels.shape[1])
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    inner = [layer for pair in zip(probe.expand, probe.contract, strict=True) for layer in pair]
    for mine, theirs in zip([probe.project, *inner, probe.output_layer], linear, strict=True):
        with torch.no_grad():
            kernel, bias = (np.array(variable.numpy()) for variable in (mine.kernel, mine.bias))
            theirs.weight.copy_(torch.tensor(kernel.T[: theirs.out_features, : theirs.in_features]))
            theirs.bias.copy_(torch.tensor(bias[: theirs.out_features]))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)  # weight decay .01
    x, y = torch.tensor(vectors.astype(np.float32)), torch.tensor(labels)
    result, step = [], 0
    for _ in range(epochs):
        for start in range(0, len(x), batch):
            step += 1
            if epsilon_first:
                optimizer.param_groups[0]["eps"] = 1e-8 / (1 - 0.999**step) ** 0.5
            optimizer.zero_grad()
            out = net(x[start : start + batch])
            nn.functional.binary_cross_entropy_with_logits(out, y[start : start + batch]).backward()
            optimizer.step()
        with torch.no_grad():
            result.append(net(x).numpy())
    return np.stack(result)


@pytest.mark.parametrize("labels", [LABELS, 1])
def test_it_trains_as_the_official_loop_does(probe, labels):
    vectors, truth = drawn(101, labels)  # the last batch has five clients
    mine = learned(probe, vectors, truth, seed=4)
    theirs = official(probe, vectors, truth, epochs=3, batch=32, seed=4)
    assert np.abs(theirs[2] - theirs[0]).max() > 0.3  # something was learned
    np.testing.assert_allclose(mine, theirs, atol=2e-3)
    same = official(probe, vectors, truth, epochs=3, batch=32, seed=4, epsilon_first=True)
    np.testing.assert_allclose(mine, same, atol=TOLERANCE)


def test_weights_start_as_the_originals_do(probe):
    probe.restart(0, DIM, LABELS)
    for layer, fan_in in ((probe.project, DIM), (probe.expand[1], 128), (probe.contract[1], 256)):
        for variable in (layer.kernel, layer.bias):
            values = np.array(variable.numpy())
            values = values[:fan_in] if values.ndim == 2 else values
            assert np.abs(values).max() <= fan_in**-0.5
            assert values.std() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.15)
    assert not np.array(probe.project.kernel.numpy())[DIM:].any()
    assert all((np.array(norm.gamma.numpy()) == 1).all() for norm in probe.norms)


def test_each_task_begins_anew(probe):
    vectors, truth = drawn(70)
    first = learned(probe, vectors, truth)
    learned(probe, *drawn(33, 1, seed=5), seed=3)
    np.testing.assert_array_equal(learned(probe, vectors, truth), first)
    assert np.abs(learned(probe, vectors, truth, seed=1) - first).max() > 0.01


def test_it_finds_what_is_there(probe):
    vectors, truth = drawn(600)
    assert np.nanmean(auroc(truth, learned(probe, vectors, truth)[-1])) > 0.85


def test_one_client_and_vectors_of_zeros(probe):
    logits = learned(probe, np.zeros((1, DIM), np.float16), np.ones((1, 2), np.float32))
    assert logits.shape == (3, 1, 2) and np.isfinite(logits).all()
    logits = learned(probe, np.zeros((40, DIM), np.float16), drawn(40)[1])
    np.testing.assert_allclose(logits[-1], logits[-1][:1].repeat(40, axis=0), atol=1e-6)


# ------------------------------------------------------------------------------------------------ the linear probe


def fitted(vectors, labels):
    found = []
    LinearProbe().learn(vectors, labels, 0, found.append)
    assert len(found) == 1 and found[0].shape == labels.shape
    return found[0]


@pytest.mark.once
def test_the_linear_probe_is_a_ridge_regression(monkeypatch):
    """Where the loss and the ridge balance, the gradient of both together is zero; computed here in float64."""
    vectors, labels = drawn(300)
    monkeypatch.setattr(probe_module, "PENALTIES", (7.0,))
    logits = fitted(vectors, labels).astype(np.float64)
    x = vectors.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    weights, *_ = np.linalg.lstsq(np.concatenate([x, np.ones((300, 1))], axis=1), logits, rcond=None)
    rest = 1 / (1 + np.exp(-logits)) - labels
    np.testing.assert_allclose(x.T @ rest + 7.0 * weights[:-1], 0, atol=0.05)
    np.testing.assert_allclose(rest.sum(axis=0), 0, atol=0.05)


@pytest.mark.once
def test_the_ridge_is_as_strict_as_it_must_be():
    vectors, labels = drawn(1000)
    assert auroc(labels, fitted(vectors, labels)).min() > 0.85
    noise = np.random.default_rng(1).standard_normal((200, 400)).astype(np.float16)  # it could learn all by heart
    constant = np.zeros((200, 3), np.float16)
    random = (np.random.default_rng(2).random((200, 4)) < 0.3).astype(np.float32)
    assert fitted(noise, random).std(axis=0).max() < 0.7  # by heart it would be 5
    assert fitted(constant, random).std(axis=0).max() < 1e-5
