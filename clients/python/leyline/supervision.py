"""The three services as supervised processes on one machine, on the library circus.

A service that dies after it has started is started again, for it keeps all that matters on disk.
One that dies before it could listen is not: that is a mistake in its settings, and its own words
about it are shown. Nothing survives the supervisor, not even its being killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SUPERVISOR = "LEYLINE_SUPERVISOR"  # the process id of the supervisor, in its services' environment
_CHECK_INTERVAL_S = 0.25
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0  # longer than the services' own grace for a drain
_RESTARTS = 5  # as many restarts of one service within
_RESTARTS_WITHIN_S = 60.0  # so many seconds are taken for a service that cannot run
_LOG_BYTES, _LOG_FILES = 8 << 20, 3
_TAIL_LINES = 20


class ServiceFailed(Exception):
    """A service cannot be kept running; `tail` is what it said last."""

    def __init__(self, name: str, reason: str, log: Path, tail: Sequence[str]) -> None:
        self.name = name
        self.reason = reason
        self.log = log
        self.tail = tuple(tail)
        super().__init__(f"{name} {reason}; its log is {log}")


@dataclass(frozen=True)
class Service:
    """One of our services: its name, where it listens, and its further arguments."""

    name: str
    address: str
    arguments: tuple[str, ...] = ()
    kind: str = ""
    """What `leyline serve` is told, where several are of one kind; empty: the name."""


@dataclass
class _Life:
    """What is known of a service's processes."""

    service: Service
    log: Path
    port_file: Path
    starts: list[float] = field(default_factory=list)
    exit_code: int | None = None
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    @property
    def has_listened(self) -> bool:
        return self.port_file.exists()

    def end(self) -> str:
        """How its process ended; circus tells no code where that was a signal."""
        if self.exit_code is None:
            return "ended by a signal"
        return f"ended with exit code {self.exit_code}"

    def reason_to_give_up(self) -> str | None:
        """Why the service must not be started again, None where it may."""
        if self.starts and not self.has_listened:
            return f"{self.end()} before it could serve"
        recent = [start for start in self.starts if start > time.monotonic() - _RESTARTS_WITHIN_S]
        if len(recent) > _RESTARTS:
            return f"{self.end()} for the {len(recent)}th time within {_RESTARTS_WITHIN_S:.0f} s"
        return None


