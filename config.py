"""Every knob of a run: typed, frozen, validated. Imports nothing of the zoo and no Keras.

A run is described by one `RunConfig`, made in three steps, each printable:

    defaults in this file  <  a preset of the model  <  --override key=value

Each model keeps its own `ModelConfig` subclass beside its class. `override` is strict: an unknown key or an
ill-typed value is an error that names the nearest key, never a warning.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    field_serializer,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


class ConfigError(ValueError):
    """A mistake in the options of a run: one line that says what, where and what to do."""


class Section(BaseModel):
    """A frozen group of knobs; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


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
    "t_ecd",
    "trigrec",
    "tricdr",
    "pickled_dict",
    "synerise",
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
    windows: Literal["keep", "join"] = Field(
        "keep", description="histories that overlap with the next user's, as pieces of one do: make them one user"
    )
    actions: tuple[str, ...] | None = Field(None, description="keep these actions only")
    domains: tuple[str, ...] | None = Field(None, description="keep these domains only")
    since: str | None = Field(None, description="keep events at or after this date, or `day N` since 1970-01-01")
    until: str | None = Field(None, description="keep events before this date, or `day N` since 1970-01-01")
    min_score: float | None = Field(None, description="keep events with at least this score")
    duplicates: Literal["keep", "first", "last", "consecutive"] = Field(
        "keep", description="same user and item again: keep all, the first, the last, or merge immediate repeats"
    )
    session_gap: float = Field(30.0, gt=0, description="minutes of silence after which a session is over")
    min_session_events: int = Field(1, ge=1, description="drop sessions with fewer events than this")
    max_user_events: int | None = Field(None, ge=1, description="drop users with more events than this (bots)")
    min_user_events: int = Field(1, ge=1, description="k-core of users, to the fixed point")
    min_item_events: int = Field(1, ge=1, description="k-core of items, to the fixed point")
    action_weights: dict[str, float] = Field({}, description="weight of an event in training, by its action")

    @field_serializer("path", when_used="json")
    def _without_password(self, path: str) -> str:
        """A saved or printed URL has no password; PGPASSWORD gives it again."""
        return re.sub(r"^(postgres(?:ql)?://[^/@:]*):[^/@]*@", r"\1@", path)


class SampleConfig(Section):
    """The built-in generated shop; read only when data.path is `sample`."""

    num_users: int = Field(600, ge=1)
    num_items: int = Field(240, ge=2)
    num_days: int = Field(120, ge=2)
    events_per_user: float = Field(30.0, ge=1, description="looks at an item, on average")
    noise: float = Field(0.2, ge=0, le=1, description="0: all planted structure, 1: pure noise")
    shared_taste: bool = Field(True, description="what a user likes in one domain tells what he likes in the other")


class SplitConfig(Section):
    """How events become training, validation and test."""

    strategy: Literal["leave_one_out", "temporal", "by_user"] = "leave_one_out"
    validation_from: str | None = Field(None, description="temporal: date at which validation starts")
    test_from: str | None = Field(None, description="temporal: date at which the test starts")
    fraction: float = Field(0.1, gt=0, lt=0.5, description="share of events (temporal) or users (by_user) per part")
    targets: Literal["last", "all"] = Field(
        "last", description="by_user: a held-out user's last event; or all but his first, each ranked on its own"
    )
    target_actions: tuple[str, ...] | None = Field(None, description="actions of all targets; null: all")
    target_domains: tuple[str, ...] | None = Field(None, description="domains of all targets and candidates; null: all")
    equal_times: Literal["target_first", "file"] = Field(
        "target_first", description="target_domains, of events at one time: other domains come later; or as in the file"
    )


