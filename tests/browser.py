"""A browser for the tests, and JupyterLab in it as a reader has it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 60_000  # milliseconds, for what takes one second on a quiet machine


# --- the browser ------------------------------------------------------------------------------


def find_browser() -> str | None:
    """A Chromium or Chrome of this machine, if one is on the path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def launched() -> Iterator[Any]:
    """A Playwright browser. Where there is none the tests are skipped, and say why.

    For a fixture of one module: until it ends, Playwright's event loop runs in this thread, and
    the loops of other test files could not.
    """
    try:
        from playwright import sync_api
    except ImportError:
        skip("playwright is not installed")
    # Nothing may come from the network: a page that needs it should fail here too.
    arguments = [
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]
    path = find_browser()
    # Chrome's usual place is not on the path of macOS and Windows; Playwright knows it.
    choices = [{"executable_path": path}] if path else [{}, {"channel": "chrome"}]
    with sync_api.sync_playwright() as playwright:
        for choice in choices:
            try:
                browser = playwright.chromium.launch(args=arguments, **choice)
                break
            except sync_api.Error as error:
                if path:
                    raise  # a browser that is there has to work
                reason = str(error).strip().splitlines()[0]
        else:
            skip(f"there is no Chromium or Chrome ({reason})")
        yield browser
        browser.close()


def skip(reason: str) -> NoReturn:
    """Skip, or fail where METIS_NB_REQUIRE_BROWSER says that a skip would go unseen."""
    if os.environ.get("METIS_NB_REQUIRE_BROWSER", "") not in ("", "0"):
        pytest.fail(f"METIS_NB_REQUIRE_BROWSER is set, but {reason}.", pytrace=False)
    pytest.skip(f"No test in a browser: {reason}.")


@contextlib.contextmanager
def watched(browser: Any, **context: Any) -> Iterator[Any]:
    """A page; afterwards, no error of a script may have reached it.

    Args:
        context: Playwright's options, such as `viewport` and `color_scheme`.
    """
    page = browser.new_context(**context).new_page()
    page.set_default_timeout(TIMEOUT)
    errors = collect_errors(page)
    try:
        yield page
        assert not errors, errors
    finally:
        page.context.close()


def collect_errors(page: Any) -> list[str]:
    """A list that fills with the uncaught errors of a page, and what it logs of ours."""
    errors: list[str] = []

    def fall(error: Any) -> None:
        # What ipywidgets' extension throws wherever a notebook is opened without a kernel.
        if not ("jupyterlab-manager" in error.stack and "'kernel'" in error.message):
            errors.append(error.stack)

    def hear(message: Any) -> None:
        # JupyterLab and a missing network log errors too; those are not ours.
        if message.type == "error" and re.search("mnb|metis", message.text, re.I):
            errors.append(message.text)

    page.on("pageerror", fall)
    page.on("console", hear)
    return errors


def screenshot(page_or_locator: Any, name: str) -> Path:
    """A picture for the eye, in the folder METIS_NB_SCREENSHOTS; no test compares it."""
    folder = os.environ.get("METIS_NB_SCREENSHOTS") or f"{tempfile.gettempdir()}/metis_nb"
    path = Path(folder) / f"{name}.png"
    page_or_locator.screenshot(path=path)  # makes the folder
    return path


# --- JupyterLab -------------------------------------------------------------------------------


