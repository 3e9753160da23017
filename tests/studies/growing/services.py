"""The services that a stage needs, each a process of its own that ends with this one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from tests.studies.growing.preset import OBSERVATION_SPEC, WORKERS
from tests.studies.growing.problem import StudyError
from tests.studies.growing.state import wait_for_services

from leyline.client import Client, Experience, Learner, PolicyServer, Trainer
from leyline.supervision import Service, ServiceFailed, Supervisor, free_address

BUILT_IN = ("random", "heuristic")
"""Tamiyo's own policies that are compared with, each at an endpoint of its name."""
_READY_S = 600.0
"""A study runs at the lowest priority, beside whatever else the machine does."""
_ENVIRONMENT = {
    # Workers and the learner share two cores: a thread each, which does not wait by spinning.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Services:
    """Where they listen, by name; what a stage does not need is not there."""

    addresses: dict[str, str]

    def experience(self) -> Experience:
        return Experience(self.addresses["simic"])

    def learner(self) -> Learner:
        return Learner(self.addresses["simic"])

    def trainer(self) -> Trainer:
        return Trainer(self.addresses["kasmina"])

    async def policies_ready(self) -> None:
        """Waits until every Tamiyo has something to decide with.

        Raises:
            ServiceError: one never has.
        """
        for name, address in self.addresses.items():
            if name.startswith("tamiyo"):
                async with PolicyServer(address) as policy:
                    await policy.serving(_READY_S)


@contextlib.asynccontextmanager
async def running(
    folder: Path, *, trainer: str = "", policies: tuple[str, ...] = (), data: Path | None = None
) -> AsyncIterator[Services]:
    """Simic, and what else is named, over the folder.

    Args:
        folder: each service keeps its state in a folder of its own below it.
        trainer: name of the stage whose Kasmina is wanted: each stage has one with a journal of its
            own, so that it goes on with its own runs and no other's. Empty: none.
        policies: policies of which a Tamiyo is wanted: "learned" or one of `BUILT_IN`.
        data: where Kasmina finds data sets; None: where it always looks.
    """
    await asyncio.to_thread(wait_for_services, folder)
    addresses: dict[str, str] = {}
    for name in ("simic", *(_tamiyo(policy) for policy in policies), "kasmina"):
        if name != "kasmina" or trainer:
            addresses[name] = free_address()
    simic = addresses["simic"]
    services = [Service("simic", simic, ("--state-dir", str(folder / "simic")))]
    arguments: tuple[str, ...]
    for policy in policies:
        name = _tamiyo(policy)
        its_own = ("--registry", simic) if policy == "learned" else ("--spec", OBSERVATION_SPEC)
        arguments = ("--state-dir", str(folder / name), "--policy", policy, *its_own)
        services.append(Service(name, addresses[name], arguments, kind="tamiyo"))
    if trainer:
        arguments = ("--state-dir", str(folder / f"kasmina-{trainer}"), "--experience", simic)
        arguments += ("--parallelism", str(WORKERS), "--threads", "1")
        for policy in policies:
            endpoint = "default" if policy == "learned" else policy
            arguments += ("--policy", f"{endpoint}={addresses[_tamiyo(policy)]}")
        arguments += ("--data", str(data)) if data is not None else ()
        services.append(Service("kasmina", addresses["kasmina"], arguments))
    supervisor = Supervisor(services, folder, _ENVIRONMENT, start_timeout_s=_READY_S)
    try:
        async with supervisor, _kept_up(supervisor):
            async with Client(simic) as client:
                await client.serving(_READY_S)
            yield Services(addresses)
    except ServiceFailed as failure:
        said = "\n".join(failure.tail)
        raise StudyError(f"{failure}; it said last:\n{said}") from None


@contextlib.asynccontextmanager
async def _kept_up(supervisor: Supervisor) -> AsyncIterator[None]:
    """Breaks the block off when a service cannot be kept running. Raises `ServiceFailed`."""
    me = asyncio.current_task()
    assert me is not None
    watching = asyncio.create_task(supervisor.wait())
    watching.add_done_callback(lambda done: None if done.cancelled() else me.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if watching.done():
            me.uncancel()
            await watching
        raise
    finally:
        watching.cancel()


def _tamiyo(policy: str) -> str:
    return "tamiyo" if policy == "learned" else f"tamiyo-{policy}"
