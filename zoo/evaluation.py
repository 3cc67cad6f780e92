"""Evaluation: where do the targets of each user stand in the whole ranked catalogue?

One pass over the users, a block at a time; users × items is never held for all users.

Legend: n users, b users of a block, T targets, K list length, V items (special tokens included).
"""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from config import ConfigError, EvaluateConfig, RunConfig
from zoo import metrics
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories, Prefixes
from zoo.data.vocabulary import NUM_SPECIALS, PAD, UNKNOWN
from zoo.metrics import MISS
from zoo.recommender import Recommender, Scorer
from zoo.topk import top_of_scores

BLOCK_BYTES = 2**24  # of float32 scores held at a time; larger blocks leave the processor's cache and are slower
BLOCK_USERS = 512


@dataclass(frozen=True)
class Evaluation:
    """What a model reached on the targets of n users.

    Attributes:
        metrics: means over users, by names such as `ndcg@10`.
        intervals: [low, high], 95 % bootstrap intervals over users; coverage has none.
        gaps: what each metric of accuracy would gain if ties counted for the target instead of against it.
        slices: metrics of accuracy of some targets alone, with the number of `users` and `targets`; where targets are
            of several actions, of each as `action NAME`.
        counts: users, targets, and what was special about them.
        ranks: a row per target, as saved in ranks.npz: `user` (n,) tokens, `offsets` (n + 1,), `target` (T,) tokens and
            `rank` (T,), a position in the user's list from 1, or `metrics.MISS`. Where targets were ranked one by one
            n is T, and `owner` (n,) numbers the users.
    """

    metrics: dict[str, float]
    intervals: dict[str, list[float]]
    gaps: dict[str, float]
    slices: dict[str, dict[str, float]]
    counts: dict[str, int]
    ranks: dict[str, np.ndarray]


def evaluate(
    model: Scorer,
    histories: Histories | Prefixes,
    targets: Histories,
    catalogue: Catalogue,
    config: EvaluateConfig,
    seed: int = 0,
) -> Evaluation:
    """Ranks every target against the whole catalogue.

    * Candidates are all items of the catalogue, also those that only a feature table knows, or `catalogue.candidates`
      where there are some; never special tokens.
    * With `config.exclude_seen` all items of the user's known history are taken out, not only those in a model's
      window. A target that was itself seen before is still ranked (against unseen items), and counted as a repeat.
    * Ties lose: the rank of a target is 1 + the candidates that score as much or more. Other targets of the same user
      are no competitors; among themselves they take their places in the order of their ranks.
    * A target outside the catalogue, or one scored −inf, is a miss. A target that a user has several times counts once;
      items outside the catalogue cannot be told apart and count each time.
    * Of `Prefixes` each target is ranked on its own. A metric is then the mean over users of the mean over a user's
      targets, and the slice `events` has the means over all targets.

    Args:
        histories, targets: row by row the same users; users without a target are left out.
        seed: of the bootstrap.

    Raises:
        DataError: nobody has a target, or the model scores NaN or +infinity.
    """
    merged, left_out = len(targets.item), int(np.count_nonzero(targets.lengths == 0))
    if left_out == len(targets):
        raise DataError("no user has a target: there is nothing to evaluate")
    if left_out:
        rows = np.flatnonzero(targets.lengths)
        histories, targets = histories.take(rows), targets.take(rows)
    targets = _distinct(targets, catalogue.items.size)
    merged -= len(targets.item)

    cuts = tuple(sorted(set(config.top_k)))
    worst, best, repeat, lists = _rank(model, histories, targets, catalogue, cuts, config.exclude_seen)
    offsets, known = targets.offsets, targets.item != UNKNOWN
    _, owner = np.unique(histories.owner, return_inverse=True)
    accuracy = {f"{name}@{k}": function(worst, offsets, k) for k in cuts for name, function in metrics.ACCURACY.items()}
    values = {name: metrics.per_user(value, owner) for name, value in (accuracy | lists.values_of_rows()).items()}
    gaps = {
        f"{name}@{k}": float(metrics.per_user(function(best, offsets, k), owner).mean() - values[f"{name}@{k}"].mean())
        for k in cuts
        for name, function in metrics.ACCURACY.items()
    }
    means = {name: float(value.mean()) for name, value in values.items()} | lists.coverage()
    intervals = {}
    if config.bootstrap:
        intervals = {name: list(metrics.bootstrap(value, config.bootstrap, seed)) for name, value in values.items()}
    chosen = {
        "cold_items": ~known | (catalogue.item_counts[targets.item] <= config.cold_item),
        "short_histories": np.repeat(histories.lengths <= config.short_history, targets.lengths),
        "repeat_targets": repeat,
        "new_targets": ~repeat,
    }
    chosen |= _by_action(targets, catalogue)
    slices = {name: _slice(mask, worst, offsets, owner, cuts) for name, mask in chosen.items()}
    ranks = {"user": targets.user, "offsets": offsets, "target": targets.item, "rank": worst.astype(np.int32)}
    users = int(owner[-1]) + 1
    if users < len(targets):
        slices["events"] = {"users": users, "targets": len(targets.item)}
        slices["events"] |= {name: float(value.mean()) for name, value in accuracy.items()}
        ranks["owner"] = owner.astype(np.int32)
    return Evaluation(
        metrics=means,
        intervals=intervals,
        gaps=gaps,
        slices=slices,
        counts={
            "users": users,
            "targets": len(targets.item),
            "targets_outside_catalogue": int(np.count_nonzero(~known)),
            "repeat_targets": int(np.count_nonzero(repeat)),
            "targets_merged": merged,
            "users_without_target": left_out,
        },
        ranks=ranks,
    )


