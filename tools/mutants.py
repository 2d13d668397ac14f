"""Could the tests fail? The classic bugs of deep RL, one at a time, and which test catches each.

    python tools/mutants.py                       all of them, which takes half an hour
    python tools/mutants.py --only ppo-max sac-*  some, by their names; * stands for anything
    python tools/mutants.py --list                what there is
    python tools/mutants.py --quick               the likely tests of each alone
    python tools/mutants.py --save                writes docs/mutants.jsonl, a row for each
    python tools/mutants.py --save --continue     leaves out the rows that hold still: nothing that
                                                  they depend on has changed since

The bugs are in `mutant_list.py`. Each is put into a copy of the tracked files, never into these.
The likely tests for its file run first, file after file, and if all of them pass, all others.
What compares with a record of itself (golden curves, docs) judges nothing: it notices any change,
a right one too. Nor does a test that fails without a bug.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import functools
import hashlib
import json
import multiprocessing
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

try:
    from tools.mutant_list import LIKELY, MUTANTS, Mutant
except ModuleNotFoundError:  # run as a script, `tools` is where Python looks
    from mutant_list import LIKELY, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "docs" / "mutants.jsonl"
# What is right or wrong by itself. Not among them: golden curves, docs, notebooks, pages, releases.
JUDGES = (
    *("vpg", "a2c", "ppo", "dqn", "ddpg_td3", "sac", "replay", "noise", "agents", "envs"),
    *("training", "trainers", "checkpoint", "exact", "discretize", "snapshot", "hyperparameters"),
    *("q_critic_ladder", "advice"),
)
LIKELY_LIMIT, WHOLE_LIMIT = 120, 900  # seconds, after which tests count as hanging


class Broken(Exception):
    """A mutant that says nothing: its text is not there, or what it makes cannot run."""


def mutated(mutant: Mutant, root: Path = ROOT) -> str:
    """The file of the package with the bug in it.

    Raises:
        Broken: the text to replace is not there exactly once, or the result is no Python.
    """
    path = root / "metis_nb" / mutant.file
    text = path.read_text(encoding="utf-8")
    if (count := text.count(mutant.old)) != 1:
        raise Broken(
            f"{mutant.id}: its text stands {count} times in {mutant.file}, expected once. The "
            f"source has changed: write it anew in tools/mutant_list.py.\n{mutant.old}"
        )
    result = text.replace(mutant.old, mutant.new)
    try:
        compile(result, str(path), "exec")
    except SyntaxError as error:
        raise Broken(f"{mutant.id}: what it makes of {mutant.file} is no Python: {error}") from None
    return result


# --- running tests --------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a run of pytest came to."""

    failed: list[str]  # tests that did, in order
    hangs: bool
    seconds: float


def likely(mutant: Mutant) -> list[list[str]]:
    """Arguments of pytest: the tests that should see a bug here, file after file."""
    if mutant.tests:
        return [[located(name) for name in mutant.tests]]
    files, keyword = LIKELY[mutant.file]
    return [[located(name), *(["-k", keyword] if keyword else [])] for name in files]


def located(name: str) -> str:
    """ "ppo::test_x" -> "tests/test_ppo.py::test_x"."""
    file, *rest = name.split("::")
    return "::".join([f"tests/test_{file}.py", *rest])


# Each run of pytest is a fork of a process that has imported once what takes longest; on Windows,
# which has no forks, a process that imports it again.
PROCESSES = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)
if hasattr(PROCESSES, "set_forkserver_preload"):
    PROCESSES.set_forkserver_preload(
        [
            "torch._dynamo",
            "gymnasium.vector",
            "gymnasium.wrappers",
            "pytest",
            "hypothesis",
            "psutil",
        ]
    )
# Of pytest's plugins, what tests use here; to load the others takes longer than most tests.
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "_hypothesis_pytestplugin"}


def run_tests(folder: Path, arguments: list[str], limit: float) -> Outcome:
    """Run tests in a copy.

    Raises:
        Broken: pytest could not even collect them.
    """
    command = ["-q", "-rfE", "--tb=no", "-m", "not learning", "-p", "no:cacheprovider"]
    # The same numbers in each run, or a bug might be found today and not tomorrow.
    command += ["--hypothesis-seed=0", *arguments]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        said = Path(temporary) / "said"
        process = PROCESSES.Process(target=in_copy, args=(str(folder), command, str(said)))
        process.start()
        process.join(limit)
        hangs = process.is_alive()
        if hangs:
            end(process.pid)
            process.join()
        output = said.read_text(encoding="utf-8", errors="replace") if said.exists() else ""
    seconds = time.perf_counter() - began
    if hangs:
        return Outcome([], True, seconds)
    found = r"^(?:FAILED|ERROR) (tests/\S+?\.py::[\w:]+(?:\[.*?\])?)(?: - .*)?$"
    failed, code = re.findall(found, output, re.MULTILINE), process.exitcode
    if code < 0:
        failed = [f"ended by signal {-code}"]
    elif code not in (0, 1, 5) or (code == 1) != bool(failed):  # 5: nothing to run
        raise Broken(f"pytest {' '.join(arguments)} ended with {code}:\n{output[-3000:]}")
    return Outcome(failed, False, seconds)


