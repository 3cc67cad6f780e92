"""The map of items: where they lie, what is known of them, and the page that holds it all."""

import base64
import gzip
import json
import re
import shutil
import struct
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import main
from benchmarks.browser import visited
from config import AtlasConfig, ConfigError, SampleConfig
from eda import atlas, atlas_page, atlas_subjects, projection
from zoo import artifacts
from zoo.data.behaviour import catalogue as catalogue_of_behaviour
from zoo.data.behaviour.log import BUY, DAY, KINDS, WITH_PRODUCT
from zoo.data.behaviour.sources import sample
from zoo.data.catalogue import Catalogue
from zoo.data.dataset import DataError, Dataset, Entities, Events
from zoo.data.vocabulary import NUM_SPECIALS, Vocabulary

pytest.importorskip("umap")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
NASTY = '</script><img src=x onerror="alert(1)">&amp;{{data}}'


def texts(values):
    return np.array([*values, None], object)[:-1]


def clusters(count, groups=6, dim=16, seed=0):
    """(count, dim) vectors around `groups` centres, and the centre of each."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, groups, count)
    vectors = rng.normal(size=(groups, dim))[group] + 0.15 * rng.normal(size=(count, dim))
    return vectors.astype(np.float32), group


def shop(count=60, seed=0, name="shop", **columns):
    """(vectors by token, catalogue, data set, group of each item) of items in six categories."""
    vectors, group = clusters(count, seed=seed)
    ids = texts(f"item {i}" for i in range(count))
    items = Vocabulary(ids, count)
    counts = np.r_[np.zeros(NUM_SPECIALS, np.int64), np.arange(count)]
    catalogue = Catalogue(Vocabulary(np.arange(2), 2), items, counts)
    price = np.round(np.arange(count) * 0.1, 2)
    price[0] = np.nan
    known = {"category": texts(f"category {g}" for g in group), "price": price, **columns}
    events = Events(np.zeros(1, np.int32), np.zeros(1, np.int32))
    dataset = Dataset(events, Entities(np.arange(1)), Entities(ids, known), name=name)
    return np.concatenate([np.zeros((NUM_SPECIALS, 16), np.float32), vectors]), catalogue, dataset, group


def chart(vectors, catalogue, dataset, _=None, **knobs):
    return atlas.chart(atlas_subjects.items(vectors, catalogue, dataset), "item2vec", AtlasConfig(**knobs), 0)


def read(page):
    """(header, arrays) of what lies in a page, taken out by other code than put it in."""
    data = re.search(r'<script type="text/plain" id="data">([^<]*)</script>', page)[1]
    raw = gzip.decompress(base64.b64decode(data))
    start = 4 + struct.unpack_from("<I", raw)[0]
    header = json.loads(raw[4:start])
    assert start % 8 == 0
    arrays = {}
    for name, place in header["arrays"].items():
        assert place["offset"] % 8 == 0, "a typed array must lie on its own measure"
        arrays[name] = np.frombuffer(raw, place["type"], place["length"], start + place["offset"])
    return header, arrays


# ------------------------------------------------------------------------------------------------- projection


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_what_is_similar_lies_together_and_the_seed_decides(method):
    vectors, group = clusters(150)
    first, second = (projection.project(vectors, method, 1000, 3) for _ in range(2))
    for places, again in ((first.flat, second.flat), (first.solid, second.solid)):
        np.testing.assert_array_equal(places, again)
        assert np.abs(places).max() <= 1 and np.isfinite(places).all()
        apart = np.linalg.norm(places[:, None] - places[None], axis=2)
        np.fill_diagonal(apart, np.inf)
        assert (group[apart.argmin(axis=1)] == group).mean() > 0.95
    assert first.flat.shape == (150, 2) and first.solid.shape == (150, 3)


def test_items_that_were_not_fitted_lie_amid_those_of_their_kind():
    vectors, group = clusters(400)
    found = projection.project(vectors, "umap", 120, 0)
    assert len(found.fitted) == 120 and found.nearest.shape == (120, projection.NEIGHBOURS)
    rest = np.setdiff1d(np.arange(400), found.fitted)
    apart = np.linalg.norm(found.flat[rest, None] - found.flat[found.fitted][None], axis=2)
    assert (group[found.fitted][apart.argmin(axis=1)] == group[rest]).mean() > 0.95
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    item = rest[0]
    guide = found.fitted[np.argmax(unit[found.fitted] @ unit[item])]
    near = np.sort(np.linalg.norm(found.flat[found.fitted] - found.flat[guide], axis=1))[1]
    assert 0 < np.linalg.norm(found.flat[item] - found.flat[guide]) < 4 * near


def test_neighbours_are_exact():
    vectors, _ = clusters(50)
    found = projection.project(vectors, "umap", 1000, 0)
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_array_equal(found.nearest[:, :5], np.argsort(-cosines, axis=1)[:, :5])


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_few_equal_and_broken_vectors(method):
    assert projection.project(clusters(5)[0], method, 100, 0).flat.shape == (5, 2)
    same = np.ones((80, 2), np.float32)
    found = projection.project(same, method, 60, 0)
    assert np.isfinite(found.flat).all() and np.isfinite(found.solid).all()
    with pytest.raises(DataError, match="too few for a map"):
        projection.project(clusters(4)[0], method, 100, 0)
    broken = clusters(30)[0]
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="not finite"):
        projection.project(broken, method, 100, 0)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"umap-learn, which is not installed; pip install '\.\[atlas\]'"):
        projection.project(clusters(30)[0], "umap", 100, 0)


def test_umap_brings_no_other_backend():
    code = "import sys; from eda import projection; projection._package('umap', 'umap-learn');"
    code += "print({'tensorflow', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


# ---------------------------------------------------------------------------------------------------- the map


def test_every_item_is_on_the_map_with_what_is_known_of_it():
    vectors, catalogue, dataset, group = shop()
    made = chart(vectors, catalogue, dataset)
    row = {item: i for i, item in enumerate(made.ids.tolist())}
    assert set(row) == {f"item {i}" for i in range(60)} and len(made.ids) == 60
    for i in range(60):
        at = row[f"item {i}"]
        assert made.columns["category"][at] == made.groups[made.group[at]] == f"category {group[i]}"
        price = made.columns["price"][at]
        assert np.isnan(price) if i == 0 else price == round(0.1 * i, 2)
        assert made.columns[atlas.POPULARITY][at] == i
    assert made.color_by == "category" and len(set(made.colors)) == len(made.groups) == 6
    assert re.match(
        r"What the 5 nearest items tell \(rank correlation\): .*events in training -?\d.\d\d", made.notes[0]
    )
    assert re.match(r"Of the 5 nearest items 100% share the category; by chance \d+% would", made.notes[1])


def test_of_many_items_some_are_fitted_and_all_are_drawn():
    vectors, catalogue, dataset, group = shop(200)
    dataset.items.columns["cluster"] = group.astype(float)
    made = chart(vectors, catalogue, dataset, fit_items=60)
    assert len(made.ids) == len(made.flat) == 200
    said = " ".join(made.notes)
    assert "fitted on 60 items" in said and float(re.search(r"cluster ([\d.]+)", said)[1]) > 0.9


def test_items_without_a_vector_are_left_out_and_unknown_ones_have_no_features():
    vectors, catalogue, dataset, _ = shop()
    vectors[NUM_SPECIALS + 7] = 0
    fewer = Dataset(
        dataset.events,
        dataset.users,
        Entities(dataset.items.ids[1:], {name: column[1:] for name, column in dataset.items.columns.items()}),
    )
    made = chart(vectors, catalogue, fewer)
    assert "item 7" not in made.ids and len(made.ids) == 59
    assert any("1 items of which the model learned nothing" in note for note in made.notes)
    at = made.ids.tolist().index("item 0")
    assert made.columns["category"][at] is None and np.isnan(made.columns["price"][at])
    assert made.groups[made.group[at]] == "unknown"


def test_rare_categories_share_a_colour():
    column = texts(["often"] * 30 + [f"rare {i}" for i in range(29)] + [None])
    made = chart(*shop(kind=column), color_by="kind")
    assert made.groups[0] == "often" and made.groups[-2:] == ("12 others", "unknown")
    assert len(made.groups) == atlas.MAX_GROUPS + 2 == len(set(made.colors))
    assert np.bincount(made.group).sum() == 60 and np.bincount(made.group)[-2:].tolist() == [12, 1]


def test_a_number_colours_by_shares():
    made = chart(*shop(), color_by="price")
    assert len(made.groups) == atlas.NUMBER_GROUPS + 1 and made.groups[-1] == "unknown"
    sizes = np.bincount(made.group)
    assert sizes[-1] == 1 and sizes[:-1].min() >= 7
    assert np.all(np.diff([made.columns["price"][made.group == g].mean() for g in range(atlas.NUMBER_GROUPS)]) > 0)


def test_a_number_of_few_values_colours_by_value_and_a_comma_divides_no_category():
    vectors, catalogue, dataset, _ = shop(new=np.arange(60) % 2.0, kind=texts(["home, garden", "home, kitchen"] * 30))
    assert chart(vectors, catalogue, dataset, color_by="new").groups == ("0", "1")
    assert set(chart(vectors, catalogue, dataset, color_by="kind").groups) == {"home, garden", "home, kitchen"}
    same = shop(one=np.full(60, 5.0), none=np.full(60, np.nan))
    assert chart(*same, color_by="one").groups == ("5",)
    assert chart(*same, color_by="none").groups == ("unknown",)


def test_what_colours():
    vectors, catalogue, dataset, _ = shop(tags=texts([["b", "a"], ["a"]] * 30), codes=np.zeros((60, 3), np.int64))
    assert chart(vectors, catalogue, dataset).color_by == "category"
    tags = chart(vectors, catalogue, dataset, color_by="tags")
    assert set(tags.groups) == {"a", "b"}, "the first label colours"
    assert set(tags.columns["tags"].tolist()) == {"b, a", "a"} and "codes" not in tags.columns
    bare = Dataset(dataset.events, dataset.users, Entities(dataset.items.ids, {"title": dataset.items.ids}))
    assert chart(vectors, catalogue, bare).color_by == atlas.POPULARITY
    with pytest.raises(ConfigError, match="did you mean 'category'"):
        chart(vectors, catalogue, dataset, color_by="categry")


# --------------------------------------------------------------------------------------------------- the page


def test_the_page_holds_every_item_and_asks_for_nothing():
    made = chart(*shop(title=texts(f"Title of {i}" for i in range(60))))
    page = atlas_page.render(made)
    header, arrays = read(page)
    assert header["ids"] == made.ids.tolist() and header["count"] == 60
    np.testing.assert_allclose(arrays["flat"].reshape(-1, 2) / 32767.5 - 1, made.flat, atol=1e-4)
    np.testing.assert_allclose(arrays["solid"].reshape(-1, 3) / 32767.5 - 1, made.solid, atol=1e-4)
    np.testing.assert_array_equal(arrays["group"], made.group)
    for number, column in enumerate(header["columns"]):
        expected = made.columns[column["name"]]
        if "texts" in column:
            assert column["texts"] == expected.tolist()
        elif "values" in column:
            names = [None, *column["values"]]
            assert [names[code] for code in arrays[f"column {number}"]] == expected.tolist()
        else:
            np.testing.assert_array_equal(arrays[f"column {number}"], expected)
    assert [column["name"] for column in header["columns"]] == list(made.columns)
    assert {"texts"} <= set(header["columns"][2]), "titles are listed, categories are coded"
    without_data = page.replace(re.search(r'id="data">([^<]*)<', page)[1], "")
    assert not re.search(r"https?:|//[a-z]|\bsrc=|\bhref=|@import|url\(|import\(", without_data)
    assert "default-src 'none'" in page, "and could not, if it wanted"
    assert page == atlas_page.render(made)


def test_nothing_from_the_data_is_read_as_html():
    vectors, catalogue, dataset, _ = shop(name=NASTY)
    ids = texts([NASTY, *dataset.items.ids[1:]])
    columns = {NASTY: texts([NASTY, "b"] * 30)}
    evil = Dataset(dataset.events, dataset.users, Entities(ids, columns), name=NASTY)
    items = Vocabulary(ids, 60)
    page = atlas_page.render(chart(vectors, Catalogue(catalogue.users, items, catalogue.item_counts), evil))
    assert "<img" not in page and page.count("<script") == page.count("</script>") == 2
    header, _ = read(page)
    assert NASTY in header["ids"] and NASTY in header["groups"]
    assert unescape(re.search(r"<h1>(.*)</h1>", page)[1]).startswith(NASTY)


VISIT = """
  const until = async (met) => { for (let i = 0; i < 300 && !met(); i++) await frame(); };
  const text = (id) => $(id).textContent, gone = () => $("card").hidden, seen = {};
  const press = (key) => $("search").dispatchEvent(new KeyboardEvent("keydown", { key }));
  const point = (x, y) => $("map").dispatchEvent(new PointerEvent("pointermove", { clientX: x, clientY: y }));
  await until(() => $("message").hidden);
  seen.message = $("message").hidden ? "" : text("message");
  $("search").value = "item 5";
  press("Enter");  // goes to the first that is found
  Object.assign(seen, { found: text("found"), gone_to: text("card") });
  const box = $("map").getBoundingClientRect(), middle = [box.left + box.width / 2, box.top + box.height / 2];
  $("search").value = "";
  press("Enter");
  seen.card_of_nothing = gone();
  point(...middle);
  await until(() => !gone());
  seen.under_the_mouse = text("card");
  $("none").click();
  point(...middle);
  await until(gone);
  seen.hidden = gone();
  return seen;
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_browser_draws_it_finds_an_item_and_tells_what_is_under_the_mouse():
    seen = visited(atlas_page.render(chart(*shop())), VISIT, wait=60)
    assert seen["message"] == "" and seen["found"] == "11 found"  # 5, and 50 to 59
    for card in ("gone_to", "under_the_mouse"):
        assert seen[card].startswith("item 5category") and "price0.5" in seen[card]
    assert seen["card_of_nothing"] and seen["hidden"]


