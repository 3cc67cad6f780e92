"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config import RunConfig, Section
from zoo import registry

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
FILES = [*ROOT.glob("*.py"), *(ROOT / "zoo").rglob("*.py"), *(ROOT / "eda").rglob("*.py")]
TEXTS = [
    p for p in ROOT.rglob("*") if p.suffix in {".py", ".md", ".toml", ".json", ".svg", ".txt"} or p.name == "Makefile"
]
LEVELS = [  # a module may import modules of its own line or of lines above, never below
    ["config", "zoo.memory"],
    ["zoo.registry", "zoo.metrics", "zoo.judge_metrics", "zoo.data"],
    ["zoo.backends", "zoo.layers", "zoo.losses", "zoo.task_losses", "zoo.domain_losses"],
    ["zoo.recommender"],
    ["zoo.sequential", "zoo.question"],
    ["zoo.models"],
    [
        *("zoo.training", "zoo.callbacks", "zoo.schedules", "zoo.checkpoints", "zoo.evaluation", "zoo.comparison"),
        *("zoo.optimizers", "zoo.initial_items", "zoo.judging", "zoo.probe", "zoo.merging", "zoo.window_ranking"),
        *("zoo.topk", "zoo.artifacts", "zoo.audit", "zoo.streaming"),
    ],
    ["zoo.recommending", "zoo.exporting"],
    ["zoo.actions", "zoo.behaviour", "zoo.running", "zoo.request", "eda"],
    ["main"],
]
NO_KERAS = ["config", "main", "zoo.memory", "zoo.registry", "zoo.metrics", "zoo.judge_metrics", "zoo.data", "eda"]


def module_of(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module, names):
    return any(module == name or module.startswith(name + ".") for name in names)


def level(module):
    return next((i for i, row in enumerate(LEVELS) if within(module, row)), None)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path):
    mine = level(module_of(path))
    for name in imports(path):
        theirs = level(name)
        if None not in (mine, theirs):
            assert theirs <= mine, f"{module_of(path)} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_has_its_place(path):
    module = module_of(path)
    assert module in ("zoo",) or level(module) is not None, f"{module} is on no level of the house"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_backends_names_a_backend(path):
    if module_of(path) != "zoo.backends":
        assert not {name.split(".")[0] for name in imports(path)} & {"jax", "torch", "tensorflow"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_data_and_figures_need_no_keras(path):
    if within(module_of(path), NO_KERAS) and not within(module_of(path), ["zoo.data.loaders"]):
        assert "keras" not in {name.split(".")[0] for name in imports(path)}


def test_models_do_not_know_each_other():
    for path in (ROOT / "zoo" / "models").glob("*.py"):
        assert not [name for name in imports(path) if name.startswith("zoo.models")], path.name


def test_main_fits_on_a_page():
    assert len((ROOT / "main.py").read_text().splitlines()) <= 110


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_pickle_and_no_attic(path):
    text = path.read_text()
    assert not re.search(r"pickle\.loads?\(|allow_pickle=True|\bTODO\b|\bFIXME\b", text)
    if path.stem != "exporting":  # plain dictionaries, for who asks
        assert not re.search(r"pickle\.dumps?\(", text)
    assert path.stem not in {"utils", "common", "base", "helpers", "misc"}


def _knobs(section=RunConfig):
    for name, field in section.model_fields.items():
        yield name
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _knobs(field.annotation)


def test_every_knob_is_read_somewhere():
    code = "\n".join(p.read_text() for p in FILES if p.name != "config.py")
    assert not [name for name in _knobs() if not re.search(rf"\.{name}\b|\"{name}\"", code)]


def test_every_model_has_presets_and_a_paper():
    read = [*ROOT.glob("zoo/data/loaders/*.py"), *ROOT.glob("zoo/data/behaviour/*.py"), ROOT / "zoo" / "sequential.py"]
    shared = "".join(path.read_text() for path in read)
    for name in registry.list_models():
        spec = registry.get(name)
        assert {"tiny", "base"} <= set(spec.presets), name
        assert spec.paper, name
        code = (ROOT / "zoo" / "models" / f"{name}.py").read_text() + shared
        for knob in type(spec.preset("base").model).model_fields:
            assert re.search(rf"(config|model)\.{knob}\b", code), f"{name}: nothing reads {knob}"


def test_help_answers_at_once():
    started = time.perf_counter()
    result = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "compute_predictions" in result.stdout
    assert time.perf_counter() - started < 2  # 0.1 s on a quiet machine; Keras alone would take longer than this
    probe = (
        "import sys, main; assert not {'keras', 'numpy', 'pydantic', 'pandas'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=True)


def test_a_mistyped_model_is_told_before_keras_is_imported():
    probe = (
        "import sys, main; assert main.main(['evaluate', '--model', 'sasrecc']) == 2; assert 'keras' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == "error: --model sasrecc: unknown; did you mean 'sasrec'?\n"


def test_what_the_readme_shows_and_links_is_published():
    published = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not published:
        pytest.skip("no checkout of git: what is published cannot be told")
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert "figures/benchmarks.png" in links
    missing = [link for link in links if not any(f"{file}/".startswith(f"{link.rstrip('/')}/") for file in published)]
    assert not missing, f"README.md leads to what is not published: {missing}"


def test_no_path_of_a_machine():
    found = [
        p.relative_to(ROOT)
        for p in TEXTS
        if not any(part.startswith(".venv") or part in ("runs", "build") for part in p.parts)
        and re.search(r"/(work|farm|root|home/[a-z]+)/", p.read_text(errors="ignore"))
    ]
    assert not found
