"""A client for each service: calls that raise readable errors, streams that go on after a break.

    async with Trainer("127.0.0.1:50051") as trainer:
        run = await trainer.start(RunSpec(dataset=DatasetSpec(name="digits"), episodes=3))
        async for event in trainer.watch(run.run_id):
            ...
        await trainer.download(run.run_id, 2, Path("grown.safetensors"))

Every call raises `leyline.error.ServiceError` where the service refuses it or is away. Watches,
downloads and driven episodes wait a minute for a service that is away, and tell `on_break` so.
"""

from leyline.client.connection import Client
from leyline.client.download import DownloadCorrupt
from leyline.client.drive import DrivenEpisode
from leyline.client.episodes import Episode
from leyline.client.patience import OnBreak
from leyline.client.policy import PolicyServer
from leyline.client.simic import Experience, Learner, Registry
from leyline.client.trainer import Trainer

__all__ = [
    "Client",
    "DownloadCorrupt",
    "DrivenEpisode",
    "Episode",
    "Experience",
    "Learner",
    "OnBreak",
    "PolicyServer",
    "Registry",
    "Trainer",
]
