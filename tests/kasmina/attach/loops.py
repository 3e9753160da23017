"""Training loops of somebody else's: models of several kinds, and a policy that follows a plan."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.kasmina.attach.conftest import Neighbours
from tests.kasmina.conftest import striped_images
from tests.kasmina.neighbours import VERSION, answer
from torch import Tensor, nn
from torch.nn import functional

from kasmina.attach import AttachOptions, Growth, attach
from leyline.v1.decision_pb2 import (
    ACTION_TYPE_ADVANCE,
    ACTION_TYPE_CULL,
    ACTION_TYPE_GERMINATE,
    ACTION_TYPE_WAIT,
    SELECTION_MODE_GREEDY,
    ActionType,
    Decision,
)

NOBODY = "127.0.0.1:1"
"""An address at which nobody answers."""

GERMINATE, ADVANCE, CULL = ACTION_TYPE_GERMINATE, ACTION_TYPE_ADVANCE, ACTION_TYPE_CULL

Plan = Mapping[int, tuple[ActionType.ValueType, str]]
"""Action and slot by step; WAIT at the others."""


class Skipping(nn.Module):
    """Convolutions with batch norm and dropout, an activation that is overwritten, and a way past
    the first slot."""

    slots = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.first = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))

    def forward(self, images: Tensor) -> Tensor:
        h = self.stem(images)
        h = h + self.relu(self.first(h))
        logits: Tensor = self.classifier(self.dropout(self.second(h)).amax(dim=(2, 3)))
        return logits


class Tokens(nn.Module):
    """A transformer over the rows of an image, with slots that see tokens."""

    slots = ("encoder.layers.0", "encoder.layers.1")

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.embedding = nn.Linear(48, 8)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.classifier = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.transpose(1, 2).flatten(2)
        logits: Tensor = self.classifier(self.encoder(self.embedding(rows)).mean(1))
        return logits


class Features(nn.Module):
    """A perceptron, with slots that see features."""

    slots = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.ReLU())
        self.classifier = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.second(self.first(images)))
        return logits


MODELS: dict[str, type[Skipping | Tokens | Features]] = {
    "skipping": Skipping,
    "tokens": Tokens,
    "features": Features,
}

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3
    ),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.8, 0.99)),
}


def batches(seed: int = 3) -> tuple[Tensor, Tensor]:
    """48 images of four classes, as a model gets them, and their labels."""
    split = striped_images(48, seed)
    return split.images.float() / 127.5 - 1.0, split.labels


@dataclass
class Loop:
    """A training loop with all that it has."""

    model: Skipping | Tokens | Features
    optimizer: torch.optim.Optimizer
    bf16: bool = False
    epoch: int = 0
    curve: list[tuple[float, float, float]] = field(default_factory=list)

    @classmethod
    def of(cls, model: str = "skipping", optimizer: str = "sgd", *, bf16: bool = False) -> Loop:
        """One from a fixed seed."""
        torch.manual_seed(7)
        made = MODELS[model]()
        return cls(made, OPTIMIZERS[optimizer](made), bf16)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), labels, label_smoothing=0.1)

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        self.model.eval()
        images, labels = batches(seed=4)
        logits = self.model(images)
        accuracy = float((logits.argmax(1) == labels).float().mean())
        return float(self.loss(logits, labels)), accuracy

    def backward(self, images: Tensor, labels: Tensor) -> float:
        """A pass and its gradients; the loss."""
        self.model.train()
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.model(images), labels)
        loss.backward()
        return loss.item()

    def train_epoch(self, growth: Growth | None = None) -> float:
        """Four batches in a random order; the mean loss."""
        images, labels = batches()
        total = 0.0
        for chosen in torch.randperm(48).split(12):
            total += self.backward(images[chosen], labels[chosen])
            if growth is not None:
                growth.step(labels[chosen])
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
            self.optimizer.step()
        return total / 4

    def run(self, epochs: int, growth: Growth | None = None) -> None:
        """So many epochs, each a decision interval."""
        for _ in range(epochs):
            train_loss = self.train_epoch(growth)
            val_loss, val_accuracy = self.validate()
            self.epoch += 1
            self.curve.append((train_loss, val_loss, val_accuracy))
            if growth is not None:
                growth.interval(train_loss=train_loss, val_loss=val_loss, val_accuracy=val_accuracy)

    def attached(
        self,
        neighbours: Neighbours,
        folder: Path,
        *,
        horizon: int = 10,
        run_id: str = "mine",
        options: AttachOptions | None = None,
        policy: str | None = None,
        experience: str | None = None,
    ) -> Growth:
        """The loop as an episode; of the neighbours, unless somebody else is named."""
        return attach(
            self.model,
            self.model.slots,
            loss=self.loss,
            sample=batches()[0][:2],
            optimizer=self.optimizer,
            validated=self.validate(),
            horizon=horizon,
            run_id=run_id,
            policy=policy or neighbours.address,
            experience=experience or neighbours.address,
            state_dir=folder,
            options=options or AttachOptions(blend_intervals=1, end_patience_s=0.0),
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint of the loop's own has."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "epoch": self.epoch,
        }
        return copy.deepcopy(state)

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epoch = state["epoch"]

    def everything(self) -> dict[str, Tensor]:
        """Weights, buffers, moments and random numbers, by name."""
        found = dict(self.model.state_dict())
        for index, moments in self.optimizer.state_dict()["state"].items():
            for name, moment in moments.items():
                if isinstance(moment, Tensor):
                    found[f"moments/{index}/{name}"] = moment
        return found | {"random": torch.get_rng_state()}


def follow(neighbours: Neighbours, plan: Plan) -> None:
    """Has the policy decide by a plan."""

    def decide(query: Any) -> Any:
        step = query.snapshot.step_id.step
        action, slot_id = plan.get(step, (ACTION_TYPE_WAIT, None))
        decision = Decision(
            decision_id=f"plan-{step}",
            action_type=action,
            slot_id=slot_id,
            policy_version=query.policy_version or VERSION,
            mode=SELECTION_MODE_GREEDY,
        )
        return answer(query, decision)

    neighbours.policy.decide = decide


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different
