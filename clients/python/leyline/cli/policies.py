"""`leyline policy`: the versions in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import typer

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import SIMIC, AsJson, SimicAt, as_dict, finish, print_json, print_table
from leyline.client import Registry
from leyline.error import ServiceError
from leyline.v1.registry_pb2 import (
    ActivatePolicyResponse,
    CollectGarbageResponse,
    GetPolicyResponse,
    PolicyEvaluation,
    PolicyManifest,
    PolicyReport,
    RollBackPolicyResponse,
)

commands = typer.Typer(help="Policy versions, and policies of one's own.", no_args_is_help=True)

Version = Annotated[str, typer.Argument(metavar="VERSION", help="The version.")]
Reason = Annotated[str, typer.Option(help="Why, for people.")]


@commands.command("list")
@connecting
def list_(
    simic: SimicAt = SIMIC, credentials: Credentials = NO_CREDENTIALS, as_json: AsJson = False
) -> None:
    """List versions, newest first; the active one has a star.

    Examples:

      leyline policy list

      leyline policy list --json | jq -r '.[] | select(.active).policy_version'
    """

    async def ask() -> list[tuple[PolicyManifest, bool]]:
        async with Registry(simic, credentials) as registry:
            return [version async for version in registry.list()]

    versions = finish(ask())
    if as_json:
        print_json([{**as_dict(manifest), "active": active} for manifest, active in versions])
        return
    print_table(
        [
            *("", "version", "parent", "network", "slots", "spec"),
            *("updates", "episodes", "mean return", "registered"),
        ],
        [
            (
                "*" if active else "",
                manifest.policy_version,
                manifest.parent_version or "-",
                manifest.network,
                manifest.slots.exactly or "any",
                manifest.observation_spec.name,
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


@commands.command()
@connecting
def show(
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="The version; else the active one.")
    ] = "",
    parents: Annotated[
        int, typer.Option(metavar="N", min=0, max=10_000, help="So many generations of parents.")
    ] = 10,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Show a version: what it decides for, what it was made from, and how it compared.

    Examples:

      leyline policy show

      leyline policy show mlp-0123456789ab --parents 100
    """

    async def ask() -> tuple[GetPolicyResponse, list[PolicyManifest]]:
        async with Registry(simic, credentials) as registry:
            shown = await registry.get(version)
            return shown, await _parents(registry, shown.manifest, parents)

    shown, lineage = finish(ask())
    if as_json:
        print_json({**as_dict(shown), "lineage": [as_dict(manifest) for manifest in lineage]})
        return
    manifest = shown.manifest
    print(f"version     {manifest.policy_version}{', the active one' if shown.active else ''}")
    print(f"network     {manifest.network}, {manifest.artifact_size:,} bytes")
    print(f"decides on  {described(manifest)}")
    print(f"registered  {manifest.registered_at.ToDatetime():%Y-%m-%d %H:%M:%S}")
    for line in _story(manifest, lineage):
        print(line)
    for report in shown.reports[-1:]:
        print(f"served      {_said(report)}")
    if shown.evaluations:
        print()
        _print_evaluations(list(shown.evaluations))


@commands.command()
@connecting
def activate(
    version: Version,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Even where it does not decide for episodes that are being played."
        ),
    ] = False,
    reason: Reason = "leyline policy activate",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Make a version the active one.

    An episode keeps the version that it began with. One that begins gets the newest
    activated version that decides for its slots and its observation spec.

    Examples:

      leyline policy activate mlp-0123456789ab
    """

    async def ask() -> ActivatePolicyResponse:
        async with Registry(simic, credentials) as registry:
            return await activated(registry, version, reason, force=force)

    answer = finish(ask())
    if as_json:
        print_json({"policy_version": version, **as_dict(answer)})
        return
    print(f"active  {version}")
    print(f"before  {answer.previous_version or '-'}")


@commands.command()
@connecting
def roll_back(
    reason: Reason = "leyline policy roll-back",
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Make the version active that was so before the active one; again, the one before that.

    Examples:

      leyline policy roll-back --reason "it only waits"
    """

    async def ask() -> RollBackPolicyResponse:
        async with Registry(simic, credentials) as registry:
            return await registry.roll_back(reason)

    answer = finish(ask())
    if as_json:
        print_json(answer)
        return
    print(f"active  {answer.policy_version}")
    print(f"before  {answer.previous_version}")


