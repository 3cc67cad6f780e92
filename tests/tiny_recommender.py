"""A recommender as small as can be, with all that training must carry over an interruption: dropout, a moving
statistic, an embedding. Also a program, for tests that kill it: `tiny_recommender.py DIRECTORY [--resume] [K=V ...]`.
"""

import hashlib
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops

from config import ModelConfig, RunConfig, override
from zoo import backends, training
from zoo.data import splits
from zoo.data.catalogue import prepare
from zoo.data.dataset import Dataset, Entities, Events
from zoo.data.loaders.loader import Loader
from zoo.recommender import Recommender
from zoo.registry import ModelSpec, Stage

LENGTH, DIM = 6, 8


class TinyConfig(ModelConfig):
    dropout: float = 0.2
    poison_epoch: int = -1
    poison_batch: int = 0


class TinyLoader(keras.utils.PyDataset):
    """Random histories and targets: batch i is a pure function of (seed, epoch, i) and of what is known."""

    steps = 5

    remedy = "add data"

    def __init__(self, histories, catalogue, config):
        super().__init__(workers=config.train.workers)
        self.catalogue, self.config, self.epoch = catalogue, config, 0
        self.asked = []
        self.known = int(histories.item.sum())  # what batches depend on

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        self.asked.append((self.epoch, index))
        rng = np.random.default_rng([self.config.seed, self.epoch, index, self.known])
        size, items = self.config.train.batch_size, self.catalogue.items.size
        history = rng.integers(3, items, (size, LENGTH)).astype("int32")
        target = np.where(history[:, -1] + 1 < items, history[:, -1] + 1, 3).astype("int32")
        weight = np.ones(size, "float32")
        if (self.epoch, index) == (self.config.model.poison_epoch, self.config.model.poison_batch):
            weight[:] = np.nan
        return {"history": history}, target, weight

    anybody = staticmethod(Loader.anybody)

    @staticmethod
    def inputs(histories, catalogue, model_config):
        return {"history": histories.padded(LENGTH)}


class TinyRecommender(Recommender):
    loader = TinyLoader

    def __init__(self, config, catalogue):
        super().__init__(config, catalogue, name="tiny")
        self.item_embedding = keras.layers.Embedding(catalogue.items.size, DIM, name="item_embedding")
        self.norm = keras.layers.BatchNormalization(name="norm")
        self.dropout = keras.layers.Dropout(config.dropout, name="dropout")
        self.out = keras.layers.Dense(DIM, name="out")
        self.build_weights()

    def call(self, x, training=False):
        hidden = self.out(ops.mean(self.item_embedding(x["history"]), axis=1))
        return self.dropout(self.norm(hidden, training=training), training=training)

    def encode_users(self, inputs):
        return self(inputs, training=False)

    def item_embeddings(self):
        return ops.convert_to_tensor(self.item_embedding.embeddings)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        logits = ops.matmul(y_pred, ops.transpose(ops.cast(self.item_embeddings(), y_pred.dtype)))
        losses = ops.sparse_categorical_crossentropy(y, ops.cast(logits, "float32"), from_logits=True)
        return ops.mean(losses * sample_weight)


class TinyScore(keras.callbacks.Callback):
    """A cheap stand-in for the ranking evaluation: it peaks where `peak` says."""

    def __init__(self, name="val_ndcg@10", values=None):
        super().__init__()
        self.name, self.values, self.seen = name, values, []

    def on_epoch_end(self, epoch, logs=None):
        weights = keras.ops.convert_to_numpy(self.model.item_embedding.embeddings)
        self.seen.append(weights.copy())
        if self.values is not None:
            logs[self.name] = self.values[epoch]
        else:  # a function of the weights, so that a difference anywhere shows
            logs[self.name] = float(np.abs(weights).mean())


def louder_half(model, histories):
    """The histories whose items' vectors, frozen by then, are longest."""
    length = np.abs(keras.ops.convert_to_numpy(model.item_embedding.embeddings)).sum(axis=1)
    sums = np.add.reduceat(length[histories.item], histories.offsets[:-1])
    return histories.take(np.sort(np.argsort(-sums)[: len(sums) // 2]))


SPEC = ModelSpec(model=TinyRecommender, stages=(Stage(name="main", loader=TinyLoader),), presets={})
TWO_STAGES = ModelSpec(
    model=TinyRecommender,
    stages=(
        Stage(name="pretrain", loader=TinyLoader),
        Stage(name="finetune", loader=TinyLoader, frozen=lambda _: ("item_embedding",), prepare=louder_half),
    ),
    presets={},
)


def prepared(num_users=20, num_items=30):
    user = np.repeat(np.arange(num_users, dtype=np.int32), 5)
    item = (np.arange(len(user)) * 7 % num_items).astype(np.int32)
    events = Events(user, item, np.arange(len(user), dtype=np.int64))
    dataset = Dataset(events, Entities(np.arange(num_users)), Entities(np.arange(num_items)))
    return prepare(splits.leave_one_out(dataset))


def configuration(*assignments):
    config = RunConfig(model=TinyConfig())
    return override(config, ["epochs=3,batch_size=16,threads=1,learning_rate=0.01", *assignments])


def train(directory, *assignments, spec=SPEC, score=None, resume=False, callbacks=None):
    config = configuration(*assignments)
    data = prepared()
    backends.configure(config.train)
    backends.seed(config.seed)
    model = TinyRecommender(config.model, data.catalogue)
    if callbacks is None:
        callbacks = (score or TinyScore(),)
    result = training.fit(model, spec, data, config, Path(directory), callbacks, resume)
    return SimpleNamespace(model=model, result=result, weights=[keras.ops.convert_to_numpy(v) for v in model.weights])


def fingerprint(weights):
    return hashlib.sha256(b"".join(np.ascontiguousarray(w).tobytes() for w in weights)).hexdigest()


if __name__ == "__main__":
    directory, *options = sys.argv[1:]
    spec = TWO_STAGES if "--two-stages" in options else SPEC
    assignments = [option for option in options if not option.startswith("--")]
    print("ready", flush=True)
    trained = train(directory, *assignments, spec=spec, resume="--resume" in options)
    print("weights", fingerprint(trained.weights), flush=True)