class TrainConfig(Section):
    """One keras fit."""

    epochs: int = Field(30, ge=1)
    batch_size: int = Field(512, ge=1)
    optimizer: Literal["adam", "adamw", "adagrad", "sgd", "rmsprop", "lion"] = "adam"
    learning_rate: float = Field(1e-3, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1, description="of adagrad and sgd")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "cosine", "one_cycle", "linear"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    reduce_on_plateau: int | None = Field(None, ge=1, description="epochs without progress before the rate is halved")
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1, description="momentum of an average of the weights")
    accumulate: int = Field(1, ge=1, description="gradient accumulation: batches per optimizer step")
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    patience: int | None = Field(5, ge=1, description="epochs without a better monitor; null trains to the end")
    monitor: str | None = Field("val_ndcg@10", description="its best epoch is kept; null: the last epoch is")
    validation_users: int | None = Field(None, ge=1, description="users in the validation of each epoch; null: all")
    keep_every: int | None = Field(None, ge=1, description="keep the weights of every so many epochs, in `epochs`")
    initial_items: str | None = Field(None, description="run directory whose item vectors the item table starts with")
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

    num_recommendations: int = Field(50, ge=1, description="N, items per user")
    exclude_seen: bool = True
    format: Literal["json", "jsonl", "parquet"] = "json"
    users: str | tuple[str | int, ...] | None = Field(None, description="ids, or a file with one id a line")
    histories: str | None = Field(None, description="event table of people who were never trained on")
    time: str | None = Field(None, description="date of the request, for models with query_time; null: end of the log")
    action: str | None = Field(None, description="what they will do, for models with query_action; null: the usual")
    allow: str | tuple[str | int, ...] | None = Field(None, description="items that may be recommended")
    deny: str | tuple[str | int, ...] | None = Field(None, description="items that may not be recommended")
    production: bool = Field(True, description="use the production model where there is one; false: the validated one")
    kept_epoch: str | None = Field(
        None, description="weights that train.keep_every kept, as `train_10`; null: the best"
    )
    embedding_dtype: Literal["float16", "float32"] = Field("float16", description="numbers of exported vectors")
    embedding_views: tuple[str, ...] | None = Field(
        None, description="export_embeddings: which vectors of users, such as `embeddings`; null: all the model has"
    )
    embedding_pickle: bool = Field(False, description="export_embeddings: besides, pickled dictionaries of lists")
    similar_to: str | tuple[str | int, ...] | None = Field(
        None, description="similar_items: ids, or a file with one id a line; null: all items"
    )


class AtlasConfig(Section):
    """plot_item_atlas and plot_client_atlas: the map of items, or of clients."""

    projection: Literal["umap", "tsne"] = "umap"
    fit_items: int | None = Field(
        None,
        ge=50,
        description="items or clients that the map is fitted on, others are put beside; null: 20,000, tsne 5,000",
    )
    color_by: str | None = Field(
        None, description="column that colours; null: category, or the like; of clients events"
    )


class BehaviourConfig(Section):
    """Logs of behaviour: purchases, carts, visits and searches of clients; read by the models that learn from them."""

    window_days: int = Field(14, ge=1, description="length of a window of targets")
    num_labels: int = Field(100, ge=1, description="categories, products or prices that a propensity task asks for")
    min_visits: int = Field(10, ge=1, description="a url with fewer visits is known by its hash alone")
    train_clients: Literal["relevant", "all"] = Field("all", description="whom a model learns from")


class JudgeConfig(Section):
    """evaluate_embeddings (the six tasks of the RecSys Challenge 2025) and merge_embeddings."""

    probe: Literal["thin", "full", "linear"] = Field(
        "thin", description="the official network, 128 or 2,048 wide; linear: logistic regression, for few clients"
    )
    probe_epochs: int = Field(3, ge=1, description="of the network; the best of them counts, as in the challenge")
    probe_batch: int = Field(128, ge=2)
    folders: tuple[str, ...] = Field((), description="each with client_ids.npy and embeddings.npy")


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
    atlas: AtlasConfig = AtlasConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    judge: JudgeConfig = JudgeConfig()
    seed: int = Field(0, ge=0)
    figures_dir: str = Field("figures", description="where the exploratory analysis writes")


# ---------------------------------------------------------------------------------------------- overrides

# A comma starts a new assignment where `key=` follows, outside quotes. A quote opens a text only where none of its
# letters came before (bob's.csv holds an apostrophe).
_COMMAS = re.compile(r"""(?<!\w)(?:"(?:\\.|[^"\\])*"|'[^']*')|(?P<comma>,)(?=\s*[A-Za-z_][\w.]*\s*=(?!=))""")