@commands.command()
@connecting
def collect_garbage(
    keep: Annotated[
        int, typer.Option(metavar="N", min=1, max=1_000_000, help="Keep the newest so many.")
    ] = 20,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing.")] = False,
    simic: SimicAt = SIMIC,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Delete the artifacts of versions that nothing needs any more.

    The newest stay, and what is active, was active before, or serves episodes of
    any kind, what an episode is pinned to that has not ended, and what a training
    goes on from or evaluates. Of the others the manifests stay: what they were
    made from and what they decided can still be read.

    Examples:

      leyline policy collect-garbage --dry-run

      leyline policy collect-garbage --keep 100
    """

    async def ask() -> CollectGarbageResponse:
        async with Registry(simic, credentials) as registry:
            return await registry.collect_garbage(keep, dry_run=dry_run)

    answer = finish(ask())
    if as_json:
        print_json(answer)
        return
    for version in answer.policy_versions:
        print(version)
    count = len(answer.policy_versions)
    print(
        f"{count} artifact{'' if count == 1 else 's'}, {answer.freed_bytes:,} bytes,"
        f" {'would be' if dry_run else 'are'} deleted"
    )


async def activated(
    registry: Registry, version: str, reason: str, *, force: bool = False
) -> ActivatePolicyResponse:
    """Activate a version; where it is refused because of running episodes, say what to do."""
    try:
        return await registry.activate(version, reason, force=force)
    except ServiceError as error:
        if error.reason != "VERSION_DOES_NOT_FIT":
            raise
        remedy = (
            f"wait for their end, or `leyline policy activate {version} --force`: runs of another"
            " kind then go on with the versions that fit them"
        )
        raise replace(error, message=f"{error.message}; {remedy}") from None


def described(manifest: PolicyManifest) -> str:
    """Say what a version decides on."""
    count = manifest.slots.exactly or "any number of"
    plural = "" if count == 1 else "s"
    spec = manifest.observation_spec
    return f"{count} slot{plural} under the spec {spec.name}, fingerprint {spec.fingerprint[:12]}"


async def _parents(registry: Registry, manifest: PolicyManifest, most: int) -> list[PolicyManifest]:
    """The version's parent, that one's, and so on."""
    lineage: list[PolicyManifest] = []
    while manifest.parent_version and len(lineage) < most:
        try:
            manifest = (await registry.get(manifest.parent_version)).manifest
        except ServiceError as error:
            if error.code != "NOT_FOUND":
                raise
            break  # it came from another registry
        lineage.append(manifest)
    return lineage


def _story(manifest: PolicyManifest, lineage: list[PolicyManifest]) -> Iterator[str]:
    training = manifest.training
    if training.training_id:
        mean = (
            f", mean return {training.mean_return:.3f}" if training.HasField("mean_return") else ""
        )
        yield (
            f"training    {training.training_id}: {training.updates} updates,"
            f" {training.episodes} episodes{mean}"
        )
    for number, parent in enumerate(lineage):
        yield f"{'made from' if number == 0 else '':10}  {parent.policy_version}"
    oldest = (lineage or [manifest])[-1]
    if oldest.parent_version:
        yield f"{'' if lineage else 'made from':10}  {oldest.parent_version}, ..."


def _said(report: PolicyReport) -> str:
    by = f" by {report.server}" if report.server else ""
    if report.accepted:
        return f"yes{by}"
    return f"no: refused{by}: {report.reason} {report.message}".rstrip()


def _print_evaluations(evaluations: list[PolicyEvaluation]) -> None:
    print_table(
        ["evaluated", "against", "pairs", "mean return", "its", "difference", "95 %", "activated"],
        [
            (
                f"{each.time.ToDatetime():%Y-%m-%d %H:%M:%S}",
                each.baseline_version,
                each.pairs,
                f"{each.mean_return:.3f}",
                f"{each.baseline_mean_return:.3f}",
                f"{each.mean_difference:+.3f}",
                f"[{each.interval_low:+.3f}, {each.interval_high:+.3f}]"
                if each.HasField("interval_low")
                else "-",
                "yes" if each.activated else "no",
            )
            for each in evaluations
        ],
    )
