"""The trainer service on the wire, with a journal and without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.kasmina.neighbours import step_id, until
from tests.kasmina.running import small_spec

from chassis.address import Address
from chassis.channel import ChannelSettings, open_channel
from chassis.errors import ErrorCode
from chassis.server import Server
from chassis.status import RemoteError, from_rpc_error
from kasmina.data.dataset import load_dataset
from kasmina.runs.disk import Disk
from kasmina.runs.episode_log import Beginning, FinalNetwork
from kasmina.runs.journal import Journal
from kasmina.runs.run_spec import dataset_settings, trainer_config
from kasmina.runs.state_directory import StateDirectory
from kasmina.runs.supervisor import Supervisor
from kasmina.service import SERVICE_NAME
from kasmina.servicer import TrainerServicer
from kasmina.settings import KasminaSettings
from kasmina.training.trainer import GrowthTrainer
from leyline.v1.decision_pb2 import ACTION_TYPE_WAIT, SELECTION_MODE_SAMPLED, Decision
from leyline.v1.episode_pb2 import EpisodeOrigin
from leyline.v1.trainer_pb2 import (
    NETWORK_FORMAT_SAFETENSORS,
    RUN_STATE_CANCELLED,
    RUN_STATE_COMPLETED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    SPLIT_TEST,
    SPLIT_VALIDATION,
    CancelRunRequest,
    Compute,
    DownloadNetworkRequest,
    DriveEpisodeRequest,
    DriveEpisodeStart,
    EpisodeBegan,
    EvaluateRunRequest,
    GetRunRequest,
    HostSpec,
    ListRunsRequest,
    RunSpec,
    StartRunRequest,
    StepCompleted,
    WatchRunRequest,
)
from leyline.v1.trainer_pb2_grpc import (
    TrainerServiceStub,
    add_TrainerServiceServicer_to_server,
)
from leyline.v1.transition_pb2 import TERMINATION_HORIZON, EpisodeEnd, Transition

if TYPE_CHECKING:
    from leyline.v1.trainer_pb2_grpc import TrainerServiceAsyncStub


@dataclass
class Service:
    """A service whose queue nobody works through, unless the test does."""

    stub: TrainerServiceAsyncStub
    journal: Journal
    state: StateDirectory
    server: Server
    supervisor: Supervisor

    async def start(self, run_id: str = "", spec: RunSpec | None = None) -> str:
        """Queues a run."""
        request = StartRunRequest(run_id=run_id, spec=spec or small_spec())
        return (await self.stub.StartRun(request)).run.run_id


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service on a free port."""
    settings = KasminaSettings(
        listen=Address.parse("127.0.0.1:0"),
        state_dir=tmp_path,
        queue_limit=3,
        min_free_bytes=0,
        poll_interval_s=0.01,
    )
    state = StateDirectory.open(tmp_path)
    journal = Journal(state.journal)
    server = Server(settings, services=[SERVICE_NAME])
    disk = Disk(state.root, state.reserve, 0)
    supervisor = Supervisor(settings, state, journal)
    servicer = TrainerServicer(settings, state, journal, disk, supervisor, server.drain)
    add_TrainerServiceServicer_to_server(servicer, server.grpc)
    async with server, open_channel(ChannelSettings(str(server.address))) as channel:
        yield Service(TrainerServiceStub(channel), journal, state, server, supervisor)
    journal.close()


