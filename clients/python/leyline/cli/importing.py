"""`leyline policy import`: a network of one's own as a version in the registry."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import SIMIC, AsJson, SimicAt, as_dict, finish, print_json
from leyline.cli.policies import activated, described
from leyline.cli.specs import read_spec
from leyline.client import Registry
from leyline.error import ServiceError
from leyline.installation import check_extra
from leyline.v1.policy_pb2 import SlotRequirement
from leyline.v1.registry_pb2 import PolicyManifest


def register(commands: typer.Typer) -> None:
    """Add the command."""
    commands.command(name="import")(import_)


@connecting
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="The network.")],
    name: Annotated[
        str, typer.Option(help="Its name; the version is NAME and the SHA-256 of the file.")
    ],
    spec: Annotated[
        str,
        typer.Option(
            metavar="seed|extended|FILE",
            help="The observation spec that it was made for; one of your own as YAML or JSON.",
        ),
    ] = "seed",
    slots: Annotated[
        str | None,
        typer.Option(
            metavar="N|any", help="For how many slots it decides, where its shapes leave that open."
        ),
    ] = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Make it the active version, too.")
    ] = False,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Put an ONNX model of your own into the registry, for `leyline serve tamiyo` to serve.

    The model has one input, observation (batch, length), and three outputs:
    type_logits (batch, 4) over WAIT, GERMINATE, ADVANCE and CULL,
    slot_logits (batch, 4, slots), and value (batch). All are float32, the batch
    is open, and the weights are in the file. Nothing is sent before the model
    has passed what Tamiyo checks. The same file again is the same version again.

    Examples:

      leyline policy import model.onnx --name mine

      leyline policy import model.onnx --name mine --spec extended --slots any --activate
    """
    observation_spec, requirement = read_spec(spec), None if slots is None else _requirement(slots)
    check_extra("tamiyo")
    # By name, because the client must not depend on the services.
    imported = importlib.import_module("tamiyo.imported")
    try:
        data: bytes = imported.read_model(file)
        manifest: PolicyManifest = imported.manifest_of(data, name, observation_spec, requirement)
    except imported.ModelRefused as error:
        _refuse(file, str(error))

    async def send() -> tuple[PolicyManifest, bool, bool]:
        async with Registry(simic, credentials) as registry:
            answer = await registry.register(manifest, data)
            if not _mean_the_same(answer.manifest, manifest):
                _refuse(
                    file,
                    f"{manifest.policy_version} is there already, as {described(answer.manifest)}"
                    f", not as {described(manifest)}, and a version is never changed: "
                    "choose another --name",
                )
            if activate:
                await _activate(registry, manifest.policy_version)
            active = (await registry.get(manifest.policy_version)).active
            return answer.manifest, answer.already_registered, active

    registered, known, active = finish(send())
    if as_json:
        print_json({**as_dict(registered), "active": active, "already_registered": known})
        return
    version = registered.policy_version
    at = f"{registered.registered_at.ToDatetime():%Y-%m-%d %H:%M:%S}"
    print(f"version     {version}")
    print(f"size        {registered.artifact_size:,} bytes")
    print(f"decides on  {described(registered)}")
    print(f"registered  {f'already, {at}: nothing is changed' if known else at}")
    print(f"active      {'yes' if active else f'no; leyline policy activate {version}'}")


async def _activate(registry: Registry, version: str) -> None:
    try:
        await activated(registry, version, "leyline policy import --activate")
    except ServiceError as error:
        message = f"{version} is registered, but not active: {error.message}"
        raise replace(error, message=message) from None


def _refuse(file: Path, why: str) -> NoReturn:
    print(f"leyline: {file} is not imported: {why}", file=sys.stderr)
    raise typer.Exit(1) from None


def _requirement(slots: str) -> SlotRequirement:
    if slots == "any":
        return SlotRequirement(any=True)
    if not (slots.isascii() and slots.isdigit() and 1 <= int(slots) <= 64):
        raise typer.BadParameter(f"--slots: {slots!r} is neither a number from 1 to 64 nor any")
    return SlotRequirement(exactly=int(slots))


def _mean_the_same(one: PolicyManifest, other: PolicyManifest) -> bool:
    return (
        one.observation_spec.fingerprint == other.observation_spec.fingerprint
        and one.slots == other.slots
    )
