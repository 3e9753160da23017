"""A network of one's own, untrained here, as a file for `leyline policy import`.

python examples/policies/export.py mine.onnx
leyline policy import mine.onnx --name mine --activate
"""

import sys

import torch
from torch import nn

from leyline.observation import SEED_SPEC, vector_length

SLOTS = 3
LENGTH = vector_length(SEED_SPEC, SLOTS)
INPUTS, OUTPUTS = ["observation"], ["type_logits", "slot_logits", "value"]


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(LENGTH, 64), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(64, 4), nn.Linear(64, 4 * SLOTS), nn.Linear(64, 1)])

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, ...]:
        types, places, value = (head(self.body(observation)) for head in self.heads)
        return types, places.reshape(-1, 4, SLOTS), value.squeeze(1)


torch.manual_seed(0)
torch.onnx.export(
    Mine().eval(),
    (torch.zeros(1, LENGTH),),
    sys.argv[1],
    dynamo=False,  # weights stay inside the file
    input_names=INPUTS,
    output_names=OUTPUTS,
    dynamic_axes={name: {0: "batch"} for name in INPUTS + OUTPUTS},
)
