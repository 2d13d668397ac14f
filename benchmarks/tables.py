"""The tables of README.md and benchmarks/README.md, from the rows in benchmarks/results/.

    python benchmarks/tables.py            say which tables are not those of the rows; exit code 1
                                           where there are any
    python benchmarks/tables.py --write    put them right

A table stands between two comments, `<!-- table: seeds -->` and `<!-- end of table -->`. The other
scripts make the rows: one JSON object a line; a line with "about" says on what they were measured.
"""

import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # also where this is imported as benchmarks.tables

from tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
KINDS = ("16 environments", "one environment")
Rows = Sequence[dict]


# --- rows -----------------------------------------------------------------------------------------


def read(name: str) -> list[dict]:
    """The rows of results/name.jsonl, less the line about them."""
    return [row for row in _lines(name) if "about" not in row]


def about(name: str) -> str:
    """On what they were measured."""
    return "; ".join(row["about"] for row in _lines(name) if "about" in row)


def _lines(name: str) -> list[dict]:
    text = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def save(name: str, rows: Iterable[dict], measured_on: str) -> None:
    """Write rows to results/name.jsonl."""
    RESULTS.mkdir(exist_ok=True)
    lines = [json.dumps(row) + "\n" for row in [{"about": measured_on}, *rows]]
    (RESULTS / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def chosen(rows: Rows, **what: object) -> list[dict]:
    """Those rows in which all of this stands."""
    return [row for row in rows if all(row[name] == value for name, value in what.items())]


def median(values: Iterable[float | None]) -> float:
    """Of numbers; None is as large as can be: what never came."""
    return statistics.median(math.inf if value is None else value for value in values)


def markdown(header: str, alignment: str, rows: Iterable[Sequence[str]]) -> str:
    """A table: names of columns, `l` or `r` for each, and cells."""
    rule = "|".join("---" if side == "l" else "--:" for side in alignment)
    return "\n".join([f"| {header} |", f"|{rule}|", *(f"| {' | '.join(row)} |" for row in rows)])


# --- tables ---------------------------------------------------------------------------------------


def groups(rows: Rows) -> Iterable[tuple[str, str, str, int, int, list[dict]]]:
    """Algorithm, task, kind, bar, steps and the rows, by seed, of each that has any."""
    for algorithm, tasks in TASKS.items():
        for task, (bar, steps) in tasks.items():
            for kind in KINDS:
                own = chosen(rows, algorithm=algorithm, task=task, kind=kind)
                if own:
                    own.sort(key=lambda row: row["seed"])
                    yield algorithm, task, kind, bar, steps, own


def seeds(rows: Rows) -> str:
    """Do the defaults solve their tasks, seed after seed?"""
    cells = []
    for algorithm, task, kind, bar, steps, own in groups(rows):
        returns = [row["return"] for row in own]
        cells.append(
            [
                algorithm,
                f"{task} ({bar})",
                f"{steps:,}",
                kind,
                f"{sum(value >= bar for value in returns)} of {len(own)}",
                f"{statistics.median(returns):.1f}",
                f"{min(returns):.1f}",
                f"{median(row['cpu_seconds'] for row in own):.1f}",
                f"{median(row['cpu_seconds_to_bar'] for row in own):.1f}",
                f"{median(row['steps_to_bar'] for row in own):,.0f}",
            ]
        )
    header = "| task (bar) | steps | trained on | solved | median return | worst | CPU seconds "
    header += "| of them to the bar | steps to the bar"
    return markdown(header, "llrlrrrrrr", cells)


def solved(rows: Rows) -> bool:
    """Whether nine tenths of the seeds solve each task."""
    return all(
        sum(row["return"] >= bar for row in own) >= 0.9 * len(own)
        for *_, bar, _, own in groups(rows)
    )


def seed_by_seed(rows: Rows) -> str:
    """Every return, as a list."""
    lines = []
    for algorithm, task, kind, *_, own in groups(rows):
        returns = ", ".join(f"{row['return']:.1f}" for row in own)
        lines.append(f"- {algorithm}, {task}, {kind}: {returns}")
    return "\n".join(lines)


def until(own: Rows) -> list[str]:
    """How many came to the bar, and after how many CPU seconds and environment steps."""
    seconds = [row["cpu_seconds"] if row["reached"] else math.inf for row in own]
    return [
        f"{sum(row['reached'] for row in own)} of {len(own)}",
        f"{median(seconds):.1f}",
        f"{min(seconds):.1f} to {max(seconds):.1f}",
        f"{median(row['steps'] if row['reached'] else None for row in own):,.0f}",
    ]


def speed(rows: Rows) -> str:
    """How long until CartPole is solved?"""
    cells = []
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = chosen(rows, contender=name)
        greedy = [row["greedy_return"] for row in own]
        cells.append([name, *until(own), f"{statistics.median(greedy):.1f}", f"{min(greedy):.1f}"])
    header = "contender (environments) | reached 475 | CPU seconds, median | range | steps, median "
    header += "| greedy return at the stop, median | worst"
    return markdown(header, "lrrrrrr", cells)


def to_bar(rows: Rows) -> str:
    """How long until Pendulum is solved, with a memory?"""
    cells = []
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = chosen(rows, algorithm=name)
        cells.append([name, *until(own), f"{min(row['greedy_return'] for row in own):.1f}"])
    header = "| reached -200 | CPU seconds, median | range | steps, median | greedy return, worst"
    return markdown(header, "lrrrrr", cells)


def beside_theirs(rows: Rows) -> str:
    """A step with its update, ours and that of Stable-Baselines3."""
    cells = []
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = chosen(rows, algorithm=name)
        ratio = statistics.median(row["ours_ms"] / row["theirs_ms"] for row in own)
        ours, theirs = (median(row[key] for row in own) for key in ("ours_ms", "theirs_ms"))
        cells.append([name, f"{ours:.2f}", f"{theirs:.2f}", f"{ratio:.2f}"])
    header = "| metis_nb, ms per step | Stable-Baselines3 | ours in parts of theirs"
    return markdown(header, "lrrr", cells)


def lean_loops(rows: Rows) -> str:
    """A gradient step, ours and that of a loop that does nothing else."""
    cells = []
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        own = chosen(rows, algorithm=name)
        values = (median(row[key] for row in own) for key in ("lean_ms", "ours_ms", "ratio"))
        cells.append([name, *(f"{value:.2f}" for value in values)])
    text = markdown("| lean loop, ms | ours, ms | ours in parts of lean", "lrrr", cells)
    collected = [row["collect_us"] for row in rows if "collect_us" in row]
    if collected:
        each = statistics.median(collected)
        text += f"\n\nPPO collects an environment step, of 16 CartPoles, in {each:.1f} µs."
    return text


def live_plot(rows: Rows) -> str:
    """What the training view costs."""
    cells = []
    for name in dict.fromkeys(row["trained_on"] for row in rows):
        own = chosen(rows, trained_on=name)
        keys = ("cpu_seconds", "pictures", "ms_each", "share", "last_seconds")
        total, number, each, share, last = (median(row[key] for row in own) for key in keys)
        cells.append(
            [name, f"{total:.1f}", f"{number:.0f}", f"{each:.1f}", f"{share:.2%}", f"{last:.2f} s"]
        )
    header = "trained on | CPU seconds | pictures | ms for each | share of training | last picture"
    return markdown(header, "lrrrrr", cells)


def gpu(rows: Rows) -> str:
    """When does a GPU pay?"""
    cells = []
    for name, size in dict.fromkeys((row["algorithm"], row["networks"]) for row in rows):
        own = chosen(rows, algorithm=name, networks=size)
        one, other = (median(row[key] for row in own) for key in ("processor_ms", "gpu_ms"))
        cells.append([name, size, f"{one:.3f}", f"{other:.3f}", f"{one / other:.2f}"])
    header = "| networks | processor, ms per step | GPU | processor's time in parts of the GPU's"
    return markdown(header, "llrrr", cells)


# What stands between the comments: the file of rows, and what makes a table of them.
TABLES: dict[str, tuple[str, Callable[[Rows], str]]] = {
    "seeds": ("seeds", seeds),
    "seed by seed": ("seeds", seed_by_seed),
    "speed": ("speed", speed),
    "to the bar": ("off_policy_to_bar", to_bar),
    "beside Stable-Baselines3": ("off_policy_steps", beside_theirs),
    "lean loops": ("lean_loops", lean_loops),
    "training view": ("live_plot", live_plot),
    "gpu": ("gpu", gpu),
}
MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(\n<!-- end of table -->)", re.S)


def filled(text: str) -> str:
    """A page with the tables that its rows make."""

    def fill(match: re.Match[str]) -> str:
        name, make = TABLES[match[2]]
        measured_on = about(name)
        ending = f"\n\n({measured_on})" if measured_on else ""
        return f"{match[1]}\n{make(read(name))}{ending}\n{match[4]}"

    return MARKED.sub(fill, text)


def main(arguments: list[str]) -> int:
    drifted = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        right = filled(text)
        if right == text:
            continue
        drifted.append(page)
        if arguments == ["--write"]:
            page.write_text(right, encoding="utf-8")
    for page in drifted:
        how = "put right" if arguments == ["--write"] else "not those of benchmarks/results/"
        print(f"{page.relative_to(ROOT)}: tables {how}")
    return bool(drifted) and arguments != ["--write"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
