"""What to learn and how: plans with every value filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chassis.errors import ErrorCode, LeylineError, Violation
from leyline.observation import spec_by_name, spec_names
from leyline.v1.learner_pb2 import TrainingPlan
from leyline.v1.observation_pb2 import ObservationSpec
from simic.learning import promotion
from simic.learning.recipes import RECIPES, BadHyperparameter, recipe_of
from simic.learning.reward import DEFAULT_RENT, reward_names
from simic.policies.artifact import NETWORKS

ALGORITHMS = ("ppo", "ddqn", "awr")

ONLINE = "online"
STORED = "stored"
EXPERIENCE = (ONLINE, STORED)

TELEMETRY = "telemetry"
"""Stands for every feature that is measured."""

BOOK_KEEPING = frozenset(
    {
        *("epoch", "global_step", "time_left", "learning_rate", "size_ratio"),
        *("has_seed", "seed_stage", "seed_alpha", "epochs_in_stage", "seed_cost"),
        *("reached_training", "reached_blending", "reached_fossilized"),
    }
)
"""Features that follow from the clock, the actions and the costs; all others are measured."""

_DEFAULTS = TrainingPlan(
    algorithm="ppo",
    network="slot-shared",
    reward="accuracy-delta",
    rent=DEFAULT_RENT,
    activation=promotion.ALWAYS,
    experience=ONLINE,
)
_OF_PRESET = {
    "default": TrainingPlan(observation_spec="extended"),
    # What runs fill snapshots for where nothing else is said, and quicker to measure.
    "demo": TrainingPlan(observation_spec="seed"),
}
_MLP_SLOTS = 3


def fill(plan: TrainingPlan) -> TrainingPlan:
    """The plan with every value filled in.

    Raises:
        LeylineError: INVALID_ARGUMENT naming each value that cannot be, and those that can.
    """
    preset = plan.preset or "default"
    filled = TrainingPlan(preset=preset)
    filled.MergeFrom(_DEFAULTS)
    filled.MergeFrom(_OF_PRESET.get(preset, _OF_PRESET["default"]))
    filled.MergeFrom(plan)
    violations = [*_unknown_names(filled), *_undetermined(filled)]
    if not violations:
        violations = list(_unfit_values(filled))
    if violations:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)
    recipe = recipe_of(filled)
    filled.episodes_per_update = recipe.episodes_per_update
    filled.evaluation_episodes = recipe.evaluation_episodes
    if filled.network == "mlp" and not filled.slots:
        filled.slots = _MLP_SLOTS
    violations = list(promotion.violations(filled))
    if violations:
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=violations)
    return filled


def masked_features(plan: TrainingPlan) -> frozenset[str]:
    """The names of the features that the plan's network must not see.

    Raises:
        KeyError: with a name that the spec does not have.
    """
    names = _feature_names(spec_by_name(plan.observation_spec))
    found: set[str] = set()
    for name in plan.masked_features:
        if name == TELEMETRY:
            found |= names - BOOK_KEEPING
        elif name in names:
            found.add(name)
        else:
            raise KeyError(name)
    return frozenset(found)


def _undetermined(plan: TrainingPlan) -> Iterable[Violation]:
    """What keeps a deterministic training from being one, or makes sense in no other."""
    if not plan.deterministic:
        if plan.lag:
            yield Violation("plan.lag", "is for a deterministic training alone")
        return
    if not plan.run_id:
        yield Violation("plan.run_id", "is required: its episodes are learned from in their order")
    if plan.activation in promotion.RULES and plan.activation != promotion.ALWAYS:
        described = "must be 'always': which version decides an episode follows from its index"
        yield Violation("plan.activation", described)
    if plan.experience == STORED:
        described = "must be 'online': each episode of the run is learned from in its turn"
        yield Violation("plan.experience", described)
    if plan.minus_twin:
        described = "must not be set: when a twin is whole does not follow from the index"
        yield Violation("plan.minus_twin", described)


def _unknown_names(plan: TrainingPlan) -> Iterable[Violation]:
    known: Mapping[str, Iterable[str]] = {
        "preset": RECIPES,
        "algorithm": ALGORITHMS,
        "network": NETWORKS,
        "reward": reward_names(),
        "observation_spec": spec_names(),
        "activation": promotion.RULES,
        "experience": EXPERIENCE,
    }
    for field, names in known.items():
        value = getattr(plan, field)
        if value not in names:
            yield Violation(f"plan.{field}", f"there is no {value!r}; known: {', '.join(names)}")


def _unfit_values(plan: TrainingPlan) -> Iterable[Violation]:
    if plan.experience == STORED and not plan.max_updates:
        described = "is required: stored experience is never used up, and each update is a version"
        yield Violation("plan.max_updates", described)
    try:
        recipe_of(plan)
    except BadHyperparameter as error:
        yield Violation("plan.hyperparameters", str(error))
    try:
        masked_features(plan)
    except KeyError as error:
        names = sorted(_feature_names(spec_by_name(plan.observation_spec)))
        described = f"there is no {error.args[0]!r}; known: {TELEMETRY}, {', '.join(names)}"
        yield Violation("plan.masked_features", described)


def _feature_names(spec: ObservationSpec) -> set[str]:
    return {feature.name for feature in (*spec.global_features, *spec.slot_features)}
