"""What a policy learns on the growth simulator from so many episodes: `make study-learning`.

Each arm is a way of learning; it is repeated with several seeds, and what was learned plays fresh
episodes of the family that it learned on, of the same with more slots than it has seen, and of the
held-out family. Scores are shares of what the oracle's bound says can be gained over always
waiting. Arms that are "served" learn through the real services, over gRPC; the others' trainers,
networks and algorithms are the same in one process: the wire, the store and the artifacts are left
out. A result is a line of a file as soon as it is there, so that a study that was interrupted goes
on; the file does not know of changes to the code, so remove the folder after one.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from tests.paired import interval_of
from tests.studies import served
from tests.studies.simulated import evaluate, learn

from kasmina.simulator.parameters import load_family
from leyline.v1.learner_pb2 import TrainingPlan
from simic.learning.rollout import Trajectory

EVALUATION_EPISODES = 80
MORE_SLOTS = (6, 12)


@dataclass(frozen=True)
class Arm:
    """A way of learning.

    Attributes:
        network: its name.
        lag: updates by which the network that plays is behind the newest one.
        seeds: how many trainings it is given.
        served: whether it learns through the services.
        shuffled: what is dealt out anew among the steps of a batch: nothing can be learned from it.
    """

    network: str = "slot-shared"
    lag: int = 0
    seeds: int = 5
    served: bool = False
    shuffled: frozenset[str] = frozenset()


ARMS: Mapping[str, Arm] = {
    # So many that a policy which collapses one time in ten would probably be among them.
    "default": Arm(seeds=20),
    "lag 3": Arm(lag=3),
    "served": Arm(served=True),
    "served, lag 3": Arm(served=True, lag=3),
    "mlp": Arm(network="mlp"),
    "shuffled rewards": Arm(shuffled=frozenset({"rewards"})),
    "shuffled feedback": Arm(shuffled=frozenset({"rewards", "no_ops"})),
}


@dataclass(frozen=True)
class Result:
    """What one training came to.

    Attributes:
        default: mean score on fresh episodes of the family that it learned on, most probable
            actions.
        held_out: the same on the held-out family.
        drawn: as `default`, with actions drawn from the policy.
        more_slots: as `default`, by the number of slots; of a network that can decide for any.
        wait_share: of the last update's episodes.
        curve: mean score of the episodes of each update; nothing of an arm that is served.
    """

    arm: str
    seed: int
    episodes: int
    default: float
    held_out: float
    drawn: float
    more_slots: Mapping[str, float]
    wait_share: float
    curve: Sequence[float]
    seconds: float


def train(name: str, seed: int, episodes: int) -> Result:
    """One training of an arm, and what it learned."""
    torch.set_num_threads(1)
    began, arm, family = time.monotonic(), ARMS[name], load_family("default")
    plan = TrainingPlan(seed=seed, network=arm.network, observation_spec="extended")
    curve: list[float] = []
    if arm.served:
        network, last = served.learn(plan, episodes, arm.lag)
    else:
        tell = partial(shuffled, arm.shuffled, np.random.default_rng(seed))
        learned = learn(family, plan, episodes, lag=arm.lag, tell=tell)
        network, last = learned.network, dict(learned.updates[-1].diagnostics)
        curve = [round(score, 4) for score in learned.scores]
    more = () if network.slots else MORE_SLOTS
    return Result(
        arm=name,
        seed=seed,
        episodes=episodes,
        default=evaluate(network, family, EVALUATION_EPISODES),
        held_out=evaluate(network, load_family("held-out"), EVALUATION_EPISODES),
        drawn=evaluate(network, family, EVALUATION_EPISODES, greedy=False),
        more_slots={
            str(slots): evaluate(network, family.with_episode(slots=slots), EVALUATION_EPISODES)
            for slots in more
        },
        wait_share=last["wait_share"],
        curve=curve,
        seconds=round(time.monotonic() - began, 1),
    )


def shuffled(
    what: Iterable[str], random: np.random.Generator, batch: Sequence[Trajectory]
) -> Sequence[Trajectory]:
    """The same episodes, with some of their feedback at other steps."""
    ends = np.cumsum([len(each) for each in batch])[:-1]
    for name in sorted(what):
        dealt = random.permutation(np.concatenate([getattr(each, name) for each in batch]))
        parts = np.split(dealt, ends)
        pairs = zip(batch, parts, strict=True)
        batch = [Trajectory(**{**vars(each), name: part}) for each, part in pairs]
    return batch


def play(
    wanted: Sequence[tuple[str, int]], episodes: int, file: Path, workers: int
) -> list[Result]:
    """Results of these arms and seeds, in that order; what the file has is not trained again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {
        (result.arm, result.seed): result for result in _read(file) if result.episodes == episodes
    }
    missing = [each for each in wanted if each not in known]
    began = time.monotonic()
    with ProcessPoolExecutor(workers) as pool, file.open("a") as lines:
        futures = [pool.submit(train, name, seed, episodes) for name, seed in missing]
        for done, future in enumerate(as_completed(futures), 1):
            result = future.result()
            known[result.arm, result.seed] = result
            print(json.dumps(asdict(result)), file=lines, flush=True)
            left = (time.monotonic() - began) / done * (len(missing) - done)
            print(
                f"{done} of {len(missing)}: {result.arm}, seed {result.seed}: "
                f"{result.default:.3f}; about {left / 60:.0f} min left",
                file=sys.stderr,
            )
    return [known[each] for each in wanted]


