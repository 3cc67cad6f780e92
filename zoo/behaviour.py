"""What main.py does with models of behaviour. Each action reads top to bottom as the story of a run.

read the log → cut it before two windows of targets → train on what lies before → judge the vectors of clients
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from config import ConfigError, PredictConfig, RunConfig
from zoo import artifacts, exporting, judging, merging, recommending, registry, training, window_ranking
from zoo.data import dates
from zoo.data.behaviour import sources
from zoo.data.behaviour.log import BehaviourLog
from zoo.data.behaviour.prepared import BehaviourPrepared, prepare, prepare_as
from zoo.data.behaviour.windows import official
from zoo.data.dataset import DataError
from zoo.recommender import Recommender, UserEncoder
from zoo.request import Request
from zoo.running import announce, clear, for_production, holds, save, working
from zoo.topk import InnerProductIndex

ENTRY = "entry.json"  # beside exported vectors: up to when they know the log
HELD_OUT = 0.1  # share of the clients that a validation run does not learn from


def train_validation(request: Request) -> None:
    """Trains on what lies before the windows of targets, then judges the vectors of clients by what they do in them."""
    config = request.config
    announce(request)
    prepared = prepare(_read(config), config.behaviour)
    assert prepared.windows is not None
    print(prepared.windows.summary(), flush=True)
    judged = (request.run_dir / artifacts.METRICS).exists()
    if request.resume and judged and holds(request.run_dir, request.name, config, prepared.sha256):
        print(f"{request.run_dir}: this run is finished; nothing to resume")
        return
    learned, watch = prepared, ()
    if registry.get(request.name).stages:
        learned, others = held_out(prepared, config.seed)
        watch = (Validation(others, request),)
    model, result = _train(request, config, learned, request.run_dir, watch)
    # The judge may refuse the vectors: the run is there nevertheless, and goes on from here.
    save(request.run_dir, request, config, prepared, model, result, "train")
    rows = prepared.log.relevant()
    vectors = model.vectors(prepared.everyone())
    metrics: dict[str, Any] = {}
    if isinstance(model, Recommender):
        metrics["ranking"] = window_ranking.rank(prepared, request.title, vectors, _label_vectors(model))
        print(f"\n{window_ranking.markdown(metrics['ranking'])}")
    table = judging.judge(
        prepared.log,
        prepared.windows,
        rows,
        {request.title: (prepared.log.clients[rows], vectors)},
        config.judge,
        config.behaviour.num_labels,
        config.seed,
    )
    metrics |= {"judge": table.rows, "paired": table.paired, "notes": table.notes}
    artifacts.write_json(request.run_dir / artifacts.METRICS, metrics)
    clear(request.run_dir)
    print(f"\n{table.markdown()}\nrun: {request.run_dir}")


def train_production(request: Request) -> None:
    """Trains on the whole log, for the epochs that validation found best."""
    announce(request)
    directory, config = request.run_dir / "production", for_production(request)
    prepared = prepare(_read(config), config.behaviour, everything=True)
    if request.resume and holds(directory, request.name, config, prepared.sha256):
        print(f"{directory}: this run is finished; nothing to resume")
        return
    model, result = _train(request, config, prepared, directory, ())
    save(directory, request, config, prepared, model, result, "everything")
    clear(directory)
    print(f"run: {directory}")


def recommend(run: artifacts.Run, config: RunConfig, directory: Path) -> None:
    """The best products, and the best categories, of each client whom the log's owner asks for, as far as learned."""
    model: Any = run.model
    if not isinstance(model, Recommender):
        raise ConfigError(f"{run.name} makes vectors of clients and recommends nothing; export_embeddings writes them")
    prepared, predict = _as_trained(run, config), config.predict
    ids, clients = _asked_clients(prepared, predict)
    catalogue: Any = run.catalogue
    users, size = model.vectors(clients), recommending.BATCH
    label_vectors = _label_vectors(model)
    written = 0
    for vectors, vocabulary, name, what in (
        (label_vectors["product"], catalogue.items, "recommendations", "sku"),
        (label_vectors["category"], catalogue.categories, "recommended_categories", "category"),
    ):
        path = directory / f"{name}.{predict.format}"
        if not vectors.any():
            print(f"no {path.name}: the run did not learn the task {what}")
            continue
        products = name == "recommendations"
        index = InnerProductIndex(vectors, recommending.allowed_items(catalogue, predict) if products else None)
        count = predict.num_recommendations if products else min(predict.num_recommendations, len(vocabulary.ids))
        seen = products and predict.exclude_seen
        lists = (
            index.search(mine, count, part.products() if seen else None)
            for part, mine in zip(clients.batches(size), np.split(users, range(size, len(users), size)), strict=True)
        )
        written += 1
        people = recommending.write(path, predict.format, ids, vocabulary, lists)
        print(f"{name.replace('_', ' ')} for {people:,} clients: {path}")
    if not written:
        raise ConfigError(f"{run.directory}: learned neither products nor categories; give it the task sku or category")