def test_four_hundred_and_fifty_thousand_items_in_a_page():
    """The layout is another matter: this is what is written and how large it is."""
    count = 450_000
    rng = np.random.default_rng(0)
    made = atlas.Atlas(
        "many",
        (),
        texts(f"marketplace_{i}" for i in range(count)),
        rng.uniform(-1, 1, (count, 2)).astype(np.float32),
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        {
            "category": texts(f"category {c}" for c in rng.integers(0, 100, count)),
            "brand": texts(f"brand {b}" for b in rng.integers(0, 20_000, count)),
            "price": np.round(rng.lognormal(3, 1, count), 2),
        },
        "category",
        rng.integers(0, 20, count).astype(np.uint8),
        tuple(f"group {g}" for g in range(20)),
        ("#123456",) * 20,
    )
    started = time.perf_counter()
    page = atlas_page.render(made)
    assert time.perf_counter() - started < 30  # 4 s on a quiet machine
    assert len(page) < 20e6
    assert "150,000 of the items are drawn" in page


def test_products_of_a_behaviour_log_are_known_by_the_catalogue():
    log = sample.read(SampleConfig(num_users=80, num_items=40, num_days=60, events_per_user=12))
    known = catalogue_of_behaviour.count(log.at(log.end, np.arange(len(log.clients))), 5)
    vectors = np.ones((known.items.size, 4), np.float32)
    vectors[-1] = 0
    subject = atlas_subjects.products(vectors, known, "shop")
    assert len(subject.ids) == len(known.items.ids) - 1 and subject.notes[0].startswith("1 items of which")
    row = int(known.buy_counts.argmax()) - NUM_SPECIALS
    product = log.products.ids.tolist().index(subject.ids[row])
    assert subject.columns["category"][row] == str(log.categories[log.products.category[product]])
    assert subject.columns["price bucket"][row] == log.products.price[product]
    mine = (log.kind <= max(WITH_PRODUCT)) & (log.ref == product)
    assert subject.columns[atlas_subjects.POPULARITY][row] == mine.sum()
    assert subject.columns["purchases"][row] == (mine & (log.kind == BUY)).sum() > 0


