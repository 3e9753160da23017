"""What happens around every call, once: an id, log context, validation, translation of errors.

Handlers become coroutines that write their responses: gRPC leaves an abandoned async generator to
the garbage collector, while a coroutine of ours closes it at once when the client goes away. To
gRPC all of them take streams: it would wait for the message of any other call, for as long as the
client likes, and parse it, before anybody could ask whose call it is.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from chassis import validation
from chassis.access import Tokens
from chassis.callers import CallerLimits, host_of, network_of
from chassis.channel import REQUEST_ID_KEY
from chassis.drain import Drain
from chassis.errors import ErrorCode, LeylineError, Violation
from chassis.logging import REQUEST_ID, get_logger
from chassis.metrics import CallMetrics
from chassis.status import DETAILS_KEY, to_status

if TYPE_CHECKING:
    from chassis.spans import Tracing

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
# Generic only in the stubs.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

# What may stand in a log line and a header without being quoted.
_REQUEST_ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Check: TypeAlias = Callable[[Any], None]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Behaviour = TypeVar("Behaviour", bound=Callable[..., Any])

_NO_MESSAGE = object()
_CHECKS_ITSELF = "_checks_itself"
_OURS = "/leyline."
_HEALTH_CHECK = "/grpc.health.v1.Health/Check"

_log = get_logger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Surrounds every call of a server."""

    def __init__(
        self,
        drain: Drain,
        metrics: CallMetrics,
        tokens: Tokens | None,
        callers: CallerLimits,
        default_deadline_s: float,
        tracing: Tracing | None,
    ) -> None:
        """Take what the server knows.

        Args:
            drain: ends request streams when the server stops.
            metrics: counts calls.
            tokens: who may call what; None: whoever reaches the server, everything.
            callers: limits what each of them, and all of them together, ask for.
            default_deadline_s: seconds for a unary call that came without a deadline, and for the
                one message of a call that takes one.
            tracing: is told of unary calls of the contract; None: nobody is.
        """
        self._drain = drain
        self._metrics = metrics
        self._tokens = tokens
        self._callers = callers
        self._default_deadline_s = default_deadline_s
        self._tracing = tracing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the method's handler; an unknown method stays gRPC's UNIMPLEMENTED."""
        handler = await continuation(handler_call_details)
        return None if handler is None else self._wrapped(handler, handler_call_details.method)

    def _wrapped(self, handler: Handler, method: str) -> Handler:
        behaviour = _behaviour(handler)
        if not (inspect.isasyncgenfunction(behaviour) or inspect.iscoroutinefunction(behaviour)):
            behaviour = _not_implemented(method, behaviour)

        check = _check_bytes if getattr(behaviour, _CHECKS_ITSELF, False) else _check

        async def let_in(requests: Any, context: Context) -> Any:
            async with self._deadline(handler, context):
                incoming = await self._incoming(handler, requests, context, check)
                return await behaviour(incoming, context)

        answer: Callable[[Any, Any], Awaitable[Any]] = let_in
        if self._tracing is not None and method.startswith(_OURS) and _is_unary(handler):
            answer = self._tracing.served(method, let_in, status_of)

        async def respond(requests: Any, context: Context) -> Any:
            async with self._call(handler, method, context):
                return await answer(requests, context)

        async def stream(requests: Any, context: Context) -> None:
            async with self._call(handler, method, context):
                async with self._deadline(handler, context):
                    incoming = await self._incoming(handler, requests, context, check)
                if not inspect.isasyncgenfunction(behaviour):
                    await behaviour(incoming, context)
                    return
                async with aclosing(behaviour(incoming, context)) as responses:
                    async for response in responses:
                        await context.write(response)

        parse, write = _lenient(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(stream, parse, write)
        return grpc.stream_unary_rpc_method_handler(respond, parse, write)

    async def _incoming(
        self, handler: Handler, requests: Any, context: Context, check: Check
    ) -> Any:
        """Give the stream of requests, or the only one of a call that takes one, checked."""
        if handler.request_streaming:
            return self._incoming_stream(requests, check)
        request = await context.read()
        check(_NO_MESSAGE if request is grpc.aio.EOF else request)
        return request

    async def _incoming_stream(
        self, requests: AsyncIterator[Message], check: Check
    ) -> AsyncIterator[Message]:
        async for request in self._drain.cut(requests):
            check(request)
            yield request

    @asynccontextmanager
    async def _call(self, handler: Handler, method: str, context: Context) -> AsyncIterator[None]:
        """Log and count the call, and be the one place where an exception becomes a status."""
        metadata = context.invocation_metadata() or ()
        request_id = _request_id(metadata)
        # The call's task has a context of its own, so nothing of this outlives it.
        structlog.contextvars.bind_contextvars(**{REQUEST_ID: request_id, "method": method})
        started, code = time.monotonic(), grpc.StatusCode.OK
        labels = self._metrics.began(
            method,
            streams_in=handler.request_streaming,
            streams_out=handler.response_streaming,
        )
        try:
            with self._admitted(method, metadata, context):
                yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = context.code()
            raise
        except Exception as error:
            if context.cancelled():
                # Nobody is left to tell; what failed was telling.
                code = grpc.StatusCode.CANCELLED
                raise asyncio.CancelledError from error
            said = known(error)
            code = said.code.spec.status
            await _abort(context, said, request_id)
        finally:
            seconds, name = time.monotonic() - started, getattr(code, "name", str(code))
            self._metrics.ended(labels, name, seconds)
            facts = {"code": name, "duration_ms": round(seconds * 1000, 3)}
            if code is grpc.StatusCode.OK:
                _log.debug("call", **facts)
            else:
                _log.info("call", **facts, peer=host_of(context.peer()))

    def _admitted(
        self, method: str, metadata: Metadata, context: Context
    ) -> AbstractContextManager[None]:
        """What counts the call as its caller's while it is open: by the token, or else by where it
        comes from.

        Raises:
            LeylineError: the call is not for him.
        """
        if method == _HEALTH_CHECK:
            # A full server is alive, and whoever restarts those that are not must hear so.
            return nullcontext()
        if self._tokens is None:
            return self._callers.call(network_of(host_of(context.peer())))
        caller = self._tokens.admit(method, metadata, context.auth_context)
        return (
            self._callers.strangers_watch() if caller is None else self._callers.call(caller.name)
        )

    @asynccontextmanager
    async def _deadline(self, handler: Handler, context: Context) -> AsyncIterator[None]:
        """Bound a unary call that its client did not bound; gRPC itself holds the others."""
        bounded = handler.request_streaming or context.time_remaining() is not None
        timeout = asyncio.timeout(None if bounded else self._default_deadline_s)
        try:
            async with timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            limit = f"{self._default_deadline_s:g}"
            raise LeylineError(ErrorCode.DEADLINE_EXCEEDED, limit_s=limit) from None


def _is_unary(handler: Handler) -> bool:
    return not (handler.request_streaming or handler.response_streaming)


def _lenient(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    """Make an object of bytes that are no message, for the call to refuse: gRPC says INTERNAL."""
    if parse is None:
        return None

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _NO_MESSAGE

    return parsed


def checks_itself(behaviour: Behaviour) -> Behaviour:
    """Mark a method that checks the rules of its messages itself, and answers for each of them."""
    setattr(behaviour, _CHECKS_ITSELF, True)
    return behaviour


def _check(request: Any) -> None:
    _check_bytes(request)
    validation.check(request)


def _check_bytes(request: Any) -> None:
    if request is _NO_MESSAGE:
        problem = "the bytes of the request are no message of the type that this method takes"
        raise LeylineError(ErrorCode.INVALID_ARGUMENT, violations=(Violation("", problem),))


def _behaviour(handler: Handler) -> Callable[..., Any]:
    """Give the servicer's own method."""
    found: Callable[..., Any] | None = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    if found is None:
        raise TypeError("a handler without a method")
    return found


