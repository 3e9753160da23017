"""Which policy version answers a query.

A built-in policy has one version. Learned ones come from the registry: the active one is the
default, and any other that a query is pinned to is loaded on demand. A version that is held is an
object that nothing changes any more; making another one the default is one assignment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, Protocol

from chassis.errors import ErrorCode, LeylineError
from chassis.logging import get_logger
from leyline.v1.registry_pb2 import PolicyManifest, PolicyReport
from tamiyo.artifact import Artifact, ArtifactRefused
from tamiyo.cache import ArtifactCache
from tamiyo.policies.learned import LearnedPolicy
from tamiyo.policy import Policy
from tamiyo.registry import Registry, RegistryAway

_log = get_logger(__name__)


class PolicyVersions(Protocol):
    """The versions of one policy that a server can decide with."""

    @property
    def default(self) -> Policy | None:
        """What decides where a query names no version; None while there is nothing."""

    @property
    def follows_registry(self) -> bool:
        """Whether an episode may be pinned to a version of the registry."""

    async def resolve(self, version: str | None) -> Policy:
        """Return the policy for a query that is pinned to a version, or to none.

        Raises:
            LeylineError: POLICY_VERSION_NOT_FOUND; POLICY_NOT_READY where it may be there later.
        """


class BuiltInVersions:
    """The one version that a built-in policy has."""

    follows_registry = False

    def __init__(self, policy: Policy) -> None:
        """Serve this policy."""
        self.default: Policy | None = policy
        self._policy = policy

    async def resolve(self, version: str | None) -> Policy:
        """Return the policy, unless the query is pinned to something else."""
        if version not in (None, self._policy.version):
            raise LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=version)
        return self._policy


class LearnedVersions:
    """The registry's versions: the active one, and a bounded number of others that were asked for.

    All methods belong to the event loop's thread; verifying an artifact happens in another one.
    """

    follows_registry = True

    _REFUSAL_STANDS_S = 60.0
    _RESYNC_S = 30.0
    _FIRST_PAUSE_S = 0.1
    _LONGEST_PAUSE_S = 2.0

    def __init__(
        self, registry: Registry, cache: ArtifactCache, *, limit: int, server: str
    ) -> None:
        """Follow a registry.

        Args:
            registry: where versions come from.
            cache: where they are kept for the next start.
            limit: versions held ready at the same time, at least 1.
            server: how this server calls itself in its reports.
        """
        self._registry = registry
        self._cache = cache
        self._limit = limit
        self._server = server
        self.default: Policy | None = None
        self.ready = asyncio.Event()
        self.loaded = self.refused = 0
        """How often a version of the registry was taken, or could not be used."""
        self._held: OrderedDict[str, Policy] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Policy]] = {}
        self._refused: dict[str, tuple[float, ArtifactRefused]] = {}
        self._reports: dict[str, PolicyReport] = {}
        self._news = asyncio.Event()

    async def resolve(self, version: str | None) -> Policy:
        """Return the default, or the version that is asked for, loaded if need be."""
        if version is None:
            if self.default is None:
                raise LeylineError(
                    ErrorCode.POLICY_NOT_READY, problem="the registry has given no version yet"
                )
            return self.default
        try:
            return await self._policy(version)
        except ArtifactRefused as refused:
            raise LeylineError(
                ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=version, problem=refused.reason
            ) from refused
        except RegistryAway as away:
            raise LeylineError(
                ErrorCode.POLICY_NOT_READY,
                problem=f"version {version} is not held, and the registry is away",
                policy_version=version,
            ) from away

    async def restore(self) -> None:
        """Serve what was last active, where the cache has it, without asking the registry."""
        version = await asyncio.to_thread(self._cache.active)
        if version is None:
            return
        policy = await self._from_cache(version)
        if policy is not None:
            self._hold(policy)
            self._make_default(policy)

    async def follow(self) -> None:
        """Keep the default at the registry's active version, for ever."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._take_news())
        finally:
            for loading in self._loading.values():
                loading.cancel()

    async def _watch(self) -> None:
        """Turn activations into news, and connect again whenever the connection breaks.

        An event only says that there is something to ask: so a history of a thousand activations
        leads to one download, and the newest always wins.
        """
        clock = asyncio.get_running_loop().time
        pause = self._FIRST_PAUSE_S
        while True:
            self._news.set()
            since = clock()
            try:
                async for version in self._registry.activations():
                    self._refused.pop(version, None)
                    self._news.set()
            except RegistryAway as away:
                _log.debug("registry watch broke", problem=str(away), again_in_s=pause)
            if clock() - since > self._LONGEST_PAUSE_S:
                pause = self._FIRST_PAUSE_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._LONGEST_PAUSE_S)

    async def _take_news(self) -> None:
        away = False
        while True:
            try:
                # The timeout covers a registry that began anew and counts its events from 1 again.
                async with asyncio.timeout(self._RESYNC_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self._take_active()
                await self._send_reports()
            except RegistryAway as problem:
                if not away:
                    _log.warning(
                        "registry away", problem=str(problem), serving=self._default_version
                    )
                away = True
            else:
                if away:
                    _log.info("registry back")
                away = False

    async def _take_active(self) -> None:
        manifest = await self._registry.active()
        if manifest is None or manifest.policy_version == self._default_version:
            return
        try:
            policy = await self._policy(manifest.policy_version)
        except ArtifactRefused:
            # Logged and put down for a report where it was found; the old version serves on.
            return
        except LeylineError as error:
            _log.warning("active version vanished", problem=str(error))
            return
        self._make_default(policy)
        try:
            await asyncio.to_thread(self._cache.remember_active, policy.version)
        except OSError as error:
            _log.warning("active version not remembered", problem=str(error))

    def _make_default(self, policy: Policy) -> None:
        previous = self._default_version
        self.default = policy
        self.ready.set()
        _log.info("policy swapped", policy_version=policy.version, previous_version=previous)

    @property
    def _default_version(self) -> str:
        return "" if self.default is None else self.default.version

    async def _policy(self, version: str) -> Policy:
        """Return a version that is held, or load it, once for all who ask."""
        held = self._held.get(version)
        if held is not None:
            self._held.move_to_end(version)
            return held
        refusal = self._refused.get(version)
        if refusal is not None:
            since, refused = refusal
            if asyncio.get_running_loop().time() - since < self._REFUSAL_STANDS_S:
                raise refused
            del self._refused[version]
        loading = self._loading.get(version)
        if loading is None:
            loading = self._start_loading(version, self._load(version))
        # Whoever loses patience does not take the version away from the others.
        return await asyncio.shield(loading)

    def _start_loading(
        self, version: str, load: Coroutine[Any, Any, Policy]
    ) -> asyncio.Task[Policy]:
        loading = asyncio.create_task(load, name=f"load {version}")
        self._loading[version] = loading

        def forget(done: asyncio.Task[Policy]) -> None:
            del self._loading[version]
            if not done.cancelled():
                # Looked at, so that asyncio does not complain where all who waited have left.
                done.exception()

        loading.add_done_callback(forget)
        return loading

    async def _load(self, version: str) -> Policy:
        policy = await self._from_cache(version)
        if policy is None:
            policy = await self._from_registry(version)
        self._hold(policy)
        return policy

    async def _from_cache(self, version: str) -> Policy | None:
        try:
            cached = await asyncio.to_thread(self._cache.read, version)
            if cached is None:
                return None
            try:
                return await self._verified(*cached)
            except ArtifactRefused as refused:
                _log.warning("cached artifact unusable", problem=str(refused))
                await asyncio.to_thread(self._cache.discard, version)
        except OSError as error:
            _log.warning("cache unusable", policy_version=version, problem=str(error))
        return None

    async def _from_registry(self, version: str) -> Policy:
        try:
            manifest = await self._registry.manifest(version)
            if manifest is None:
                raise LeylineError(ErrorCode.POLICY_VERSION_NOT_FOUND, policy_version=version)
            data = await self._registry.download(manifest)
            if data is None:
                raise LeylineError(
                    ErrorCode.POLICY_VERSION_NOT_FOUND,
                    policy_version=version,
                    problem="the registry has deleted its artifact",
                )
            policy = await self._verified(manifest, data)
        except ArtifactRefused as refused:
            self._refuse(version, refused)
            raise
        self.loaded += 1
        _log.info("policy loaded", policy_version=version, bytes=len(data))
        self._put_down(PolicyReport(policy_version=version, accepted=True, server=self._server))
        try:
            keep = {self._default_version} - {""}
            await asyncio.to_thread(self._cache.write, manifest, data, keep)
        except OSError as error:
            # It is served all the same; only a restart while the registry is away would miss it.
            _log.warning("artifact not cached", policy_version=version, problem=str(error))
        return policy

    async def _verified(self, manifest: PolicyManifest, data: bytes) -> Policy:
        return LearnedPolicy(await asyncio.to_thread(Artifact, manifest, data))

    def _refuse(self, version: str, refused: ArtifactRefused) -> None:
        self.refused += 1
        _log.error(
            "policy refused", policy_version=version, reason=refused.reason, problem=str(refused)
        )
        if len(self._refused) >= self._limit:
            self._refused.pop(next(iter(self._refused)))
        self._refused[version] = (asyncio.get_running_loop().time(), refused)
        self._put_down(
            PolicyReport(
                policy_version=version,
                accepted=False,
                reason=refused.reason,
                message=refused.message,
                server=self._server,
            )
        )

    def _hold(self, policy: Policy) -> None:
        self._held[policy.version] = policy
        for version in list(self._held):
            if len(self._held) <= self._limit:
                return
            if version not in (self._default_version, policy.version):
                del self._held[version]

    def _put_down(self, report: PolicyReport) -> None:
        """Keep a report until the registry has it; the newest about a version counts."""
        self._reports[report.policy_version] = report
        self._news.set()

    async def _send_reports(self) -> None:
        while self._reports:
            version, report = next(iter(self._reports.items()))
            await self._registry.report(report)
            if self._reports.get(version) is report:
                del self._reports[version]
