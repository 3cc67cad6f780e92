"""What main.py can do. Each action reads top to bottom as the story of a run."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from config import ConfigError, RunConfig, override
from zoo import artifacts, backends, behaviour, comparison, evaluation, exporting, recommending, registry, training
from zoo.audit import audit, describe
from zoo.data import cleaning, sources, splits
from zoo.data.catalogue import Prepared, prepare, prepare_as
from zoo.data.dataset import DataError, Dataset
from zoo.data.histories import Histories
from zoo.data.vocabulary import UNKNOWN
from zoo.question import ask, told_action, told_time
from zoo.recommender import Baseline, Recommender
from zoo.request import Request, refuse_another, resolve, resolve_many, run_dir, with_data
from zoo.running import announce, clear, for_production, holds, save, working


def run(action: str, options: Namespace) -> None:
    """Runs one action of `ACTIONS` as main.py understood it."""
    ACTIONS[action](options)


# ------------------------------------------------------------------------------------------------ the actions


def exploratory_data_analysis(options: Namespace) -> None:
    """Figures of the log and a report in words."""
    from eda.report import explore

    request = resolve(options)
    config = request.config
    report = explore(_read(config), Path(config.figures_dir), config.split, config.seed)
    print(f"report: {report}")


def train_validation_model(options: Namespace) -> None:
    """Trains on the past, stops on validation, reports the test score."""
    request = resolve(options)
    if of_behaviour(request.name):
        behaviour.train_validation(request)
        return
    announce(request)
    metrics = _validate(request, prepare(_split(request.config)))
    print(describe(metrics))
    print(f"run: {request.run_dir}")


def train_production_model(options: Namespace) -> None:
    """Trains on everything, for the epochs that validation found best."""
    request = resolve(options, from_run=True)
    if of_behaviour(request.name):
        behaviour.train_production(request)
        return
    announce(request)
    directory, config = request.run_dir / "production", for_production(request)
    prepared = prepare(splits.everything(_read(config), config.split))
    if request.resume and holds(directory, request.name, config, prepared.sha256):
        print(f"{directory}: this run is finished; nothing to resume")
        return
    model, result = _train(request, config, prepared, directory, ())
    save(directory, request, config, prepared, model, result, "everything")
    clear(directory)
    print(f"run: {directory}")


def compute_predictions(options: Namespace) -> None:
    """Top-N items of every user, as recommendations.json."""
    run, config = _load_run(options)
    _say_what_it_has_seen(run, run_dir(options))
    if of_behaviour(run.name):
        behaviour.recommend(run, config, run_dir(options))
        return
    users, histories = _asked_users(run, config)
    allowed = recommending.allowed_items(run.catalogue, config.predict)
    path = run_dir(options) / f"recommendations.{config.predict.format}"
    batches = recommending.recommend(
        run.model, histories, config.predict.num_recommendations, config.predict.exclude_seen, allowed
    )
    count = recommending.write(path, config.predict.format, users, run.catalogue.items, batches)
    print(f"recommendations for {count:,} users: {path}")


def evaluate(options: Namespace) -> None:
    """Scores a saved run again, perhaps under other rules, and writes evaluation.json."""
    run, config = _load_run(options, production=False)
    _refuse_behaviour(run.name)
    if run.trained_on_everything:
        raise ConfigError(
            f"{run.directory}: trained on everything, its test part included; evaluate its validation run"
        )
    prepared = prepare_as(_split(config), run.catalogue)
    metrics, _ = _evaluate(run.model, prepared, config)
    if run.info["split_sha256"] != prepared.split.sha256:
        print("warning: this is not the split that the run was trained with; its test may lie in the training data")
    print(describe(metrics))
    artifacts.write_json(run.directory / "evaluation.json", metrics)
    print(f"evaluation: {run.directory / 'evaluation.json'}")


def compare_models(options: Namespace) -> None:
    """Trains several models on one split, or loads those already trained, and writes a table and a figure."""
    from eda.comparison import model_comparison
    from eda.files import save

    requests = resolve_many(options)
    for request in requests:
        _refuse_behaviour(request.name)
    split = _split(requests[0].config)
    results = []
    for request in requests:
        if holds(request.run_dir, request.name, request.config, split.sha256):
            print(f"{request.title}: already trained in {request.run_dir}")
            metrics = artifacts.read_metrics(request.run_dir)
        else:
            announce(request)
            metrics = _validate(request, prepare(split))
            print(describe(metrics))
        baseline = not registry.get(request.name).stages
        results.append(comparison.Result(request.title, metrics, artifacts.read_ranks(request.run_dir), baseline))
    compared = comparison.table(results)
    directory = requests[0].run_dir.parent
    artifacts.write_json(directory / "comparison.json", compared)
    table = comparison.markdown(compared)
    with artifacts.replacing(directory / "comparison.md") as temporary:
        temporary.write_text(table, encoding="utf-8")
    save(model_comparison(compared), directory / "comparison.png")
    print(f"\n{table}\ncomparison: {directory / 'comparison.md'}, comparison.json and comparison.png")


def similar_items(options: Namespace) -> None:
    """The items most like each item, by the cosine of their vectors, as similar_items.json."""
    run, config = _load_run(options)
    items, predict = run.catalogue.items, config.predict
    allowed = recommending.allowed_items(run.catalogue, predict)
    tokens = recommending.asked_items(run.catalogue, predict.similar_to)
    batches = recommending.similar_items(run.item_vectors(), tokens, predict.num_recommendations, allowed)
    path = run_dir(options) / f"similar_items.{predict.format}"
    count = recommending.write(path, predict.format, items.decode(tokens), items, batches, ("item", "similar_item"))
    print(f"similar items, {count:,} lists: {path}")


def plot_item_atlas(options: Namespace) -> None:
    """A map of the items by their vectors: a page to walk about in, item_atlas.html, and two figures."""
    from eda import atlas_subjects
    from eda.atlas import draw

    run, config = _load_run(options)
    if of_behaviour(run.name):
        vectors = behaviour.product_vectors(run)
        subject = atlas_subjects.products(vectors, run.catalogue, Path(config.data.path).name)
    else:
        subject = atlas_subjects.items(run.item_vectors(), run.catalogue, _read(config))
    page = draw(subject, run.name, config.atlas, config.seed, run_dir(options))
    print(f"atlas: {page}, item_atlas_2d.png and item_atlas_3d.png")


def plot_client_atlas(options: Namespace) -> None:
    """A map of the clients of a log of behaviour by their vectors: client_atlas.html, and two figures."""
    run, config = _load_run(options)
    if not of_behaviour(run.name):
        raise ConfigError(f"{run.name} learns from interactions: plot_item_atlas draws its items")
    behaviour.draw_clients(run, config, run_dir(options))


def export_embeddings(options: Namespace) -> None:
    """Writes users' and items' vectors as client_ids.npy, embeddings.npy, item_ids.npy and item_embeddings.npy.

    A model that has further vectors of users writes those, too, each under its name.
    """
    run, config = _load_run(options)
    if of_behaviour(run.name):
        behaviour.export(run, config, run_dir(options))
        return
    if not isinstance(run.model, Recommender):
        raise ConfigError(f"{run.name} has no embeddings: it scores items without vectors")
    users, histories = _asked_users(run, config)
    exporting.export_embeddings(run.model, histories, users, run_dir(options), config.predict)
    print(f"embeddings of {len(users):,} users and {len(run.catalogue.items.ids):,} items: {run_dir(options)}")


def evaluate_embeddings(options: Namespace) -> None:
    """Judges vectors of clients, from whomever, by the six tasks of the RecSys Challenge 2025."""
    behaviour.judge_folders(resolve(options).config, options.run_dir or Path("runs/judge"))


def merge_embeddings(options: Namespace) -> None:
    """Puts the vectors of several folders side by side, each block scaled, as one embeddings.npy."""
    behaviour.merge_folders(resolve(options).config, options.run_dir or Path("runs/merged"))


def show_config(options: Namespace) -> None:
    """Prints every knob of a run, as JSON that reads back."""
    print(resolve(options).config.model_dump_json(indent=2))


def list_models(options: Namespace) -> None:
    """Prints the models and their presets."""
    for name in registry.list_models():
        spec = registry.get(name)
        what = (spec.model.__doc__ or "").splitlines()[0]
        print(f"{name:<14} {what}\n{'':<14} presets: {', '.join(spec.presets)}")
        if spec.paper:
            print(f"{'':<14} {spec.paper}")


ACTIONS = {
    action.__name__: action
    for action in (
        exploratory_data_analysis,
        train_validation_model,
        train_production_model,
        compute_predictions,
        evaluate,
        compare_models,
        similar_items,
        plot_item_atlas,
        plot_client_atlas,
        export_embeddings,
        evaluate_embeddings,
        merge_embeddings,
        show_config,
        list_models,
    )
}

# ------------------------------------------------------------------------------------------------ what they share


def of_behaviour(name: str) -> bool:
    """Whether a model learns from logs of behaviour."""
    return registry.get(name).log == "behaviour"


def _refuse_behaviour(name: str) -> None:
    if of_behaviour(name):
        raise ConfigError(f"{name} learns from behaviour: evaluate_embeddings judges it, together with others")


def _read(config: RunConfig) -> Dataset:
    """The cleaned data set of a run."""
    dataset = cleaning.clean(sources.load(config.data, config.sample, config.seed), config.data)
    for note in dataset.notes:
        print(f"  {note}")
    print(dataset.summary(), flush=True)
    if dataset.num_items < 2 or dataset.num_users < 2:
        raise DataError(
            f"{dataset.name}: {dataset.num_users} user and {dataset.num_items} item are too few to recommend anything; "
            "at least two of each are needed"
        )
    return dataset


def _split(config: RunConfig) -> splits.Split:
    split = splits.split(_read(config), config.split, config.seed)
    for note in split.notes:
        print(f"  {note}")
    print(split.summary(), flush=True)
    return split


def _validate(request: Request, prepared: Prepared) -> dict[str, Any]:
    """Trains on the training part, evaluates validation and test, saves the run; returns its metrics."""
    config = request.config
    if request.resume and holds(request.run_dir, request.name, config, prepared.sha256):
        print(f"{request.run_dir}: this run is finished; nothing to resume")
        return artifacts.read_metrics(request.run_dir)
    histories, targets = prepared.cases("validation")
    monitor = evaluation.RankingEvaluation(histories, targets, prepared.catalogue, config)
    model, result = _train(request, config, prepared, request.run_dir, (monitor,))
    metrics, ranks = _evaluate(model, prepared, config)
    save(request.run_dir, request, config, prepared, model, result, "train", metrics=metrics, ranks=ranks)
    clear(request.run_dir)
    return metrics


def _train(request: Request, config: RunConfig, prepared: Prepared, directory: Path, callbacks: tuple) -> tuple:
    """(model, result of the fit); a baseline is counted and has no result."""
    backends.seed(config.seed)
    model = artifacts.build(request.name, config, prepared.catalogue)
    if isinstance(model, Baseline):
        started = time.perf_counter()
        model.fit(prepared.train)
        print(f"counted in {time.perf_counter() - started:.1f} s")
        return model, None
    spec, place = registry.get(request.name), working(directory)
    return model, training.fit(model, spec, prepared, config, place, callbacks, request.resume)


def _evaluate(model: Any, prepared: Prepared, config: RunConfig) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(contents of metrics.json, ranks of the test targets)."""
    metrics: dict[str, Any] = {}
    for part in ("validation", "test"):
        histories, targets = prepared.cases(part)
        result = evaluation.evaluate(model, histories, targets, prepared.catalogue, config.evaluate, config.seed)
        metrics[part] = result.metrics
    metrics["intervals"] = result.intervals
    metrics["slices"] = result.slices
    told = told_time(config.model), told_action(config.model)
    metrics["audit"] = audit(prepared, "test", config.evaluate, result, *told)
    return metrics, result.ranks


