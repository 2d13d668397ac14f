"""The committed notebooks are fit to be seen, the tools that say so work, and what a reader takes
home runs alone. (That every cell runs is tested by nbval; see tools/test.py.)"""

import ast
import base64
import io
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import build_notebooks  # tools/ is on the path, see pyproject.toml
import check_notebooks
import nbformat
import other_seeds
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebooks_are_fit(path):
    assert list(check_notebooks.problems(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_notebooks_are_as_the_builder_writes_them(path):
    notebook = read(path)
    build_notebooks.normalise(notebook)
    assert build_notebooks.as_bytes(notebook) == path.read_bytes(), "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_badge_and_installation_name_this_repository(path):
    repository = PROJECT["urls"]["Repository"]
    notebook = read(path)
    owner_and_name = repository.removeprefix("https://github.com/")
    badge = f"https://colab.research.google.com/github/{owner_and_name}/blob/main/notebooks/"
    assert f"({badge}{path.name})" in notebook.cells[0].source
    setup = next(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert f'%pip install -q "metis_nb[notebook] @ git+{repository}"' in setup


@pytest.mark.learning
def test_the_script_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    script = max(re.findall(r"```python\n(.*?)```", text, flags=re.S), key=len)
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "ppo.safetensors").exists()


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


def spoil_title_by_a_comment(notebook):
    notebook.cells = notebook.cells[1:]
    notebook.cells[0].source = "# Title"


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


def spoil_path_of_a_file_address(notebook):
    notebook.cells[0].source += "\n[x](file:///home/someone)"


def spoil_path_with_forward_slashes(notebook):
    notebook.cells[0].source += "\nopen C:/Users/someone"


def show_instead(notebook, data):
    notebook.cells[1].outputs = [new_output("display_data", data=data)]


def spoil_type(notebook):
    show_instead(notebook, {"image/webp": "", "text/plain": "x"})


def spoil_type_by_an_animation(notebook):
    show_instead(notebook, {"image/gif": "", "text/plain": "x"})


def spoil_type_by_a_widget(notebook):
    show_instead(notebook, {build_notebooks.WIDGET: {}, "text/plain": "x"})


def spoil_text(notebook):
    show_instead(notebook, {"image/png": ""})


def spoil_text_by_a_blank(notebook):
    show_instead(notebook, {"image/png": "", "text/plain": " "})


def spoil_html(notebook):
    show_instead(notebook, {"text/html": "x" * 20_001, "text/plain": "x"})


def spoil_html_by_a_script(notebook):
    show_instead(notebook, {"text/html": "<SCRIPT>1</SCRIPT>", "text/plain": "x"})


def spoil_address(notebook):
    notebook.cells[1].outputs[0].text = "<object at 0x7f1a>"


def spoil_address_alone(notebook):
    show_instead(notebook, {"text/markdown": "id 0x7f1a2b3c4d5e", "text/plain": "x"})


def spoil_timings(notebook):
    notebook.cells[1].outputs[0].text = "100%|#| 80.0k/80.0k [00:05<00:00, 14.2k steps/s]"


def spoil_id(notebook):
    notebook.cells[1].id = "e3b0c442"


def spoil_metadata(notebook):
    notebook.metadata["vscode"] = {}


def spoil_metadata_of_a_cell(notebook):
    notebook.cells[1].metadata["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}


def spoil_metadata_of_prose(notebook):
    notebook.cells[0].metadata["collapsed"] = True


def spoil_metadata_of_an_output(notebook):
    show_instead(notebook, {"image/png": "", "text/plain": "x"})
    notebook.cells[1].outputs[0].metadata["needs_background"] = "light"


def spoil_variable(notebook):
    notebook.cells[1].source = 'os.environ["METIS_NB_STATIC"] = "1"'


def spoil_length_of_last(notebook):
    notebook.cells[1].source = "pass\n" * 130


def spoil_size(notebook):
    notebook.cells[0].source += "x" * 1_000_001


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_counts, "execution counts are [7]"),
        (spoil_source, "run `make notebooks`"),
        (spoil_title, "the first cell is a title"),
        (spoil_title_by_a_comment, "the first cell is a title"),
        (spoil_widgets, "metadata.widgets"),
        (spoil_empty, "cell 3: is empty"),
        (spoil_length, "has 42 lines; at most 40"),
        (spoil_length_of_last, "has 131 lines; at most 130"),
        (spoil_error, "holds an error: ValueError"),
        (spoil_stderr, "holds a warning"),
        (spoil_path, "shows a folder of one machine: /home/someone"),
        (spoil_path_in_source, "names a folder of one machine"),
        (spoil_path_of_a_file_address, "names a folder of one machine"),
        (spoil_path_with_forward_slashes, "names a folder of one machine"),
        (spoil_type, "type image/webp"),
        (spoil_type_by_an_animation, "type image/gif"),
        (spoil_type_by_a_widget, "type application/vnd.jupyter.widget-view+json"),
        (spoil_text, "without text"),
        (spoil_text_by_a_blank, "without text"),
        (spoil_html, "more than 20 kB of HTML"),
        (spoil_html_by_a_script, "holds a script"),
        (spoil_address, "in memory, at 0x7f1a"),
        (spoil_address_alone, "in memory, 0x7f1a2b3c4d5e"),
        (spoil_timings, "took, [00:05<00:00, 14.2k steps/s]"),
        (spoil_id, "cell 2: its id is e3b0c442, not c001"),
        (spoil_metadata, "no reader needs: vscode"),
        (spoil_metadata_of_a_cell, "cell 2: holds metadata that no reader needs: execution"),
        (spoil_metadata_of_prose, "cell 1: holds metadata that no reader needs: collapsed"),
        (spoil_metadata_of_an_output, "output with metadata: needs_background"),
        (spoil_variable, "METIS_NB_ variable"),
        (spoil_size, "1.0 MB; at most 1"),
    ],
)
def test_each_check_can_fail(spoil, message, tmp_path):
    notebook = good_notebook()
    spoil(notebook)
    assert message in found(notebook, tmp_path)


