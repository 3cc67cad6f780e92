"""Every knob of a run: typed, frozen, validated. Imports nothing of the zoo and no Keras.

A run is described by one `RunConfig`, made in three steps, each printable:

    defaults in this file  <  a preset of the model  <  --override key=value

Each model keeps its own `ModelConfig` subclass beside its class. `override` is strict: an unknown key or an
ill-typed value is an error that names the nearest key, never a warning.
"""

from __future__ import annotations

import difflib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, SerializeAsAny, ValidationError


class ConfigError(ValueError):
    """A mistake in the options of a run: one line that says what, where and what to do."""


class Section(BaseModel):
    """A frozen group of knobs; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Columns(Section):
    """Names of the columns of an event table. None: recognised by their usual names."""

    user: str | None = None
    item: str | None = None
    timestamp: str | None = None
    score: str | None = None
    action: str | None = None
    domain: str | None = None
    price: str | None = None


Layout = Literal[
    "auto",
    "table",
    "pairs",
    "sequences",
    "sessions",
    "movielens",
    "otto",
    "online_retail",
    "complete_journey",
    "pickled_dict",
]


class DataConfig(Section):
    """Where the log lies, how to read it and what to keep of it."""

    path: str = Field("sample", description="file, glob, folder, database, module:function or a known name")
    layout: Layout = "auto"
    columns: Columns = Columns()
    query: str | None = Field(None, description="SQL that selects user, item, timestamp, ... from the table `data`")
    users: str | None = Field(None, description="table of user features; its first column or `user` is the id")
    items: str | None = Field(None, description="table of item features; its first column or `item` is the id")
    cache_dir: str | None = Field(None, description="where downloads and prepared arrays are kept")
    # Cleaning, in this order.
    actions: tuple[str, ...] | None = Field(None, description="keep these actions only")
    since: str | None = Field(None, description="keep events at or after this date")
    until: str | None = Field(None, description="keep events before this date")
    min_score: float | None = Field(None, description="keep events with at least this score")
    duplicates: Literal["keep", "first", "last", "consecutive"] = Field(
        "keep", description="same user and item again: keep all, the first, the last, or merge immediate repeats"
    )
    max_user_events: int | None = Field(None, ge=1, description="drop users with more events than this (bots)")
    min_user_events: int = Field(1, ge=1, description="k-core of users, to the fixed point")
    min_item_events: int = Field(1, ge=1, description="k-core of items, to the fixed point")
    action_weights: dict[str, float] = Field({}, description="weight of an event in training, by its action")


class SampleConfig(Section):
    """The built-in generated shop; read only when data.path is `sample`."""

    num_users: int = Field(600, ge=1)
    num_items: int = Field(240, ge=2)
    num_days: int = Field(120, ge=2)
    events_per_user: float = Field(36.0, ge=1, description="looks at an item, on average")
    noise: float = Field(0.2, ge=0, le=1, description="0: all planted structure, 1: pure noise")
    shared_taste: bool = Field(True, description="what a user likes in one domain tells what he likes in the other")


class SplitConfig(Section):
    """How events become training, validation and test."""

    strategy: Literal["leave_one_out", "temporal", "by_user"] = "leave_one_out"
    validation_from: str | None = Field(None, description="temporal: date at which validation starts")
    test_from: str | None = Field(None, description="temporal: date at which the test starts")
    fraction: float = Field(0.1, gt=0, lt=0.5, description="share of events (temporal) or users (by_user) per part")


class TrainConfig(Section):
    """One keras fit."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: Literal["adam", "adamw", "adagrad", "sgd", "rmsprop", "lion"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "one_cycle", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    reduce_on_plateau: int | None = Field(None, ge=1, description="epochs without progress before the rate is halved")
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="momentum of an average of the weights")
    accumulate: int = Field(1, ge=1, description="gradient accumulation: batches per optimizer step")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    patience: int | None = Field(5, ge=1, description="epochs without a better monitor; null trains to the end")
    monitor: str = "val_ndcg@10"
    validation_users: int | None = Field(None, ge=1, description="users in the validation of each epoch; null: all")
    workers: int = Field(1, ge=1, description="threads that prepare batches")
    threads: int | None = Field(None, ge=1, description="threads of the backend; null: all cores")
    jit: bool | None = Field(None, description="compile the step; null: the backend's own choice")
    tensorboard: bool = False
    mlflow: bool = False


class EvaluateConfig(Section):
    """Full-catalogue ranking."""

    top_k: tuple[PositiveInt, ...] = Field((1, 5, 10, 20, 50), min_length=1)
    exclude_seen: bool = True
    bootstrap: int = Field(1000, ge=0, description="resamples behind each interval; 0: none")
    short_history: int = Field(5, ge=1, description="histories up to this length form the slice `short_histories`")
    cold_item: int = Field(5, ge=0, description="targets with up to this many training events: slice `cold_items`")