def in_copy(folder: str, arguments: list[str], said: str) -> None:
    """In a process of its own: pytest, which imports what is in the copy."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that what tests start ends with them
    file = os.open(said, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    os.environ.update(OMP_NUM_THREADS="1", METIS_NB_TEST="1", COLUMNS="400", PYTHONPATH=folder)
    os.environ.update(PLUGINS)
    here = {str(ROOT), str(ROOT / "tools"), ""}
    sys.path[:] = [folder, *(place for place in sys.path if place not in here)]
    for name in [*sys.modules]:
        if name.split(".")[0] in ("metis_nb", "tests", "tools"):
            del sys.modules[name]
    import pytest
    import torch

    torch.set_num_threads(1)  # the variable came too late for what was imported before
    code = int(pytest.main(arguments))
    sys.stdout.flush()
    os._exit(code)  # threads that tests have left do not matter


def end(pid: int) -> None:
    """Kill it, and what it started."""
    if hasattr(os, "killpg"):
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGTERM)


@functools.cache
def failing_without_a_bug(folder: Path, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Tests that fail in the copy as it is, which judge nothing."""
    outcome = run_tests(folder, [*arguments], WHOLE_LIMIT)
    if outcome.hangs:
        raise Broken(f"the tests take more than {WHOLE_LIMIT} seconds without a bug")
    return tuple(outcome.failed)


def copied(folder: Path) -> Path:
    """A copy of the tracked files, as they are now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in names.stdout.decode().split("\0"):
        source, target = ROOT / name, folder / name
        if name and source.is_file() and source.suffix not in (".ipynb", ".png", ".gif"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return folder.resolve()


# --- judging --------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What became of one bug."""

    id: str
    file: str
    bug: str
    caught_by: str | None  # a test, or how else it showed; None: by nothing
    survives: str  # why it is no bug, where nothing can catch it
    seconds: float
    key: str  # of all that this depends on


def everything() -> tuple[str, ...]:
    """All tests that judge."""
    return tuple(located(name) for name in JUDGES)


def judged(mutant: Mutant, folder: Path, broken: FailingAnyway, quick: bool = False) -> Verdict:
    """Put the bug into the copy, run tests until one fails, and take it out again."""
    began, found = time.perf_counter(), None
    path = folder / "metis_nb" / mutant.file
    before = path.read_text(encoding="utf-8")
    path.write_text(mutated(mutant, folder), encoding="utf-8")
    forget(path)
    try:
        stages = [(arguments, LIKELY_LIMIT) for arguments in likely(mutant)]
        stages += [] if quick else [([*everything()], WHOLE_LIMIT)]
        for arguments, limit in stages:
            skipped = [f"--deselect={name}" for name in broken(arguments)]
            outcome = run_tests(folder, [*arguments, "-x", *skipped], limit)
            found = "hang" if outcome.hangs else next(iter(outcome.failed), None)
            if found is not None:
                break
    finally:
        path.write_text(before, encoding="utf-8")
        forget(path)
    seconds = round(time.perf_counter() - began, 1)
    key = key_of(mutant, found) if found or not quick else ""  # "": not yet known
    return Verdict(mutant.id, mutant.file, mutant.bug, found, mutant.survives, seconds, key)


def forget(path: Path) -> None:
    """Its compiled file: Python looks at size and second alone to see whether it is up to date."""
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


class FailingAnyway:
    """Which tests fail without a bug: found once for each selection, in a copy of its own."""

    def __init__(self, folder: Path, known: tuple[str, ...] | None = None):
        self.folder, self.known, self.lock = folder, known, threading.Lock()

    def __call__(self, arguments: list[str]) -> tuple[str, ...]:
        if self.known is not None:
            return self.known
        with self.lock:
            return failing_without_a_bug(self.folder, tuple(arguments))