def _distinct(targets: Histories, num_items: int) -> Histories:
    """`targets` with each catalogue item once per user."""
    event = np.arange(len(targets.item))
    key = np.where(targets.item == UNKNOWN, -1 - event, targets.row_of_event * np.int64(num_items) + targets.item)
    _, first = np.unique(key, return_index=True)
    if len(first) == len(event):
        return targets
    first.sort()
    offsets = np.searchsorted(first, targets.offsets)
    columns = {name: column[first] for name, column in targets.columns.items()}
    return Histories(targets.user, offsets, targets.item[first], columns=columns)


def _by_action(targets: Histories, catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Which targets (T,) are of which action; empty where all are of one."""
    action = targets.columns.get("action", np.zeros(0))
    there = [token for token in np.unique(action).tolist() if token >= NUM_SPECIALS]
    names = catalogue.actions.decode(np.array(there, np.int64))
    return (
        {f"action {name}": action == token for name, token in zip(names, there, strict=True)} if len(there) > 1 else {}
    )


# ---------------------------------------------------------------------------------------- the pass over the users


def _rank(
    model: Scorer,
    histories: Histories | Prefixes,
    targets: Histories,
    catalogue: Catalogue,
    top_k: tuple[int, ...],
    exclude_seen: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, _Lists]:
    """(ranks when ties lose (T,), ranks when ties win (T,), whether the target was seen before (T,), lists)."""
    lists = _Lists(histories.people, catalogue, top_k)
    worst, best = np.empty(len(targets.item), np.int64), np.empty(len(targets.item), np.int64)
    repeat = np.empty(len(targets.item), bool)
    progress = tqdm(total=len(targets), desc="evaluation", unit="user", leave=False, delay=2, disable=None)
    size = int(np.clip(BLOCK_BYTES // (4 * catalogue.items.size), 1, BLOCK_USERS))
    start = 0
    for part, scores in _score_blocks(model, histories, catalogue.candidates, size):
        block = slice(start, start + len(scores))
        start += len(scores)
        mine = slice(int(targets.offsets[block.start]), int(targets.offsets[start]))
        worst[mine], best[mine], repeat[mine] = _rank_block(scores, part, targets.take(block), exclude_seen)
        lists.add(top_of_scores(scores, top_k[-1])[0])
        progress.update(len(scores))
    progress.close()
    return _positions(worst, targets.offsets), _positions(best, targets.offsets), repeat, lists


def _score_blocks(
    model: Scorer, histories: Histories | Prefixes, candidates: np.ndarray | None, size: int
) -> Iterator[tuple[Histories, np.ndarray]]:
    """Consecutive users and their scores (b, V), b ≤ size; arrays that may be written to.

    Specials are at −inf, and all that are none of the `candidates` (V,).
    """
    for part, scores in _raw_scores(model, histories, candidates, size):
        if not (scores[:, NUM_SPECIALS:].max(axis=1, initial=-np.inf) < np.inf).all():  # a maximum passes NaN on
            raise DataError(
                f"{type(model).__name__} scores NaN or infinity: its training diverged; lower train.learning_rate "
                "or set train.clip_norm, and train it again"
            )
        scores[:, :NUM_SPECIALS] = -np.inf
        yield part, scores


def _raw_scores(
    model: Scorer, histories: Histories | Prefixes, candidates: np.ndarray | None, size: int
) -> Iterator[tuple[Histories, np.ndarray]]:
    if not isinstance(model, Recommender):
        for part in histories.batches(size):
            scores = np.array(model.score(part), np.float32)  # a copy: the array may be the model's own
            if candidates is not None:
                scores[:, ~candidates] = -np.inf
            yield part, scores
        return
    matrix = model.item_matrix()
    tokens = None if candidates is None else np.flatnonzero(candidates)
    items, column = _distinct_vectors(matrix if tokens is None else matrix[tokens])
    for batch, vectors in model.vector_batches(histories):
        for start in range(0, len(vectors), size):
            rows = slice(start, start + size)
            found = vectors[rows] @ items.T
            scores = found if column is None else found[:, column]
            if tokens is not None:
                scores = np.full((len(found), len(matrix)), -np.inf, np.float32)
                scores[:, tokens] = found if column is None else found[:, column]
            yield batch.take(rows), scores


def _distinct_vectors(items: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The different vectors among `items` (V, D), and which of them each token has; None: all differ.

    Items with one vector (new ones without features, or all of them in a model that has collapsed) must tie, but a
    matrix product sums its columns in different orders and breaks such ties by rounding. So each is scored once.
    """
    items = items + np.float32(0)  # -0 becomes 0, and the rows contiguous
    rows = items.view(np.dtype((np.void, items.itemsize * items.shape[1]))).reshape(-1)
    _, first, column = np.unique(rows, return_index=True, return_inverse=True)
    return (items, None) if len(first) == len(items) else (items[first], column)


def _rank_block(
    scores: np.ndarray, histories: Histories, targets: Histories, exclude_seen: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks among the candidates that are no targets, for one block of users. Leaves excluded items at −inf.

    Returns:
        (rank when ties lose, rank when ties win, whether the target was seen before), each (T,).
    """
    seen = np.zeros(scores.shape, bool)
    seen[histories.row_of_event, histories.item] = True
    row, item = targets.row_of_event, targets.item
    own = scores[row, item]
    repeat = seen[row, item] & (item != UNKNOWN)
    if exclude_seen:
        np.copyto(scores, -np.inf, where=seen)
    listed = scores[row, item]
    scores[row, item] = -np.inf
    worst, best = np.empty(len(item), np.int64), np.empty(len(item), np.int64)
    place = np.arange(len(item)) - targets.offsets[row]
    for nth in range(int(place.max()) + 1):  # the nth target of every user that has one
        at = np.flatnonzero(place == nth)
        rivals = scores if len(at) == len(scores) else scores[row[at]]
        worst[at] = 1 + np.count_nonzero(rivals >= own[at, None], axis=1)
        best[at] = 1 + np.count_nonzero(rivals > own[at, None], axis=1)
    scores[row, item] = listed
    missed = own == -np.inf  # unknown items among them
    worst[missed], best[missed] = MISS, MISS
    return worst, best, repeat


def _positions(ranks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Places in the list of all candidates, from ranks among those that are no targets of the user."""
    row = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((ranks, row))
    ahead = np.empty(len(ranks), np.int64)
    ahead[order] = np.arange(len(ranks)) - offsets[row]
    return np.where(ranks == MISS, MISS, ranks + ahead)


class _Lists:
    """Metrics of recommended lists, gathered block by block, so that no list need be kept."""

    def __init__(self, histories: Histories, catalogue: Catalogue, top_k: tuple[int, ...]):
        self.top_k = top_k
        self.information = metrics.self_information(catalogue.item_counts)
        self.percentile = metrics.popularity_percentile(catalogue.item_counts)
        self.vectors = describe_items(catalogue, histories)
        self.num_items = catalogue.num_candidates
        self.listed = {k: np.zeros(catalogue.items.size, bool) for k in top_k}
        self.values: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, lists: np.ndarray) -> None:
        """Takes the lists (b, K) of further users."""
        for k in self.top_k:
            first = lists[:, :k]
            self.listed[k][first] = True
            self.values[f"novelty@{k}"].append(metrics.mean_of_lists(first, self.information))
            self.values[f"popularity@{k}"].append(metrics.mean_of_lists(first, self.percentile))
            if k > 1:
                self.values[f"diversity@{k}"].append(metrics.diversity(first, self.vectors))

    def values_of_rows(self) -> dict[str, np.ndarray]:
        """(n,) each, a value for every list."""
        return {name: np.concatenate(blocks) for name, blocks in self.values.items()}

    def coverage(self) -> dict[str, float]:
        """A number for all users together."""
        return {f"coverage@{k}": metrics.coverage(np.flatnonzero(self.listed[k]), self.num_items) for k in self.top_k}


def describe_items(catalogue: Catalogue, histories: Histories) -> np.ndarray:
    """(V, D) unit vectors behind diversity: by the items' features where there are any, else by who consumed them.

    They belong to the data, not to the model, so that models compare.
    """
    features = catalogue.item_features
    if features is not None and (features.bags != PAD).any():
        item, slot = np.nonzero(features.bags != PAD)
        return metrics.item_vectors(item, features.bags[item, slot], catalogue.items.size)
    real = histories.item >= NUM_SPECIALS
    return metrics.item_vectors(histories.item[real], histories.row_of_event[real], catalogue.items.size)


def _slice(
    mask: np.ndarray, ranks: np.ndarray, offsets: np.ndarray, owner: np.ndarray, top_k: tuple[int, ...]
) -> dict[str, float]:
    """Accuracy with only the targets of `mask` as targets, over the users who have one."""
    ends = np.concatenate([[0], np.cumsum(mask)])[offsets]
    kept = np.diff(ends) > 0  # rows without such a target are left out
    ends = ends[np.append(True, kept)]
    _, owner = np.unique(owner[kept], return_inverse=True)
    result: dict[str, float] = {"users": int(owner[-1]) + 1 if len(owner) else 0, "targets": int(ends[-1])}
    if len(owner):
        for k in top_k:
            for name, function in metrics.ACCURACY.items():
                result[f"{name}@{k}"] = float(metrics.per_user(function(ranks[mask], ends, k), owner).mean())
    return result


# ---------------------------------------------------------------------------------------- during training


class RankingEvaluation(keras.callbacks.Callback):
    """Puts `val_hit_rate@10`, `val_ndcg@10` and the monitored metric into the logs of each epoch.

    The numbers come from `evaluate`, the function that reports the final ones. It must stand before EarlyStopping,
    CSVLogger and other readers of the logs in the list of callbacks.

    Args:
        histories, targets: the validation cases.
        catalogue: of the model.
        config: `evaluate`, `train.monitor`, `seed`, and `train.validation_users`: that many users, drawn by the seed.

    Raises:
        ConfigError: the monitor is a ranking metric that does not exist.
    """

    def __init__(self, histories: Histories | Prefixes, targets: Histories, catalogue: Catalogue, config: RunConfig):
        super().__init__()
        rows = np.flatnonzero(targets.lengths)
        users, size = np.unique(histories.owner[rows]), config.train.validation_users
        if size is not None and size < len(users):
            drawn = np.random.default_rng([config.seed, 0xA11]).choice(users, size, replace=False)
            rows = rows[np.isin(histories.owner[rows], drawn)]
        self.histories, self.targets, self.catalogue = histories.take(rows), targets.take(rows), catalogue
        self.names = ["hit_rate@10", "ndcg@10"]
        monitor = config.train.monitor or ""
        name, cut, k = monitor.removeprefix("val_").partition("@")
        if monitor.startswith("val_") and cut:
            known = [*metrics.ACCURACY, "coverage", "novelty", "diversity", "popularity"]
            if name not in known or not k.isdecimal() or int(k) < (2 if name == "diversity" else 1):
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean val_{close[0]}@10?" if close else f"known: {', '.join(known)}"
                raise ConfigError(f"train.monitor={monitor}: no such metric; {hint}")
            self.names = list(dict.fromkeys([*self.names, f"{name}@{int(k)}"]))
        cuts = sorted({int(name.partition("@")[2]) for name in self.names})
        self.config = config.evaluate.model_copy(update={"top_k": tuple(cuts), "bootstrap": 0})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates the model as it is now."""
        result = evaluate(self.model, self.histories, self.targets, self.catalogue, self.config)
        if logs is not None:
            logs.update({f"val_{name}": result.metrics[name] for name in self.names})
