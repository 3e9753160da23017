"""Attaching: slots, telemetry and a remote policy for a model in somebody else's training loop."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from chassis.channel import ChannelSettings
from kasmina.attach.connection import Connection, channel_to
from kasmina.attach.episode import RemoteEpisode
from kasmina.attach.graft import Graft, GraftedHost
from kasmina.attach.growing_model import GrowingModel
from kasmina.attach.growth import Growth
from kasmina.attach.lessons import Loss
from kasmina.attach.optimizer import SeedOptimizers
from kasmina.attach.options import AttachOptions
from kasmina.network.cost import host_cost
from kasmina.network.module_host import UnfitModule
from kasmina.runs.remote_decider import Neighbours
from kasmina.training.configuration import EpisodeSeeds, TrainerConfig
from kasmina.training.grower import empty_slots
from leyline.observation import spec_names
from leyline.v1.decision_pb2 import SELECTION_MODE_GREEDY, SELECTION_MODE_SAMPLED
from leyline.v1.trainer_pb2 import (
    AlphaSchedule,
    BlueprintChoice,
    GrowthSpec,
    HostSpec,
    PolicySpec,
    RunSpec,
    TrainingSpec,
)

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SLOT_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MOST_SLOTS = 64


def attach(
    model: nn.Module,
    slots: Sequence[str] | Mapping[str, str],
    *,
    loss: Loss,
    sample: Tensor,
    optimizer: Optimizer,
    validated: tuple[float, float],
    horizon: int,
    run_id: str,
    policy: str | ChannelSettings = "127.0.0.1:50052",
    experience: str | ChannelSettings = "127.0.0.1:50053",
    state_dir: str | Path = ".leyline/attach",
    options: AttachOptions | None = None,
) -> Growth:
    """Puts slots into the model, and makes of the loop that trains it an episode.

        growth = attach(model, ["layer1", "layer2"], loss=criterion, sample=images, ...)
        for epoch in range(horizon):
            for images, labels in loader:
                optimizer.zero_grad()
                criterion(model(images), labels).backward()
                growth.step(labels)
                optimizer.step()
            growth.interval(train_loss=..., val_loss=..., val_accuracy=...)
        growth.end()

    The model is called as before. `slots` are at the outputs of the submodules of those names:
    `slot-0` and so on by depth, or by the slot ids of a mapping. `loss` takes the model's output
    and what step() is given, `sample` is a batch as the model gets them, `optimizer` the model's
    own, `validated` the validation loss (mean, nats) and accuracy (fraction) of the model as it is.
    The episode has `horizon` decision intervals.

    `policy` and `experience` are HOST:PORT, or how to speak to them over TLS. Under `state_dir` a
    folder of the name of the run keeps what was decided and what is yet to be recorded; a run that
    is attached to again goes on there with its next episode, or with the one that
    `Growth.load_state_dict` names: which of them is not settled, and no policy is asked, before
    the first training pass then.

    Raises:
        UnfitModule: the model cannot have slots there.
        ValueError: a setting that cannot be; the message begins with its name.
        AttachError: the policy cannot decide for these slots, or the run is in use.
    """
    options = options or AttachOptions()
    _check_names(run_id, slots, options)
    _check_objects(sample, optimizer, {"policy": policy, "experience": experience})
    if Graft.is_in(model):
        raise UnfitModule("the model has slots already: attach to a fresh one")
    host = GraftedHost(model, slots, sample)
    config = _config(host, horizon, options)
    neighbours = _neighbours(policy, experience, options)
    graft = Graft(host, empty_slots(host, config, train_images=0))
    grown = GrowingModel(
        graft,
        SeedOptimizers(optimizer, options.seed_optimizer, options.clip_norm),
        loss,
        config,
        host_cost(host, sample.shape[1:], sample.dtype),
        validated,
        options.ablation,
    )
    spec = _run_spec(host, config, options)
    connection = Connection(Path(state_dir), run_id, spec, neighbours)
    try:
        episode = RemoteEpisode(connection, run_id, spec)
        growth = Growth(grown, episode, connection, run_id, options.end_patience_s)
    except BaseException:
        connection.close(patience_s=0.0)
        raise
    graft.install()
    return growth


def _check_names(
    run_id: str, slots: Sequence[str] | Mapping[str, str], options: AttachOptions
) -> None:
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(f"run_id is {run_id!r}; it must match {_RUN_ID.pattern}")
    if isinstance(slots, str):
        raise ValueError(f"slots is {slots!r}; it must be a sequence of names, or a mapping")
    names = list(slots.values() if isinstance(slots, Mapping) else slots)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"slots names {name!r} twice; a submodule has one slot")
    for slot_id in slots if isinstance(slots, Mapping) else ():
        if not _SLOT_ID.fullmatch(slot_id):
            raise ValueError(f"slots has the id {slot_id!r}; it must match {_SLOT_ID.pattern}")
    if not 1 <= len(slots) <= _MOST_SLOTS:
        raise ValueError(f"slots has {len(slots)} names; it must have 1 to {_MOST_SLOTS}")
    if not 0 <= options.seed < 1 << 64:
        raise ValueError(f"seed is {options.seed}; it must be in [0, 2^64)")
    if options.temperature is not None and not 0.01 <= options.temperature <= 100:
        raise ValueError(f"temperature is {options.temperature}; it must be in [0.01, 100]")
    if options.observation_spec not in spec_names():
        known = " or ".join(spec_names())
        raise ValueError(f"observation_spec is {options.observation_spec!r}; it must be {known}")


def _check_objects(
    sample: object, optimizer: object, services: Mapping[str, str | ChannelSettings]
) -> None:
    if not isinstance(sample, Tensor):
        raise ValueError(
            f"sample is a {type(sample).__name__}; it must be a tensor, as the model gets it"
        )
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            f"optimizer is a {type(optimizer).__name__}; it must be an Optimizer of torch's"
        )
    for name, service in services.items():
        if isinstance(service, str) and ":" not in service:
            raise ValueError(f"{name} is {service!r}; it must be HOST:PORT")


def _config(host: GraftedHost, horizon: int, options: AttachOptions) -> TrainerConfig:
    """How seeds grow, as the trainer of a run is told. Its other settings are the loop's matter."""
    return TrainerConfig(
        seeds=EpisodeSeeds.of(options.seed),
        horizon=horizon,
        interval_batches=1,  # until it is known how many an interval has
        blend_intervals=options.blend_intervals,
        alpha_schedule=options.alpha_schedule,
        blueprint_choice=options.blueprint_choice,
        blueprints=options.blueprints,
        candidates=options.candidates,
        clip_norm=options.clip_norm,
        telemetry_every=options.telemetry_every,
        device=str(next(host.parameters()).device),
    )


