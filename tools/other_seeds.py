"""Do a notebook's claims hold with other seeds than the ones it was written with?

    python tools/other_seeds.py                              all in notebooks/, with three seeds
    python tools/other_seeds.py notebooks/06_ddpg.ipynb --seeds 5 --jobs 2

Runs them with every seed moved by 1000, by 2000 and so on, and says which cells then fail. Nothing
is written. On a GPU, and with another version of torch, a reader meets other chance as well: what
fails here fails there.
"""

import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import nbformat
from build_notebooks import CELL_TIMEOUT, ENVIRONMENT
from check_notebooks import ROOT
from nbclient import NotebookClient

# Every network's first weights come from torch.manual_seed, a training's chance from its Run. A
# generator that a cell makes for itself, to check a formula, stays as it is.
MOVE = """\
import torch
from metis_nb import training
_seeded, _made = torch.manual_seed, training.Run.__init__
torch.manual_seed = lambda seed: _seeded(seed + {by})
def _moved(self, env, seed):
    _made(self, env, None if seed is None else seed + {by})
training.Run.__init__ = _moved
"""


def run(path: Path, by: int) -> tuple[str, bool]:
    """What to say of one notebook with seeds moved by so much, and whether no cell failed."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(MOVE.format(by=by)))
    begin = time.perf_counter()
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        allow_errors=True,
    ).execute(env=os.environ | ENVIRONMENT)
    said = [
        f"  cell {number}: {output.ename} {output.evalue}\n    {line_of(output.traceback)}"
        for number, cell in enumerate(notebook.cells[1:])
        for output in cell.get("outputs", [])
        if output.output_type == "error"
    ]
    head = f"{path.name}, seeds moved by {by}: {time.perf_counter() - begin:.0f} s"
    return "\n".join([f"{head}, {len(said) or 'no'} cells failed", *said]), not said


def line_of(traceback: list[str]) -> str:
    """The cell's line that failed."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(traceback))
    marked = re.findall(r"^-+>\s*\d+\s(.*)$", plain, re.M)
    return marked[0].strip() if marked else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all in notebooks/")
    parser.add_argument("--seeds", type=int, default=3, help="other seeds, each (default 3)")
    parser.add_argument("--jobs", type=int, default=2, help="notebooks at once (default 2)")
    options = parser.parse_args()
    paths = options.notebooks or sorted(ROOT.glob("notebooks/*.ipynb"))
    moves = [1000 * (number + 1) for number in range(options.seeds)]
    good = True
    with ProcessPoolExecutor(options.jobs) as pool:
        for text, held in pool.map(run, *zip(*product(paths, moves))):
            print(text, flush=True)
            good &= held
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
