"""Shared by all tests."""

import hypothesis
import pytest
import torch

from metis_nb.agents import networks

hypothesis.settings.register_profile("project", deadline=None, max_examples=50)
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _untrained_networks_differ(request, monkeypatch):
    """As they are made, all of them say the same to everything: few tests could fail with those.

    Tests that train to learn, and those marked `as_made`, have the networks that everybody gets.
    """
    if not any(map(request.node.get_closest_marker, ("learning", "as_made"))):
        monkeypatch.setattr(networks, "HEAD_GAIN", 0.3)
