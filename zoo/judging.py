"""Judging: vectors of clients by the six tasks of the RecSys Challenge 2025.

    check the entry → for each task, train a probe on the first window → score it on the second → a table of entries

The probe sees the same clients in both windows and partly remembers who did what: vectors that say nothing, and vectors
that say no more than who is who, stand in every table beside plain statistics.

Legend: n clients, D width of the vectors, T labels of a task.
"""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from config import ConfigError, JudgeConfig
from zoo import judge_metrics as metrics
from zoo import merging
from zoo.data.behaviour import labels
from zoo.data.behaviour.labels import TASKS, Task
from zoo.data.behaviour.log import BehaviourLog
from zoo.data.behaviour.statistics import Reference, statistics
from zoo.data.behaviour.windows import Windows
from zoo.data.dataset import DataError
from zoo.merging import MAX_WIDTH, Block
from zoo.probe import LinearProbe, Probe

ALWAYS = ("zeros", "random", "stats")  # rows of every table: nothing, who is who, what was counted
RANDOM_WIDTH = 64
RARE = 30  # a task with fewer of its rarer outcome measures little, and its interval is too narrow
AUROC, NOVELTY, DIVERSITY = 0.8, 0.1, 0.1  # weights of a propensity's parts
IDS, VECTORS = "client_ids.npy", "embeddings.npy"


# ---------------------------------------------------------------------------------------------- entries


def read_entry(folder: Path, clients: np.ndarray) -> Block:
    """(ids, vectors) of an entry, held to every rule of the official validator, in its order, and to some more.

    Args:
        folder: with client_ids.npy and embeddings.npy.
        clients: (n,) ids of the clients whom the log's owner asks for.

    Raises:
        DataError: a rule is broken.
    """
    entry = read_blocks(folder)
    check(entry, clients, str(folder))
    return entry


def read_blocks(folder: Path) -> Block:
    """(ids, vectors) of a folder, of any clients and type.

    Raises:
        DataError: a file is missing or is no array of plain numbers or text.
    """
    arrays = []
    for name in (IDS, VECTORS):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder}: no {name}; give a folder with {IDS} and {VECTORS} (export_embeddings writes them)"
            )
    for name in (IDS, VECTORS):
        try:
            with open(folder / name, "rb") as file:  # NumPy leaves it open where it is damaged
                array = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError, MemoryError, zipfile.BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{folder / name}: not a file of numpy.save without pickle ({reason})") from None
        if not isinstance(array, np.ndarray):
            raise DataError(f"{folder / name}: holds several arrays; wanted one, as numpy.save writes it")
        arrays.append(array)
    return arrays[0], arrays[1]


def check(entry: Block, clients: np.ndarray, where: str) -> None:
    """Holds arrays to the rules; the official ones first, in their order.

    Ids of a log whose clients are text must be text; in the challenge they are int64.

    Raises:
        DataError: the first rule that is broken; the message starts with `where`.
    """
    ids, vectors = entry
    if ids.ndim != 1:
        raise DataError(f"{where}: client ids of shape {ids.shape}; wanted one dimension, an id a row")
    wanted = "text" if clients.dtype == object else "int64"
    if (ids.dtype.kind not in "UO") if wanted == "text" else (ids.dtype != np.int64):
        raise DataError(f"{where}: client ids of type {ids.dtype}; wanted {wanted}, as in the log")
    if len(ids) != len(clients):
        raise DataError(f"{where}: {len(ids):,} client ids; wanted the {len(clients):,} relevant clients, each once")
    known = np.isin(clients, ids.astype(object) if wanted == "text" else ids)
    if not known.all():
        missing = int(np.count_nonzero(~known))
        raise DataError(
            f"{where}: {missing:,} relevant clients are missing, such as {clients[~known].tolist()[0]!r}; "
            "wanted each once, those without events, too"
        )
    if vectors.ndim != 2:
        raise DataError(f"{where}: embeddings of shape {vectors.shape}; wanted two dimensions, a row a client")
    if vectors.shape[1] > MAX_WIDTH:
        raise DataError(f"{where}: embeddings are {vectors.shape[1]:,} wide; wanted {MAX_WIDTH:,} at most")
    if vectors.dtype != np.float16:
        raise DataError(
            f"{where}: embeddings of type {vectors.dtype}; wanted float16 (predict.embedding_dtype=float16)"
        )
    for name, bad in (("NaN", np.isnan), ("infinite", np.isinf)):
        if (row := _first_row(vectors, bad)) is not None:
            raise DataError(f"{where}: embeddings hold a number that is {name}, first in row {row + 1:,}")
    if len(vectors) != len(ids):
        raise DataError(f"{where}: {len(ids):,} client ids and {len(vectors):,} embeddings; wanted as many")
    if not vectors.shape[1]:
        raise DataError(f"{where}: embeddings are 0 wide; wanted one number at least")