def _read(file: Path) -> list[Result]:
    if not file.exists():
        return []
    return [Result(**json.loads(line)) for line in file.read_text().splitlines()]


def table(results: Sequence[Result]) -> str:
    """A row for each arm: means over its seeds, their 95 % intervals by Student's t, the worst."""
    first = ("arm", "seeds", "default", "worst", "drawn", "held-out", "worst")
    columns = (*first, *(f"{slots} slots" for slots in MORE_SLOTS), "most WAIT")
    rows = [columns, ("---",) * len(columns)]
    for name in dict.fromkeys(result.arm for result in results):
        mine = [result for result in results if result.arm == name]
        default, held_out = [each.default for each in mine], [each.held_out for each in mine]
        rows.append(
            (
                name,
                str(len(mine)),
                _mean(default),
                f"{min(default):.3f}",
                _mean([each.drawn for each in mine]),
                _mean(held_out),
                f"{min(held_out):.3f}",
                *(
                    _mean([each.more_slots[str(slots)] for each in mine if each.more_slots])
                    for slots in MORE_SLOTS
                ),
                f"{max(each.wait_share for each in mine):.3f}",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _mean(scores: Sequence[float]) -> str:
    if not scores:
        return ""
    mean, half = interval_of(scores)
    return f"{mean:.3f} ± {half:.3f}"


def draw(results: Sequence[Result], path: Path) -> None:
    """The score of each update's episodes: the mean over an arm's seeds, thinly the seeds."""
    figure, axes = plt.subplots(figsize=(8, 5))
    arms = dict.fromkeys(result.arm for result in results if result.curve)
    for number, name in enumerate(arms):
        curves = [result.curve for result in results if result.arm == name]
        for curve in curves:
            axes.plot(range(1, len(curve) + 1), curve, f"C{number}", alpha=0.2, lw=1)
        mean = np.mean(curves, axis=0)
        axes.plot(range(1, len(mean) + 1), mean, f"C{number}", lw=2, label=name)
    axes.set_xlabel("update")
    axes.set_ylabel("score of its episodes (0: always waiting, 1: the oracle's bound)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    """Trains what is missing and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arm", action="append", choices=tuple(ARMS), help="all if not given")
    parser.add_argument("--seeds", type=int, default=None, help="of each arm; else what it says")
    parser.add_argument("--episodes", type=int, default=288)
    parser.add_argument("--workers", type=int, default=2, help="trainings at a time")
    parser.add_argument("--folder", type=Path, default=Path("build/studies/learning"))
    parser.add_argument("--out", type=Path, default=None, help="JSON, and a picture beside it")
    options = parser.parse_args()

    wanted = [
        (name, seed)
        for name in options.arm or ARMS
        for seed in range(options.seeds or ARMS[name].seeds)
    ]
    file = options.folder / "results.jsonl"
    results = play(wanted, options.episodes, file, options.workers)
    print(table(results))
    if options.out is not None:
        machine = f"{platform.machine()}, torch {torch.__version__}, one thread a training"
        record = {"machine": machine, "results": [asdict(result) for result in results]}
        options.out.write_text(json.dumps(record, indent=1) + "\n")
        draw(results, options.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