def export(run: artifacts.Run, config: RunConfig, directory: Path) -> None:
    """Writes client_ids.npy and embeddings.npy of the clients whom the log's owner asks for, in his order."""
    prepared = _as_trained(run, config)
    ids, clients = _asked_clients(prepared, config.predict)
    exporting.export_embeddings(run.model, clients, ids, directory, config.predict)
    artifacts.write_json(directory / ENTRY, {"cut": prepared.cut})
    print(f"embeddings of {len(ids):,} clients: {directory}")


def product_vectors(run: artifacts.Run) -> np.ndarray:
    """(V, D) float32 vectors of the products, by token.

    Raises:
        ConfigError: the model learns none, or was not asked to.
    """
    if not isinstance(run.model, Recommender):
        raise ConfigError(f"{run.name} learns nothing of single products: plot_client_atlas draws its clients")
    if not (vectors := run.item_vectors()).any():
        raise ConfigError(f"{run.directory}: learned nothing of single products; give it the task sku")
    return vectors


def draw_clients(run: artifacts.Run, config: RunConfig, directory: Path) -> None:
    """A map of the clients whom the log's owner asks for."""
    from eda import atlas_subjects
    from eda.atlas import draw

    prepared = _as_trained(run, config)
    vectors = run.model.vectors(prepared.everyone())
    subject = atlas_subjects.clients(vectors, prepared, config.behaviour.window_days)
    page = draw(subject, run.name, config.atlas, config.seed, directory)
    print(f"atlas: {page}, client_atlas_2d.png and client_atlas_3d.png")


def judge_folders(config: RunConfig, directory: Path) -> None:
    """Judges folders of client_ids.npy and embeddings.npy by the six tasks of the challenge."""
    folders = _folders(config)
    log = _read(config)
    clients = log.relevant()
    targets = official(log, config.behaviour.window_days)
    print(targets.summary(), flush=True)
    begin = dates.to_text(targets.start)
    for folder in folders:
        if (cut := _cut(folder)) is not None and cut > targets.start:
            raise ConfigError(
                f"{folder}: knows events before {dates.to_text(cut)}, but targets begin at {begin}: "
                "export a validation run with the same behaviour.window_days (predict.production=false)"
            )
    entries = {folder: judging.read_entry(Path(folder), log.clients[clients]) for folder in folders}
    table = judging.judge(log, targets, clients, entries, config.judge, config.behaviour.num_labels, config.seed)
    artifacts.write_json(directory / "judge.json", {"rows": table.rows, "paired": table.paired, "notes": table.notes})
    print(f"\n{table.markdown()}\njudged: {directory / 'judge.json'}")


def merge_folders(config: RunConfig, directory: Path) -> None:
    """Puts the vectors of several folders side by side, each block scaled, as one entry of float16 numbers.

    Its clients are those whom the owner of the log `data.path` asks for, in his order; without one, and for the sample,
    those of the first folder.
    """
    folders = _folders(config)
    blocks = [judging.read_blocks(Path(folder)) for folder in folders]
    ids = blocks[0][0]
    if config.data.path != "sample":
        log = _read(config)
        ids = log.clients[log.relevant()]
    for note in merging.notes(blocks, ids):
        print(f"  {note}")
    merged = merging.merge(blocks, ids)
    exporting.save_entry(directory, ids, merged)
    if cuts := [cut for folder in folders if (cut := _cut(folder)) is not None]:
        artifacts.write_json(directory / ENTRY, {"cut": max(cuts)})
    else:  # what an earlier call wrote is of other vectors
        (directory / ENTRY).unlink(missing_ok=True)
    print(f"merged {', '.join(folders)}: {merged.shape[1]} numbers of {len(ids):,} clients: {directory}")