def _first_row(vectors: np.ndarray, bad: Any, chunk: int = 65_536) -> int | None:
    """The first row with a number that is bad."""
    for start in range(0, len(vectors), chunk):
        found = np.flatnonzero(bad(vectors[start : start + chunk]).any(axis=1))
        if len(found):
            return start + int(found[0])
    return None


def _as_entry(block: Block, clients: np.ndarray, where: str) -> np.ndarray:
    """(n, D) float16 vectors in the order of `clients`, of an entry that obeys the rules; wider floats are narrowed.

    Raises:
        DataError: a rule is broken, or a number is too large for float16.
    """
    ids, vectors = block
    if vectors.dtype.kind == "f" and vectors.dtype != np.float16:
        largest = float(np.abs(vectors).max(initial=0.0))
        if float(np.finfo(np.float16).max) < largest < np.inf:
            raise DataError(
                f"{where}: embeddings hold {largest:g}, more than float16 can; scale them (merge_embeddings)"
            )
        with np.errstate(over="ignore"):  # beside a NaN, which is an error of its own
            vectors = vectors.astype(np.float16)
    check((ids, vectors), clients, where)
    return vectors[merging.rows((ids, vectors), clients, where)]


# ---------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Table:
    """What was measured.

    Attributes:
        rows: by entry: `tasks` {task: {score, auroc, novelty, diversity, official, epoch}}, `mean` of the scores, its
            `interval` [low, high] and `official_mean`; `borda`, `width` and `seconds`. A task that cannot be measured
            is missing; None where no task is left.
        paired: differences of means, each a record {embeddings, against, difference, interval}.
        notes: what was left out, and how to read the table.
    """

    rows: dict[str, dict[str, Any]]
    paired: list[dict[str, Any]]
    notes: list[str]

    def markdown(self) -> str:
        """The table for people: the best score of each task in bold."""
        tasks = [task for task in TASKS if all(task in row["tasks"] for row in self.rows.values())]
        columns = [[row["tasks"][task]["score"] for row in self.rows.values()] for task in tasks]
        columns += [[row["mean"] for row in self.rows.values()]] if tasks else []
        best = [max(column) for column in columns]
        heads = [task.replace("propensity_", "").replace("_", " ") for task in tasks] + ["mean"] * bool(tasks)
        lines = [f"| embeddings | width | {' | '.join([*heads, '95 %', 'official mean', 'Borda'])} |"]
        lines.append("|---|" + "---:|" * (len(heads) + 4))
        for i, (name, row) in enumerate(self.rows.items()):
            cells = [f"**{c[i]:.4f}**" if c[i] == top else f"{c[i]:.4f}" for c, top in zip(columns, best, strict=True)]
            interval = "–" if row["interval"] is None else "[{:.4f}, {:.4f}]".format(*row["interval"])
            official = "–" if row["official_mean"] is None else f"{row['official_mean']:.4f}"
            cells += [interval, official, f"{row['borda']:g}"]
            lines.append(f"| {name} | {row['width']} | {' | '.join(cells)} |")
        lines += ["", *(f"* {_sentence(pair)}" for pair in self.paired), *(f"* {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def judge(
    log: BehaviourLog,
    windows: Windows,
    clients: np.ndarray,
    entries: dict[str, Block],
    config: JudgeConfig,
    num_labels: int,
    seed: int = 0,
) -> Table:
    """Scores entries by the six tasks, beside vectors of zeros, random ones and statistics.

    Differences from the official evaluation: probabilities come before every metric (there, a batch of logits that all
    lie within [0, 1] is taken for probabilities); a label of one class is left out of the mean over labels (there, it
    counts as an area of 0: `official`). Intervals are over clients (DeLong et al. 1988), for one training of each
    probe; what another seed would change comes on top.

    Args:
        log: as it was read.
        clients: (n,) rows of the log's clients whom the owner asks for.
        entries: ids and vectors by name; float32 vectors are narrowed to float16, as an entry has them.
        num_labels: of each propensity, where the owner does not say.
        seed: of the probes' first weights and of the random vectors.

    Raises:
        DataError: an entry breaks a rule of the validator, or its probe diverged.
        ConfigError: an entry has the name of a row that is always there.
    """
    ids = log.clients[clients]
    if taken := [name for name in entries if name in ALWAYS]:
        raise ConfigError(f"embeddings called {taken[0]!r}: that row is always in the table; give them another name")
    given = {name: _as_entry(block, ids, name) for name, block in entries.items()}
    notes = []
    for name, vectors in given.items():
        if constant := merging.constant_columns(vectors):
            notes.append(f"{name}: {constant:,} of {vectors.shape[1]:,} columns are the same for all clients")
    tasks, said = _measurable(labels.tasks(log, clients, windows, num_labels), len(clients))
    vectors_of = _always(log, windows, clients, seed) | given
    widest = max(vectors.shape[1] for vectors in vectors_of.values())
    probe: Any = LinearProbe()
    if config.probe != "linear" and tasks:
        probe = Probe(widest, max(task.train.shape[1] for task in tasks.values()), config)
    rows, influences = {}, {}
    for name, vectors in vectors_of.items():
        started = time.perf_counter()
        rows[name], influences[name] = _judged(probe, vectors, tasks, seed, name)
        rows[name] |= {"width": vectors.shape[1], "seconds": round(time.perf_counter() - started, 1)}
    table = np.array([[row["tasks"][task]["score"] for task in tasks] for row in rows.values()])
    for row, points in zip(rows.values(), metrics.borda(table.reshape(len(rows), len(tasks))), strict=True):
        row["borda"] = float(points)
    epochs = ", epoch" if config.probe_epochs == 1 else f", best of {config.probe_epochs} epochs"
    epochs = "" if config.probe == "linear" else epochs
    notes += [
        *said,
        f"{len(clients):,} clients, {config.probe} probe{epochs}, seed {seed}; 0.5 is not chance: `random`",
    ]
    return Table(rows, _paired(rows, influences), notes)


def _always(log: BehaviourLog, windows: Windows, clients: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Vectors of zeros, random ones, and statistics of what was known before the targets."""
    n = len(clients)
    random = np.random.default_rng([seed, 0xA17A]).standard_normal((n, RANDOM_WIDTH), np.float32)
    known = log.at(windows.start, clients)
    counted, _ = statistics(known, Reference.of(known))
    everyone = np.arange(n)
    return {
        "zeros": np.zeros((n, RANDOM_WIDTH), np.float16),
        "random": random.astype(np.float16),
        "stats": merging.merge([(everyone, counted)], everyone),
    }


def _measurable(tasks: dict[str, Task], n: int) -> tuple[dict[str, Task], list[str]]:
    """The tasks that can be scored, and a note on each that cannot, or not wholly."""
    found, notes = {}, []
    for name in TASKS:
        task = tasks.get(name)
        if task is None:
            notes.append(f"{name}: left out; nothing was bought that could be asked for")
            continue
        count, positives = int(task.clients.sum()), task.validation[task.clients].sum(axis=0)
        mixed = int(np.count_nonzero((positives > 0) & (positives < count)))
        if not count:
            notes.append(f"{name}: left out; none of the {n:,} clients is active")
        elif not mixed:
            notes.append(f"{name}: left out; in the second window its labels are the same for all {count:,} clients")
        else:
            found[name] = task
            if mixed < len(positives):
                notes.append(
                    f"{name}: {len(positives) - mixed} of {len(positives)} labels are the same for all clients in the "
                    "second window and are left out; officially each counts as an AUROC of 0"
                )
            rare = float(np.minimum(positives, count - positives).sum())
            if rare < RARE:
                times = f"the rarer outcome occurs {rare:.0f} times in the second window"
                notes.append(f"{name}: {times}; the score is mostly chance")
    return found, notes


# ---------------------------------------------------------------------------------------------- one entry


def _judged(
    probe: Any, vectors: np.ndarray, tasks: dict[str, Task], seed: int, where: str
) -> tuple[dict[str, Any], np.ndarray]:
    """(row of the table, (n,) how far each client moves the mean of its scores), of vectors (n, D).

    Raises:
        DataError: a probe diverged.
    """
    scores, influence = {}, np.zeros(len(vectors))
    for name, task in tasks.items():
        best: list[np.ndarray] = []
        epochs: list[dict[str, float]] = []

        def after(logits: np.ndarray, task: Task = task, best: list = best, epochs: list = epochs) -> None:
            if not np.isfinite(logits).all():
                raise DataError(f"{where}: the probe of {task.name} diverged; scale the embeddings (merge_embeddings)")
            found = score(task, logits)
            if not epochs or found["score"] > max(epoch["score"] for epoch in epochs):
                best[:] = [logits]
            epochs.append(found)

        probe.learn(vectors[task.clients], task.train[task.clients], seed, after)
        top = int(np.argmax([epoch["score"] for epoch in epochs]))
        scores[name] = epochs[top] | {"official": max(epoch["official"] for epoch in epochs), "epoch": top + 1}
        influence[task.clients] += _influence(task, best[0]) * (len(vectors) / task.clients.sum()) / len(tasks)
    row: dict[str, Any] = {"tasks": scores, "mean": None, "interval": None, "official_mean": None}
    if scores:
        row["mean"] = float(np.mean([one["score"] for one in scores.values()]))
        row["interval"] = _interval(row["mean"], influence)
        row["official_mean"] = float(np.mean([one["official"] for one in scores.values()]))
    return row, influence


def score(task: Task, logits: np.ndarray) -> dict[str, float]:
    """`score`, its parts `auroc`, `novelty` and `diversity` (of a propensity), and the `official` score.

    Args:
        logits: (clients of the task, T).
    """
    probabilities = expit(logits.astype(np.float64))
    areas = metrics.auroc(task.validation[task.clients], probabilities)
    measured = ~np.isnan(areas)
    auroc, official = float(areas[measured].mean()), float(areas[measured].sum() / len(areas))
    if task.popularity is None:
        return {"score": auroc, "auroc": auroc, "official": official}
    novelty = metrics.novelty(float(metrics.list_popularity(probabilities, task.popularity).mean()))
    diversity = float(metrics.diversity(probabilities).mean())
    rest = NOVELTY * novelty + DIVERSITY * diversity
    parts = {"auroc": auroc, "novelty": novelty, "diversity": diversity}
    return {"score": AUROC * auroc + rest, **parts, "official": AUROC * official + rest}


def _influence(task: Task, logits: np.ndarray) -> np.ndarray:
    """(clients of the task,) how far each moves the score."""
    probabilities = expit(logits.astype(np.float64))
    influence = metrics.auroc_influence(task.validation[task.clients], probabilities)
    if task.popularity is None:
        return influence
    popular, diverse = metrics.list_popularity(probabilities, task.popularity), metrics.diversity(probabilities)
    slope = metrics.novelty_slope(float(popular.mean()))
    rest = NOVELTY * slope * (popular - popular.mean()) + DIVERSITY * (diverse - diverse.mean())
    return AUROC * influence + rest


def _interval(value: float, influence: np.ndarray) -> list[float]:
    """[low, high] of 95 %, by the normal distribution."""
    error = 1.96 * float(np.sqrt(np.square(influence).sum())) / len(influence)
    return [value - error, value + error]


def _paired(rows: dict[str, dict[str, Any]], influences: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Each entry against the statistics, and the best entry against each other."""
    given = [name for name in rows if name not in ALWAYS and rows[name]["mean"] is not None]
    pairs = [(name, "stats") for name in given]
    if given:
        best = max(given, key=lambda name: rows[name]["mean"])
        pairs += [(best, name) for name in given if name != best]
    records = []
    for a, b in pairs:
        difference = rows[a]["mean"] - rows[b]["mean"]
        interval = _interval(difference, influences[a] - influences[b])
        records.append({"embeddings": a, "against": b, "difference": difference, "interval": interval})
    return records


def _sentence(pair: dict[str, Any]) -> str:
    low, high = pair["interval"]
    return (
        f"{pair['embeddings']} against {pair['against']}: {pair['difference']:+.4f} [{low:+.4f}, {high:+.4f}] "
        "on the mean"
    )
