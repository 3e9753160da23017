"""Our services answer every method of the contract.

The generated base classes answer UNIMPLEMENTED for whatever a servicer leaves out, so nothing else
would tell.
"""

from __future__ import annotations

import pytest

from kasmina.servicer import TrainerServicer
from leyline.v1.experience_pb2_grpc import ExperienceServiceServicer
from leyline.v1.learner_pb2_grpc import LearnerServiceServicer
from leyline.v1.policy_pb2_grpc import PolicyServiceServicer
from leyline.v1.registry_pb2_grpc import PolicyRegistryServiceServicer
from leyline.v1.trainer_pb2_grpc import TrainerServiceServicer
from simic.experience.servicer import ExperienceServicer
from simic.learning.servicer import LearnerServicer
from simic.policies.servicer import RegistryServicer
from tamiyo.servicer import PolicyServicer

SERVICERS: list[tuple[type, type]] = [
    (TrainerServiceServicer, TrainerServicer),
    (PolicyServiceServicer, PolicyServicer),
    (ExperienceServiceServicer, ExperienceServicer),
    (PolicyRegistryServiceServicer, RegistryServicer),
    (LearnerServiceServicer, LearnerServicer),
]


@pytest.mark.parametrize(("contract", "servicer"), SERVICERS)
def test_a_servicer_answers_every_method(contract: type, servicer: type) -> None:
    methods = [name for name in vars(contract) if not name.startswith("_")]
    assert methods
    assert [name for name in methods if name not in vars(servicer)] == []
