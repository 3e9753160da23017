"""The model behind Ray Serve, in Ray's environment:

    build/venv-ray/bin/python -m tests.benchmarks.served_by_ray STATE_DIR PORT OTHER_PORT HOW

Says "ready" when it is. HOW is "tuned", where the replica answers at PORT itself, which
`other_servers.ray_settings` sets, or "plain", where Ray's proxy does, as Ray Serve comes. Ray has a
proxy even where none is wanted; with one port for both, the kernel would give the load to either.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import ray
from ray import serve
from tests.benchmarks.served_model import ServedModel

from leyline.v1.policy_pb2 import StreamDecisionsRequest, StreamDecisionsResponse

QUIET = {"enable_access_log": False, "log_level": "WARNING"}
ADD_SERVICE = "leyline.v1.policy_pb2_grpc.add_PolicyServiceServicer_to_server"


class Decisions:
    """The model, as Ray Serve wants it; the method has the name of the contract's."""

    def __init__(self, state_dir: str) -> None:
        self._model = ServedModel(Path(state_dir))

    async def StreamDecisions(
        self, requests: AsyncIterator[StreamDecisionsRequest]
    ) -> AsyncIterator[StreamDecisionsResponse]:
        """Decides query after query, in batches with those of other streams."""
        async for request in requests:
            yield await self._answer(request)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)  # type: ignore[untyped-decorator]
    async def _answer(
        self, requests: list[StreamDecisionsRequest]
    ) -> list[StreamDecisionsResponse]:
        return self._model.answers(requests)


def main(state_dir: str, port: int, other_port: int, how: str) -> None:
    """Serves until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=f"{state_dir}/ray")
    serve.start(
        proxy_location="Disabled" if how == "tuned" else "HeadOnly",
        http_options=None if how == "tuned" else {"port": other_port},
        grpc_options={
            "port": other_port if how == "tuned" else port,
            "grpc_servicer_functions": [ADD_SERVICE],
        },
        logging_config=QUIET,
    )
    deployment = serve.deployment(Decisions, max_ongoing_requests=1000, logging_config=QUIET)
    serve.run(deployment.bind(state_dir))
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
