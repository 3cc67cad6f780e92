"""How a log of behaviour lies in the cache: its events memory-mapped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from zoo.data.behaviour.log import BehaviourLog, Products
from zoo.data.sources.cache import WHOLE, Form, read_array, write_array

EVENTS = ("kind", "time", "ref")
TABLES = ("clients", "offsets", "categories", "urls", "queries")
PRODUCTS = ("ids", "category", "price", "name")


def write(log: BehaviourLog, place: Path) -> None:
    """Writes the log into a folder."""
    for name in EVENTS:
        np.save(place / f"{name}.npy", getattr(log, name))
    for name in TABLES:
        write_array(getattr(log, name), place / name)
    for name in PRODUCTS:
        write_array(getattr(log.products, name), place / f"products.{name}")
    for name, array in log.asked.items():
        np.save(place / f"asked.{name}.npy", array)
    about = {"asked": list(log.asked), "name": log.name, "notes": log.notes}
    (place / WHOLE).write_text(json.dumps(about), encoding="utf-8")


def read(place: Path) -> BehaviourLog:
    """Takes back what `write` wrote."""
    about = json.loads((place / WHOLE).read_text(encoding="utf-8"))
    return BehaviourLog(
        **{name: np.load(place / f"{name}.npy", mmap_mode="r") for name in EVENTS},
        **{name: read_array(place / name) for name in TABLES},
        products=Products(*(read_array(place / f"products.{name}") for name in PRODUCTS)),
        asked={name: np.load(place / f"asked.{name}.npy") for name in about["asked"]},
        name=about["name"],
        notes=tuple(about["notes"]),
    )


FORM: Form[BehaviourLog] = Form(write, read)