def key_of(mutant: Mutant, caught_by: str | None) -> str:
    """Of what a verdict depends on: the bug, its file and the test that catches it. Where nothing
    catches it, the whole package and all tests that judge."""
    parts: list[str | bytes] = [str(mutant), (ROOT / "metis_nb" / mutant.file).read_bytes()]
    file, _, test = (caught_by or "").partition("::")
    if test:
        text = (ROOT / file).read_text(encoding="utf-8")
        name = re.split(r"[\[]", test)[0]
        found = (n for n in ast.walk(ast.parse(text)) if getattr(n, "name", None) == name)
        parts.append(next((ast.get_source_segment(text, node) or "" for node in found), ""))
    else:
        tests = [ROOT / located(name) for name in JUDGES]
        package = sorted((ROOT / "metis_nb").rglob("*.py"))
        parts += [path.read_bytes() for path in (*package, *tests)]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def judge_all(
    mutants: list[Mutant],
    jobs: int = 1,
    record: Path | None = None,
    quick: bool = False,
    sound: bool = False,  # all tests are known to pass without a bug
    progress: bool = True,
) -> list[Verdict]:
    """A verdict on each, in their order; each is written to `record` as soon as it is there."""
    for mutant in mutants:
        mutated(mutant)  # a list that has rotted is told before anything runs
    verdicts: dict[str, Verdict] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        whole = copied(Path(temporary) / "whole")
        known: tuple[str, ...] | None = () if sound else None
        if known is None and len(mutants) > 20:  # else the tests of each are tried without a bug
            tqdm.write("The tests as they are ...", file=sys.stderr)
            known = failing_without_a_bug(whole, everything())
            for name in known:
                tqdm.write(f"fails without a bug, so it judges nothing: {name}", file=sys.stderr)
            if record is not None and not known:
                add(record, nothing_wrong())
        broken = FailingAnyway(whole, known)
        folders: queue.Queue[Path] = queue.Queue()
        for index in range(jobs):
            folders.put(copied(Path(temporary) / str(index)))

        def judge(mutant: Mutant) -> Verdict:
            folder = folders.get()
            try:
                return judged(mutant, folder, broken, quick)
            finally:
                folders.put(folder)

        with ThreadPoolExecutor(jobs) as pool:
            waiting = [pool.submit(judge, mutant) for mutant in mutants]
            try:
                bar = tqdm(as_completed(waiting), total=len(waiting), disable=not progress)
                for future in bar:
                    verdict = future.result()
                    verdicts[verdict.id] = verdict
                    lost = sum(each.caught_by is None for each in verdicts.values())
                    bar.set_postfix_str(f"{lost} not caught, last: {verdict.id}")
                    if record is not None:
                        add(record, verdict)
            finally:
                pool.shutdown(cancel_futures=True)
    return [verdicts[mutant.id] for mutant in mutants]


# --- telling --------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Verdict]:
    """The last verdict on each."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["id"]: Verdict(**row) for row in rows}


def add(path: Path, verdict: Verdict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(verdict)) + "\n")


NO_BUG = Mutant("no bug", "trainers/ppo.py", "all tests that judge pass", "", "")


def nothing_wrong() -> Verdict:
    """That the tests pass as they are is a row of the record, too, and holds while they stay."""
    no = NO_BUG
    return Verdict(no.id, no.file, no.bug, None, "there is none", 0.0, key_of(no, None))


def holds(mutant: Mutant, verdict: Verdict | None) -> bool:
    """Whether nothing has changed that a verdict depends on."""
    return verdict is not None and verdict.key == key_of(mutant, verdict.caught_by)


def write(path: Path, verdicts: list[Verdict]) -> None:
    lines = [json.dumps(asdict(verdict)) for verdict in verdicts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(verdicts: list[Verdict]) -> str:
    """A row for each, and the totals."""
    width = max(len(verdict.id) for verdict in verdicts)
    lines = []
    for v in verdicts:
        found = v.caught_by or (f"- ({v.survives})" if v.survives else "NOT CAUGHT")
        lines.append(f"{v.id:{width}}  {v.seconds:6.1f} s  {found.removeprefix('tests/')}")
        lines.append(f"{'':{width}}            {v.bug}")
    caught = [v for v in verdicts if v.caught_by]
    explained = [v for v in verdicts if not v.caught_by and v.survives]
    lines.append(
        f"{len(verdicts)} bugs, {len(caught)} caught ({100 * len(caught) / len(verdicts):.1f} %), "
        f"{sum(v.caught_by == 'hang' for v in caught)} of them by hanging; {len(explained)} that "
        f"change nothing, {len(verdicts) - len(caught) - len(explained)} that should be caught; "
        f"{sum(v.seconds for v in verdicts) / 60:.0f} minutes."
    )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="ID", default=["*"], help="ids; * is anything")
    parser.add_argument("--jobs", type=int, default=1, help="tests at once")
    parser.add_argument("--list", action="store_true", help="name them, run nothing")
    parser.add_argument("--save", action="store_true", help=f"write {RECORD.relative_to(ROOT)}")
    parser.add_argument("--quick", action="store_true", help="the likely tests alone")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="what is not there")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
    chosen = [m for m in MUTANTS if any(fnmatch.fnmatch(m.id, name) for name in options.only)]
    if not chosen:
        parser.error(f"no mutant is called {' or '.join(options.only)}; --list names them")
    if options.list:
        for mutant in chosen:
            print(f"{mutant.id:36} {mutant.file:24} {mutant.bug}")
        print(f"{len(chosen)} bugs")
        return 0
    recorded = read(RECORD)
    todo = [m for m in chosen if not (options.go_on and holds(m, recorded.get(m.id)))]
    record = RECORD if options.save else None
    sound = holds(NO_BUG, recorded.get(NO_BUG.id))
    fresh = judge_all(todo, options.jobs, record, options.quick, sound) if todo else []
    verdicts = read(RECORD) | {verdict.id: verdict for verdict in fresh}
    if options.save:  # in the order of the list, without those that are no longer in it
        write(RECORD, [verdicts[m.id] for m in (NO_BUG, *MUTANTS) if m.id in verdicts])
    found = [verdicts[m.id] for m in chosen]
    print(table(found))
    return any(not v.caught_by and not v.survives for v in found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
