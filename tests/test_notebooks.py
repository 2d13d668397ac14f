"""The committed notebooks are fit to be seen, the tools that say so work, and what a reader takes
home runs alone. (That every cell runs is tested by nbval; see tools/test.py.)"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import build_notebooks  # tools/ is on the path, see pyproject.toml
import check_notebooks
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebooks_are_fit(path):
    assert list(check_notebooks.problems(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_badge_and_installation_name_this_repository(path):
    repository = PROJECT["urls"]["Repository"]
    notebook = read(path)
    owner_and_name = repository.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/"
    assert f"({badge}{path.name})" in notebook.cells[0].source
    setup = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert f'%pip install -q "metis_nb @ git+{repository}"' in setup


@pytest.mark.parametrize("path", [*NOTEBOOKS, *ROOT.glob("*.md")], ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src=\\?"([^"\\]+)', text):
        if not target.startswith(("http", "data:")):
            assert (path.parent / target).exists(), target


# --- the checks can fail -------------------------------------------------------------------------


def good_notebook():
    code = new_code_cell("print(1)", execution_count=1)
    code.outputs = [new_output("stream", name="stdout", text="1\n")]
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), code])
    build_notebooks.normalise(notebook)
    return notebook


def found(notebook, tmp_path):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    return "\n".join(check_notebooks.problems(path))


def test_a_good_notebook_has_no_problems(tmp_path):
    assert found(good_notebook(), tmp_path) == ""


def spoil_counts(notebook):
    notebook.cells[1].execution_count = 7


def spoil_source(notebook):
    notebook.cells[1].source = "print(2)"


def spoil_title(notebook):
    notebook.cells[0].source = "Title"


def spoil_widgets(notebook):
    notebook.metadata["widgets"] = {}


def spoil_empty(notebook):
    notebook.cells.append(new_markdown_cell(" "))


def spoil_length(notebook):
    notebook.cells.insert(1, new_code_cell("pass\n" * 41, execution_count=1))


def spoil_error(notebook):
    notebook.cells[1].outputs = [new_output("error", ename="ValueError", evalue="x", traceback=[])]


def spoil_stderr(notebook):
    notebook.cells[1].outputs = [new_output("stream", name="stderr", text="a warning")]


def spoil_path(notebook):
    notebook.cells[1].outputs[0].text = "saved to /home/someone/file"


def spoil_path_in_source(notebook):
    notebook.cells[0].source += "\nopen C:\\Users\\someone"


def spoil_type(notebook):
    notebook.cells[1].outputs = [
        new_output("display_data", data={"image/webp": "", "text/plain": ""})
    ]


def spoil_text(notebook):
    notebook.cells[1].outputs = [new_output("display_data", data={"image/png": ""})]


def spoil_size(notebook):
    notebook.cells[0].source += "x" * 1_000_001


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_counts, "execution counts are [7]"),
        (spoil_source, "run `make notebooks`"),
        (spoil_title, "the first cell is a title"),
        (spoil_widgets, "metadata.widgets"),
        (spoil_empty, "cell 3: is empty"),
        (spoil_length, "has 42 lines; at most 40"),
        (spoil_error, "holds an error: ValueError"),
        (spoil_stderr, "holds a warning"),
        (spoil_path, "shows a folder of one machine: /home/someone"),
        (spoil_path_in_source, "names a folder of one machine"),
        (spoil_type, "type image/webp"),
        (spoil_text, "without text"),
        (spoil_size, "1.0 MB; at most 1"),
    ],
)
def test_each_check_can_fail(spoil, message, tmp_path):
    notebook = good_notebook()
    spoil(notebook)
    assert message in found(notebook, tmp_path)


def test_web_addresses_are_no_folders(tmp_path):
    notebook = good_notebook()
    notebook.cells[0].source += "\n[x](https://example.org/home/someone) and/or a/tmp/b"
    assert found(notebook, tmp_path) == ""


def test_something_that_is_no_notebook(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text("{}")
    assert "not a valid notebook" in "\n".join(check_notebooks.problems(path))


# --- building ------------------------------------------------------------------------------------


def test_building_runs_and_normalises(tmp_path):
    source = (
        "import sys\n"
        "print('10%\\r20%', end=''); print('\\r30%')\n"
        "print('a warning', file=sys.stderr)\n"
        "object()"
    )
    notebook = new_notebook(
        cells=[new_markdown_cell("# Title"), new_code_cell(source, metadata={"tags": ["kept"]})]
    )
    notebook.metadata["widgets"] = {}
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook, path)
    assert build_notebooks.build(path) == 0
    built = path.read_text(encoding="utf-8")
    stream, result = read(path).cells[1].outputs
    assert stream.text == "30%\n"
    assert result.data["text/plain"] == "<object>"
    assert read(path).cells[1].metadata == {"tags": ["kept"]}
    assert build_notebooks.build(path) == 0
    assert path.read_text(encoding="utf-8") == built  # the same, byte for byte


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path, capsys):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert build_notebooks.build(path) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


# --- what a reader takes home --------------------------------------------------------------------

COPY_ME = {
    path.name: cell.source
    for path in NOTEBOOKS
    for cell in read(path).cells
    if "copy-me" in cell.metadata.get("tags", [])
}


def test_there_is_a_cell_to_take_home():
    assert "03_ppo.ipynb" in COPY_ME


@pytest.mark.learning
@pytest.mark.parametrize("name", COPY_ME)
def test_the_copy_me_cell_runs_alone(name, tmp_path):
    source = COPY_ME[name]
    imported = {
        module.split(".")[0]
        for node in ast.walk(ast.parse(source))
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= {"gymnasium", "numpy", "torch"}
    assert source.count("\n") < 120

    # A package of that name which cannot be imported stands before the real one.
    (tmp_path / "metis_nb").mkdir()
    (tmp_path / "metis_nb" / "__init__.py").write_text("raise ImportError('not here')")
    (tmp_path / "alone.py").write_text(source, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "alone.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr  # the cell itself asserts that it has learned
    assert "mean return of 100 episodes" in result.stdout