def free_address() -> str:
    """Return an address on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Supervisor:
    """Keeps services running from `start` to `stop`. Use it as an asynchronous context."""

    def __init__(
        self,
        services: Sequence[Service],
        directory: Path,
        environment: Mapping[str, str],
        echo: Callable[[str, str], None] | None = None,
        start_timeout_s: float = _START_TIMEOUT_S,
    ) -> None:
        """Prepare to run services.

        Args:
            services: what to run.
            directory: where `logs/NAME.log` are written, with three older ones of 8 MiB each.
            environment: variables to set or change for all of them.
            echo: gets each line of log, with its service's name.
            start_timeout_s: within which each must listen.
        """
        self._start_timeout_s = start_timeout_s
        self._echo = echo
        self._environment = {**supervised_environment(), **environment}
        logs = directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        # Paths of sockets must be short, and those of the user's folders need not be.
        self._sockets = tempfile.TemporaryDirectory(prefix="leyline-")
        self._lives = {
            service.name: _Life(
                service, logs / f"{service.name}.log", Path(self._sockets.name) / service.name
            )
            for service in services
        }
        self._failure: asyncio.Future[None] | None = None
        self._arbiter: Any = None
        self._stopping = asyncio.Event()
        self._starting: asyncio.Future[Any] | None = None
        self._looking_after: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Supervisor:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()

    async def wait(self) -> None:
        """Wait for ever.

        Raises:
            ServiceFailed: a service cannot be kept running.
        """
        assert self._failure is not None
        assert self._looking_after is not None
        waited_for = {self._failure, self._looking_after}
        done, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        for ended in done:
            await ended

    def kill(self) -> None:
        """Kill what still runs, without grace."""
        for watcher in self._arbiter.watchers if self._arbiter else ():
            for process in watcher.get_active_processes():
                with contextlib.suppress(ProcessLookupError):
                    # A service leads a session of its own: its workers go with it.
                    os.killpg(process.pid, signal.SIGKILL)

    async def _start(self) -> None:
        # circus is heavy and in the extra for a whole stack: imported where it is needed.
        from circus.arbiter import Arbiter
        from tornado.ioloop import IOLoop

        logging.getLogger("circus").setLevel(logging.ERROR)
        self._failure = asyncio.get_running_loop().create_future()
        # A failure that nobody waits for any more is no news.
        self._failure.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._arbiter = Arbiter(
            [self._watcher(life) for life in self._lives.values()],
            f"ipc://{self._sockets.name}/control",
            f"ipc://{self._sockets.name}/events",
            # Not by circus itself, which complains aloud when its look comes while it is busy.
            check_delay=-1,
            loop=IOLoop.current(),
        )
        # Signals are the business of whoever uses this class.
        self._arbiter.ctrl.sys_hdl.stop()
        self._starting = asyncio.ensure_future(self._arbiter.start())
        await asyncio.shield(self._starting)  # circus cannot be stopped while it starts
        self._looking_after = asyncio.create_task(self._look_after())
        await self._until_all_listen()

    async def _look_after(self) -> None:
        """Start again what has died, until the end."""
        while not self._stopping.is_set():
            await self._arbiter.manage_watchers()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _CHECK_INTERVAL_S)

    async def _until_all_listen(self) -> None:
        assert self._failure is not None
        deadline = time.monotonic() + self._start_timeout_s
        for life in self._lives.values():
            while not life.has_listened:
                await asyncio.wait({self._failure}, timeout=0.05)
                if self._failure.done():
                    await self._failure
                if time.monotonic() > deadline:
                    reason = f"does not listen after {self._start_timeout_s:.0f} s"
                    raise ServiceFailed(life.service.name, reason, life.log, life.tail)

    async def _stop(self) -> None:
        self._stopping.set()
        if self._starting is not None:
            await self._starting
        if self._looking_after is not None:
            await self._looking_after
        if self._arbiter is not None:
            await self._arbiter.stop()
            await asyncio.sleep(0)  # circus closes its own sockets in a callback
        self._sockets.cleanup()

    def _watcher(self, life: _Life) -> Any:
        from circus.watcher import Watcher

        stream = {"stream": _Log(life, self._echo)}
        service = life.service
        return Watcher(
            service.name,
            shlex.quote(sys.executable),
            args=[
                *("-P", "-m", "leyline.cli", "serve", service.kind or service.name),
                *("--listen", service.address, "--port-file", str(life.port_file)),
                *service.arguments,
            ],
            env=self._environment,
            stdout_stream=stream,
            stderr_stream=stream,
            graceful_timeout=_STOP_TIMEOUT_S,
            max_retry=1,
            hooks={
                "before_spawn": (self._before_spawn, False),
                "before_reap": (self._before_reap, True),
                "after_reap": (self._after_reap, True),
            },
        )

    def _before_spawn(self, watcher: Any, **_: Any) -> bool:
        life = self._lives[watcher.name]
        reason = life.reason_to_give_up()
        if reason is not None:
            assert self._failure is not None
            if not self._failure.done():
                failure = ServiceFailed(watcher.name, reason, life.log, life.tail)
                self._failure.set_exception(failure)
            return False
        life.port_file.unlink(missing_ok=True)
        life.starts.append(time.monotonic())
        if len(life.starts) > 1 and self._echo is not None:
            self._echo(watcher.name, f"{life.end()}; started again")
        return True

    def _before_reap(self, watcher: Any, process_pid: int, **_: Any) -> None:
        """Read what is still in a dead process's pipes, before circus closes them."""
        process = watcher.processes[process_pid]
        for pipe in (process.stdout, process.stderr):
            if pipe.closed:
                continue
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while data := os.read(pipe.fileno(), 1 << 16):
                    watcher.stdout_stream({"data": data, "pid": process_pid})

    def _after_reap(self, watcher: Any, exit_code: int | None, **_: Any) -> None:
        self._lives[watcher.name].exit_code = exit_code


class _Log:
    """Takes what a service writes, as circus hands it over: to its file, line by line to others."""

    def __init__(self, life: _Life, echo: Callable[[str, str], None] | None) -> None:
        from circus.stream import FileStream

        self._life = life
        self._echo = echo
        self._file = FileStream(str(life.log), max_bytes=_LOG_BYTES, backup_count=_LOG_FILES)
        self._rest = b""

    def __call__(self, chunk: Mapping[str, Any]) -> None:
        self._file(chunk)
        *lines, self._rest = (self._rest + chunk["data"]).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            self._life.tail.append(text)
            if self._echo is not None:
                self._echo(self._life.service.name, text)

    def close(self) -> None:
        self._file.close()


def supervised_environment() -> dict[str, str]:
    """Return the environment for processes that are to end with this one."""
    return {**os.environ, _SUPERVISOR: str(os.getpid())}


def die_with_supervisor() -> None:
    """Have the kernel end this process, by SIGTERM, when the supervisor that started it dies."""
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is None:
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if supervisor != str(os.getppid()):  # it died before the kernel was told
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def on_signals(first: Callable[[], object], later: Callable[[], object]) -> Iterator[None]:
    """Call one thing at the first SIGINT or SIGTERM in the block, another at each later one."""
    loop = asyncio.get_running_loop()
    calls = iter([first])
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: next(calls, later)())
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
