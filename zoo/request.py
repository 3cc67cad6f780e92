"""Request: what the command line asks for, resolved into a model, a preset, a configuration and a run directory."""

from __future__ import annotations

import itertools
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from config import ConfigError, RunConfig, assignments_in, override
from zoo import artifacts, registry

DEFAULT_MODEL = "two_tower"
# One entry of --models and the comma behind it: sasrec, cross_domain[gating=none], two_tower[hidden_units=[64,32]]
MODEL_AND_KNOBS = re.compile(r"\s*([^\[\],]*?)\s*(?:\[((?:[^\[\]]|\[[^\[\]]*\])*)\])?\s*(?:,|$)")
MEASURED_ALIKE = ("data", "sample", "split", "evaluate", "seed")  # what models share when they are compared


@dataclass(frozen=True)
class Request:
    """One model to run.

    Attributes:
        title: what tables call it: the name, and the knobs that tell it from others of its name.
        name: the model.
        preset: the recipe that the configuration started from.
        config: defaults < preset < --data and --override.
        run_dir: where it is written and looked for.
        resume: whether an interrupted training goes on.
    """

    title: str
    name: str
    preset: str
    config: RunConfig
    run_dir: Path
    resume: bool


def run_dir(options: Namespace) -> Path:
    """Where the run of these options lies."""
    return options.run_dir or Path("runs") / (options.model or DEFAULT_MODEL)


def refuse_another(directory: Path, saved: str, options: Namespace) -> None:
    """Raises: the run in `directory` is of another model than the one asked for."""
    if options.model not in (None, saved):
        raise ConfigError(f"{directory}: holds a run of {saved}; give --model {saved} or another --run-dir")


def resolve(options: Namespace, from_run: bool = False) -> Request:
    """The model of `options`; with `from_run`, a run already in the directory takes the preset's place.

    Raises:
        ConfigError: an unknown model, preset or key, or a run of another model in the directory.
    """
    directory = run_dir(options)
    if from_run and options.preset is None and artifacts.exists(directory):
        saved, config = artifacts.read_config(directory)
        refuse_another(directory, saved, options)
        preset, name = artifacts.read_info(directory)["preset"], saved
    else:
        name = options.model or DEFAULT_MODEL
        preset, config = _preset(options, name)
    config = override(with_data(config, options.data), options.override)
    return Request(name, name, preset, config, directory, options.resume)


def resolve_many(options: Namespace) -> list[Request]:
    """The models of `--models`, each in a folder of its own; an override goes to the models that have its knob.

    A model may be there more than once, with knobs of its own in brackets: `sasrec,sasrec[loss=gbce,num_negatives=64]`.

    All are measured alike: data, split and evaluation are those of the first model that has the preset. One without it
    takes its base recipe for the rest.

    Raises:
        ConfigError: no models, a preset that none of them has, or an override that none of them knows.
    """
    asked = _named(options.models or "")
    names = list(dict.fromkeys(name for name, _ in asked))
    directory = options.run_dir or Path("runs/comparison")
    start = {name: _preset(options, name, fallback="base") for name in names}
    if options.preset and options.preset not in [preset for preset, _ in start.values()]:
        raise ConfigError(f"--preset {options.preset}: none of {', '.join(names)} has it; `list_models` shows presets")
    leader = next((config for preset, config in start.values() if preset != "base"), start[names[0]][1])
    same = {section: getattr(leader, section) for section in MEASURED_ALIKE}
    configs = {name: with_data(config.model_copy(update=same), options.data) for name, (_, config) in start.items()}
    for assignment in itertools.chain.from_iterable(map(assignments_in, options.override)):
        refusals = []
        for name in names:
            try:
                configs[name] = override(configs[name], [assignment])
            except ConfigError as error:
                refusals.append(error)
        if len(refusals) == len(names):
            raise refusals[0]
    requests = []
    for name, knobs in asked:
        title = f"{name}[{knobs}]" if knobs else name
        config = override(configs[name], [knobs] if knobs else [])
        if any(getattr(config, section) != getattr(configs[name], section) for section in MEASURED_ALIKE):
            raise ConfigError(f"--models {title}: {', '.join(MEASURED_ALIKE)} are the same for all; use --override")
        folder = re.sub(r"[^\w.=+-]+", "_", title).rstrip("_")
        requests.append(Request(title, name, start[name][0], config, directory / folder, options.resume))
    return requests


def _named(text: str) -> list[tuple[str, str]]:
    """(model, knobs) of each entry of `--models`, without repeats."""
    entries, place = [], 0
    while place < len(text):
        match = MODEL_AND_KNOBS.match(text, place)
        if match is None or (match[2] is not None and not match[1]):
            raise ConfigError(f"--models {text}: not understood at {text[place:]!r}; wanted names, or name[knob=value]")
        if match[1]:
            entries.append((match[1], (match[2] or "").strip()))
        place = max(match.end(), place + 1)
    if not entries:
        raise ConfigError("compare_models needs --models, for example --models most_popular,seq_item_knn,two_tower")
    return list(dict.fromkeys(entries))


def with_data(config: RunConfig, path: str | None) -> RunConfig:
    """`config` with another data.path, where one is given."""
    if not path:
        return config
    return config.model_copy(update={"data": config.data.model_copy(update={"path": path})})


def _preset(options: Namespace, name: str, fallback: str | None = None) -> tuple[str, RunConfig]:
    """(name, configuration) of the preset asked for; unasked, the one named like the data, or `base`."""
    spec = registry.get(name)
    preset = options.preset
    if preset is None:
        data = options.data or "sample"
        preset = data if data in spec.presets else "base"
    elif fallback and preset not in spec.presets:
        preset = fallback
    return preset, spec.preset(preset)