def _run_spec(host: GraftedHost, config: TrainerConfig, options: AttachOptions) -> RunSpec:
    """What the journal keeps of the run: with other words, it is another run."""
    choice = config.blueprint_choice.upper().replace("-", "_")
    return RunSpec(
        title="attached to a training loop",
        host=HostSpec(name="attached", slots=[site.slot_id for site in host.sites]),
        training=TrainingSpec(horizon=config.horizon),
        growth=GrowthSpec(
            blueprints=config.blueprints,
            candidates=config.candidates,
            choice=BlueprintChoice.Value(f"BLUEPRINT_CHOICE_{choice}"),
            blend_intervals=config.blend_intervals,
            alpha_schedule=AlphaSchedule.Value(f"ALPHA_SCHEDULE_{config.alpha_schedule.upper()}"),
        ),
        policy=None if options.temperature is None else PolicySpec(temperature=options.temperature),
        seed=options.seed,
        observation_spec=options.observation_spec,
    )


def _neighbours(
    policy: str | ChannelSettings, experience: str | ChannelSettings, options: AttachOptions
) -> Neighbours:
    return Neighbours(
        policy=channel_to(policy),
        experience=channel_to(experience),
        decision_timeout_s=options.decision_timeout_s,
        policy_grace_s=options.policy_grace_s,
        experience_timeout_s=options.experience_timeout_s,
        mode=SELECTION_MODE_GREEDY if options.greedy else SELECTION_MODE_SAMPLED,
        deterministic=False,
    )
