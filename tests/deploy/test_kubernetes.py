"""The manifests for Kubernetes, held to its schemas, to themselves, and to what the services can be
told. No cluster runs them here.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
from sqlalchemy import make_url
from tests.deploy.rendering import (
    EXAMPLE,
    MANIFESTS,
    ROOT,
    Manifest,
    Pod,
    Rendered,
    kustomize,
    render,
    with_components,
)
from tests.integration.go import needs_go

from chassis.settings import ServerSettings, load
from kasmina.runs.run_checks import check
from kasmina.runs.run_defaults import fill_in
from kasmina.runs.single_run import SingleRun
from kasmina.settings import KasminaSettings
from leyline.indices import episode_indices
from simic.settings import SimicSettings
from tamiyo.settings import TamiyoSettings

# kustomize is built once, from some dozens of modules.
pytestmark = [needs_go, pytest.mark.timeout(1800)]

OLDEST = "1.33"
SETTINGS: dict[str, type[ServerSettings]] = {
    "kasmina": KasminaSettings,
    "tamiyo": TamiyoSettings,
    "simic": SimicSettings,
}
OF_NO_SERVICE = {"LEYLINE_CREDENTIALS", "LEYLINE_DATA"}
"""Variables that others read: the client in a probe, and what looks for data sets."""
BY_HAND = {
    ("Secret", "leyline-kasmina-certs"),
    ("Secret", "leyline-tamiyo-certs"),
    ("Secret", "leyline-simic-certs"),
    ("Secret", "leyline-database"),
    ("PersistentVolumeClaim", "leyline-data"),
}
"""What has to be there before, as the README says."""

OPERATOR, PROMETHEUS, DATABASE = "operator", "prometheus", "database"
ELSEWHERE = {
    ("leyline-operators", ("app.kubernetes.io/name", "leyline-operator")): OPERATOR,
    ("monitoring", ("app.kubernetes.io/name", "prometheus")): PROMETHEUS,
}
EDGES = {
    ("kasmina", "tamiyo", 50052),
    ("kasmina", "simic", 50053),
    ("tamiyo", "simic", 50053),
    ("simic", DATABASE, 5432),
    ("migrate", DATABASE, 5432),
    (OPERATOR, "kasmina", 50051),
    (OPERATOR, "tamiyo", 50052),
    (OPERATOR, "simic", 50053),
    (PROMETHEUS, "kasmina", 9151),
    (PROMETHEUS, "tamiyo", 9152),
    (PROMETHEUS, "simic", 9153),
}


@pytest.fixture(scope="session")
def program() -> Path:
    """kustomize."""
    return kustomize()


@pytest.fixture(scope="session", params=["base", "example", "example with its components"])
def rendered(
    request: pytest.FixtureRequest, program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Rendered:
    """Each of what can be applied."""
    if request.param == "base":
        return render(program, MANIFESTS / "base")
    if request.param == "example":
        return render(program, MANIFESTS / EXAMPLE)
    return render(program, with_components(tmp_path_factory.mktemp("kubernetes")))


@pytest.fixture(scope="session")
def everything(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """The example with its components."""
    return render(program, with_components(tmp_path_factory.mktemp("kubernetes")))


def bytes_of(text: str) -> int:
    """Bytes of `2Gi` or `256Mi`."""
    return int(text[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[text[-2:]]


def name_of(pod: Pod) -> str:
    return pod.labels["app.kubernetes.io/name"]


def test_every_manifest_is_one_that_kubernetes_takes(rendered: Rendered) -> None:
    for version in (OLDEST, kubernetes_validate.latest_version()):
        for manifest in rendered.manifests:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed(everything: Rendered) -> None:
    for pod in everything.pods:
        wrong = copy.deepcopy(pod.owner)
        wrong["spec"]["template"]["spec"]["containers"][0]["readonlyRootFilesystem"] = True
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_no_container_is_root_writes_to_its_image_or_can_get_more_rights(
    rendered: Rendered,
) -> None:
    assert rendered.pods
    for pod in rendered.pods:
        assert pod.spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod.container.content["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not pod.spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not [volume for volume in pod.volumes.values() if "hostPath" in volume]
    (namespace,) = rendered.of_kind("Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_user_is_the_one_of_the_images() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    assert "--uid 10001 --gid 10001" in dockerfile


def test_every_image_is_of_this_release(rendered: Rendered) -> None:
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for pod in rendered.pods:
        image = pod.container.content["image"]
        assert re.fullmatch(rf"([a-z.]+/)?leyline-{pod.service}:{re.escape(release)}", image)


def test_every_container_says_what_it_needs_and_at_most_takes(rendered: Rendered) -> None:
    for pod in rendered.pods:
        resources = pod.container.content["resources"]
        asked, most = resources["requests"], resources["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= asked.keys() & most.keys(), pod.name
        # A node that is short of something evicts whoever takes more of it than he has asked for.
        assert asked["memory"] == most["memory"], pod.name
        assert asked["ephemeral-storage"] == most["ephemeral-storage"], pod.name
        sizes = {
            name: bytes_of(volume["emptyDir"]["sizeLimit"])
            for name, volume in pod.volumes.items()
            if "emptyDir" in volume and name != "data"
        }
        assert sum(sizes.values()) < bytes_of(most["ephemeral-storage"]), "and its log"


def test_no_pod_speaks_with_kubernetes_or_hears_of_other_services(rendered: Rendered) -> None:
    for pod in rendered.pods:
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
    for account in rendered.of_kind("ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_whatever_a_pod_refers_to_is_there_or_made_by_hand(rendered: Rendered) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered.manifests}
    assert set(rendered.references()) <= there | BY_HAND
    accounts = {name for kind, name in rendered.references() if kind == "ServiceAccount"}
    assert accounts == rendered.of_kind("ServiceAccount").keys(), "each has one of its own"


def test_what_is_made_by_hand_is_in_the_readme(everything: Rendered) -> None:
    readme = (MANIFESTS / "README.md").read_text()
    assert set(everything.references()) >= BY_HAND
    for _, name in BY_HAND:
        assert name in readme


def test_everything_is_in_the_namespace(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        if manifest["kind"] != "Namespace":
            assert manifest["metadata"]["namespace"] == "leyline"


def test_every_selector_takes_the_pods_that_are_meant(rendered: Rendered) -> None:
    for manifest in rendered.manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            (pod,) = rendered.selected(manifest["spec"]["selector"])
            assert pod.owner is manifest
    for name, service in rendered.of_kind("Service").items():
        (pod,) = rendered.selected({"matchLabels": service["spec"]["selector"]})
        assert pod.name == name
        for port in service["spec"]["ports"]:
            assert pod.container.ports[port["targetPort"]] == port["port"]
    for name, manifest in rendered.of_kind("StatefulSet").items():
        assert manifest["spec"]["serviceName"] == name
        assert name in rendered.of_kind("Service")


def test_tamiyo_is_scaled_kept_and_spread(rendered: Rendered) -> None:
    (scaler,) = rendered.of_kind("HorizontalPodAutoscaler").values()
    target = scaler["spec"]["scaleTargetRef"]
    tamiyo = rendered.of_kind(target["kind"])[target["name"]]
    assert "replicas" not in tamiyo["spec"], "two would decide about their number"
    assert scaler["spec"]["minReplicas"] >= 2
    (budget,) = rendered.of_kind("PodDisruptionBudget").values()
    (kept,) = rendered.selected(budget["spec"]["selector"])
    assert kept.owner is tamiyo
    for constraint in kept.spec["topologySpreadConstraints"]:
        assert rendered.selected(constraint["labelSelector"]) == [kept]
    service = rendered.of_kind("Service")[target["name"]]
    assert service["spec"]["clusterIP"] == "None", "clients see every address"


def test_nobody_speaks_with_anybody_but_along_the_edges(rendered: Rendered) -> None:
    policies = rendered.of_kind("NetworkPolicy")
    assert policies.pop("leyline-deny-all")["spec"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }
    dns = policies.pop("leyline-dns")["spec"]
    assert dns["podSelector"] == {}
    assert {port["port"] for rule in dns["egress"] for port in rule["ports"]} == {53}
    going, coming = set(), set()
    for policy in policies.values():
        selected = rendered.selected(policy["spec"]["podSelector"])
        assert selected
        for pod in selected:
            for rule in policy["spec"].get("egress", ()):
                going |= {(name_of(pod), *end) for end in ends(rendered, rule, "to")}
            for rule in policy["spec"].get("ingress", ()):
                coming |= {
                    (peer, name_of(pod), port) for peer, port in ends(rendered, rule, "from")
                }
    inside = {name_of(pod) for pod in rendered.pods}
    assert {edge for edge in going | coming if {*edge[:2]} <= inside} == going & coming
    assert going | coming == EDGES
    listening = {
        (name_of(pod), port) for pod in rendered.pods for port in pod.container.ports.values()
    }
    assert {edge[1:] for edge in EDGES if edge[1] in inside} == listening


def ends(rendered: Rendered, rule: Manifest, side: str) -> set[tuple[str, int]]:
    """Names and ports of the other ends that a rule allows."""
    assert rule[side], "nothing would be anybody"
    peers: set[str] = set()
    for peer in rule[side]:
        if "ipBlock" in peer:
            assert peer["ipBlock"]["cidr"].endswith("/32")
            peers.add(DATABASE)
        elif "namespaceSelector" in peer:
            namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            (label,) = peer["podSelector"]["matchLabels"].items()
            peers.add(ELSEWHERE[namespace, label])
        else:
            found = rendered.selected(peer["podSelector"])
            assert found
            peers |= {name_of(pod) for pod in found}
    ports = {port["port"] for port in rule["ports"]}
    return {(peer, port) for peer in peers for port in ports}


def test_every_service_can_be_told_what_it_is_told(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in rendered.pods:
        environment = rendered.environment(pod)
        settings = SETTINGS[pod.service]
        known = {settings.variable(field) for field in settings.model_fields}
        assert environment.keys() <= known | OF_NO_SERVICE, pod.name
        with monkeypatch.context() as told:
            for name, value in environment.items():
                told.setenv(name, value)
            loaded = load(settings)
        if pod.container.ports:
            assert loaded.speaks_tls
            assert (loaded.listen.port, loaded.metrics_listen and loaded.metrics_listen.port) == (
                pod.container.ports["grpc"],
                pod.container.ports["metrics"],
            )


def test_a_service_ends_by_itself_before_it_is_killed(rendered: Rendered) -> None:
    for pod in rendered.pods:
        settings = SETTINGS[pod.service]
        variable = settings.variable("drain_grace_s")
        drain_s = rendered.environment(pod).get(variable)
        grace_s = float(drain_s or settings.model_fields["drain_grace_s"].default)
        assert pod.spec.get("terminationGracePeriodSeconds", 30) >= 2 * grace_s, pod.name


def test_a_probe_asks_the_port_that_is_listened_on(rendered: Rendered) -> None:
    for pod in rendered.pods:
        content = pod.container.content
        if not pod.container.ports:
            assert not [name for name in content if name.endswith("Probe")], pod.name
            continue
        assert rendered.environment(pod)["LEYLINE_CREDENTIALS"] == "/certs"
        asks = ["leyline", "health", f"127.0.0.1:{pod.container.ports['grpc']}", "--timeout=10"]
        answers = [*asks[:3], "--answers", asks[3]]
        probes = {name: content[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
        commands = {name: probe["exec"]["command"] for name, probe in probes.items()}
        # NOT_SERVING (a full disk, no version yet) keeps calls away, and is no reason to kill.
        assert commands == {"startup": answers, "liveness": answers, "readiness": asks}
        assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 300
        for probe in probes.values():
            assert probe["timeoutSeconds"] >= 20, "it starts a Python, and ends by itself"
        assert probes["liveness"]["periodSeconds"] >= 60
        assert probes["readiness"]["periodSeconds"] >= 30


def test_whoever_is_called_is_a_service_of_ours_that_its_certificate_names(
    rendered: Rendered,
) -> None:
    readme = (MANIFESTS / "README.md").read_text()
    named = set(re.findall(r"--host '?([^\s']+)", readme))
    services = rendered.of_kind("Service")
    for pod in rendered.pods:
        environment = rendered.environment(pod)
        called = [
            *json.loads(environment.get("LEYLINE_KASMINA_POLICIES", "{}")).values(),
            environment.get("LEYLINE_KASMINA_EXPERIENCE"),
            environment.get("LEYLINE_TAMIYO_REGISTRY"),
        ]
        for address in filter(None, called):
            host, port = address.removeprefix("dns:///").split(":")
            assert host in named
            service, namespace, rest = host.split(".")
            assert (namespace, rest) == ("leyline", "svc")
            ports = services[service]["spec"]["ports"]
            assert int(port) in [each["port"] for each in ports if each["name"] == "grpc"]
    for service in services:
        assert f"{service}.leyline.svc" in named


def test_secrets_are_files_that_only_their_pod_reads(rendered: Rendered) -> None:
    for pod in rendered.pods:
        content = pod.container.content
        assert not [each for each in content.get("env", ()) if "secretKeyRef" in str(each)]
        assert not [each for each in content.get("envFrom", ()) if "secretRef" in each]
        for volume in pod.volumes.values():
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
        certs = pod.volumes.get("certs")
        if certs is not None:
            assert certs["secret"]["secretName"] == f"leyline-{pod.service}-certs"
            assert pod.container.mount_of("/certs")["readOnly"]
        may_read = any(
            volume.get("secret", {}).get("secretName") == "leyline-database"
            for volume in pod.volumes.values()
        )
        assert may_read is (name_of(pod) in ("simic", "migrate"))


def test_the_database_is_asked_for_its_certificate_and_no_password_is_in_its_url(
    rendered: Rendered,
) -> None:
    asking = [pod for pod in rendered.pods if name_of(pod) in ("simic", "migrate")]
    assert len(asking) == 2
    for pod in asking:
        url = make_url(rendered.environment(pod)["LEYLINE_SIMIC_DATABASE_URL"])
        assert url.password is None
        assert url.query["sslmode"] == "verify-full"
        for file in ("password_file", "sslrootcert"):
            mount = pod.container.mount_of(str(url.query[file]))
            assert pod.volumes[mount["name"]]["secret"]["secretName"] == "leyline-database"


def test_what_is_written_has_a_volume(rendered: Rendered) -> None:
    for pod in rendered.pods:
        assert {mount["name"] for mount in pod.container.content["volumeMounts"]} == (
            pod.volumes.keys()
        )
        assert "emptyDir" in pod.volumes[pod.container.mount_of("/tmp")["name"]]
        environment = rendered.environment(pod)
        for field in ("state_dir", "cache"):
            folder = environment.get(f"LEYLINE_{pod.service}_{field}".upper())
            if folder is not None:
                assert not pod.container.mount_of(folder).get("readOnly")
    for name in ("leyline-kasmina", "leyline-simic"):
        (pod,) = [pod for pod in rendered.pods if pod.name == name]
        assert "claim" in pod.volumes["state"], "outlives the pod"


def test_the_migration_is_the_image_and_the_database_of_simic(rendered: Rendered) -> None:
    by_name = {name_of(pod): pod for pod in rendered.pods}
    migrate, simic = by_name["migrate"].container.content, by_name["simic"].container.content
    assert (migrate["image"], migrate["args"]) == (simic["image"], ["--migrate"])
    assert migrate["envFrom"] == simic["envFrom"]


def test_the_steps_before_an_upgrade_are_taken_with_all_that_they_need(rendered: Rendered) -> None:
    first = [
        each
        for each in rendered.manifests
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "migration"
    ]
    kinds = sorted(each["kind"] for each in first)
    assert kinds == ["ConfigMap", "Job", "NetworkPolicy", "ServiceAccount"]


def study(everything: Rendered) -> Pod:
    (pod,) = [pod for pod in everything.pods if pod.name == "leyline-study"]
    return pod


def test_each_index_of_the_job_plays_its_episode_and_no_other(
    everything: Rendered, tmp_path: Path
) -> None:
    pod = study(everything)
    job = pod.owner["spec"]
    assert job["completionMode"] == "Indexed"
    run = everything.of_kind("ConfigMap")[pod.volumes["run"]["configMap"]["name"]]
    for file, text in run["data"].items():
        (tmp_path / file).write_text(text)
    played: list[int] = []
    names = set()
    for index in range(job["completions"]):
        arguments = [
            argument.replace("$(JOB_COMPLETION_INDEX)", str(index))
            for argument in pod.container.content["args"]
        ]
        flags = [argument.split("=", 1) for argument in arguments]
        told = dict(flags)
        assert pod.container.mount_of(told["--run"])["name"] == "run"
        changes = [value for flag, value in flags if flag == "--set"]
        asked = SingleRun.read(tmp_path / Path(told["--run"]).name, changes, told["--id"])
        settings = KasminaSettings()
        spec = fill_in(asked.request.spec, settings)
        check(spec, settings)
        played += episode_indices(spec)
        names.add(asked.request.run_id)
    assert played == list(range(job["completions"]))
    assert len(names) == 1


def test_a_pod_of_the_job_may_be_lost_at_any_time(everything: Rendered) -> None:
    pod = study(everything)
    environment = everything.environment(pod)
    assert "emptyDir" in pod.volumes["state"]
    assert environment["LEYLINE_KASMINA_WAIT_FOR_EXPERIENCE"] == "true"
    job = pod.owner["spec"]
    assert pod.spec["restartPolicy"] == "Never"
    assert job["backoffLimitPerIndex"] >= 1
    assert job["podReplacementPolicy"] == "Failed", "one attempt at a time, as far as is known"
    # What it waits for may never come; nor must one attempt that waited cost the others their time.
    assert pod.spec["activeDeadlineSeconds"] >= 3600
    assert "activeDeadlineSeconds" not in job
    drained, mistaken = job["podFailurePolicy"]["rules"]
    assert (drained["action"], mistaken["action"]) == ("Ignore", "FailJob")
    assert mistaken["onExitCodes"]["containerName"] == pod.container.content["name"]
    assert not everything.of_kind("Service")["leyline-kasmina"]["spec"]["selector"].items() <= (
        pod.labels.items()
    )


def test_on_gpus_every_trainer_has_one(everything: Rendered) -> None:
    trainers = [pod for pod in everything.pods if pod.service == "kasmina"]
    assert len(trainers) == 2
    for pod in trainers:
        for kind in ("requests", "limits"):
            assert pod.container.content["resources"][kind]["nvidia.com/gpu"] == "1"
        assert everything.environment(pod)["LEYLINE_KASMINA_DEVICE"] == "cuda"
    others = [pod for pod in everything.pods if pod not in trainers]
    assert not [pod for pod in others if "nvidia.com/gpu" in str(pod.spec)]