def test_web_addresses_are_no_folders(tmp_path):
    notebook = good_notebook()
    notebook.cells[0].source += "\n[x](https://example.org/home/someone) and/or a/tmp/b ~/var/c"
    assert found(notebook, tmp_path) == ""


def test_something_that_is_no_notebook(tmp_path):
    path = tmp_path / "notebook.ipynb"
    path.write_text("{}")
    assert "not a valid notebook" in "\n".join(check_notebooks.problems(path))


def test_a_file_that_is_not_there(tmp_path):
    assert "cannot be read" in "\n".join(check_notebooks.problems(tmp_path / "none.ipynb"))


def test_the_command_names_file_and_cell(tmp_path, capsys):
    path = tmp_path / "notebook.ipynb"
    notebook = good_notebook()
    nbformat.write(notebook, path)
    assert check_notebooks.main([str(path)]) == 0
    spoil_stderr(notebook)
    nbformat.write(notebook, path)
    assert check_notebooks.main([str(path)]) == 1
    assert capsys.readouterr().out.startswith(f"{path}: cell 2: holds a warning")


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


# What the notebooks of the collection are made of, in a few seconds.
SMALL = """\
import gymnasium as gym
import matplotlib.pyplot as plt
import metis_nb
from metis_nb import PPO, agents, play, show

metis_nb.seed(0)
env = gym.make("CartPole-v1")
actor, critic = agents.actor(env), agents.critic(env)
trainer = PPO(env, seed=0)
history = trainer.train(actor, critic, 4096)
play(env, actor, seed=0)
---
plt.plot(history["steps"], history["kl"])
plt.show()
---
import sys
from tqdm import tqdm

print({"any", "order", "of", "strings"}, object())
print(sum(tqdm(range(3), file=sys.stdout)))
---
show(PPO.train)
"""


def test_building_twice_gives_the_same_bytes(tmp_path):
    cells = [new_code_cell(source.strip()) for source in SMALL.split("---\n")]
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title"), *cells]), path)
    assert build_notebooks.build(path) == 0
    first = path.read_bytes()
    assert first.count(b"image/png") >= 2  # the episode and the plot
    assert first.endswith(b"}\n")
    assert build_notebooks.build(path) == 0
    assert path.read_bytes() == first


def test_a_notebook_that_fails_is_left_as_it_was(tmp_path, capsys):
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    assert build_notebooks.build(path) == 1
    assert path.read_bytes() == before
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import time; time.sleep(60)", "timed out"),
        ("import os; os._exit(1)", "Kernel died"),
        ("raise ValueError('y' * 5000)", "raise ValueError('y' * 5000)"),  # a long traceback
    ],
)
def test_however_a_cell_fails_the_cell_is_shown(source, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build_notebooks, "CELL_TIMEOUT", 5)
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    before = path.read_bytes()
    assert build_notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    told = capsys.readouterr().err
    assert said in told
    assert f"this cell failed\n\n{source}" in told


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("10%\r20%\n", "20%\n"),
        ("loading\r       \rdone\n", "done\n"),
        ("abcdef\rxy\n", "xycdef\n"),
        ("still there\r", "still there"),
        ("from Windows\r\nnext\n", "from Windows\nnext\n"),
        ("two spaces  \n", "two spaces  \n"),
    ],
)
def test_carriage_returns_do_what_a_terminal_does(written, shown):
    assert build_notebooks.as_on_a_terminal(written) == shown


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (
            "100%|██| 80.0k/80.0k [00:05<00:00, 14.2k steps/s, return 500.0, kl 0.01]\n",
            "100%|██| 80.0k/80.0k [return 500.0, kl 0.01]\n",
        ),
        ("100%|██| 3/3 [1:00:05<00:00,  1.02s/it]", "100%|██| 3/3 "),
        ("  0%|  | 0/3 [00:00<?, ? steps/s]", "  0%|  | 0/3 "),
        ("5it [00:00, 12.3it/s]", "5it "),
        ("[0.5, 1/2], x[10:20, a/b], [1, 2]", "[0.5, 1/2], x[10:20, a/b], [1, 2]"),
    ],
)
def test_of_a_progress_bar_what_is_the_same_each_time_stays(written, kept):
    assert build_notebooks.without_timings(written) == kept


