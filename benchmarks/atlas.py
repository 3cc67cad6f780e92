"""A map of many items: seconds to make it, its size, and how a browser without a graphics card walks about in it.

    python -m benchmarks.atlas [ITEMS] [DIM]

450,000 generated items of 64 numbers in 100 groups by default; projected by UMAP and written as a page, as
`plot_item_atlas` does. `chromium`, if there is one, opens the page headless, WebGL drawn by its software: seconds from
its start to the drawn map, and from the turn of a wheel to the second frame after it, in 2-D and in 3-D.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from typing import Any

import numpy as np

from benchmarks.browser import visited
from benchmarks.record import write_record
from config import AtlasConfig
from eda import atlas, atlas_page
from eda.atlas_subjects import Subject

GROUPS, WAIT = 100, 300
VISIT = """
  while (!$("message").hidden) await frame();
  await frame();
  const measured = { drawn: performance.now() / 1000 };
  for (const kind of ["flat", "solid"]) {
    $(kind).click();
    await new Promise((done) => setTimeout(done, 2000));
    const seconds = [];
    for (let i = 0; i < 12; i++) {
      const begin = performance.now();
      $("map").dispatchEvent(new WheelEvent("wheel", { deltaY: i % 2 ? 40 : -40, cancelable: true }));
      await frame(); await frame();
      seconds.push((performance.now() - begin) / 1000);
    }
    measured[kind] = seconds.sort((a, b) => a - b)[6];
  }
  return measured;
"""


def generated(items: int, dim: int) -> Subject:
    """Items around the centres of groups, with a category, a brand and a price."""
    rng = np.random.default_rng(0)
    group = rng.integers(0, GROUPS, items)
    vectors = rng.normal(size=(GROUPS, dim))[group] + 0.5 * rng.normal(size=(items, dim))
    texts = {
        "category": np.array([f"category {g}" for g in group], object),
        "brand": np.array([f"brand {b}" for b in rng.integers(0, 20_000, items)], object),
    }
    columns = {**texts, "price": np.round(rng.lognormal(3, 1, items), 2)}
    ids = np.array([f"marketplace_{i}" for i in range(items)], object)
    return Subject(
        kind="item", data="generated", ids=ids, vectors=vectors.astype(np.float32), columns=columns, notes=()
    )


def main() -> None:
    items, dim = (*map(int, sys.argv[1:]), *(450_000, 64)[len(sys.argv) - 1 :])
    begin = time.perf_counter()
    made = atlas.chart(generated(items, dim), "generated", AtlasConfig(), 0)
    laid_out = time.perf_counter()
    page = atlas_page.render(made)
    results: dict[str, Any] = {
        "items": items,
        "dim": dim,
        "seconds_chart": round(laid_out - begin, 1),
        "seconds_page": round(time.perf_counter() - laid_out, 1),
        "page_mb": round(len(page) / 1e6, 1),
    }
    if shutil.which("chromium"):
        results["browser_seconds"] = {what: round(seconds, 3) for what, seconds in visited(page, VISIT, WAIT).items()}
    print(json.dumps(results, indent=2))
    print(write_record(f"atlas_{items}_{dim}", results, ("numpy",)))


if __name__ == "__main__":
    main()
