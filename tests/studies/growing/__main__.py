"""`python -m tests.studies.growing`: what is missing of the study, stage by stage."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import tests.studies.growing as study
from tests.studies.growing import report
from tests.studies.growing.comparing import POLICIES, compare, stage_name
from tests.studies.growing.playing import say
from tests.studies.growing.preset import PRESETS, Preset
from tests.studies.growing.problem import StudyError
from tests.studies.growing.searching import search
from tests.studies.growing.services import running
from tests.studies.growing.state import State, locked
from tests.studies.growing.training import train

from kasmina.data.dataset import DatasetSettings, locate
from kasmina.data.errors import DatasetNotFound
from leyline.error import ServiceError
from leyline.supervision import on_signals

STAGES = ("train", "search", "compare", "report")
_LASTING = Path("/var/lib/leyline-study-growing")
_EXAMPLES = """
examples:
  make study-growing
      all of it: two hours of training, then an hour and a half for the rest. After any
      interruption, the same command again goes on with what is missing.
  python -m tests.studies.growing --stage train
  python -m tests.studies.growing --stage compare --held-out
  python -m tests.studies.growing --stage report --out docs/findings/growing.json
  python -m tests.studies.growing --preset digits --folder /tmp/growing --training-minutes 1 \\
      --search-episodes 12 --episodes 4
      the same in small, without CIFAR-100

exit codes: 0 done, 1 it cannot go on, 2 wrong options, 130 broken off
"""


def main() -> int:
    """Plays what is missing and reports what there is."""
    options = _options()
    try:
        with locked(options.folder):
            return asyncio.run(_carry_out(options))
    except (StudyError, ServiceError) as error:
        say(f"study-growing: {error}")
        return 1
    except (asyncio.CancelledError, KeyboardInterrupt):
        say("study-growing: broken off; the same command goes on from here")
        return 130


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.studies.growing",
        description=study.__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stage", choices=("all", *STAGES), default="all", help="this one alone (all)")
    add("--folder", type=Path, default=_default_folder(), help="keeps everything (%(default)s)")
    add("--preset", choices=tuple(PRESETS), default="cifar100", help="sizes (%(default)s)")
    add("--data", type=Path, default=None, help="folder with a folder cifar100/; as Kasmina's")
    add("--seed", type=int, default=0, help="of everything (0)")
    add("--training-minutes", type=float, default=120.0, help="wall time of training (120)")
    add("--updates", type=int, default=40, help="no more; rates fall over them; 0: no bound (40)")
    add("--without-twins", action="store_true", help="pay the accuracy itself, not the gain")
    add("--search-episodes", type=int, default=160, help="budget of the search (160)")
    add("--episodes", type=int, default=20, help="paired episodes an arm (20)")
    add("--held-out", action="store_true", help="compare on held-out situations, too")
    add("--out", type=Path, default=None, help="JSON file; the picture goes beside it")
    options = parser.parse_args()
    chunk = PRESETS[options.preset].chunk
    if options.episodes < 1 or options.episodes % chunk:
        parser.error(f"--episodes must be a multiple of {chunk}, and is {options.episodes}")
    if options.training_minutes <= 0:
        parser.error("--training-minutes must be more than 0")
    options.folder = options.folder.absolute()
    options.data = options.data and options.data.absolute()
    return options


def _default_folder() -> Path:
    """A folder that outlives the checkout where there may be one."""
    parent = _LASTING if _LASTING.exists() else _LASTING.parent
    return _LASTING if os.access(parent, os.W_OK) else Path("build/studies/growing")


def _config(options: argparse.Namespace, preset: Preset) -> dict[str, Any]:
    """What results depend on. More episodes may be added to a comparison at any time."""
    return {
        "preset": preset.name,
        "sizes": hashlib.sha256(preset.contents(options.seed).encode()).hexdigest()[:16],
        "seed": options.seed,
        "training_minutes": options.training_minutes,
        "updates": options.updates,
        "minus_twin": not options.without_twins,
        "search_episodes": options.search_episodes,
    }


def _check_data(preset: Preset, data: Path | None) -> None:
    """Looks whether there is what Kasmina will train on. Raises `StudyError`."""
    try:
        locate(DatasetSettings(preset.dataset.name, data))
    except DatasetNotFound as error:
        raise StudyError(
            f"{error}\nOr say with --data where they are; --preset digits tries the study on that"
        ) from None


async def _carry_out(options: argparse.Namespace) -> int:
    me = asyncio.current_task()
    assert me is not None
    with on_signals(me.cancel, lambda: None):
        return await _stages(options)


async def _stages(options: argparse.Namespace) -> int:
    preset, folder = PRESETS[options.preset], options.folder
    state = State.open(folder, _config(options, preset))
    wanted = STAGES if options.stage == "all" else (options.stage,)
    say(f"study-growing: {', '.join(wanted)}; preset {preset.name}, folder {folder}")
    if wanted != ("report",):
        _check_data(preset, options.data)
    if "train" in wanted and state.version:
        say(f"train: is over, with version {state.version}")
    elif "train" in wanted:
        plan = preset.plan(
            options.seed, minus_twin=not options.without_twins, updates=options.updates
        )
        async with running(
            folder, trainer="train", policies=("learned",), data=options.data
        ) as services:
            await train(services, state, preset, seed=options.seed, plan=plan)
    if "search" in wanted and state.schedule:
        say(f"search: is over, with schedule {state.schedule}")
    elif "search" in wanted:
        async with running(folder, trainer="search", data=options.data) as services:
            await search(services, state, preset, seed=options.seed)
    if "compare" in wanted:
        for held_out in (False, True) if options.held_out else (False,):
            async with running(
                folder, trainer=stage_name(held_out), policies=POLICIES, data=options.data
            ) as services:
                await compare(
                    services,
                    state,
                    preset,
                    seed=options.seed,
                    episodes=options.episodes,
                    held_out=held_out,
                )
    if "report" in wanted:
        async with running(folder) as services:
            gathered = await report.gather(services, state, preset, options.episodes)
        print(report.text(state, *gathered))
        if options.out is not None:
            report.write(state, *gathered, options.out)
            say(f"written: {options.out} and {options.out.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
