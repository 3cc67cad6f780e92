"""From a trained model to lists of items in a file, and to vectors in a file. Everything streams; no file is ever half.

Legend: b users of a batch, V tokens, D width, K list length, E recommendations of a batch.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from config import PredictConfig
from zoo import artifacts
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError
from zoo.data.histories import Histories
from zoo.data.vocabulary import NUM_SPECIALS, PAD, Vocabulary
from zoo.recommender import Recommender, Scorer
from zoo.topk import InnerProductIndex, top_of_scores

BATCH = 1024  # users at once
DENSE = 1 << 26  # scores at once, for a model that has no vectors
ROW_GROUP = 1 << 20  # rows of a Parquet row group
MAX_COMPARED = 20_000  # ids among which the nearest to an unknown one is looked for

Lists = tuple[np.ndarray, np.ndarray]  # tokens (b, K) int32 and scores (b, K); token 0 and -inf after the last


# ------------------------------------------------------------------------------------------ who and what is asked


def asked_rows(ids: np.ndarray, users: str | tuple[str | int, ...]) -> np.ndarray:
    """Rows of `ids` that hold the asked `users` (a list, or a file with one id a line), in that order, once each.

    Raises:
        DataError: a user is unknown, or the file cannot be read.
    """
    return _rows(ids, users, "predict.users", "users")


def asked_items(catalogue: Catalogue, items: str | tuple[str | int, ...] | None) -> np.ndarray:
    """Tokens of the asked `items` (a list, or a file with one id a line), in that order, once each; None: of all.

    Raises:
        DataError: an item is unknown, or the file cannot be read.
    """
    ids = catalogue.items.ids
    rows = np.arange(len(ids)) if items is None else _rows(ids, items, "predict.similar_to", "items")
    return rows + NUM_SPECIALS


def allowed_items(catalogue: Catalogue, config: PredictConfig) -> np.ndarray | None:
    """(V,) bool: the candidates that `config.allow` and `config.deny` leave; None where all may be recommended.

    Raises:
        DataError: a list names an unknown item, cannot be read, or leaves nothing.
    """
    if config.allow is None and config.deny is None:
        return catalogue.candidates
    ids = catalogue.items.ids
    allowed = np.full(catalogue.items.size, config.allow is None)
    if config.allow is not None:
        allowed[_rows(ids, config.allow, "predict.allow", "items") + NUM_SPECIALS] = True
    if config.deny is not None:
        allowed[_rows(ids, config.deny, "predict.deny", "items") + NUM_SPECIALS] = False
    allowed[:NUM_SPECIALS] = False
    if catalogue.candidates is not None:
        allowed &= catalogue.candidates
    if not allowed.any():
        raise DataError("predict.allow and predict.deny leave no item to recommend")
    return allowed


def _rows(ids: np.ndarray, asked: str | tuple[str | int, ...], option: str, noun: str) -> np.ndarray:
    """Rows of `ids` where the `asked` ones stand, each once, in the order asked."""
    index = pd.Index(ids)
    if isinstance(asked, str) and not Path(asked).is_file():
        if index.get_indexer(_as_ids([asked], ids.dtype))[0] < 0:
            raise DataError(f"{option}={asked!r}: neither a file with one id a line nor one of the {noun}")
        asked = (asked,)
    texts = _lines(Path(asked), option) if isinstance(asked, str) else list(asked)
    rows = index.get_indexer(_as_ids(texts, ids.dtype))
    unknown = np.flatnonzero(rows < 0)
    if len(unknown):
        first, known = str(texts[unknown[0]]), [str(value) for value in ids[:MAX_COMPARED].tolist()]
        where = f" ({asked})" if isinstance(asked, str) else ""
        close = difflib.get_close_matches(first, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(map(repr, known[:3]))}, ..."
        raise DataError(
            f"{option}{where}: {len(unknown):,} of {len(texts):,} {noun} unknown, the first is {first!r}; {hint}"
        )
    return pd.unique(rows)


def _as_ids(values: list[str | int], dtype: np.dtype) -> np.ndarray:
    """Texts and numbers as ids of this type; what cannot be one stays a text, and so matches none."""
    ids = np.empty(len(values), dtype=object)
    number = {"i": int, "f": float}.get(dtype.kind, str)
    for row, value in enumerate(values):
        try:
            ids[row] = number(value)
        except ValueError:
            ids[row] = value
    return ids


def _lines(path: Path, option: str) -> list[str]:
    """The lines of a text file, without those that are empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # an id may hold any other kind of line break
    except UnicodeDecodeError as error:
        raise DataError(f"{option}: {path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    found = [line.removesuffix("\r") for line in lines if line.strip()]
    if not found:
        raise DataError(f"{option}: {path} is empty; write one id a line")
    return found


# ------------------------------------------------------------------------------------------------- recommendations


def recommend(
    model: Scorer, histories: Histories, k: int, exclude_seen: bool = True, allowed: np.ndarray | None = None
) -> Iterator[Lists]:
    """The best `k` items of every history, a batch at a time.

    Args:
        model: a `Recommender` is searched by its vectors, any other `Scorer` is asked for all its scores.
        histories: what is known of each person, trained on or not.
        k: list length; a person with fewer candidates gets a shorter list.
        exclude_seen: leave out the items of the history.
        allowed: (V,) bool, tokens that may be recommended; None: all. Special tokens never are.

    Yields:
        tokens (b, K) int32 and scores (b, K), ordered by (-score, token), of consecutive histories; token 0 and score
        -inf after the last.

    Raises:
        DataError: the model gives NaN or infinite scores.
    """
    ranking = _search if isinstance(model, Recommender) else _rank
    with tqdm(total=len(histories), desc="recommend", unit="user", leave=False, delay=2, disable=None) as bar:
        for tokens, scores in ranking(model, histories, k, exclude_seen, allowed):
            yield tokens, scores
            bar.update(len(tokens))


def _search(
    model: Recommender, histories: Histories, k: int, exclude_seen: bool, allowed: np.ndarray | None
) -> Iterator[Lists]:
    index = InnerProductIndex(model.item_matrix(), allowed)
    for part, vectors in model.vector_batches(histories, BATCH):
        yield index.search(vectors, k, part if exclude_seen else None)


def _rank(
    model: Scorer, histories: Histories, k: int, exclude_seen: bool, allowed: np.ndarray | None
) -> Iterator[Lists]:
    for part in histories.batches(max(1, min(BATCH, DENSE // model.catalogue.items.size))):
        scores = np.array(model.score(part), np.float32)  # a copy: a model may hand out what it keeps
        if allowed is not None:
            scores[:, ~allowed] = -np.inf
        if exclude_seen:
            scores[part.row_of_event, part.item] = -np.inf
        yield top_of_scores(scores, k)


def similar_items(
    vectors: np.ndarray, tokens: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> Iterator[Lists]:
    """The `k` items nearest to each of `tokens` by the cosine of their vectors, never itself, a batch at a time.

    Args:
        vectors: (V, D) float32, a vector per token. An item of which nothing was learned, a zero vector, is similar to
            none and gets an empty list.
        tokens: (n,) of the items.
        k: list length.
        allowed: (V,) bool, tokens that may be found; None: all.

    Yields:
        tokens (b, K) int32 and cosines (b, K), as `recommend` does.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    learned = lengths[:, 0] != 0
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths != 0)
    index = InnerProductIndex(unit, learned if allowed is None else learned & allowed)
    with tqdm(total=len(tokens), desc="similar items", unit="item", leave=False, delay=2, disable=None) as bar:
        for start in range(0, len(tokens), BATCH):
            asked = tokens[start : start + BATCH].astype(np.int32)
            found, cosines = index.search(unit[asked], k, Histories(asked, np.arange(len(asked) + 1), asked))
            found[~learned[asked]], cosines[~learned[asked]] = PAD, -np.inf
            yield found, cosines
            bar.update(len(asked))


def write(
    path: Path,
    file_format: str,
    users: np.ndarray,
    items: Vocabulary,
    batches: Iterable[Lists],
    names: tuple[str, str] = ("user", "item"),
) -> int:
    """Writes recommendations, a batch at a time, and puts the file in its place when it is whole.

    Formats, all in original ids:
        json: one object, {user: [[item, score], ...], ...}, a user a line. JSON makes a text of every key.
        jsonl: a line {"user": user, "items": [[item, score], ...]} a user; ids keep their types.
        parquet: a row a recommendation: user, item, score (float32), rank (from 1).

    Args:
        path: where to; an existing file stays as it is until the new one is complete.
        file_format: json, jsonl or parquet.
        users: (n,) original ids of the users, in the order of the batches.
        items: vocabulary of the tokens.
        batches: what `recommend` yields.
        names: what stands for `user` (in jsonl and parquet) and `item` (in parquet) in other lists than these.

    Returns:
        the number of users written.

    Raises:
        DataError: a score is not finite.
        OSError: the file cannot be written.
    """
    writer = {"parquet": _write_parquet, "json": _write_json, "jsonl": _write_jsonl}[file_format]
    tally = _Tally(len(users))
    with naming(path), artifacts.replacing(path) as temporary:
        writer(temporary, users, items, tally.checked(batches), names)
    if tally.short:
        print(
            f"warning: {tally.short:,} of {len(users):,} {names[0]}s get a list shorter than {tally.k:,}: "
            "no more items left"
        )
    return tally.written


class _Tally:
    """Checks batches on their way to a file and counts them."""

    def __init__(self, expected: int):
        self.expected, self.written, self.short, self.k = expected, 0, 0, 0

    def checked(self, batches: Iterable[Lists]) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """(rows of the users, (b,) list lengths, (E,) rows of the items, (E,) scores) of each batch."""
        for tokens, scores in batches:
            kept = scores != -np.inf
            if not np.isfinite(scores[kept]).all():
                raise DataError("a recommendation's score is NaN or infinite; the model has diverged: train it again")
            lengths = np.count_nonzero(kept, axis=1)
            users = slice(self.written, self.written + len(tokens))
            if users.stop > self.expected:
                raise ValueError(f"more lists than the {self.expected} users")
            self.written, self.k = users.stop, tokens.shape[1]
            self.short += int(np.count_nonzero(lengths < self.k))
            yield users, lengths, tokens[kept] - NUM_SPECIALS, scores[kept].astype(np.float32)
        if self.written != self.expected:
            raise ValueError(f"{self.written} lists for {self.expected} users")


def _write_json(path: Path, users: np.ndarray, items: Vocabulary, batches: Iterable, _: tuple[str, str]) -> None:
    names = _json_texts(items.ids)
    with open(path, "wb") as file:
        file.write(b"{")
        for rows, lengths, item, score in batches:
            keys = _json_texts(np.array([str(user) for user in users[rows].tolist()], dtype=object))
            lines = _joined(keys, ": [", _pairs(lengths, names, item, score), "]")
            file.write((",\n" if rows.start else "\n").encode() + ",\n".join(lines.to_pylist()).encode())
        file.write(b"\n}\n")


def _write_jsonl(path: Path, users: np.ndarray, items: Vocabulary, batches: Iterable, names: tuple[str, str]) -> None:
    texts = _json_texts(items.ids)
    with open(path, "wb") as file:
        for rows, lengths, item, score in batches:
            pairs = _pairs(lengths, texts, item, score)
            lines = _joined(f'{{"{names[0]}": ', _json_texts(users[rows]), ', "items": [', pairs, "]}\n")
            file.write("".join(lines.to_pylist()).encode())


def _joined(*parts: str | pa.Array) -> pa.Array:
    """Texts and arrays of texts, put together row by row."""
    large = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in (*parts, "")]
    return pc.binary_join_element_wise(*large)  # the last one is the separator


def _json_texts(ids: np.ndarray) -> pa.Array:
    """(n,) each id as JSON."""
    return pa.array([json.dumps(value) for value in ids.tolist()], pa.large_string())


def _pairs(lengths: np.ndarray, names: pa.Array, item: np.ndarray, score: np.ndarray) -> pa.Array:
    """(b,) "[item, score], [item, score], ..." of each list, made without a Python object per pair.

    A score is the shortest text that reads back as the same float32, always with a point or an exponent.
    """
    text = pc.cast(pa.array(score), pa.large_string())
    text = pc.if_else(pc.match_substring_regex(text, "[.e]"), text, _joined(text, ".0"))
    pairs = _joined("[", names.take(pa.array(item)), ", ", text, "]")
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
    return pc.binary_join(pa.LargeListArray.from_arrays(offsets, pairs), pa.scalar(", ", pa.large_string()))


def _write_parquet(path: Path, users: np.ndarray, items: Vocabulary, batches: Iterable, names: tuple[str, str]) -> None:
    user_ids, item_ids = pa.array(users), pa.array(items.ids)
    schema = pa.schema(
        [(names[0], user_ids.type), (names[1], item_ids.type), ("score", pa.float32()), ("rank", pa.int32())]
    )
    with pq.ParquetWriter(path, schema) as file:
        waiting: list[pa.RecordBatch] = []
        for rows, lengths, item, score in batches:
            of_user = np.repeat(np.arange(rows.start, rows.stop), lengths)
            rank = np.arange(1, len(item) + 1) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            columns = [user_ids.take(pa.array(of_user)), item_ids.take(pa.array(item)), score, rank.astype(np.int32)]
            waiting.append(pa.record_batch(columns, schema=schema))
            if sum(map(len, waiting)) >= ROW_GROUP:
                file.write_table(pa.Table.from_batches(waiting, schema))
                waiting = []
        file.write_table(pa.Table.from_batches(waiting, schema))


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system name what was wanted instead of a temporary file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, f"{reason}; nothing was changed", str(path)) from error
