"""TriGRec's published code, module by module, as `benchmarks.trigrec` runs it: in a checkout, with its own Python.

    python peer_trigrec.py MODULE SEED OVERRIDE

What is computed stays as published. Three things are done for time: logits of stage 1 are made where there is a masked
item, for the loss ignores all others, and Adam is PyTorch's fused one; and stage 2 is evaluated after its last epoch
alone.
"""

import functools
import random
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

EVALUATED = "hit_10, mrr = evaluate("
IN_THE_END = "hit_10, mrr = (evaluate if epoch == config.num_epochs else lambda **_: 6 * (float('nan'),))("


def masked_loss(states, wanted, head):
    masked = wanted != 0
    return torch.nn.functional.cross_entropy(head(states[masked]), wanted[masked])


def main():
    module, seed, override = sys.argv[1:]
    sys.path.insert(0, ".")
    sys.argv = [module, "--override", override]
    random.seed(int(seed))
    np.random.seed(int(seed))  # noqa: NPY002 (the generator that the published code draws from)
    torch.manual_seed(int(seed))
    print("torch", torch.__version__)
    if module != "recommendation_model.train_eval":
        import user_representation_module.model as representations

        representations.masked_loss = masked_loss
        torch.optim.Adam = functools.partial(torch.optim.Adam, fused=True)
        runpy.run_module(module, run_name="__main__")
        return
    path = Path(*module.split(".")).with_suffix(".py")
    source = path.read_text()
    if EVALUATED not in source:
        raise SystemExit(f"{path} is not the file this was written for: it has no {EVALUATED!r}")
    exec(compile(source.replace(EVALUATED, IN_THE_END), str(path), "exec"), {"__name__": "__main__"})


main()
