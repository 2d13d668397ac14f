"""What the processor's tests cannot show, on a GPU. Skipped where there is none."""

import copy

import numpy as np
import pytest
import torch

import metis_nb
from metis_nb import PrioritizedReplay, agents, envs, evaluate, play
from tests.scripted import TorchVector
from tests.test_trainers import (
    NETWORKS,
    WITH_A_MEMORY,
    every_trainer,
    flat,
    make,
    networks_for,
    small,
    trained,
    with_a_memory,
    world,
)

DEVICE = metis_nb.device()
pytestmark = pytest.mark.skipif(DEVICE.type == "cpu", reason="torch finds no GPU")


def on(device, networks):
    for network in flat(networks):
        network.to(device)
    return networks


def numbers_of(networks):
    return [value.cpu() for network in flat(networks) for value in network.state_dict().values()]


def close(networks, others):
    return all(
        torch.allclose(a.double(), b.double(), rtol=1e-3, atol=1e-5)
        for a, b in zip(numbers_of(networks), numbers_of(others), strict=True)
    )


def where(thing):
    return {value.device.type for value in thing.state_dict().values() if torch.is_tensor(value)}


@every_trainer
@pytest.mark.parametrize("kind", ["CartPole", "Pendulum", "16 CartPoles"])
def test_a_training_stays_on_the_gpu(kind, Trainer):
    trainer, networks = small(Trainer, world(Trainer, kind))
    before = copy.deepcopy(on(DEVICE, networks))
    trainer.train(*networks, steps=300)
    assert not close(networks, before)
    assert all(where(network) == {DEVICE.type} for network in flat(networks))
    assert all(np.isfinite(trainer.history[-1][name]) for name in trainer.healthy_ranges)
    if Trainer in WITH_A_MEMORY:
        assert trainer.run.state["memory"].device.type == DEVICE.type


@every_trainer
def test_the_readers_random_generators_are_left_alone(Trainer):
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    on(DEVICE, networks)
    before = getattr(torch, DEVICE.type).get_rng_state(), torch.get_rng_state()
    trainer.train(*networks, steps=256)
    assert torch.equal(before[0], getattr(torch, DEVICE.type).get_rng_state())
    assert torch.equal(before[1], torch.get_rng_state())


@every_trainer
@pytest.mark.parametrize("kind", ["CartPole", "Pendulum", "16 CartPoles"])
def test_train_twice_is_train_once(kind, Trainer):
    trainer, networks = small(Trainer, world(Trainer, kind))
    trainer.train(*on(DEVICE, networks), steps=512)
    other, networks2 = small(Trainer, world(Trainer, kind))
    on(DEVICE, networks2)
    while other.run.steps < 512:
        other.train(*networks2, steps=1)
    assert close(networks, networks2)


@every_trainer
@pytest.mark.parametrize("kind", ["CartPole", "Pendulum"])
def test_a_loaded_trainer_goes_on_where_it_stopped(kind, Trainer, tmp_path):
    trainer, networks = small(Trainer, world(Trainer, kind))
    trainer.train(*on(DEVICE, networks), steps=300)
    trainer.save(tmp_path / "file")
    trainer.train(*networks, steps=256)
    loaded = Trainer.load(tmp_path / "file", world(Trainer, kind))
    loaded.train(*on(DEVICE, trained(loaded)), steps=256)
    assert close(networks, trained(loaded))
    assert loaded.history[-1]["return"] == pytest.approx(trainer.history[-1]["return"], nan_ok=True)


@every_trainer
def test_files_go_from_device_to_device(Trainer, tmp_path):
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    trainer.train(*on(DEVICE, networks), steps=256)
    trainer.save(tmp_path / "gpu")
    network = agents.load(tmp_path / "gpu", NETWORKS[Trainer][0])
    assert where(network) == {"cpu"}
    assert close([network], networks[:1])
    loaded = Trainer.load(tmp_path / "gpu", world(Trainer, "CartPole"))
    loaded.train(*trained(loaded), steps=128)  # on the processor
    loaded.save(tmp_path / "cpu")
    again = Trainer.load(tmp_path / "cpu", world(Trainer, "CartPole"))
    again.train(*on(DEVICE, trained(again)), steps=128)
    assert all(where(network) == {DEVICE.type} for network in flat(trained(again)))
    assert again.run.steps >= 512


@every_trainer
def test_networks_move_between_two_trainings(Trainer):
    trainer, networks = small(Trainer, world(Trainer, "CartPole"))
    for device in ("cpu", DEVICE, "cpu"):
        trainer.train(*on(device, networks), steps=256)
        assert all(where(network) == {torch.device(device).type} for network in flat(networks))
    assert trainer.history[-1]["steps"] >= 768


@every_trainer
def test_what_is_learned_on_the_gpu_can_be_seen(Trainer):
    env = world(Trainer, "Pendulum")
    trainer, networks = small(Trainer, env)
    trainer.train(*on(DEVICE, networks), steps=128)
    policy = networks[0]
    returns = evaluate(env, policy, episodes=3, seed=1)
    on_cpu = evaluate(env, copy.deepcopy(policy).cpu(), episodes=3, seed=1)
    assert np.allclose(returns, on_cpu, rtol=0.05)
    critics = flat(networks[1:])
    state = getattr(torch, DEVICE.type).get_rng_state()
    play(env, policy, critic=critics[0] if critics else None, seed=0)
    assert torch.equal(state, getattr(torch, DEVICE.type).get_rng_state())


@every_trainer
def test_environments_of_torch_on_the_gpu(Trainer):
    env = world(Trainer, "torch")
    if not isinstance(env, TorchVector):
        pytest.skip("wrapped into actions of another kind: the other tests have it")
    env = TorchVector(device=DEVICE)
    trainer, networks = small(Trainer, env)
    trainer.train(*on(DEVICE, networks), steps=256)
    assert env.actions[0].device.type == DEVICE.type
    assert env.handed_out.device.type == DEVICE.type


@with_a_memory
def test_a_prioritized_memory_on_the_gpu(Trainer):
    env = world(Trainer, "16 CartPoles")
    replay = PrioritizedReplay(env, 2_000, device=DEVICE)
    trainer = make(Trainer, env, replay=replay, capacity=2_000, seed=0)
    trainer.train(*on(DEVICE, networks_for(Trainer, env)), steps=512)
    assert replay.device.type == DEVICE.type
    assert len(replay) >= 500


def test_the_memory_says_what_the_gpu_cannot_hold():
    with pytest.raises(MemoryError, match=f"on {DEVICE.type}"):
        PrioritizedReplay(envs.make("CartPole-v1"), 10**12, device=DEVICE)