def _load_run(options: Namespace, production: bool = True) -> tuple[artifacts.Run, RunConfig]:
    """The run in the directory (the production model where there is one), and its configuration with overrides."""
    directory = run_dir(options)
    if production and artifacts.exists(directory / "production"):
        newest = artifacts.read_config(directory / "production")[1]
        if override(newest, options.override).predict.production:
            directory = directory / "production"
    refuse_another(directory, artifacts.read_info(directory)["model"], options)
    saved = artifacts.read_config(directory)[1]
    config = override(with_data(saved, options.data), options.override)
    run = artifacts.load(directory, config.predict.kept_epoch)
    if config.model != saved.model:
        raise ConfigError("the hyperparameters of a trained model cannot be overridden; train it again with them")
    backends.configure(config.train)
    print(f"{run.name} of {directory}, on {backends.name()} ({backends.device()})", flush=True)
    return run, config


def _say_what_it_has_seen(run: artifacts.Run, directory: Path) -> None:
    """Warns of a model that was trained without the newest events, or before the run that it stands beside."""
    if not run.trained_on_everything:
        print("warning: trained without the events that validate and test it; train_production_model uses all")
        return
    beside = artifacts.read_info(directory) if artifacts.exists(directory) else run.info
    if beside["data_sha256"] != run.info["data_sha256"]:
        print(
            f"warning: the run in {directory} is of other data than its production model; "
            "train_production_model renews that"
        )


