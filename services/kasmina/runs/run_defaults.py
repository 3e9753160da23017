"""The defaults of a run's specification: known when it is queued, or only once the data is there.

What was filled in once stays as it is when the specification is given again.
"""

from __future__ import annotations

from kasmina.data.dataset import Dataset
from kasmina.network.blueprint import blueprint_names
from kasmina.runs import simulated_host
from kasmina.runs.host_sites import own_channels, sites_of
from kasmina.runs.run_control import RunFailed
from kasmina.runs.situation import is_only_named, range_names, shipped_range
from kasmina.settings import DEFAULT_POLICY, KasminaSettings
from kasmina.training.configuration import DEFAULT_BLUEPRINT, TrainerConfig
from leyline.v1.decision_pb2 import (
    SELECTION_MODE_GREEDY,
    SELECTION_MODE_SAMPLED,
    SELECTION_MODE_UNSPECIFIED,
)
from leyline.v1.trainer_pb2 import (
    ALPHA_SCHEDULE_LINEAR,
    BLUEPRINT_CHOICE_FIXED,
    LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE,
    LEARNING_RATE_SCHEDULE_COSINE,
    RunSpec,
)

_DEFAULTS = TrainerConfig()


def fill_in(requested: RunSpec, settings: KasminaSettings, *, driven: bool = False) -> RunSpec:
    """The specification with every default that is known before the data is there.

    What hangs on a name that there is not stays empty: `run_checks` says so. A `driven` run has no
    policy of its own.
    """
    spec = RunSpec()
    spec.CopyFrom(requested)
    spec.episodes = spec.episodes or 1
    spec.episode_stride = spec.episode_stride or 1
    spec.observation_spec = spec.observation_spec or "seed"
    spec.host.name = spec.host.name or _DEFAULTS.host
    try:
        if simulated_host.is_simulated(spec):
            simulated_host.fill_in(spec)
        else:
            _fill_in_training(spec)
            _fill_in_host(spec)
            _fill_in_growth(spec)
    except ValueError:
        pass  # an unknown name
    _fill_in_situations(spec)
    if driven:
        spec.ClearField("policy")
    else:
        _fill_in_policy(spec, settings)
    return spec


def fill_in_data(spec: RunSpec, dataset: Dataset) -> None:
    """Fills in what depends on the data. Raises `RunFailed` where situations want more of it."""
    images = len(dataset.train)
    wanted = max(spec.situations.training_images, default=0)
    if wanted > images:
        raise RunFailed(
            f"situations.training_images goes up to {wanted}, and {dataset.name} has {images}"
            " training images here"
        )
    spec.dataset.training_images = images
    spec.dataset.validation_images = len(dataset.validation)
    if spec.training.interval_batches == 0:
        config = TrainerConfig(
            batch_size=spec.training.batch_size, interval_epochs=spec.training.interval_epochs
        )
        spec.training.interval_batches = config.steps_of_interval(images)
        spec.training.interval_epochs = 0  # an interval has one measure


def _fill_in_host(spec: RunSpec) -> None:
    host, size = spec.host, spec.dataset.image_size
    if not host.channels:
        host.channels.extend(own_channels(host, size))
    if not host.slots:
        host.slots.extend(site.slot_id for site in sites_of(host, size))


def _fill_in_training(spec: RunSpec) -> None:
    training = spec.training
    training.batch_size = training.batch_size or _DEFAULTS.batch_size
    training.horizon = training.horizon or _DEFAULTS.horizon
    if training.interval_batches == 0:
        training.interval_epochs = training.interval_epochs or _DEFAULTS.interval_epochs
    for name in ("learning_rate", "momentum", "weight_decay", "label_smoothing"):
        if not training.HasField(name):
            setattr(training, name, getattr(_DEFAULTS, name))
    training.schedule = training.schedule or LEARNING_RATE_SCHEDULE_COSINE
    bends = training.schedule == LEARNING_RATE_SCHEDULE_CONSTANT_THEN_COSINE
    if bends and not training.HasField("constant_share"):
        training.constant_share = _DEFAULTS.constant_share


def _fill_in_growth(spec: RunSpec) -> None:
    growth = spec.growth
    growth.blend_intervals = growth.blend_intervals or _DEFAULTS.blend_intervals
    growth.alpha_schedule = growth.alpha_schedule or ALPHA_SCHEDULE_LINEAR
    growth.choice = growth.choice or BLUEPRINT_CHOICE_FIXED
    if growth.choice != BLUEPRINT_CHOICE_FIXED:
        if not growth.candidates:
            growth.candidates.extend(blueprint_names())
        return
    for slot_id in spec.host.slots:
        if slot_id not in growth.blueprints and slot_id not in growth.planted:
            growth.blueprints[slot_id] = DEFAULT_BLUEPRINT


def _fill_in_situations(spec: RunSpec) -> None:
    situations = spec.situations
    if is_only_named(situations) and situations.name in range_names():
        situations.CopyFrom(shipped_range(situations.name))


def _fill_in_policy(spec: RunSpec, settings: KasminaSettings) -> None:
    policy = spec.policy
    if policy.HasField("plan"):
        if policy.mode == SELECTION_MODE_UNSPECIFIED:
            policy.mode = SELECTION_MODE_GREEDY
        return
    policy.endpoint = policy.endpoint or DEFAULT_POLICY
    if policy.mode == SELECTION_MODE_UNSPECIFIED:
        policy.mode = SELECTION_MODE_SAMPLED
    if not policy.HasField("decision_timeout"):
        policy.decision_timeout.FromNanoseconds(int(settings.decision_timeout_s * 1e9))