class Lab:
    """JupyterLab on `folder`, with settings, signatures and history of its own in `home`.

    with Lab(folder, home, browser) as lab:
        notebook = lab.open("03_ppo.ipynb")
        notebook.run_all()
        notebook.wait_until_done()
    """

    def __init__(self, folder: Path, home: Path, browser: Any):
        self.folder, self.home, self.browser = folder, home, browser
        self.token = secrets.token_hex(16)
        self.url = ""
        self.notebooks: list[Notebook] = []

    def __enter__(self) -> Lab:
        self.home.mkdir(parents=True, exist_ok=True)
        popups = self.home / "config/lab/user-settings/@jupyterlab/apputils-extension"
        popups.mkdir(parents=True)
        no_news = json.dumps({"fetchNews": "false"})
        (popups / "notification.jupyterlab-settings").write_text(no_news, encoding="utf-8")
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"]
        command += ["--ip=127.0.0.1", "--port=0", "--ServerApp.port_retries=0", "--allow-root"]
        command += [f"--IdentityProvider.token={self.token}"]
        command += [f"--ServerApp.root_dir={self.folder}"]
        self.log = self.home / "server.log"
        with self.log.open("wb") as log:
            self.server = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self.url = self._address()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _environment(self) -> dict[str, str]:
        # As a reader has it: no test mode, hence the graceful stop, and players that play.
        ours = {"METIS_NB_TEST", "METIS_NB_STATIC"}
        kept = {name: value for name, value in os.environ.items() if name not in ours}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return kept | {
            "PYTHONPATH": path,
            "JUPYTER_CONFIG_DIR": str(self.home / "config"),
            "JUPYTER_DATA_DIR": str(self.home / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.home / "config/lab/user-settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.home / "config/lab/workspaces"),
            "IPYTHONDIR": str(self.home / "ipython"),
        }

    def _address(self) -> str:
        """Where the server answers: it has chosen a free port itself, and writes it into a file."""
        deadline = time.monotonic() + TIMEOUT / 1000
        url = ""
        while time.monotonic() < deadline and self.server.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # not there yet, or half written
                if not url:
                    file = next((self.home / "runtime").glob("jpserver-*.json"), None)
                    url = json.loads(file.read_text("utf-8"))["url"] if file else ""
                if url:
                    self.request("api/status", url=url)
                    return url
            time.sleep(0.1)
        raise AssertionError(f"JupyterLab has not started.\n{self.log_tail()}")

    def request(self, path: str, method: str = "GET", url: str = "") -> Any:
        """What the server's own interface answers."""
        request = urllib.request.Request(
            (url or self.url) + path,
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT / 1000) as response:
            body = response.read()
        return json.loads(body) if body else None

    def log_tail(self, lines: int = 40) -> str:
        text = self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(["The server's log ends with:", *text.splitlines()[-lines:]])

    def _stop(self) -> None:
        for notebook in self.notebooks:
            with contextlib.suppress(Exception):
                notebook.page.context.close()
        if self.url:
            with contextlib.suppress(Exception):  # the polite way also ends the kernels
                self.request("api/shutdown", method="POST")
        else:
            self.server.terminate()
        try:
            self.server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()

    def open(self, name: str, *, kernel: bool = True, **context: Any) -> Notebook:
        """The notebook `name` of the folder, in a page of its own, ready to be used.

        Args:
            kernel: False opens it as "Notebook (no kernel)" of JupyterLab's menu does.
            context: Playwright's options, such as `viewport`.
        """
        page = self.browser.new_context(**{"viewport": LAPTOP, **context}).new_page()
        page.set_default_timeout(TIMEOUT)
        notebook = Notebook(self, page, name)
        self.notebooks.append(notebook)
        # A workspace of its own, or the notebooks opened before would come back beside this one.
        workspace = f"auto-{secrets.token_hex(4)}"
        page.goto(f"{self.url}lab/workspaces/{workspace}?token={self.token}")
        notebook.wait(
            "window.jupyterapp?.commands.hasCommand('docmanager:open')", "JupyterLab in the page"
        )
        page.evaluate("() => jupyterapp.restored.then(() => null)")
        how = {} if kernel else {"shouldStart": False, "shouldReuse": False}
        notebook.command("docmanager:open", path=name, factory="Notebook", kernelPreference=how)
        page.evaluate("() => jupyterapp.shell.collapseLeft()")
        notebook.wait("panel?.context.isReady", f"{name} on the screen")
        if kernel:
            # The page's own "idle" is already there before the kernel, and Run All does nothing.
            notebook.wait(
                "kernel?.connectionStatus === 'connected' && kernel.status === 'idle'",
                "an idle kernel",
            )
        return notebook


LAPTOP = {"width": 1200, "height": 900}
NARROW = {"width": 400, "height": 900}


class Notebook:
    """One notebook in JupyterLab. `page` is Playwright's, for all that is not here."""

    # What the expressions of `value` and `wait` may name.
    NAMES = """
        const panel = [...(window.jupyterapp?.shell.widgets("main") ?? [])]
            .find((widget) => widget.context?.path === PATH);
        const kernel = panel?.sessionContext.session?.kernel;
        const cells = [...(panel?.content.model?.cells ?? [])];
        const code = cells.filter((cell) => cell.type === "code");
        const outputs = code.map((cell) => cell.sharedModel.getOutputs());
        const failed = outputs.flat().filter((output) => output.output_type === "error");
    """

    def __init__(self, lab: Lab, page: Any, name: str):
        self.lab, self.page, self.name = lab, page, name
        self.path = lab.folder / name
        self.errors = collect_errors(page)

    # --- asking ---

    def _function(self, expression: str) -> str:
        names = f"const PATH = {json.dumps(self.name)}; {self.NAMES}"
        return f"() => {{ {names} return {expression}; }}"

    def value(self, expression: str) -> Any:
        """A JavaScript expression over the names above, and a promise's value."""
        return self.page.evaluate(self._function(expression))

    def wait(self, expression: str, what: str, timeout: float = TIMEOUT) -> None:
        """Wait until `expression` is true; `what` is what the error message then misses."""
        from playwright.sync_api import TimeoutError as Late

        try:
            self.page.wait_for_function(self._function(expression), timeout=timeout, polling=200)
        except Late:
            screen = screenshot(self.page, f"waiting-{self.path.stem}")
            raise AssertionError(
                f"{self.name}: there is not {what}, after {timeout / 1000:.0f} s; see {screen}.\n"
                f"{self.errors}\n{self.lab.log_tail()}"
            ) from None

    def command(self, name: str, **arguments: Any) -> None:
        """One of JupyterLab's own commands, until it is done."""
        self.page.evaluate(
            "([name, given]) => jupyterapp.commands.execute(name, given).then(() => null)",
            [name, arguments],
        )

    def cell(self, number: int) -> Any:
        """Locator of a code cell, from 0."""
        return self.page.locator(".jp-CodeCell").nth(number)

    def counts(self) -> list[int | None]:
        """The execution count of each code cell."""
        return self.value("code.map((cell) => cell.executionCount)")

    # --- doing ---

    def run_all(self) -> None:
        """Start all cells; `wait_until_done` waits for them."""
        self.page.evaluate(
            "() => { void jupyterapp.commands.execute('notebook:run-all-cells'); return null; }"
        )

    def wait_until_done(self, cells: int | None = None, timeout: float = 600_000) -> None:
        """Wait until the first `cells` code cells, or all, have run. One that fails ends it."""
        first = f"code.slice(0, {cells or 'undefined'})"
        self.wait(
            f"failed.length || {first}.every((cell) => cell.executionCount !== null"
            " && cell.executionState === 'idle')",
            "an end of the run",
            timeout,
        )
        failed = self.value("failed.map((output) => output.traceback.join('\\n'))")
        assert not failed, re.sub(r"\x1b\[[\d;]*m", "", failed[0])

    def interrupt(self) -> None:
        """The square in the notebook's toolbar."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def save(self) -> None:
        self.command("docmanager:save")
        self.wait("!panel.context.model.dirty", "a saved notebook")

    def shut_down_kernel(self) -> None:
        self.value("panel.sessionContext.shutdown().then(() => null)")
        self.wait("!kernel", "an end of the kernel")

    def theme(self, dark: bool) -> None:
        """JupyterLab Light or Dark; it stays so for the pages opened after this one."""
        self.command("apputils:change-theme", theme=f"JupyterLab {'Dark' if dark else 'Light'}")
        self.wait(f"document.body.dataset.jpThemeLight === '{str(not dark).lower()}'", "that theme")

    def resize(self, width: int, height: int = 900) -> None:
        self.page.set_viewport_size({"width": width, "height": height})

    def close(self) -> None:
        """Shut the kernel down, close the page, and see that no script has failed in it."""
        if self.value("!!kernel"):
            self.shut_down_kernel()
        self.page.context.close()
        self.lab.notebooks.remove(self)
        assert not self.errors, self.errors


# --- the player -------------------------------------------------------------------------------


class Player:
    """One player in a page; what the tests know of its insides is here."""

    def __init__(self, page: Any, index: int = 0):
        self.page = page
        self.root = page.locator('.mnb-player[data-ready="1"]').nth(index)

    def part(self, name: str) -> Any:
        """Locator of the parts of one class that are to be seen."""
        return self.root.locator(f".{name}:visible")

    # `text_content`, not `inner_text`: JupyterLab skips the layout of cells that are out of sight
    # (content-visibility), and the inner text of all that is in them is "".

    def step(self) -> int:
        return int(self.part("clock").text_content().split(" / ")[0])

    def last_step(self) -> int:
        return int(self.part("clock").text_content().split(" / ")[1])

    def note(self) -> str:
        """How long the episode is, and its seed."""
        return self.part("note").text_content()

    def picture(self) -> bytes:
        """The file of the (first) picture on the screen."""
        return base64.b64decode(self.part("frame").first.get_attribute("src").split(",")[1])

    def facts(self) -> list[str]:
        """The numbers beside the picture: step, reward, return, ..."""
        return self.part("facts").first.locator("b").all_text_contents()

    def bars(self) -> list[str]:
        """The numbers beside the bars, such as probabilities."""
        return self.root.locator(".mnb-row:visible span:last-child").all_inner_texts()

    def press(self, key: str) -> None:
        self.root.press(key)

    def point(self, name: str, share: float) -> None:
        """Press the mouse on the slider or chart, `share` of the way from left to right."""
        part = self.part(name).first
        box = part.bounding_box()
        part.click(position={"x": share * (box["width"] - 1), "y": box["height"] / 2})

    def drag(self, name: str, begin: float, end: float) -> None:
        """Drag on the slider or chart from one share of its width to another."""
        part = self.part(name).first
        part.scroll_into_view_if_needed()
        box = part.bounding_box()
        places = [(box["x"] + share * (box["width"] - 1)) for share in (begin, end)]
        middle = box["y"] + box["height"] / 2
        self.page.mouse.move(places[0], middle)
        self.page.mouse.down()
        self.page.mouse.move(places[1], middle, steps=5)
        self.page.mouse.up()

    def play_to_the_end(self) -> None:
        self.part("speed").select_option("4")
        self.part("play").click()
        self.part("end").first.wait_for()


# --- what is wrong with a page, in the browser's words -----------------------------------------

OUTSIDE = """
(root) => {
  const box = root.getBoundingClientRect();
  const wrong = [];
  for (const node of root.querySelectorAll("*")) {
    const own = node.getBoundingClientRect();
    if (!own.width || node.closest("svg, .track")) continue;
    const name = node.tagName + "." + node.className;
    if (own.left < box.left - 1 || own.right > box.right + 1) wrong.push(name + " is outside");
    const cut = getComputedStyle(node).overflowX !== "visible" && node.tagName !== "INPUT";
    if (cut && node.scrollWidth > node.clientWidth + 1) wrong.push(name + " is cut off");
  }
  return wrong;
}
"""

PALE = """
(root) => {
  const rgba = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((x, i) => a * x + (1 - a) * under[i]);
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own.length < 4 || own[3] === 1 ? own : over(own, behind(node.parentElement));
  };
  const light = (color) => color.map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const wrong = [];
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), node = texts.currentNode.parentElement;
    if (!text || !node.checkVisibility() || node.closest("script, style")) continue;
    const ground = behind(node);
    const [a, b] = [light(ground), light(over(rgba(getComputedStyle(node).color), ground))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) wrong.push(`${contrast.toFixed(1)}: ${node.className} ${text}`);
  }
  return wrong;
}
"""


def outside(root: Any) -> list[str]:
    """What lies outside of `root`, a locator, or is cut off in it."""
    return root.evaluate(OUTSIDE)


def pale(root: Any) -> list[str]:
    """Text in `root` whose contrast is below 4.5, as the WCAG count it, and that contrast."""
    return root.evaluate(PALE)


# --- notebooks on disk ------------------------------------------------------------------------


def write_notebook(path: Path, *sources: str) -> Path:
    """A notebook of code cells."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, path)
    return path


def copy_without_outputs(source: Path, target: Path) -> Path:
    """A notebook as if it had never run."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, target)
    return target


def copy_untrusted(source: Path, target: Path) -> Path:
    """A notebook as it comes from someone else: no signature of this JupyterLab fits it."""
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("Signed by nobody."))
    nbformat.write(notebook, target)
    return target
