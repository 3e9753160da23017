"""How many steps a second the simulator takes."""

from __future__ import annotations

import time

from kasmina.simulator.calibration import play
from kasmina.simulator.parameters import Parameters
from kasmina.simulator.policies import Heuristic
from kasmina.simulator.situation import SimulationSeeds
from kasmina.simulator.trainer import SimulatedTrainer


def steps_a_second(parameters: Parameters, episodes: int, root: int = 0) -> float:
    """Steps a second of wall time, over whole episodes on one core: drawing them, snapshots, the
    heuristic's decisions, actions and intervals.
    """
    start = time.perf_counter()
    for index in range(episodes):
        seeds = SimulationSeeds.of_episode(root, index)
        play(SimulatedTrainer(parameters, seeds), Heuristic())
    return episodes * parameters.episode.horizon / (time.perf_counter() - start)
