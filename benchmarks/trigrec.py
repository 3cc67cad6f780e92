"""TriGRec by its authors' code, on the files that it ships, in its own protocol.

    OMP_NUM_THREADS=2 python -m benchmarks.trigrec CHECKOUT PYTHON food|kitchen [--seeds 3] [--stage-1-epochs 10]
        [--stage-1-length 13]

CHECKOUT is a clone of https://github.com/moon2y/TriGRec, PYTHON the one that runs it, on the CPU: of an environment
with torch, "numpy<2", "pandas<3", tqdm and python-box. `benchmarks.cross_domain FOLDER TARGET --windows keep` has the
zoo's numbers under that protocol, as `sampled, range`; FOLDER may be CHECKOUT/data. Not the same: there, ids that
training never saw compete with random vectors (in the zoo they lose), the event before the test is trained on (in the
zoo it is validation), and vectors know what a user did in the other domain afterwards.

Stage 2 is trained with all of its defaults. Stage 1 at its defaults, 100 epochs of 150 slots, would take weeks on two
cores: it is given fewer epochs, and as many slots as the longest sequence has events. The slots left out are padding,
which the published encoders attend to and average. Each seed is that of both stages. A seed's stage 1 takes 50
minutes of a core, stage 2 22 (food) to 38 (kitchen); a call goes on between them where one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, write_record

FILES = {
    "food": {"data_path": "food_train", "data_path1": "kitchen_all", "data_path2": "cross_f_train"},
    "kitchen": {"data_path": "kitchen_train", "data_path1": "food_all", "data_path2": "cross_k_train"},
}
# Its half gigabytes of scores are freed each step: have glibc keep them, or the system zeroes new ones.
KEEP_FREED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
PEER = Path(__file__).parent / "peer_trigrec.py"
METRICS = {"HIT@1": "hit_rate@1", "HIT@5": "hit_rate@5", "HIT@10": "hit_rate@10", "NDCG@10": "ndcg@10"}


def run(checkout: Path, python: Path, module: str, seed: int, /, **override: Any) -> str:
    """What a module of the published code prints."""
    given = ",".join(f"{key}={value}" for key, value in ({"device": "cpu"} | override).items())
    command = [str(python.absolute()), str(PEER), module, str(seed), given]
    done = subprocess.run(command, cwd=checkout, env=os.environ | KEEP_FREED, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout + done.stderr


def core_seconds() -> float:
    """What processes that were started here, and ended, have taken of all cores together."""
    times = os.times()
    return times.children_user + times.children_system


def measure(checkout: Path, python: Path, target: str, seed: int, epochs: int, length: int) -> dict[str, Any]:
    """Scores, and what both stages took, of one seed."""
    files = {key: f"data/{name}.pkl" for key, name in FILES[target].items()}
    states, vectors = f"state_dict/rep/{target}_{seed}", f"user_representation_module/embeddings/{target}_{seed}"
    train = files | {"save_path": states, "num_epochs": epochs, "max_len": length}
    taken = checkout / states / f"seconds_{epochs}_{length}"  # written when stage 1 is through
    if not taken.exists():
        begin = core_seconds()
        run(checkout, python, "user_representation_module.train", seed, **train)
        taken.write_text(str(core_seconds() - begin))
    told = {"save_path": states, "emb_out_dir": vectors, "EPOCH_TO_LOAD": epochs, "max_len": length}
    run(checkout, python, "user_representation_module.inference", seed, **files, **told)
    begin = core_seconds()
    said = run(
        checkout,
        python,
        "recommendation_model.train_eval",
        seed,
        data_path=f"data/{target}_all.pkl",
        spe_emb_path=f"{vectors}/spe_emb_ep{epochs}_A.npy",
        cross_emb_path=f"{vectors}/cross_emb_ep{epochs}_A.npy",
        seed=seed,
    )
    last = said[said.rindex("Epoch:") :]
    row = {name: float(re.findall(rf"{shown}: ([\d.]+)", last)[0]) for shown, name in METRICS.items()}
    torch = re.findall(r"^torch (\S+)$", said, re.MULTILINE)[0]
    seconds = [round(float(taken.read_text())), round(core_seconds() - begin)]
    return {"seed": seed, **row, "core seconds": seconds, "torch": torch}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("python", type=Path)
    parser.add_argument("target", choices=tuple(FILES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stage-1-epochs", type=int, default=10)
    parser.add_argument("--stage-1-length", type=int, default=13)
    options = parser.parse_args()
    if options.stage_1_epochs % 10:
        parser.error("--stage-1-epochs: the published code saves every tenth epoch")
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=options.checkout, capture_output=True, text=True)
    limits = {"epochs": options.stage_1_epochs, "length": options.stage_1_length}
    path = RESULTS / f"trigrec_{options.target}.json"
    old = json.loads(path.read_text())["results"] if path.exists() else {}
    rows = old["rows"] if old.get("stage 1") == limits else []
    for seed in range(options.seeds):
        if all(row["seed"] != seed for row in rows):
            rows.append(measure(options.checkout, options.python, options.target, seed, **limits))
            results = {"published code": revision.stdout.strip(), "stage 1": limits, "rows": rows}
            write_record(path.stem, results, ())
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