def _not_implemented(method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
    """Stand in for a method that the servicer leaves to its generated base class.

    Raises:
        TypeError: the synchronous handler is somebody's own; it would pin a thread for each call.
    """
    if not behaviour.__module__.endswith("_pb2_grpc"):
        raise TypeError(f"{method} is served by a synchronous handler; make it async")

    async def refuse(_request: Any, _context: Context) -> NoReturn:
        raise LeylineError(ErrorCode.METHOD_NOT_IMPLEMENTED, method=method)

    return refuse


def _request_id(metadata: Metadata) -> str:
    for key, value in metadata:
        if (
            key == REQUEST_ID_KEY
            and isinstance(value, str)
            and _REQUEST_ID_PATTERN.fullmatch(value)
        ):
            return value
    return uuid.uuid4().hex


def known(error: Exception) -> LeylineError:
    """Find the catalogue's error in an exception; what is not there is INTERNAL and only logged."""
    found = _of_the_catalogue(error)
    if found is not None:
        return found
    error_id = uuid.uuid4().hex[:12]
    _log.error("unexpected error", error_id=error_id, exc_info=error)
    return LeylineError(ErrorCode.INTERNAL, error_id=error_id)


def status_of(error: Exception) -> grpc.StatusCode:
    """Find the status code with which a call ends that raises an exception."""
    found = _of_the_catalogue(error)
    return grpc.StatusCode.INTERNAL if found is None else found.code.spec.status


def _of_the_catalogue(error: Exception) -> LeylineError | None:
    leaves = list(_leaves(error))
    known = [leaf for leaf in leaves if isinstance(leaf, LeylineError)]
    return known[0] if known and len(known) == len(leaves) else None


def _leaves(error: BaseException) -> list[BaseException]:
    """Take a task group's exception apart."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in _leaves(part)]


async def _abort(context: Context, error: LeylineError, request_id: str) -> NoReturn:
    status = to_status(error, request_id)
    details = ((DETAILS_KEY, status.SerializeToString()),)
    await context.abort(error.code.spec.status, status.message, details)