def test_pictures_are_kept_without_what_they_say_of_themselves():
    def png(**remarks):
        info = PngInfo()
        for name, remark in remarks.items():
            info.add_text(name, remark)
        file = io.BytesIO()
        Image.new("RGB", (3, 2), "red").save(file, "PNG", pnginfo=info)
        return base64.b64encode(file.getvalue()).decode()

    assert png(Software="Matplotlib") != png()
    assert build_notebooks.without_remarks(png(Software="Matplotlib")) == png()
    assert build_notebooks.without_remarks(png()) == png()


def test_normalising_keeps_what_code_hosts_draw_and_nothing_twice_different():
    widget = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "a slider"}
    text = {"text/plain": "Guess first; then run this."}
    large = {"text/html": "x" * 20_001, "image/png": "", "text/plain": "<x at 0x7F1a>"}
    cell = new_code_cell("1", metadata={"tags": ["kept"], "scrolled": True})
    cell.outputs = [
        new_output("stream", name="stdout", text="<object at 0x7f1a>\n"),
        new_output("stream", name="stderr", text="a warning"),
        new_output("display_data", data=widget),
        new_output("stream", name="stdout", text="more\n"),
        new_output("display_data", data=large, metadata={"width": 1}),
        new_output("display_data", data=text),
        new_output("display_data", data={"text/html": "<b>f at 0x7f1a</b>", "text/plain": "f"}),
    ]
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), cell])
    notebook.metadata.update(colab={"provenance": []}, widgets={}, authors=[])
    assert [*build_notebooks.dropped(notebook)] == [
        "cell 2 warned: a warning",
        "cell 2: HTML above 20 kB is not stored",
    ]
    build_notebooks.normalise(notebook)
    stream, picture, words, html = notebook.cells[1].outputs
    assert stream.text == "<object>\nmore\n"
    assert picture.data == {"image/png": "", "text/plain": "<x>"}
    assert picture.metadata == {}
    assert words.data == text
    assert html.data["text/html"] == "<b>f</b>"
    assert notebook.cells[1].metadata == {"tags": ["kept"]}
    assert set(notebook.metadata) == {"colab", "kernelspec", "language_info", "metis_nb"}
    once = nbformat.writes(notebook)
    build_notebooks.normalise(notebook)
    assert nbformat.writes(notebook) == once


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
    assert imported - sys.stdlib_module_names <= {"gymnasium", "numpy", "torch"}
    assert source.count("\n") < 120

    assert run_alone(source, tmp_path)  # the cell itself asserts that it has learned


@pytest.mark.learning
def test_the_ppo_cell_also_does_continuous_actions(tmp_path):
    source, task = COPY_ME["03_ppo.ipynb"], '"CartPole-v1", 16, 100_000, 0'
    assert task in source
    swung = run_alone(source.replace(task, '"Pendulum-v1", 16, 150_000, 0'), tmp_path)
    assert swung >= -250


def run_alone(source, tmp_path):
    """The mean return that a copy-me cell reaches, in a process of its own."""
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
    assert result.returncode == 0, result.stderr
    return float(re.search(r"mean return of 100 episodes (-?[\d.]+)", result.stdout)[1])


@pytest.mark.parametrize(("by", "failed"), [(0, "no"), (1000, 1)])
def test_a_claim_that_needs_its_seed_is_found(tmp_path, by, failed):
    cells = [
        "import torch\nfrom metis_nb import PPO, envs",
        'trainer = PPO(envs.make("CartPole-v1"), seed=0)',
        "torch.manual_seed(0)\nassert torch.initial_seed() == trainer.run.seed == 0",
        "assert True",
    ]
    path = tmp_path / "claim.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), path)
    text, held = other_seeds.run(path, by)
    assert held is (failed == "no")
    assert f"{failed} cells failed" in text
    if failed == 1:
        assert "cell 2: AssertionError" in text
        assert "assert torch.initial_seed() == trainer.run.seed == 0" in text
