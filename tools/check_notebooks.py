"""Is every notebook fit to be committed? Looks at the files, runs nothing.

    python tools/check_notebooks.py                     all in notebooks/
    python tools/check_notebooks.py notebooks/03_ppo.ipynb

Prints `file: cell N: what is wrong` and exits with 1 where something is.
"""

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]

# What `make notebooks` leaves of a notebook's metadata.
METADATA = {"colab", "kernelspec", "language_info", "metis_nb"}

MAX_BYTES = 1_000_000  # beyond, code hosts no longer draw a notebook
MAX_HTML_BYTES = 20_000  # of one output
MAX_LINES, MAX_LINES_OF_LAST = 40, 130
# What code hosts draw, and the player's page.
MIME_TYPES = {
    "image/png",
    "text/html",
    "text/latex",
    "text/markdown",
    "text/plain",
}
# A folder of somebody's machine, in a source or an output; not a part of a web address or of a
# relative path.
MACHINE_PATH = re.compile(
    r"(?:file://|(?<![\w.:/~-]))/(?:home|Users|root|work|tmp|opt|mnt|var)/[\w.-]*"
    r"|\b[A-Z]:[\\/]+Users[\\/]"
)
# What differs from run to run: where an object lay in memory, and how long a progress bar took.
# tqdm ends one with [00:05<00:00, 14.2k steps/s, return 500.0] or, where it knows no total, with
# [00:05, 14.2k steps/s, return 500.0]; the group is what it says beside the time.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+|\b0x[0-9a-fA-F]{9,}")
TIMINGS = re.compile(r"\[(?:\d+:)?\d\d:\d\d(?:<[\d:?]+)?, +[\d.?][^\],]*/[^\],]*(?:, ([^\]]*))?\]")


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or sorted(ROOT.glob("notebooks/*.ipynb"))
    found = [f"{path}: {problem}" for path in paths for problem in problems(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


def problems(path: Path) -> Iterator[str]:
    """What is wrong with the notebook at `path`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        yield f"cannot be read: {error}"
        return
    if len(text.encode()) > MAX_BYTES:
        yield f"{len(text.encode()) / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f}"
    try:
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        yield f"not a valid notebook: {error}"
        return

    if "widgets" in notebook.metadata:
        yield "metadata.widgets is stored: code hosts refuse to draw it"
    first = notebook.cells[0] if notebook.cells else None
    # In a code cell, '# ...' would be a comment.
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "cell 1: the first cell is a title, '# ...'"
    if notebook.metadata.get("metis_nb", {}).get("source") != source_hash(notebook):
        yield "the outputs are not those of this code: run `make notebooks`"

    if left := sorted(set(notebook.metadata) - METADATA - {"widgets"}):
        yield f"holds metadata that no reader needs: {', '.join(left)}"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(notebook.cells, 1):
        if cell.get("id") != f"c{number - 1:03d}":
            yield f"cell {number}: its id is {cell.get('id')}, not c{number - 1:03d}"
        for problem in cell_problems(cell, is_last=bool(code) and cell is code[-1]):
            yield f"cell {number}: {problem}"
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"execution counts are {counts}, not 1 .. {len(code)}: run `make notebooks`"


def cell_problems(cell: NotebookNode, is_last: bool) -> Iterator[str]:
    """What is wrong with one cell."""
    if not cell.source.strip():
        yield "is empty"
    if left := sorted(set(cell.metadata) - {"tags"}):
        yield f"holds metadata that no reader needs: {', '.join(left)}"
    for found in MACHINE_PATH.findall(cell.source):
        yield f"names a folder of one machine: {found}"
    if cell.cell_type != "code":
        return
    if "METIS_NB_" in cell.source:
        yield "reads or sets a METIS_NB_ variable: a notebook runs the same everywhere"
    lines, most = cell.source.count("\n") + 1, MAX_LINES_OF_LAST if is_last else MAX_LINES
    if lines > most:
        yield f"has {lines} lines; at most {most}"
    for output in cell.outputs:
        yield from output_problems(output)


def output_problems(output: NotebookNode) -> Iterator[str]:
    """What is wrong with one output."""
    if output.output_type == "error":
        yield f"holds an error: {output.ename}: {output.evalue}"
    if output.get("name") == "stderr":
        yield f"holds a warning that a reader would see: {output.text[:80]!r}"
    if output.get("metadata"):
        yield f"holds an output with metadata: {', '.join(output.metadata)}"
    data = output.get("data", {})
    for kind in sorted(set(data) - MIME_TYPES):
        yield f"holds an output of type {kind}, which is not drawn everywhere"
    html = data.get("text/html", "")
    if len(html.encode()) > MAX_HTML_BYTES:
        yield f"holds more than {MAX_HTML_BYTES // 1000} kB of HTML in one output"
    if "<script" in html.lower():
        yield "holds a script, which code hosts take out: what remains may show nothing"
    if data and not data.get("text/plain", "").strip():
        yield "holds an output without text for those who see no pictures"
    texts = [value for kind, value in data.items() if kind.startswith("text/")]
    text = "\n".join([output.get("text", ""), *texts])
    for found in MACHINE_PATH.findall(text):
        yield f"shows a folder of one machine: {found}"
    for found in ADDRESS.findall(text):
        yield f"shows where something lay in memory, {found.strip()}: that differs in every run"
    for found in TIMINGS.finditer(text):
        yield f"shows how long a progress bar took, {found[0]}: that differs in every run"


def source_hash(notebook: NotebookNode) -> str:
    """Of all code: outputs belong to the code with this hash."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
