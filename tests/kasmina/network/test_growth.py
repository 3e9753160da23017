from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kasmina.data.images import Dataset
from kasmina.network.blueprint import blueprint_names, plant
from kasmina.network.growth import GrowingNetwork
from kasmina.network.host import HostShape, StagedHost
from kasmina.network.hosts import build_host
from kasmina.network.slot import Action, NoOpReason, Slot, Stage
from kasmina.training.configuration import EpisodeSeeds, Precision, TrainerConfig
from kasmina.training.trainer import GrowthTrainer

CONFIG = TrainerConfig(
    seeds=EpisodeSeeds.of(2),
    horizon=20,
    channels=(4, 6, 8),
    batch_size=16,
    blend_intervals=2,
    threads=1,
)


def network(stage: Stage, depth: int, blend_step: int = 0) -> GrowingNetwork:
    """A host with one seed, whose weights are as random as the host's."""
    host = build_host("weak-cnn", HostShape((3, 16, 16), 4, (4, 6, 8)), seed=1)
    slots = [Slot(f"slot-{place}", place, blend_steps=4) for place in range(3)]
    slots[depth] = replace(slots[depth], stage=stage, blend_step=blend_step, blueprint="conv3x3")
    grown = GrowingNetwork(host, slots)
    seed = plant("conv3x3", host.sites[depth].width, seed=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in seed.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    grown.plant(slots[depth], seed)
    return grown


def stages(grown: GrowingNetwork) -> list[nn.Module]:
    assert isinstance(grown.host, StagedHost)
    return [*grown.host.stages, grown.host.head]


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def logits_of(trainer: GrowthTrainer, training: bool, precision: Precision) -> Tensor:
    model = trainer.network.train(training)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits: Tensor = model(images())
    return logits.float()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("blueprint", blueprint_names())
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_germinating_and_advancing_at_alpha_zero_leave_the_logits_alone(
    stripes: Dataset, depth: int, blueprint: str, precision: Precision, training: bool
) -> None:
    slot_id = f"slot-{depth}"
    kinds = {slot_id: blueprint}
    config = replace(CONFIG, blueprints=kinds, precision=precision, interval_batches=3)
    trainer = GrowthTrainer(config, stripes)
    trainer.train_interval()
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        before = logits_of(trainer, training, precision)
        assert trainer.apply(action, slot_id).executed
        assert (logits_of(trainer, training, precision) - before).abs().max() <= 1e-6
        if trainer.network.slots[depth].stage is Stage.TRAINING:
            trainer.train_interval()
    assert trainer.network.slots[depth].stage is Stage.BLENDING


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_fossilising_leaves_the_logits_alone(stripes: Dataset, depth: int) -> None:
    trainer = GrowthTrainer(replace(CONFIG, interval_batches=3), stripes)
    slot_id = trainer.slot_ids[depth]
    for action in (Action.GERMINATE, Action.ADVANCE, Action.ADVANCE):
        trainer.apply(action, slot_id)
        trainer.train_interval()
    assert trainer.apply(Action.ADVANCE, slot_id).no_op_reason is NoOpReason.ALPHA_NOT_REACHED
    trainer.train_interval()
    before = logits_of(trainer, training=False, precision="fp32")
    assert trainer.apply(Action.ADVANCE, slot_id).executed
    assert torch.equal(logits_of(trainer, training=False, precision="fp32"), before)


def test_a_seed_takes_its_moments_along_and_leaves_the_hosts_when_it_is_culled(
    stripes: Dataset,
) -> None:
    def moments(trainer: GrowthTrainer, owner: str) -> list[Tensor]:
        state = trainer.optimizer.state()
        return [state[name].clone() for name in sorted(state) if name.startswith(f"{owner}/")]

    def same(before: list[Tensor], after: list[Tensor]) -> bool:
        return len(before) > 0 and all(map(torch.equal, before, after))

    trainer = GrowthTrainer(replace(CONFIG, interval_batches=3, blend_intervals=1), stripes)
    for slot_id in ("slot-0", "slot-1"):
        trainer.apply(Action.GERMINATE, slot_id)
        trainer.apply(Action.ADVANCE, slot_id)
        assert moments(trainer, slot_id) == []
    for stage in (Stage.BLENDING, Stage.FOSSILIZED):
        trainer.train_interval()
        before = moments(trainer, "slot-0"), moments(trainer, "host")
        assert trainer.apply(Action.ADVANCE, "slot-0").executed
        assert trainer.network.slots[0].stage is stage
        assert same(before[0], moments(trainer, "slot-0"))
        assert same(before[1], moments(trainer, "host"))
    assert trainer.apply(Action.CULL, "slot-1").executed
    assert moments(trainer, "slot-1") == []
    assert same(before[0], moments(trainer, "slot-0"))
    assert same(before[1], moments(trainer, "host"))


@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_seed_before_blending_is_exactly_not_there(stage: Stage, depth: int) -> None:
    grown = network(stage, depth)
    assert torch.equal(grown(images()), grown.host(images()))


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    ("stage", "blend_step", "alpha"),
    [(Stage.BLENDING, 1, 0.25), (Stage.BLENDING, 4, 1.0), (Stage.FOSSILIZED, 0, 1.0)],
)
def test_a_live_seed_adds_alpha_times_its_residual(
    stage: Stage, blend_step: int, alpha: float, depth: int
) -> None:
    grown = network(stage, depth, blend_step).eval()
    h = images()
    *parts, head = stages(grown)
    for place, layer in enumerate(parts):
        h = layer(h)
        if place == depth:
            h = h + alpha * grown.seed(grown.slots[depth])(h)
    torch.testing.assert_close(grown(images()), head(h))


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_what_follows_a_slot_is_the_rest_of_the_network(depth: int) -> None:
    grown = network(Stage.FOSSILIZED, depth=2).eval()
    trace = grown.trace(images())
    h = trace.activations[depth]
    if depth in trace.residuals:
        h = h + trace.residuals[depth]
    torch.testing.assert_close(grown.downstream(grown.slots[depth], h, trace.images), trace.logits)


def test_layers_before_a_fully_blended_seed_learn_past_it_as_much_as_through_it() -> None:
    grown = network(Stage.BLENDING, depth=0, blend_step=4).eval()

    class Silent(nn.Module):
        """A seed that is zero and has no gradient: what is left is the way past it."""

        def forward(self, h: Tensor) -> Tensor:
            return torch.zeros_like(h)

    grown.plant(grown.slots[0], Silent())
    for model in (grown, grown.host):
        grown.zero_grad()
        model(images()).square().sum().backward()
        gradient = next(stages(grown)[0].parameters()).grad
        assert gradient is not None
        if model is grown:
            through = gradient.clone()
    torch.testing.assert_close(through, gradient)


def test_a_network_counts_the_parameters_that_it_uses() -> None:
    seed = sum(p.numel() for p in plant("conv3x3", 6, seed=0).parameters())
    host = sum(p.numel() for p in network(Stage.TRAINING, depth=1).host.parameters())
    assert network(Stage.TRAINING, depth=1).parameter_count() == host
    assert network(Stage.BLENDING, depth=1).parameter_count() == host + seed
    assert network(Stage.FOSSILIZED, depth=1).parameter_count() == host + seed
