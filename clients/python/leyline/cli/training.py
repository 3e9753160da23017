"""`leyline training`: retraining the policy."""

from __future__ import annotations

from typing import Annotated

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import SIMIC, AsJson, Changes, SimicAt, filled, finish, print_json
from leyline.client import Learner
from leyline.document import Document
from leyline.v1.learner_pb2 import Training, TrainingPlan, TrainingState

commands = typer.Typer(help="Trainings of the policy.", no_args_is_help=True)


def _print(training: Training, as_json: bool) -> None:
    if as_json:
        print_json(training)
        return
    plan = training.plan
    state = TrainingState.Name(training.state).removeprefix("TRAINING_STATE_")
    print(f"training  {training.training_id}")
    print(f"state     {state}{': ' if training.status_message else ''}{training.status_message}")
    print(f"plan      {plan.preset}: {plan.algorithm}, {plan.network}, {plan.reward}")
    if plan.run_id:
        order = f", deterministic, lag {plan.lag}" if plan.deterministic else ""
        print(f"run       {plan.run_id}{order}")
    print(f"updates   {training.updates} of {plan.max_updates or 'no limit'}")
    print(f"episodes  {training.episodes}, {plan.episodes_per_update} an update")
    print(f"version   {training.policy_version or '-'}, {_activation(plan)}")


def _activation(plan: TrainingPlan) -> str:
    if plan.activation == "if-not-worse":
        return f"active once it is not worse on {plan.evaluation_episodes} pairs of episodes"
    return f"activated {plan.activation}".replace("-", " ")


@commands.command()
@connecting
def start(
    preset: Annotated[str, typer.Option(help="Named set of values.")] = "default",
    training_id: Annotated[str, typer.Option("--id", help="A name for it.")] = "",
    changes: Changes = None,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Start a training.

    Examples:

      leyline training start --preset demo

      leyline training start --set max_updates=20 --set run_id=my-run

      leyline training start --set activation=if-not-worse

      leyline training start --set deterministic=true --set run_id=study --set lag=1
    """
    document = Document.empty("--set")
    document.change(f"preset={preset}")
    plan = filled(TrainingPlan, document, changes)

    async def ask() -> Training:
        async with Learner(simic, credentials) as learner:
            return await learner.start(plan, training_id)

    _print(finish(ask()), as_json)


@commands.command()
@connecting
def show(
    training_id: Annotated[str, typer.Argument(help="Its name; else the newest.")] = "",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Show a training.

    Examples:

      leyline training show
    """

    async def ask() -> Training:
        async with Learner(simic, credentials) as learner:
            return await learner.get(training_id)

    _print(finish(ask()), as_json)


@commands.command()
@connecting
def stop(
    training_id: Annotated[str, typer.Argument(help="Its name; else the newest.")] = "",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """End a training after the update that it is in.

    Examples:

      leyline training stop
    """

    async def ask() -> Training:
        async with Learner(simic, credentials) as learner:
            name = training_id or (await learner.get()).training_id
            return await learner.stop(name)

    _print(finish(ask()), as_json)