def _asked_users(run: artifacts.Run, config: RunConfig) -> tuple[np.ndarray, Histories]:
    """(original ids, histories) of the users to recommend to."""
    predict = config.predict
    if predict.histories:
        data = config.data.model_copy(update={"path": predict.histories, "layout": "auto", "query": None})
        dataset = sources.load(data, config.sample, config.seed)
        print(dataset.summary())
        prepared = prepare_as(splits.everything(dataset), run.catalogue)
    else:
        dataset = _read(config)
        prepared = prepare_as(splits.everything(dataset), run.catalogue)
    if (prepared.item_token == UNKNOWN).all():
        raise DataError(f"{dataset.name}: none of its items is in the catalogue of {run.directory}")
    histories = prepared.all_histories()
    if unknown := int(np.count_nonzero(histories.item == UNKNOWN)):
        lost = len(histories) - len(np.unique(histories.row_of_event[histories.item != UNKNOWN]))
        print(
            f"warning: {unknown:,} of {len(histories.item):,} events are on items that the run does not know; "
            f"{lost:,} of {len(histories):,} users have no other, and get what suits nobody in particular"
        )
    histories = ask(histories, prepared.split.dataset, run.catalogue, config.model, predict)
    ids = prepared.split.dataset.users.ids[np.unique(prepared.split.dataset.events.user)]
    if predict.users is None:
        return ids, histories
    rows = recommending.asked_rows(ids, predict.users)
    return ids[rows], histories.take(rows)
