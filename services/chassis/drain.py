"""The end of a server's life, as its open streams see it.

``grpc.aio.Server.stop(grace)`` waits for every open call. A stream that waits for its next
message, or for news to send, would make it wait the whole grace; so whatever waits inside a call
waits under a ``Drain``, which interrupts it when the server begins to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from types import TracebackType
from typing import TypeVar

from chassis.errors import ErrorCode, LeylineError

Item = TypeVar("Item")


class Drain:
    """Begins once, for good. To be used from the thread of the server's event loop."""

    def __init__(self) -> None:
        """Start in the state in which nothing is interrupted."""
        self._event = asyncio.Event()
        self._interruptible: set[_Interruptible] = set()

    @property
    def begun(self) -> bool:
        """Whether the server has begun to stop."""
        return self._event.is_set()

    def begin(self) -> None:
        """Interrupt everything that waits now, and everything that starts to wait later."""
        if self._event.is_set():
            return
        self._event.set()
        for block in self._interruptible:
            block.interrupt()

    async def wait(self) -> None:
        """Wait until the drain begins."""
        await self._event.wait()

    def interrupting(self) -> _Interruptible:
        """Interrupt what a task awaits inside the block when the drain begins.

        Raises:
            LeylineError: SHUTTING_DOWN, when the drain began before or during the block.
        """
        return _Interruptible(self, self._interruptible)

    async def cut(self, stream: AsyncIterable[Item]) -> AsyncIterator[Item]:
        """Pass a stream on until its end, or until the drain begins.

        Raises:
            LeylineError: SHUTTING_DOWN at the item that the drain came before.
        """
        iterator = aiter(stream)
        waiting = self.interrupting()
        while True:
            with waiting:
                try:
                    item = await anext(iterator)
                except StopAsyncIteration:
                    return
            yield item


class _Interruptible:
    """A block of a task, which it leaves with an error when the drain begins; may be entered again.

    It counts cancellations as `asyncio.timeout` does, so that somebody else's stays one. It stands
    around every message of every stream, where a generator around a timeout costs several times as
    much.
    """

    __slots__ = ("_cancelling", "_drain", "_interrupted", "_interruptible", "_task")

    def __init__(self, drain: Drain, interruptible: set[_Interruptible]) -> None:
        self._drain = drain
        self._interruptible = interruptible
        self._interrupted = False

    def interrupt(self) -> None:
        """Wake the task, which waits inside the block."""
        self._interrupted = True
        self._task.cancel()

    def __enter__(self) -> None:
        if self._drain.begun:
            raise LeylineError(ErrorCode.SHUTTING_DOWN)
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be interrupted")
        self._task = task
        self._cancelling = task.cancelling()
        self._interruptible.add(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._interruptible.discard(self)
        if not self._interrupted:
            return
        others = self._task.uncancel() > self._cancelling
        if kind is asyncio.CancelledError and not others:
            raise LeylineError(ErrorCode.SHUTTING_DOWN) from None
