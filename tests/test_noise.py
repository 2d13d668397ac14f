"""Noise that is correlated in time: its distribution, its memory, its shapes."""

import numpy as np
import pytest
import torch

from metis_nb.learning.noise import Noise

CORRELATIONS = [0.0, 0.5, 0.85, 0.99]


def numbers(correlation, length, num_envs):
    """(length, num_envs) of one noise."""
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    like = torch.zeros(num_envs, 1)
    rows = [noise.sample(like, correlation, generator)[:, 0] for _ in range(length)]
    return torch.stack(rows).double().numpy()


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_mean_0_and_variance_1_at_every_moment(correlation):
    """The first too, and however long it has gone on. Over 20,000 environments."""
    rows = numbers(correlation, 60, 20_000)
    assert np.abs(rows.mean(1)).max() < 5 / 20_000**0.5
    assert np.abs(rows.var(1) - 1).max() < 5 * (2 / 20_000) ** 0.5
    # As a normal distribution has it: 95.45% within two standard deviations, kurtosis 3.
    assert (np.abs(rows) < 2).mean(1) == pytest.approx(0.9545, abs=0.008)
    assert (rows[-1] ** 4).mean() == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("correlation", CORRELATIONS)
def test_the_correlation_is_the_one_asked_for(correlation):
    """c for neighbours, c^k over k steps; none between environments."""
    rows = numbers(correlation, 12, 20_000)
    for lag in (1, 2, 5):
        found = np.mean(rows[lag:] * rows[:-lag])
        assert found == pytest.approx(correlation**lag, abs=0.03)
    assert abs(np.mean(rows[:, 0::2] * rows[:, 1::2])) < 0.03


def test_dimensions_and_environments_have_noise_of_their_own():
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    rows = [noise.sample(torch.zeros(2, 3), 0.5, generator) for _ in range(5000)]
    table = np.corrcoef(torch.stack(rows).flatten(1).T.double().numpy())
    assert np.abs(table - np.eye(6)).max() < 0.1


def test_a_correlation_of_1_never_changes_and_one_of_0_forgets():
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    first = noise.sample(torch.zeros(4, 2), 1.0, generator)
    assert torch.equal(noise.sample(torch.zeros(4, 2), 1.0, generator), first)
    alone = torch.Generator().manual_seed(3)
    fresh = noise.sample(torch.zeros(4, 2), 0.0, torch.Generator().manual_seed(3))
    assert torch.equal(fresh, torch.empty(4, 2).normal_(generator=alone))


def test_the_correlation_may_change_on_the_way():
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    last = noise.sample(torch.zeros(5, 1), 0.3, generator)
    for correlation in (0.9, 0.0, 0.5):
        twin = torch.Generator()
        twin.set_state(generator.get_state())
        fresh = torch.empty(5, 1).normal_(generator=twin)
        now = noise.sample(torch.zeros(5, 1), correlation, generator)
        assert torch.allclose(now, correlation * last + (1 - correlation**2) ** 0.5 * fresh)
        last = now


@pytest.mark.parametrize("before", [0, 3])
def test_it_goes_on_from_a_state_dict(before):
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    for _ in range(before):
        noise.sample(torch.zeros(3, 2), 0.9, generator)
    other, twin = Noise(), torch.Generator()
    other.load_state_dict(noise.state_dict())
    twin.set_state(generator.get_state())
    for _ in range(3):
        expected = noise.sample(torch.zeros(3, 2), 0.9, generator)
        assert torch.equal(other.sample(torch.zeros(3, 2), 0.9, twin), expected)
    saved = noise.state_dict()["last"].clone()
    kept = noise.state_dict()
    noise.sample(torch.zeros(3, 2), 0.9, generator)
    assert torch.equal(kept["last"], saved)  # a state that was taken stays as it was


def test_another_number_of_environments_begins_anew():
    noise, generator = Noise(), torch.Generator().manual_seed(0)
    noise.sample(torch.zeros(3, 2), 1.0, generator)
    alone = torch.Generator()
    alone.set_state(generator.get_state())
    found = noise.sample(torch.zeros(5, 2), 1.0, generator)
    assert torch.equal(found, torch.empty(5, 2).normal_(generator=alone))


def test_it_moves_and_follows_the_kind_of_number():
    noise = Noise()
    assert noise.to("meta") is noise  # nothing to move yet
    noise.sample(torch.zeros(2, 1), 0.5)
    assert noise.to("meta").last.device.type == "meta"
    assert Noise().sample(torch.zeros(2, 1, dtype=torch.float64)).dtype == torch.float64


def test_chance_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    one, two = (Noise().sample(torch.zeros(4, 1), 0.5, generator) for generator in generators)
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
