"""`leyline run evaluate`, `leyline run export` and `leyline network`: what episodes leave."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from leyline.channel import NO_CREDENTIALS, Credentials
from leyline.cli.credentials import connecting
from leyline.cli.output import (
    KASMINA,
    AsJson,
    KasminaAt,
    finish,
    print_json,
    print_table,
    tell_break,
)
from leyline.client import Trainer
from leyline.indices import episode_indices
from leyline.network import read_manifest
from leyline.v1.trainer_pb2 import EvaluateRunResponse, NetworkFormat, Split

commands = typer.Typer(help="Files of grown networks.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")]


class _Split(StrEnum):
    TEST = "test"
    VALIDATION = "validation"


class _Format(StrEnum):
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@commands.callback()
def _commands() -> None:
    pass


def register(of_runs: typer.Typer) -> None:
    """Add the commands of runs."""
    of_runs.command()(evaluate)
    of_runs.command()(export)


@connecting
def evaluate(
    run_id: RunId,
    episode: Annotated[
        int | None, typer.Argument(min=0, help="Its episode; else the last that has ended.")
    ] = None,
    split: Annotated[
        _Split, typer.Option(help="Part of the data. Only this command reads the test split.")
    ] = _Split.TEST,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Classify a split with the network that an episode left.

    Examples:

      leyline run evaluate my-run

      leyline run evaluate my-run 3 --split validation --json
    """

    async def ask() -> tuple[int, EvaluateRunResponse]:
        async with Trainer(kasmina, credentials) as trainer:
            index = episode
            if index is None:
                run = await trainer.get(run_id)
                index = episode_indices(run.spec)[max(run.episodes_ended - 1, 0)]
            with Console(stderr=True).status(f"classifying the {split} split"):
                wanted = Split.Value(f"SPLIT_{split.name}")
                return index, await trainer.evaluate(run_id, index, wanted)

    index, found = finish(ask())
    if as_json:
        print_json(
            {
                "run_id": run_id,
                "episode_index": index,
                "split": split.value,
                "accuracy": found.accuracy,
                "loss": found.loss,
                "images": found.images,
            }
        )
        return
    print(f"run       {run_id}, episode {index}")
    print(f"split     {split}, {found.images} images")
    print(f"accuracy  {100 * found.accuracy:.2f} %")
    print(f"loss      {found.loss:.4f}")


@connecting
def export(
    run_id: RunId,
    episode: Annotated[int, typer.Argument(min=0, help="Its episode.")],
    form: Annotated[
        _Format, typer.Option("--format", help="For kasmina.load_network, or for anybody.")
    ] = _Format.SAFETENSORS,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File; else RUN-EPISODE.FORMAT here.")
    ] = None,
    kasmina: KasminaAt = KASMINA,
    credentials: Credentials = NO_CREDENTIALS,
    as_json: AsJson = False,
) -> None:
    """Fetch the network that an episode left, whole or not at all.

    A download that breaks goes on where it stopped, and so does this command when it is called
    again.

    Examples:

      leyline run export my-run 0

      leyline run export my-run 0 --format onnx -o grown.onnx
    """
    path = output or Path(f"{run_id}-{episode}.{form}")
    progress = Progress(
        TextColumn(path.name),
        BarColumn(bar_width=40),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not Console(stderr=True).is_terminal,
    )

    async def ask() -> str:
        async with Trainer(kasmina, credentials, tell_break) as trainer:
            with progress:
                bar = progress.add_task("", total=None)
                return await trainer.download(
                    run_id,
                    episode,
                    path,
                    NetworkFormat.Value(f"NETWORK_FORMAT_{form.name}"),
                    lambda done, total: progress.update(bar, completed=done, total=total),
                )

    sha256 = finish(ask())
    size = path.stat().st_size
    if as_json:
        print_json({"file": str(path), "format": form.value, "bytes": size, "sha256": sha256})
    else:
        print(f"{path}  {size:,} bytes, SHA-256 {sha256}")


@commands.command()
def show(
    file: Annotated[Path, typer.Argument(help="A safetensors file that `run export` wrote.")],
    as_json: AsJson = False,
) -> None:
    """Show what a grown network's file says of itself. Needs neither a service nor torch.

    Examples:

      leyline network show my-run-0.safetensors

      leyline network show my-run-0.safetensors --json | jq .slots
    """
    manifest = read_manifest(file)
    if as_json:
        print_json(manifest)
        return
    for name, text in _described(manifest):
        print(f"{name:11} {text}")
    print()
    print_table(
        ["slot", "depth", "stage", "blueprint"],
        [
            (slot["slot_id"], slot["depth"], slot["stage"], _blueprint(slot))
            for slot in manifest.get("slots", [])
        ],
    )


def _described(manifest: dict[str, Any]) -> Iterable[tuple[str, str]]:
    origin, accuracy = manifest.get("origin", {}), manifest.get("validation_accuracy")
    if "run_id" in origin:
        yield "from", f"run {origin['run_id']}, episode {origin.get('episode_index', 0)}"
    options = "".join(f", {name}={value}" for name, value in manifest["host_options"].items())
    widths = ", ".join(map(str, manifest["channels"]))
    yield "host", manifest["host"] + (f" of widths {widths}" if widths else "") + options
    yield "parameters", f"{manifest['parameters']:,}"
    channels, height, width = manifest["image"]
    yield "images", f"{height}x{width} pixels, {channels} channels"
    names = manifest["class_names"]
    few = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    yield "classes", f"{manifest['classes']}{f': {few}' if names else ''}"
    if manifest["dataset"]:
        yield "trained on", manifest["dataset"]
    if accuracy is not None:
        yield "accuracy", f"{100 * accuracy:.2f} % on the validation split"


def _blueprint(slot: dict[str, Any]) -> str:
    return (slot["blueprint"] or "-") + (" (a dud)" if slot["dud"] else "")
