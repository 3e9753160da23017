"""A service as an operating-system process: exit codes, signals, the one line that says why not."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from enum import IntEnum
from types import FrameType
from typing import Protocol, TypeVar

from chassis.errors import LeylineError
from chassis.logging import LogFormat, LogLevel, configure, get_logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ExitCode(IntEnum):
    """How a service's process ends."""

    OK = 0
    FAILED = 1
    CONFIGURATION = 2
    ADDRESS_IN_USE = 3


class StartupError(Exception):
    """The service cannot start, and the person who started it can do something about it.

    The message says what and where and what to do, in one line; no traceback is shown.
    """

    exit_code = ExitCode.FAILED


class ConfigurationError(StartupError):
    """A setting is wrong; the message has a line for each."""

    exit_code = ExitCode.CONFIGURATION


class AddressInUse(StartupError):
    """Somebody else listens where this service wants to."""

    exit_code = ExitCode.ADDRESS_IN_USE


class LogSettings(Protocol):
    """What ``main`` itself needs of a service's settings."""

    @property
    def log_level(self) -> LogLevel:
        """The least severe level that is written."""

    @property
    def log_format(self) -> LogFormat:
        """How lines look."""


Settings = TypeVar("Settings", bound=LogSettings)


def main(
    service: str,
    settings: Callable[[], Settings],
    serve: Callable[[Settings], Awaitable[None]],
    stopped: ExitCode = ExitCode.OK,
) -> ExitCode:
    """Run a service until it ends or a signal ends it.

    SIGTERM and SIGINT cancel ``serve``, wherever it is, so that start-up work stops too; a
    ``chassis.server.Server`` on the way out drains. A second signal cuts the drain short. Both are
    handled explicitly because process 1 of a container has no default handlers.

    Args:
        service: its name in logs and messages.
        settings: loads them; a module that is slow to import is best imported here.
        serve: the service.
        stopped: the exit code where a signal ends it.

    Returns:
        The exit code. Everything worth saying has been said on standard error.
    """
    for number in _SIGNALS:
        signal.signal(number, _stop_before_the_loop)
    configure(service)
    try:
        loaded = settings()
        configure(service, loaded.log_level, loaded.log_format)
        return asyncio.run(_until_signalled(serve, loaded, stopped))
    except _Stopped:
        return stopped
    except Exception as error:
        return _explain(service, error)


class _Stopped(BaseException):
    """A signal came before there was an event loop."""


def _stop_before_the_loop(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


async def _until_signalled(
    serve: Callable[[Settings], Awaitable[None]], settings: Settings, stopped: ExitCode
) -> ExitCode:
    task = asyncio.ensure_future(serve(settings))
    loop = asyncio.get_running_loop()
    signalled = False

    def stop(number: signal.Signals) -> None:
        nonlocal signalled
        signalled = True
        get_logger(__name__).info("signal", signal=number.name)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled:
            raise
        return stopped
    return ExitCode.OK


def _explain(service: str, error: Exception) -> ExitCode:
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, StartupError | LeylineError):
            for line in str(cause).splitlines():
                print(f"leyline {service}: error: {line}", file=sys.stderr)
        else:
            get_logger(__name__).critical("failed", exc_info=cause)
    if len(causes) == 1 and isinstance(causes[0], StartupError):
        return causes[0].exit_code
    return ExitCode.FAILED


def _leaves(error: Exception) -> Iterator[Exception]:
    """Take a task group's exception apart."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