class PredictConfig(Section):
    """recommendations.json."""

    num_items: int = Field(50, ge=1, description="N, items per user")
    exclude_seen: bool = True
    format: Literal["json", "jsonl", "parquet"] = "json"
    users: str | tuple[str | int, ...] | None = Field(None, description="ids, or a file with one id a line")
    histories: str | None = Field(None, description="event table of people who were never trained on")
    allow: str | tuple[str | int, ...] | None = Field(None, description="items that may be recommended")
    deny: str | tuple[str | int, ...] | None = Field(None, description="items that may not be recommended")


class ModelConfig(Section):
    """Base of every model's hyperparameters; a model's own stands beside the model."""


class RunConfig(Section):
    """A whole run."""

    model: SerializeAsAny[ModelConfig] = ModelConfig()
    data: DataConfig = DataConfig()
    sample: SampleConfig = SampleConfig()
    split: SplitConfig = SplitConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    predict: PredictConfig = PredictConfig()
    seed: int = Field(0, ge=0)
    figures_dir: str = Field("figures", description="where the exploratory analysis writes")


# ---------------------------------------------------------------------------------------------- overrides


def override(config: RunConfig, assignments: list[str] | tuple[str, ...]) -> RunConfig:
    """Returns `config` with assignments such as `["train.epochs=3,model.dropout=0", "batch_size=64"]` applied.

    A leaf name alone is accepted where only one field bears it. Values are read as JSON where they are JSON
    (numbers, `null`, `true`, lists), otherwise as text; a quoted comma belongs to its value.

    Raises:
        ConfigError: unknown or ambiguous key (with the nearest name), ill-typed value, no `=`.
    """
    paths = _leaf_paths(config)
    values: dict[str, Any] = config.model_dump()
    for assignment in assignments:
        for part in _split_assignments(assignment):
            key, separator, text = part.partition("=")
            if not separator:
                raise ConfigError(f"--override {part!r}: expected key=value")
            path = _resolve(key.strip(), paths)
            node = values
            *parents, leaf = path.split(".")
            for parent in parents:
                node = node[parent]
            node[leaf] = _parse(text.strip(), paths[path])
    return rebuild(config, values)


def rebuild(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """A `RunConfig` of plain `values`, with the model section of the same type as in `config`.

    Raises:
        ConfigError: a value is ill-typed, out of range or unknown.
    """
    try:
        model = type(config.model)(**values["model"])
        return RunConfig(**{**values, "model": model})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if error.title == type(config.model).__name__:
            where = f"model.{where}"
        raise ConfigError(f"{where}={first['input']!r}: {first['msg']}") from None


def _leaf_paths(section: Section, prefix: str = "") -> dict[str, Any]:
    """{dotted path: field} of every leaf of a config."""
    paths: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            paths.update(_leaf_paths(value, f"{prefix}{name}."))
        else:
            paths[prefix + name] = field
    return paths


def _resolve(key: str, paths: dict[str, Any]) -> str:
    if key in paths:
        return key
    matches = [path for path in paths if path.rsplit(".", 1)[-1] == key]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"--override {key}: more than one field bears this name; write one of {', '.join(matches)}")
    parent, _, child = key.partition(".")
    for path in paths:  # action_weights.cart=2 is not a leaf, but its dictionary is
        if key.startswith(path + "."):
            raise ConfigError(f'--override {key}: write {path}={{"{key[len(path) + 1 :]}": ...}}')
    names = list(paths) + [path.rsplit(".", 1)[-1] for path in paths]
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        child or parent, names, n=1, cutoff=0.5
    )
    hint = f"; did you mean {close[0]!r}?" if close else "; `python main.py show_config` lists all keys"
    raise ConfigError(f"--override {key}: unknown key{hint}")


def _split_assignments(text: str) -> list[str]:
    """Splits `a=1,b=[1,2],c="x,y",d=1,5` at the commas that start a new `key=`, never inside quotes or brackets."""
    parts: list[str] = []
    depth, quote, current = 0, "", ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        if character == "," and depth == 0 and not quote:
            parts.append(current)
            current = ""
        else:
            current += character
    parts.append(current)
    joined: list[str] = []
    for part in parts:  # `top_k=5,10`: a piece without a key belongs to the value before it
        key = part.partition("=")[0].strip()
        if "=" in part and key.replace(".", "").replace("_", "").isalnum():
            joined.append(part)
        elif joined:
            joined[-1] += "," + part
        else:
            joined.append(part)
    return joined


def _parse(text: str, field: Any) -> Any:
    if text.lower() in ("none", "null"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    wants_sequence = "tuple" in str(field.annotation)
    try:
        value = json.loads(text)
    except ValueError:
        value = text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
        if wants_sequence and isinstance(value, str) and "," in value:
            return [_scalar(part.strip()) for part in value.split(",")]
    if "str" in str(field.annotation) and isinstance(value, int | float) and not wants_sequence:
        return text  # a date such as 2020 or a path such as 7 stays text
    if wants_sequence and not isinstance(value, list) and "str |" not in str(field.annotation):
        return [value]
    return value


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
