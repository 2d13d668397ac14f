"""Shared by all tests."""

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("project", deadline=None, max_examples=50)
hypothesis.settings.load_profile("project")


@pytest.fixture(autouse=True)
def _repeatable():
    torch.manual_seed(0)
