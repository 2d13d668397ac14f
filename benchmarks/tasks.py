"""What the benchmarks ask of each algorithm."""

# algorithm: {task: (return that counts as solved, environment steps)}
TASKS = {
    "VPG": {"CartPole-v1": (475, 300_000), "Acrobot-v1": (-120, 500_000)},
    "A2C": {
        "CartPole-v1": (475, 200_000),
        "Acrobot-v1": (-100, 500_000),
        "Pendulum-v1": (-300, 500_000),
    },
    "PPO": {
        "CartPole-v1": (475, 100_000),
        "Acrobot-v1": (-100, 300_000),
        "Pendulum-v1": (-250, 300_000),
    },
}
VALUES = {
    "CartPole-v1": (475, 100_000),
    "Acrobot-v1": (-100, 150_000),
    "Pendulum-v1": (-250, 60_000),  # 11 torques
    "MountainCar-v0": (-130, 300_000),
}
CONTINUOUS = {"Pendulum-v1": (-200, 20_000), "MountainCarContinuous-v0": (90, 50_000)}
TASKS |= {"DQN": VALUES, "DDQN": VALUES, "DDPG": CONTINUOUS, "TD3": CONTINUOUS}
TASKS |= {"SAC": {"CartPole-v1": (475, 100_000), "Acrobot-v1": (-100, 150_000)} | CONTINUOUS}