def override(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """Returns `config` with assignments such as `["train.epochs=3,model.dropout=0", "batch_size=64"]` applied.

    The end of a key is enough where only one field bears it. A value is read as what its field wants: JSON (numbers,
    `null`, `true`, lists), a list without brackets (`top_k=5,10`), or text; a quoted comma belongs to its value.

    Raises:
        ConfigError: unknown or ambiguous key (with the nearest name), ill-typed value, no `=`.
    """
    fields = _leaves(config)
    values: dict[str, Any] = config.model_dump()
    for assignment in assignments:
        for part in assignments_in(assignment):
            key, separator, text = part.partition("=")
            if not separator or not key.strip():
                raise ConfigError(f"--override {part!r}: expected key=value")
            path = _resolve(key.strip(), fields)
            *parents, leaf = path.split(".")
            node = values
            for parent in parents:
                node = node[parent]
            node[leaf] = _parse(path, text.strip(), fields[path])
    return rebuild(config, values)


def rebuild(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """A `RunConfig` of plain `values`, with the model section of the same type as in `config`.

    Raises:
        ConfigError: a value is ill-typed, out of range or unknown.
    """
    prefix = "model."
    try:
        model = type(config.model).model_validate(values.get("model", {}))
        prefix = ""
        return RunConfig.model_validate({**values, "model": model})
    except ValidationError as error:
        first = error.errors()[0]
        where = (prefix + ".".join(str(part) for part in first["loc"])).rstrip(".")
        # A rule about several knobs names them itself; its input would be the whole section.
        met = where if isinstance(first["input"], dict | Section) else f"{where}={first['input']!r}"
        raise ConfigError(f"{met}: {_complaint(first)}") from None


def _leaves(section: Section, prefix: str = "") -> dict[str, FieldInfo]:
    """{dotted path: field} of every leaf of a config."""
    fields: dict[str, FieldInfo] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            fields.update(_leaves(value, f"{prefix}{name}."))
        else:
            fields[prefix + name] = field
    return fields


def _resolve(key: str, fields: dict[str, FieldInfo]) -> str:
    """The one path that `key` is, or is the end of."""
    if key in fields:
        return key
    matches = [path for path in fields if path.endswith("." + key)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(f"--override {key}: more than one field bears this name; write one of {', '.join(matches)}")
    for path, field in fields.items():  # action_weights.cart=2 is no leaf, but its dictionary is
        if get_origin(field.annotation) is dict and f".{path.rsplit('.', 1)[-1]}." in f".{key}":
            raise ConfigError(f'--override {key}: write {path}={{"{key.rsplit(".", 1)[-1]}": ...}}')
    names = {path.rsplit(".", 1)[-1]: path for path in fields} | {path: path for path in fields}
    for text in (key, key.rsplit(".", 1)[-1]):
        for match in difflib.get_close_matches(text, names, n=1):
            raise ConfigError(f"--override {key}: unknown key; did you mean {names[match]!r}?")
    raise ConfigError(f"--override {key}: unknown key; `python main.py show_config` lists all keys")


def assignments_in(text: str) -> list[str]:
    """`a=1,b=[1,2],c="x,d=y",e=1,5` at the commas between assignments."""
    ends = [match.start() for match in _COMMAS.finditer(text) if match["comma"]]
    return [text[start:end] for start, end in zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)]


def _parse(path: str, text: str, field: FieldInfo) -> Any:
    """The first reading of `text` that the field accepts."""
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    complaints = []
    for reading in _readings(text):
        try:
            adapter.validate_python(reading)
        except ValidationError as error:
            complaints.append(_complaint(error.errors()[0]))
        else:
            return reading
    raise ConfigError(f"--override {path}={text}: {complaints[0]}")


def _readings(text: str) -> Iterator[Any]:
    """What `text` may stand for, the likeliest first."""
    constants: dict[str, Any] = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in constants:
        yield constants[text.lower()]
    value = _json(text)
    if value is not text:
        yield value
    if "," in text:
        inner = text[1:-1] if text[0] == "[" and text[-1] == "]" else text
        found = re.findall(r"""\s*'[^']*'(?=\s*(?:,|$))|(?:"[^"]*"|[^",])+|\"""", inner)
        parts = [part.strip() for part in found]
        yield [_json(part) if _unquoted(part) is part else _unquoted(part) for part in parts]
        yield [_unquoted(part).strip('"') for part in parts]
    elif isinstance(value, int | float):
        yield [value]
    yield _unquoted(text)
    yield [_unquoted(text)]


def _unquoted(text: str) -> str:
    """`text` without single quotes around it; itself where there are none."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text


def _json(text: str) -> Any:
    """`text` read as JSON, or `text` itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _complaint(error: ErrorDetails) -> str:
    """What pydantic found wrong, with the nearest name where there is a choice of names."""
    message = error["msg"].removeprefix("Value error, ")
    message = message if error["type"] == "value_error" else message[0].lower() + message[1:]
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", message)
        for match in difflib.get_close_matches(str(error["input"]), choices, n=1):
            return f"{message}; did you mean {match!r}?"
    return "unknown key" if error["type"] == "extra_forbidden" else message