async def refused(call: Any) -> RemoteError:
    """What a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


async def test_a_run_gets_a_name_and_its_defaults(service: Service) -> None:
    run_id = await service.start()
    run = (await service.stub.GetRun(GetRunRequest(run_id=run_id))).run
    assert run.run_id.startswith("run-")
    assert run.state == RUN_STATE_QUEUED
    assert run.spec.host.name == "weak-cnn"
    assert run.spec.policy.endpoint == "default"
    assert run.last_sequence == 1


async def test_starting_is_idempotent_by_name(service: Service) -> None:
    assert await service.start("mine") == await service.start("mine") == "mine"
    error = await refused(service.start("mine", small_spec(seed=8)))
    assert error.error_code is ErrorCode.RUN_EXISTS
    runs = (await service.stub.ListRuns(ListRunsRequest())).runs
    assert [run.run_id for run in runs] == ["mine"]


async def test_what_is_wrong_with_a_run_is_said_by_field(service: Service) -> None:
    spec = small_spec()
    spec.host.CopyFrom(HostSpec(name="strong-cnn"))
    error = await refused(service.start("bad", spec))
    assert error.status is grpc.StatusCode.INVALID_ARGUMENT
    assert error.error_code is ErrorCode.UNKNOWN_HOST
    assert [violation.field for violation in error.violations] == ["spec.host.name"]
    assert not (await service.stub.ListRuns(ListRunsRequest())).runs


async def test_a_full_queue_says_when_to_come_again(service: Service) -> None:
    for _ in range(3):
        await service.start()
    error = await refused(service.start())
    assert error.error_code is ErrorCode.QUEUE_FULL
    assert error.retry_after_s is not None


@pytest.mark.parametrize("method", ["GetRun", "CancelRun", "WatchRun", "EvaluateRun"])
async def test_a_run_that_there_is_not_is_not_found(service: Service, method: str) -> None:
    requests: dict[str, Any] = {
        "GetRun": GetRunRequest(run_id="ghost"),
        "CancelRun": CancelRunRequest(run_id="ghost"),
        "EvaluateRun": EvaluateRunRequest(run_id="ghost", split=SPLIT_TEST),
    }
    if method == "WatchRun":
        call = service.stub.WatchRun(WatchRunRequest(run_id="ghost")).read()
    else:
        call = getattr(service.stub, method)(requests[method])
    assert (await refused(call)).error_code is ErrorCode.RUN_NOT_FOUND


async def test_runs_are_listed_newest_first_page_by_page(service: Service) -> None:
    for name in ("first", "second", "third"):
        await service.start(name)
    page = await service.stub.ListRuns(ListRunsRequest(page_size=2))
    rest = await service.stub.ListRuns(
        ListRunsRequest(page_size=2, page_token=page.next_page_token)
    )
    assert [run.run_id for run in page.runs] == ["third", "second"]
    assert [run.run_id for run in rest.runs] == ["first"]
    assert not rest.next_page_token
    error = await refused(service.stub.ListRuns(ListRunsRequest(page_token="soon")))
    assert [violation.field for violation in error.violations] == ["page_token"]


async def test_a_queued_run_is_cancelled_at_once(service: Service) -> None:
    await service.start("unwanted")
    request = CancelRunRequest(run_id="unwanted", reason="changed my mind")
    run = (await service.stub.CancelRun(request)).run
    assert (run.state, run.status_message) == (RUN_STATE_CANCELLED, "changed my mind")
    assert (await service.stub.CancelRun(request)).run == run


async def test_a_watch_follows_the_run_to_its_end_and_resumes_by_sequence(
    service: Service,
) -> None:
    await service.start("watched")
    watching = service.stub.WatchRun(WatchRunRequest(run_id="watched"))
    watch = aiter(watching)
    seen = [await anext(watch)]
    service.journal.runs.take("watched")
    service.journal.runs.change("watched", RUN_STATE_PAUSED, "waiting")
    seen += [await anext(watch), await anext(watch)]
    watching.cancel()
    service.journal.runs.change("watched", RUN_STATE_RUNNING, "")
    service.journal.runs.end("watched", RUN_STATE_FAILED, "that was it")
    rest = [
        event
        async for event in service.stub.WatchRun(
            WatchRunRequest(run_id="watched", after_sequence=2)
        )
    ]
    states = [event.state_changed.state for event in seen]
    assert states == [RUN_STATE_QUEUED, RUN_STATE_RUNNING, RUN_STATE_PAUSED]
    assert rest[0] == seen[2]
    assert [event.sequence for event in rest] == [3, 4, 5]
    assert rest[-1].state_changed.message == "that was it"
    caught_up = service.stub.WatchRun(WatchRunRequest(run_id="watched", after_sequence=5))
    assert [event async for event in caught_up] == []


async def test_a_watch_ends_when_the_service_does(service: Service) -> None:
    await service.start("watched")
    watch = service.stub.WatchRun(WatchRunRequest(run_id="watched"))
    await watch.read()
    waiting = asyncio.ensure_future(watch.read())
    service.server.drain.begin()
    assert (await refused(waiting)).error_code is ErrorCode.SHUTTING_DOWN


async def test_a_watch_of_a_run_that_is_forgotten_meanwhile_ends(service: Service) -> None:
    await service.start("passing")
    watch = service.stub.WatchRun(WatchRunRequest(run_id="passing"))
    assert (await anext(aiter(watch))).state_changed.state == RUN_STATE_QUEUED
    service.journal.runs.end("passing", RUN_STATE_FAILED, "that was it")
    assert service.journal.archive.forget_next(keep=0, ended_before=None) == "passing"
    rest = [event async for event in watch]
    assert len(rest) <= 1, "the end, where it was seen before it was forgotten"
    error = await refused(service.stub.GetRun(GetRunRequest(run_id="passing")))
    assert error.error_code is ErrorCode.RUN_NOT_FOUND
    error = await refused(service.stub.WatchRun(WatchRunRequest(run_id="passing")).read())
    assert error.error_code is ErrorCode.RUN_NOT_FOUND


def opening(run_id: str, episode_index: int = 0, spec: RunSpec | None = None) -> Any:
    """The first message of a caller who decides."""
    start = DriveEpisodeStart(spec=spec or small_spec(), run_id=run_id, episode_index=episode_index)
    return DriveEpisodeRequest(start=start)


async def first_answer(service: Service, *requests: DriveEpisodeRequest) -> Any:
    """What a stream with these requests is answered first."""
    call = service.stub.DriveEpisode()
    for request in requests:
        await call.write(request)
    return await call.read()


async def test_what_is_wrong_with_the_opening_of_an_episode_is_said_by_field(
    service: Service,
) -> None:
    bad_host = small_spec()
    bad_host.host.name = "strong-cnn"
    wait = Decision(decision_id="early", action_type=ACTION_TYPE_WAIT, mode=SELECTION_MODE_SAMPLED)
    openings = {
        "start": DriveEpisodeRequest(decision=wait),
        "start.spec.host.name": opening("bad", spec=bad_host),
        "start.episode_index": opening("new", episode_index=1),
        "start.run_id": opening("not a name"),
    }
    for field, request in openings.items():
        error = await refused(first_answer(service, request))
        assert error.status is grpc.StatusCode.INVALID_ARGUMENT
        assert [violation.field for violation in error.violations] == [field]
    assert not (await service.stub.ListRuns(ListRunsRequest())).runs


async def test_a_run_is_driven_or_not_from_its_beginning(service: Service) -> None:
    await service.start("mine")
    error = await refused(first_answer(service, opening("mine")))
    assert error.error_code is ErrorCode.RUN_EXISTS


async def test_an_episode_has_one_driver_at_a_time(service: Service) -> None:
    first = service.stub.DriveEpisode()
    await first.write(opening("driven"))
    told: list[Any] = []
    with service.supervisor.driven.worked_on("driven", told.append):
        await until(lambda: {"attended": True} in told)
        error = await refused(first_answer(service, opening("driven")))
        assert error.error_code is ErrorCode.EPISODE_DRIVEN
        assert error.metadata["episode_index"] == "0"
        first.cancel()
        await until(lambda: told[-1] == {"attended": False})


async def test_a_run_that_is_cancelled_before_its_episode_began_says_so_to_its_driver(
    service: Service,
) -> None:
    call = service.stub.DriveEpisode()
    await call.write(opening("unwanted"))
    while not (await service.stub.ListRuns(ListRunsRequest())).runs:
        pass
    request = CancelRunRequest(run_id="unwanted", reason="changed my mind")
    await service.stub.CancelRun(request)
    error = await refused(call.read())
    assert error.error_code is ErrorCode.EPISODE_ENDED
    assert error.metadata["why"] == "changed my mind"


async def test_a_driver_is_sent_away_when_the_service_stops(service: Service) -> None:
    call = service.stub.DriveEpisode()
    await call.write(opening("driven"))
    while not (await service.stub.ListRuns(ListRunsRequest())).runs:
        pass
    service.server.drain.begin()
    assert (await refused(call.read())).error_code is ErrorCode.SHUTTING_DOWN


async def test_refused_items_show_in_the_status_of_their_run(service: Service) -> None:
    await service.start("odd")
    database = service.journal.runs._database
    with database.transaction() as connection:
        connection.execute("INSERT INTO refused VALUES (1, 'odd', 0, x'', 'WHY', x'', 0)")
    run = (await service.stub.GetRun(GetRunRequest(run_id="odd"))).run
    assert run.status_message == "the experience service refused 1 items"


def play(service: Service, run_id: str) -> GrowthTrainer:
    """Leaves what a worker leaves of a run of one episode without a step."""
    run = service.journal.runs.get(run_id)
    assert run is not None
    dataset = load_dataset(dataset_settings(run.spec, None, None))
    trainer = GrowthTrainer(
        trainer_config(run.spec, EpisodeOrigin(), Compute(device="cpu", threads=1)), dataset
    )
    path = service.state.network(run_id, 0)
    trainer.export(path)
    content = path.read_bytes()
    service.journal.runs.take(run_id)
    beginning = Beginning("none", False, None, SELECTION_MODE_SAMPLED, None)
    service.journal.episodes.begin(beginning, EpisodeBegan(episode_index=0), run_id)
    service.journal.episodes.complete_last(
        Transition(step_id=step_id(run_id, 0, 0)),
        StepCompleted(),
        EpisodeEnd(run_id=run_id, termination=TERMINATION_HORIZON, steps=1),
        FinalNetwork(sha256(content).hexdigest(), len(content)),
    )
    service.journal.runs.end(run_id, RUN_STATE_COMPLETED, "")
    return trainer


async def test_a_final_network_is_downloaded_from_any_offset(service: Service) -> None:
    spec = small_spec()
    spec.host.channels[:] = [64, 128, 64]
    await service.start("wide", spec)
    play(service, "wide")
    request = DownloadNetworkRequest(run_id="wide", format=NETWORK_FORMAT_SAFETENSORS)
    pieces = [piece async for piece in service.stub.DownloadNetwork(request)]
    content = b"".join(piece.data for piece in pieces)
    assert len(pieces) > 1
    assert max(len(piece.data) for piece in pieces) == 256 * 1024
    assert {piece.total_size for piece in pieces} == {len(content)}
    assert {piece.sha256 for piece in pieces} == {sha256(content).hexdigest()}
    request.offset = 1000
    rest = service.stub.DownloadNetwork(request)
    assert b"".join([piece.data async for piece in rest]) == content[1000:]


async def test_a_final_network_is_evaluated_on_either_split(service: Service) -> None:
    await service.start("judged")
    trainer = play(service, "judged")
    facts = {}
    for split in (SPLIT_VALIDATION, SPLIT_TEST):
        request = EvaluateRunRequest(run_id="judged", split=split)
        facts[split] = await service.stub.EvaluateRun(request)
    assert facts[SPLIT_VALIDATION].images == 100
    assert facts[SPLIT_VALIDATION].accuracy == pytest.approx(trainer.snapshot().val_accuracy)
    assert facts[SPLIT_VALIDATION].loss == pytest.approx(trainer.snapshot().val_loss, rel=1e-5)
    assert facts[SPLIT_TEST].images == 360


async def test_an_episode_without_a_final_network_is_not_found(service: Service) -> None:
    await service.start("young")
    error = await refused(
        service.stub.EvaluateRun(EvaluateRunRequest(run_id="young", split=SPLIT_TEST))
    )
    assert error.error_code is ErrorCode.EPISODE_NOT_FOUND
    request = DownloadNetworkRequest(run_id="young", format=NETWORK_FORMAT_SAFETENSORS)
    download = service.stub.DownloadNetwork(request)
    assert (await refused(download.read())).error_code is ErrorCode.EPISODE_NOT_FOUND
