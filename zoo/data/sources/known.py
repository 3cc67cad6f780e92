"""Data sets known by name: where their owner publishes them, how they are read, under which terms they come."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from config import DataConfig, Layout
from zoo.data.dataset import DataError
from zoo.data.sources import cache
from zoo.data.sources.download import download


@dataclass(frozen=True)
class Known:
    """A data set on its owner's site.

    Attributes:
        urls: its files; one is read as it is, several as the folder they lie in.
        layout: of `config.Layout`.
        licence: the owner's terms, in a line.
        md5: whether the owner publishes `URL.md5`; elsewhere the sha256 of the first download is recorded.
    """

    urls: tuple[str, ...]
    layout: Layout
    licence: str
    md5: bool = False


def _movielens(name: str) -> Known:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Known((url,), "movielens", "GroupLens: for research; not redistributed, not sold", md5=True)


def _amazon(category: str) -> Known:
    host = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/benchmark/5core/rating_only"
    licence = "Amazon Reviews 2023 (Hou et al. 2024): no licence stated, research by custom"
    return Known((f"{host}/{category}.csv.gz",), "table", licence)


def _movietweetings(folder: str) -> Known:
    host = f"https://raw.githubusercontent.com/sidooms/MovieTweetings/master/{folder}"
    return Known((f"{host}/ratings.dat", f"{host}/movies.dat"), "movielens", "MIT, Copyright (c) 2013 Simon Dooms")


AMAZON_CATEGORIES = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
)

KNOWN: dict[str, Known] = {
    "ml-100k": _movielens("ml-100k"),
    "ml-1m": _movielens("ml-1m"),
    "ml-10m": _movielens("ml-10m"),
    "ml-20m": _movielens("ml-20m"),
    "ml-25m": _movielens("ml-25m"),
    "ml-32m": _movielens("ml-32m"),
    "ml-latest-small": _movielens("ml-latest-small"),
    "movietweetings": _movietweetings("latest"),
    "movietweetings-100k": _movietweetings("snapshots/100K"),
    "online-retail": Known(
        ("https://archive.ics.uci.edu/static/public/352/data.csv",),
        "online_retail",
        "CC BY 4.0, Daqing Chen, UCI Machine Learning Repository 352",
    ),
    **{f"amazon-2023-{category.lower().replace('_', '-')}": _amazon(category) for category in AMAZON_CATEGORIES},
}


def find(data: DataConfig) -> Known | None:
    """The data set that `data.path` is the name of; None where a file or folder is called so, or nothing known is.

    Raises:
        DataError: it is nearly a known name.
    """
    if Path(data.path).expanduser().exists():
        return None
    if data.path not in KNOWN and not data.query and (name := nearest(data.path)):
        raise DataError(f"{data.path}: no such file, folder or known data set; did you mean {name!r}?")
    return KNOWN.get(data.path)


def fetch(data: DataConfig) -> DataConfig:
    """`data`, a known name replaced by the downloaded file and how that is read.

    Raises:
        DataError: the download fails, or the path is nearly a known name.
    """
    if (known := find(data)) is None:
        return data
    folder = cache.directory(data.cache_dir) / "downloads" / data.path
    paths = [download(url, folder / url.rsplit("/", 1)[-1], f"{url}.md5" if known.md5 else None) for url in known.urls]
    return data.model_copy(
        update={
            "path": str(paths[0] if len(paths) == 1 else folder),
            "layout": known.layout if data.layout == "auto" else data.layout,
        }
    )


def nearest(name: str) -> str | None:
    """The known name that `name` was perhaps meant to be."""
    close = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.6)
    return close[0] if close else None
