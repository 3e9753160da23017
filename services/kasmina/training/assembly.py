"""Puts together what trains one episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kasmina.data.images import Dataset
from kasmina.network.cost import host_cost
from kasmina.network.growth import GrowingNetwork
from kasmina.network.host import HostShape, compile_host
from kasmina.network.hosts import build_host
from kasmina.network.slot import Slot
from kasmina.randomness import derive_seed
from kasmina.training.configuration import TrainerConfig
from kasmina.training.grower import Grower, empty_slots
from kasmina.training.interval import IntervalTrainer
from kasmina.training.optimizer import GrowthOptimizer, OptimizerSettings
from kasmina.training.spending import Spending


@dataclass(frozen=True)
class Assembly:
    """The parts, which know each other."""

    network: GrowingNetwork
    optimizer: GrowthOptimizer
    grower: Grower
    interval_trainer: IntervalTrainer
    spending: Spending


def assemble(config: TrainerConfig, dataset: Dataset, slots: Sequence[Slot] | None) -> Assembly:
    """The parts of a new episode, with empty slots, or of one that has `slots` already.

    Raises ValueError where the host cannot be built for the images, or does not have the slots that
    are named.
    """
    seed = derive_seed(config.seeds.initialization, "host")
    host = build_host(config.host, host_shape(config, dataset), seed)
    empty = empty_slots(host, config, len(dataset.train))
    network = GrowingNetwork(host, empty if slots is None else slots)
    network.to(config.device).to(memory_format=torch.channels_last)
    spending = Spending(host_cost(host, dataset.shape), network.slots)
    if config.compile:
        compile_host(host)
    steps = config.steps_of_interval(len(dataset.train))
    optimizer = GrowthOptimizer(host, _optimizer_settings(config, steps))
    return Assembly(
        network,
        optimizer,
        Grower(network, optimizer, config),
        IntervalTrainer(network, optimizer, dataset, config),
        spending,
    )


def host_shape(config: TrainerConfig, dataset: Dataset) -> HostShape:
    """What the host of an episode is built for."""
    return HostShape(dataset.shape, dataset.classes, config.channels, config.host_options)


def _optimizer_settings(config: TrainerConfig, steps_of_interval: int) -> OptimizerSettings:
    return OptimizerSettings(
        learning_rate=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        schedule=config.schedule,
        total_steps=config.horizon * steps_of_interval,
        constant_share=config.constant_share,
    )