# -------------------------------------------------------------------------------------------- the command line


def test_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "sample.num_users=80,sample.num_items=40,sample.num_days=30,sample.events_per_user=12"
    options = ["--model", "item2vec", "--preset", "tiny", "--run-dir", "run", "--override", f"{small},train.epochs=2"]
    assert main.main(["train_validation_model", *options]) == 0
    assert main.main(["plot_item_atlas", "--run-dir", "run"]) == 0
    run = tmp_path / "run"
    header, _ = read((run / "item_atlas.html").read_text())
    assert sorted(header["ids"]) == [str(1000 + i) for i in range(40)]
    assert [column["name"] for column in header["columns"]][:3] == ["category", "brand", "price"]
    for dims in (2, 3):
        assert (run / f"item_atlas_{dims}d.png").read_bytes()[:4] == b"\x89PNG"
    assert "item_atlas.html" in capsys.readouterr().out
    assert main.main(["plot_item_atlas", "--run-dir", "run", "--override", "color_by=colour"]) == 2
    assert "atlas.color_by=colour" in capsys.readouterr().err


def test_the_command_line_draws_clients(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = "sample.num_users=80,sample.num_items=40,sample.num_days=60,sample.events_per_user=12"
    options = ["--model", "client_stats", "--run-dir", "run", "--override", small]
    assert main.main(["train_validation_model", *options]) == 0
    assert main.main(["plot_client_atlas", "--run-dir", "run"]) == 0
    run = tmp_path / "run"
    page = (run / "client_atlas.html").read_text()
    header, arrays = read(page)
    log = sample.read(SampleConfig(num_users=80, num_items=40, num_days=60, events_per_user=12))
    assert sorted(header["ids"]) == sorted(map(str, log.asked["relevant_clients"]))
    names = [column["name"] for column in header["columns"]]
    assert names[0] == header["color_by"] == "events" and names[1:6] == list(KINDS) and names[-1] == "buys next"
    counts = {name: arrays[f"column {names.index(name)}"] for name in names[:6]}
    np.testing.assert_array_equal(counts["events"], sum(counts[name] for name in KINDS))
    cut = artifacts.read_info(run)["cut"]
    known = log.at(cut, log.rows(np.array([int(client) for client in header["ids"]]), "ids"))
    np.testing.assert_array_equal(counts["events"], known.lengths)
    ago = arrays[f"column {names.index('expected action time, days ago')}"]
    for row in range(10):
        times = log.time[known.first[row] : known.last[row]]
        np.testing.assert_allclose(ago[row], np.mean((cut - times) / DAY) if len(times) else np.nan)
    assert "clients tell (rank correlation): events 0." in page
    assert (run / "client_atlas_3d.png").read_bytes()[:4] == b"\x89PNG"
    assert "client_atlas.html" in capsys.readouterr().out
    assert main.main(["plot_item_atlas", "--run-dir", "run"]) == 2
    assert "plot_client_atlas" in capsys.readouterr().err
