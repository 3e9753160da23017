"""Keeps the account of an episode's multiply-adds; `kasmina.network.cost` has the tariff."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kasmina.network.cost import HostCost
from kasmina.network.slot import Slot


class Spending:
    """What an episode's intervals have spent so far, as `spent` multiply-adds."""

    def __init__(self, cost: HostCost, slots: Sequence[Slot]) -> None:
        self._cost = cost
        self._slots = slots
        self.spent = 0

    @property
    def of_an_image(self) -> int:
        """Of one image's forward pass through the network as it stands."""
        return self._cost.network(self._slots)

    def bare(
        self,
        training_images: int,
        validation_images: int,
        measured_images: int,
        blueprint_at: Callable[[Slot], str],
    ) -> int:
        """What such an interval costs while there is no seed, and every slot is measured."""
        measured = [self._cost.gradmax(slot.depth, blueprint_at(slot)) for slot in self._slots]
        return (
            training_images * self._cost.training(())
            + validation_images * self._cost.network(())
            + measured_images * sum(measured)
        )

    def trained(self, images: int) -> None:
        """So many images were trained on, repetitions counted."""
        self.spent += images * self._cost.training(self._slots)

    def validated(self, images: int) -> None:
        """So many images went forward."""
        self.spent += images * self.of_an_image

    def ablated(self, images: int) -> None:
        """Each live seed was left out for so many images."""
        self.spent += images * self._cost.ablation(self._slots)

    def measured(self, depth: int, blueprint: str, images: int) -> None:
        """What a new seed could do at that depth was measured on so many images."""
        self.spent += images * self._cost.gradmax(depth, blueprint)
