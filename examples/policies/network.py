"""A policy of one's own as a torch module, untrained here, that shares its weights over slots.

python examples/policies/network.py --listen 127.0.0.1:50060
"""

import torch
from torch import nn

import tamiyo
from leyline.observation import SEED_SPEC as SPEC
from tamiyo.outputs import Float32

GLOBALS, PER_SLOT = len(SPEC.global_features), len(SPEC.slot_features)


class SharedOverSlots(tamiyo.NetworkPolicy):
    name, version, spec, slots = "shared", "shared-1", SPEC, None

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.types, self.places = nn.Linear(GLOBALS, 5), nn.Linear(PER_SLOT, 4)

    @torch.inference_mode()
    def evaluate(self, observations: Float32) -> tamiyo.Outputs:
        # One by one: a matrix product's rounding depends on how many rows it has.
        rows = [self.say(torch.from_numpy(row)) for row in observations]
        return tamiyo.Outputs(*(torch.stack(part).numpy() for part in zip(*rows, strict=True)))

    def say(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        said = self.types(row[:GLOBALS])
        places = self.places(row[GLOBALS:].reshape(-1, PER_SLOT))
        return said[:4], places.T, said[4]


if __name__ == "__main__":
    tamiyo.serve(SharedOverSlots())
