"""The report of the analysis and the figure of a comparison, as a reader gets them."""

import errno
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from config import ConfigError, SplitConfig
from eda import files
from eda.comparison import model_comparison
from eda.report import FIGURES, explore
from tests.test_eda import full_log, log, random_log
from zoo.data.dataset import DataError, Dataset

# ----------------------------------------------------------------------------------------------------------- report


class Page(HTMLParser):
    """Collects tags, sources and text; fails where tags do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sources, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_report_is_whole_and_needs_no_network(tmp_path):
    path = explore(full_log(), tmp_path / "new" / "figures")
    page = Page(path.read_text(encoding="utf-8"))
    pictures = sorted(picture.stem for picture in path.parent.glob("*.png"))
    assert pictures == sorted([draw.__name__ for draw, _ in FIGURES] + ["train_test_drift"])
    assert page.tags.count("img") == len(pictures)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "http" not in page.text
    assert "Left out" not in page.text
    assert "temporal" in page.text
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in path.parent.glob("*.png"))
    assert not list(path.parent.glob(".*"))
    assert path.read_bytes() == explore(full_log(), tmp_path / "again").read_bytes()


def test_report_says_what_it_leaves_out_and_removes_what_is_stale(tmp_path):
    explore(full_log(), tmp_path)
    path = explore(
        log([(user, place, None) for user in range(9) for place in range(2)], "order"), tmp_path, SplitConfig()
    )
    text = Page(path.read_text(encoding="utf-8")).text
    for words in ("the log has no scores", "only an order", "the log has no domains", "leaves no validation event"):
        assert words in text
    assert sorted(picture.stem for picture in tmp_path.glob("*.png")) == [
        "per_item_interaction_count", "per_user_interaction_count", "rank_frequency",
    ]  # fmt: skip


def test_report_compares_the_parts_of_the_given_split(tmp_path):
    path = explore(full_log(), tmp_path, SplitConfig(strategy="by_user"), seed=3)
    assert "With the by_user split" in Page(path.read_text(encoding="utf-8")).text


def test_report_shows_names_as_they_are(tmp_path):
    dataset = full_log()
    dataset = Dataset(dataset.events, dataset.users, dataset.items, "global", dataset.labels, "<b>&x</b>", ("a < b",))
    page = Page(explore(dataset, tmp_path).read_text(encoding="utf-8"))
    assert "<b>&x</b>" in page.text
    assert "a < b" in page.text


def test_an_empty_log_is_refused(tmp_path):
    with pytest.raises(DataError, match="no event"):
        explore(random_log().take(slice(0, 0)), tmp_path)


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "figures").write_text("a file")
    with pytest.raises(ConfigError, match=r"figures.*cannot be written") as error:
        explore(random_log(), tmp_path / "figures")
    assert "\n" not in str(error.value)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "old.html").write_text("old")
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        files.save("new", tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "old.html"]


def test_eda_starts_without_keras_and_without_a_window():
    code = "import sys, eda.report, eda.comparison; print({'keras', 'matplotlib.pyplot'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ------------------------------------------------------------------------------------------------------- comparison


def test_comparison_orders_models_and_marks_the_reference():
    rows = {
        "most_popular": {"hit_rate@10": 0.05, "ndcg@10": 0.02},
        "ease": {"hit_rate@10": 0.1, "ndcg@10": 0.06},
        "two_tower": {"hit_rate@10": 0.2, "ndcg@10": 0.1},
    }
    intervals = {"two_tower": {"hit_rate@10": [0.18, 0.22]}, "ease": {"hit_rate@10": [0.08, 0.19]}}
    figure = model_comparison({"rows": rows, "intervals": intervals, "metric": "ndcg@10"})
    assert [ax.lines[-1].get_xdata()[0] for ax in figure.axes] == [0.02, 0.05]  # what is tested comes first
    figure = model_comparison({"rows": rows, "intervals": intervals}, ["hit_rate@10", "ndcg@10"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["two_tower", "ease", "most_popular"]
    title = figure.get_suptitle().replace("\n", " ")
    assert title == (
        "Best is two_tower with hit_rate@10 0.2000, 4.0 times most_popular; the interval of ease overlaps with its own"
    )
    assert [ax.lines[-1].get_xdata()[0] for ax in figure.axes] == [0.05, 0.02]


def test_comparison_of_what_there_is():
    figure = model_comparison({"rows": {"two_tower": {"ndcg@10": 0.1}}})
    assert len(figure.axes) == 1
    with pytest.raises(ConfigError, match=r"no model has recall@3; there are ndcg@10"):
        model_comparison({"rows": {"two_tower": {"ndcg@10": 0.1}}}, ["recall@3"])
