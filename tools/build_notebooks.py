"""Run notebooks from top to bottom and store their outputs, ready to be committed.

    python tools/build_notebooks.py                     all in notebooks/
    python tools/build_notebooks.py notebooks/03_ppo.ipynb

Runs them as a reader does, but with still pictures in place of the player, and normalises what
would differ from run to run: where the code's results are the same, so is the file, byte for byte.
A notebook whose cell fails is left as it was.
"""

import base64
import os
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from check_notebooks import (
    ADDRESS,
    MAX_HTML_BYTES,
    MIME_TYPES,
    ROOT,
    TIMINGS,
    problems,
    source_hash,
)
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

CELL_TIMEOUT = 300  # seconds

# Still pictures; sums, and the order of sets, that are the same in every run.
ENVIRONMENT = {"METIS_NB_STATIC": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}

WIDGET = "application/vnd.jupyter.widget-view+json"
PNG = b"\x89PNG\r\n\x1a\n"


def main(arguments: list[str]) -> int:
    paths = [Path(argument) for argument in arguments] or sorted(ROOT.glob("notebooks/*.ipynb"))
    return max([build(path) for path in paths], default=0)


def build(path: Path) -> int:
    """Run, normalise and write one notebook. 0 where all is well."""
    notebook = nbformat.read(path, as_version=4)
    begin = time.perf_counter()
    failure = execute(notebook, path)
    if failure:
        print(f"{path} is left as it was: {failure}", file=sys.stderr)
        return 1
    for remark in dropped(notebook):  # its author should know
        print(f"{path.name}: {remark}", file=sys.stderr)
    normalise(notebook)
    draft = path.with_suffix(".draft")
    draft.write_bytes(as_bytes(notebook))
    os.replace(draft, path)
    found = list(problems(path))
    print(f"{path.name}: {time.perf_counter() - begin:.0f} s, {path.stat().st_size // 1000} kB")
    print(*(f"  {problem}" for problem in found), sep="\n", end="\n" if found else "")
    return 1 if found else 0


def as_bytes(notebook: NotebookNode) -> bytes:
    """The file: keys sorted, one space of indentation, the same end of line on every system."""
    return (nbformat.writes(notebook) + "\n").encode()


def execute(notebook: NotebookNode, path: Path) -> str:
    """Run all cells, in place, in the folder of `path`. Says what went wrong; "" is all well."""
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    running: list[NotebookNode] = []
    with tqdm(total=code, desc=path.name, unit=" cells") as bar:
        client = NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=False,
            record_timing=False,
            on_cell_start=lambda cell, **_: running.append(cell),
            on_cell_executed=lambda **_: bar.update(),
        )
        try:
            client.execute(env=os.environ | ENVIRONMENT)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            # The end of a long traceback says most, but not which cell it came from.
            source = running[-1].source if running else ""
            return f"this cell failed\n\n{source}\n\n{str(error)[-3000:]}"
    return ""


def dropped(notebook: NotebookNode) -> Iterator[str]:
    """What `normalise` will drop although a reader of the running notebook would see it."""
    for number, cell in enumerate(notebook.cells, 1):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                yield f"cell {number} warned: {output.text.strip()}"
            for kind, value in output.get("data", {}).items():
                if kind == "text/html" and not fits(kind, value):
                    yield f"cell {number}: HTML above {MAX_HTML_BYTES // 1000} kB is not stored"


def normalise(notebook: NotebookNode) -> None:
    """Take out of a notebook that has just run what differs from run to run."""
    kept = {"colab": notebook.metadata["colab"]} if "colab" in notebook.metadata else {}
    notebook.metadata = nbformat.from_dict(
        {
            **kept,
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "metis_nb": {"source": source_hash(notebook)},
        }
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5  # the first with ids
    count = 0
    for number, cell in enumerate(notebook.cells):
        cell.id = f"c{number:03d}"
        cell.metadata = nbformat.from_dict(
            {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        )
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
            cell.outputs = [*outputs(cell.outputs, count)]


def outputs(raw: list[NotebookNode], count: int) -> list[NotebookNode]:
    """The outputs of one cell, normalised."""
    kept: list[NotebookNode] = []
    for output in raw:
        if output.output_type == "stream":
            if output.name == "stderr":
                continue
            if kept and kept[-1].output_type == "stream":
                kept[-1].text += output.text
            else:
                kept.append(output)
        elif output.output_type in ("display_data", "execute_result"):
            data = {kind: value for kind, value in output.data.items() if fits(kind, value)}
            if not data or WIDGET in output.data:  # a widget is nothing without its kernel
                continue
            for kind in data:
                if kind.startswith("text/"):
                    data[kind] = without_timings(without_addresses(data[kind]))
            if "image/png" in data:
                data["image/png"] = without_remarks(data["image/png"])
            output.data, output.metadata = nbformat.from_dict(data), nbformat.from_dict({})
            output.pop("transient", None)
            if output.output_type == "execute_result":
                output.execution_count = count
            kept.append(output)
        else:
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = without_timings(without_addresses(as_on_a_terminal(output.text)))
    return [output for output in kept if output.get("text", "x").strip()]


def fits(kind: str, value: str) -> bool:
    """Whether a notebook stores such an output."""
    if kind == "text/html" and len(value.encode()) > MAX_HTML_BYTES:
        return False
    return kind in MIME_TYPES


def without_addresses(text: str) -> str:
    """<object at 0x7f12ab> -> <object>: where it lay in memory differs from run to run."""
    return ADDRESS.sub("", text)


def without_timings(text: str) -> str:
    """A progress bar less how long it took and how fast it was; what else it said stays."""
    return TIMINGS.sub(lambda bar: f"[{bar[1]}]" if bar[1] else "", text)


def without_remarks(png: str) -> str:
    """A picture, in base64, less what it says of itself, such as the version of matplotlib."""
    data = base64.b64decode(png)
    if not data.startswith(PNG):
        return png
    kept, begin = [PNG], len(PNG)
    while begin < len(data):  # chunks: a length, a kind, that many bytes, a checksum
        length, kind = struct.unpack(">I4s", data[begin : begin + 8])
        end = begin + length + 12
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            kept.append(data[begin:end])
        begin = end
    return base64.b64encode(b"".join(kept)).decode()


def as_on_a_terminal(text: str) -> str:
    """What is left on the screen after carriage returns: of a progress bar, its last state."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]  # writes over what is there, and no further
        lines.append(shown.rstrip() if "\r" in line else line)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
