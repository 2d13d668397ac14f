"""The list of bugs holds on to the source, and the tool that seeds them says what is true."""

import dataclasses
import re

import pytest

from metis_nb import trainers
from tools import mutants
from tools.mutant_list import LIKELY, MUTANTS, Mutant


def test_every_text_stands_once_and_what_it_becomes_is_python():
    """Where this fails, the source has changed: the mutant named has to be written anew."""
    problems = []
    for mutant in MUTANTS:
        assert mutant.new != mutant.old
        try:
            mutants.mutated(mutant)
        except mutants.Broken as error:
            problems.append(str(error))
    assert not problems, "\n\n".join(problems)


def test_there_are_many_each_with_a_name_and_a_line():
    assert len(MUTANTS) >= 60
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.old, mutant.new) for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert len(mutant.bug) > 10, mutant.id
        assert "\n" not in mutant.bug, mutant.id
    for name in map(str.lower, trainers.__all__):
        assert sum(mutant.file == f"trainers/{name}.py" for mutant in MUTANTS) >= 10, name


def test_the_tests_that_are_named_are_there():
    for mutant in MUTANTS:
        for name in (*mutant.tests, *LIKELY[mutant.file][0]):
            file, _, test = name.partition("::")
            text = (mutants.ROOT / mutants.located(file)).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(" if test else "^def test_", text, re.M), name
    for name in mutants.JUDGES:
        assert (mutants.ROOT / mutants.located(name)).exists(), name
    # A record of itself catches every change, and a page of docs says nothing about a bug.
    assert {"golden", "metrics", "house", "mutants"}.isdisjoint(mutants.JUDGES)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("nothing like this", "", "stands 0 times"),
        ("self", "", "expected once"),
        ("return (pi.log_prob(action) - log_prob).exp()", "return (", "is no Python"),
    ],
)
def test_a_text_that_is_not_there_is_named(old, new, says):
    with pytest.raises(mutants.Broken, match=f"one: .*{says}"):
        mutants.mutated(Mutant("one", "trainers/ppo.py", "a bug", old, new))


def test_a_bug_is_caught_what_is_none_is_not_and_the_source_stays():
    """In copies: a test that fails with the bug, passes without it and judges what is none."""
    name = "ppo::test_the_clipped_surrogate_on_numbers_by_hand"
    path = mutants.ROOT / "metis_nb" / "trainers" / "ppo.py"
    before = path.read_bytes()
    old = "-torch.min(ratio * advantage"
    both = ("bug", "-torch.max(ratio * advantage"), ("none", "-torch.min(advantage * ratio")
    found = [Mutant(id, "trainers/ppo.py", "a bug", old, new, (name,)) for id, new in both]
    bug, none = mutants.judge_all(found, quick=True, progress=False)
    assert bug.caught_by == mutants.located(name)
    assert none.caught_by is None
    assert path.read_bytes() == before


def test_what_pytest_says_is_read_right(tmp_path):
    code = "import pytest\n@pytest.mark.parametrize('x', ['a - b', 'c'])\n"
    code += "def test_x(x): assert x == 'c'\ndef test_y(): import time; time.sleep(1e4)\n"
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(code)
    chosen = ["-k", "test_x", "tests/test_it.py"]
    assert mutants.run_tests(tmp_path, chosen, 120).failed == ["tests/test_it.py::test_x[a - b]"]
    assert mutants.run_tests(tmp_path, ["-k", "test_y", "tests/test_it.py"], 3).hangs
    with pytest.raises(mutants.Broken, match="ended with 4"):
        mutants.run_tests(tmp_path, ["tests/test_it.py::test_of_another_name"], 120)


def test_a_verdict_holds_until_what_it_depends_on_changes():
    mutant, test = MUTANTS[0], "ppo::test_the_clipped_surrogate_on_numbers_by_hand"
    key = mutants.key_of(mutant, mutants.located(test))
    verdict = mutants.Verdict(mutant.id, mutant.file, mutant.bug, mutants.located(test), "", 1, key)
    assert mutants.holds(mutant, verdict)
    assert not mutants.holds(mutant, None)
    assert not mutants.holds(dataclasses.replace(mutant, new=mutant.new + " "), verdict)
    other = dataclasses.replace(verdict, caught_by=mutants.located("ppo"))
    assert not mutants.holds(mutant, other)
    assert "1 bugs, 1 caught (100.0 %)" in mutants.table([verdict])
