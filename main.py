"""Runs one action of the zoo; without an action: explore, validate, train for production, predict.

python main.py train_validation_model --model two_tower --data ratings.csv --override train.epochs=20
KERAS_BACKEND=torch python main.py compute_predictions --model two_tower
"""

import argparse
import difflib
import importlib.util
import os
import sys
from pathlib import Path

BACKENDS = ("jax", "tensorflow", "torch")
ACTIONS = {
    "exploratory_data_analysis": "figures of a log and a report in words",
    "train_validation_model": "train on the past, stop on validation, report the test score",
    "train_production_model": "train on everything, for the epochs that validation found best",
    "compute_predictions": "write recommendations.json",
    "evaluate": "score a saved run again",
    "compare_models": "train or load several models and compare them",
    "similar_items": "write the items most like each item, similar_items.json",
    "plot_item_atlas": "draw a map of the items, item_atlas.html and .png",
    "plot_client_atlas": "draw a map of a behaviour log's clients, client_atlas.html and .png",
    "export_embeddings": "write users' and items' vectors as .npy",
    "evaluate_embeddings": "judge vectors of clients by the tasks of the RecSys Challenge 2025",
    "merge_embeddings": "put vectors of several folders side by side",
    "show_config": "print every knob of a run",
    "list_models": "print the models and their presets",
}
WHOLE_RUN = list(ACTIONS)[:4]


def parse_args(arguments):
    """Options of the command line; a mistake exits with code 2."""
    actions = "\n".join(f"  {name:<27}{text}" for name, text in ACTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python main.py",
        description=__doc__,
        epilog=f"actions:\n{actions}\n\nKERAS_BACKEND is jax, tensorflow or torch; unset, the first installed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", metavar="ACTION", help="one of those below; none runs the first four")
    parser.add_argument("--model", help="a name of list_models (the one in --run-dir, or two_tower)")
    parser.add_argument("--models", help="compare_models: names with commas between them")
    parser.add_argument("--preset", help="a recipe of the model (the one named like the data, or base)")
    parser.add_argument("--data", help="file, glob, folder, database, module:function or known name (the sample)")
    parser.add_argument("--run-dir", type=Path, help="where the run is written and looked for (runs/MODEL)")
    parser.add_argument("--override", action="append", default=[], metavar="K=V[,K=V...]", help="set knobs by name")
    text = "task_weights={}".format
    parser.add_argument(
        "--task-weights", action="append", dest="override", type=text, metavar="T:W,...", help="of the tasks of ubt"
    )
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted training stopped")
    options = parser.parse_args(arguments)
    if options.action not in (None, *ACTIONS):
        close = difflib.get_close_matches(options.action, ACTIONS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see --help"
        parser.error(f"unknown action {options.action!r}; {hint}")
    return options


def choose_backend():
    """Sets KERAS_BACKEND, if it is not set, to the first backend installed. Keras is not imported yet."""
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted and wanted not in BACKENDS:
        close = difflib.get_close_matches(wanted, BACKENDS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(BACKENDS)}"
        raise SystemExit(f"error: KERAS_BACKEND={wanted}: unknown; {hint}")
    if wanted and wanted not in installed:
        raise SystemExit(f"error: KERAS_BACKEND={wanted}: not installed; pip install '.[{wanted}]'")
    if not installed:
        raise SystemExit("error: no backend is installed; pip install '.[jax]' (or tensorflow, torch)")
    os.environ["KERAS_BACKEND"] = wanted or installed[0]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every start with a page of notes
    importlib.import_module("zoo.memory").keep_freed(os.environ["KERAS_BACKEND"])  # before its threads begin


def main(arguments=None):
    """Runs what the command line asks for; returns the exit code."""
    options = parse_args(arguments)
    try:
        choose_backend()
    except SystemExit as error:
        print(error, file=sys.stderr)
        return 2
    from config import ConfigError
    from zoo import registry
    from zoo.data.dataset import DataError

    try:
        registry.check(options.model)
        actions = importlib.import_module("zoo.actions")  # and with it Keras, which takes seconds
        for action in [options.action] if options.action else WHOLE_RUN:
            actions.run(action, options)
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a missing permission: the system's own words name the file
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command with --resume goes on from the last finished epoch", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
