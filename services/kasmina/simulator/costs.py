"""Parameters and multiply-adds of a simulated network, by the accounting of a real one
(`kasmina.network.cost`): a training step is three forward passes; a seed that learns apart costs
three of its own and two of what lies downstream. What telemetry costs is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from kasmina.network.slot import Stage
from kasmina.simulator.network import SimulatedNetwork
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.situation import HiddenSeed


class Costs:
    """What networks of an episode cost. All stages of the host are taken to cost the same."""

    def __init__(self, parameters: Parameters) -> None:
        episode, host = parameters.episode, parameters.host
        self._parameters = host.parameters
        self._forward = host.multiply_adds
        self._stages = episode.slots
        self._training_images = episode.batches * episode.batch_size
        self._validation_images = episode.validation_images

    def parameters(self, live: Sequence[HiddenSeed]) -> int:
        """Of the host with its live seeds."""
        return self._parameters + sum([seed.parameters for seed in live])

    def forward(self, live: Sequence[HiddenSeed]) -> int:
        """Multiply-adds of one image's forward pass through that network."""
        return self._forward + sum([seed.multiply_adds for seed in live])

    @property
    def bare(self) -> int:
        """Multiply-adds of an interval of the host alone: three passes an image, and validation."""
        return self._forward * (3 * self._training_images + self._validation_images)

    def validation(self, live: Sequence[HiddenSeed]) -> int:
        """Multiply-adds of a validation."""
        return self.forward(live) * self._validation_images

    def training(self, network: SimulatedNetwork) -> int:
        """Multiply-adds of an interval's training, shadow passes included."""
        a_step = 3 * self.forward(network.live_seeds())
        for slot, seed in zip(network.slots, network.seeds, strict=True):
            if slot.stage is Stage.TRAINING:
                a_step += 3 * seed.multiply_adds + 2 * self._downstream(slot.depth, network)
        return a_step * self._training_images

    def _downstream(self, depth: int, network: SimulatedNetwork) -> int:
        host = self._forward * (self._stages - 1 - depth) // self._stages
        later = zip(network.slots[depth + 1 :], network.seeds[depth + 1 :], strict=True)
        return host + sum([seed.multiply_adds for slot, seed in later if slot.is_live])
