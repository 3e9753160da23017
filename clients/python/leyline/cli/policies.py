"""`leyline policies`: the versions in the registry."""

from __future__ import annotations

from typing import Annotated

import typer

from leyline.cli.output import SIMIC, AsJson, Ca, SimicAt, as_dict, finish, print_json, print_table
from leyline.client import Registry
from leyline.v1.registry_pb2 import PolicyManifest


def register(application: typer.Typer) -> None:
    """Add the command."""
    application.command()(policies)


def policies(
    activate: Annotated[
        str | None, typer.Option(metavar="VERSION", help="First make this version the active one.")
    ] = None,
    simic: SimicAt = SIMIC,
    ca: Ca = None,
    as_json: AsJson = False,
) -> None:
    """List policy versions, newest first; promote one, or roll back to it.

    Examples:

      leyline policies

      leyline policies --activate mlp-0123456789ab
    """

    async def ask() -> list[tuple[PolicyManifest, bool]]:
        async with Registry(simic, ca) as registry:
            if activate is not None:
                await registry.activate(activate, reason="leyline policies --activate")
            return [version async for version in registry.list()]

    versions = finish(ask())
    if as_json:
        print_json([{**as_dict(manifest), "active": active} for manifest, active in versions])
        return
    print_table(
        ["", "version", "parent", "network", "updates", "episodes", "mean return", "registered"],
        [
            (
                "*" if active else "",
                manifest.policy_version,
                manifest.parent_version or "-",
                manifest.network,
                manifest.training.updates,
                manifest.training.episodes,
                f"{manifest.training.mean_return:.3f}"
                if manifest.training.HasField("mean_return")
                else "-",
                f"{manifest.registered_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            )
            for manifest, active in versions
        ],
    )
