"""A policy and an experience service in a thread, and a small training loop to attach to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import torch
from tests.kasmina.neighbours import Experience, Policy, serving

from kasmina.runs.background_loop import BackgroundLoop


@dataclass
class Neighbours:
    """Who is there, and where."""

    policy: Policy
    experience: Experience
    address: str


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are so small that threads of torch's would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    """Both at one address, until the test is over."""
    with BackgroundLoop() as loop:
        policy, experience = Policy(), Experience()
        stack = AsyncExitStack()
        address = loop.run(stack.enter_async_context(serving(policy, experience)))
        yield Neighbours(policy, experience, address)
        loop.run(stack.aclose())