# ------------------------------------------------------------------------------------------------ what they share


def _asked_clients(prepared: BehaviourPrepared, predict: PredictConfig) -> tuple[np.ndarray, Any]:
    """(ids, histories) of `predict.users`, or of all whom the log's owner asks for."""
    for knob in ("histories", "time", "action"):
        if getattr(predict, knob) is not None:
            raise ConfigError(f"predict.{knob} is for models of interactions; unset it")
    ids, clients = prepared.log.clients[prepared.log.relevant()], prepared.everyone()
    if predict.users is None:
        return ids, clients
    rows = recommending.asked_rows(ids, predict.users)
    return ids[rows], clients.take(rows)


def _label_vectors(model: Any) -> dict[str, np.ndarray]:
    """(V, U) float32 vectors of products and of categories, by token, that clients' vectors are compared with."""
    categories = keras.ops.convert_to_numpy(model.category_embeddings()).astype(np.float32)
    return {"product": model.item_matrix(), "category": categories}


def _cut(folder: str) -> int | None:
    """Before which time the events lie that vectors were made of, where `export` has said so."""
    path = Path(folder) / ENTRY
    if not path.exists():
        return None
    try:
        return int(json.loads(path.read_text())["cut"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is damaged; export the vectors again") from None


def _folders(config: RunConfig) -> tuple[str, ...]:
    if not config.judge.folders:
        raise ConfigError(
            "which embeddings? give --override judge.folders=FOLDER,FOLDER,... with client_ids.npy and embeddings.npy "
            "in each (export_embeddings writes them)"
        )
    return config.judge.folders


def _read(config: RunConfig) -> BehaviourLog:
    log = sources.load(config.data, config.sample, config.seed)
    for note in log.notes:
        print(f"  {note}")
    print(log.summary(), flush=True)
    return log


def held_out(prepared: BehaviourPrepared, seed: int) -> tuple[BehaviourPrepared, BehaviourPrepared]:
    """(clients to learn from, clients to validate on), drawn by the seed."""
    rows = np.random.default_rng([seed, 0x4E1D]).permutation(len(prepared.train))
    size = max(1, round(len(rows) * HELD_OUT))
    mine, others = np.sort(rows[size:]), np.sort(rows[:size])
    if not len(mine):
        raise ConfigError(f"{prepared.name}: one client with events is too few to learn from and to validate on")
    return tuple(replace(prepared, train=prepared.train.take(part)) for part in (mine, others))


class Validation(keras.callbacks.Callback):
    """Puts `val_loss`, and `val_` of each further metric of the model, into the logs of each epoch."""

    def __init__(self, held_out: BehaviourPrepared, request: Request):
        super().__init__()
        loader = registry.get(request.name).stages[-1].loader
        self.loader = loader(held_out.train, held_out.catalogue, request.config)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates the model as it is now, on the same batches each time."""
        if logs is not None:
            measured = self.model.evaluate(self.loader, verbose=0, return_dict=True)
            logs.update({f"val_{name}": float(value) for name, value in measured.items()})


def _train(
    request: Request, config: RunConfig, prepared: BehaviourPrepared, directory: Path, callbacks: tuple
) -> tuple[UserEncoder, Any]:
    """(model, result of the fit); a model that is counted has no result."""
    spec = registry.get(request.name)
    model: Any = artifacts.build(request.name, config, prepared.catalogue)
    if not spec.stages:
        model.adapt(prepared.train)
        return model, None
    return model, training.fit(model, spec, prepared, config, working(directory), callbacks, request.resume)


def _as_trained(run: artifacts.Run, config: RunConfig) -> BehaviourPrepared:
    """The log of `config`, cut where the run's training was cut; a production run's where the log ends."""
    log = _read(config)
    cut = log.end if run.trained_on_everything else int(run.info["cut"])
    return prepare_as(log, run.catalogue, cut)
