"""What deploy/kubernetes comes to: rendered by kustomize, as Kubernetes would get it.

kustomize is a program in Go; its version, and what it is built from, stand in kustomize/go.mod.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
EXAMPLE = Path("overlays", "example")

Manifest = dict[str, Any]
Labels = Mapping[str, str]


def kustomize() -> Path:
    """The program, built where it has not been yet.

    Raises:
        AssertionError: it cannot be built; the message is what Go says.
    """
    told = _run("go", "tool", "-n", "kustomize", at=Path(__file__).with_name("kustomize"))
    return Path(told.strip())


def render(program: Path, folder: Path) -> Rendered:
    """What a folder comes to.

    Raises:
        AssertionError: kustomize refuses it; the message is what it says.
    """
    text = _run(str(program), "build", str(folder), at=folder)
    return Rendered([manifest for manifest in yaml.safe_load_all(text) if manifest])


def with_components(into: Path) -> Path:
    """A copy of everything whose example has the components that it names in a comment."""
    shutil.copytree(MANIFESTS, into, dirs_exist_ok=True)
    file = into / EXAMPLE / "kustomization.yaml"
    lines = file.read_text().splitlines()
    begin = lines.index("# components:")
    for number in range(begin, lines.index("", begin)):
        lines[number] = lines[number].removeprefix("# ").removeprefix("#")
    file.write_text("\n".join(lines))
    return file.parent


def _run(*command: str, at: Path) -> str:
    done = subprocess.run(command, cwd=at, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass(frozen=True)
class Container:
    """A container, and where it stands."""

    content: Manifest

    @property
    def ports(self) -> dict[str, int]:
        """What it listens on, by name."""
        return {port["name"]: port["containerPort"] for port in self.content.get("ports", ())}

    def mount_of(self, path: str) -> Manifest:
        """The mount that a path is below. KeyError where it is below none."""
        for mount in self.content["volumeMounts"]:
            if Path(path).is_relative_to(mount["mountPath"]):
                found: Manifest = mount
                return found
        raise KeyError(path)


@dataclass(frozen=True)
class Pod:
    """Pods of one kind, as whatever makes them describes them.

    Attributes:
        owner: what makes them.
    """

    owner: Manifest

    @property
    def name(self) -> str:
        """Their owner's."""
        name: str = self.owner["metadata"]["name"]
        return name

    @property
    def labels(self) -> Labels:
        labels: Labels = self.owner["spec"]["template"]["metadata"]["labels"]
        return labels

    @property
    def service(self) -> str:
        """Which service runs in it: the first word of its settings."""
        return self.labels["app.kubernetes.io/name"].replace("migrate", "simic")

    @property
    def spec(self) -> Manifest:
        spec: Manifest = self.owner["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Container:
        """The only one."""
        (content,) = self.spec["containers"]
        assert not self.spec.get("initContainers")
        return Container(content)

    @property
    def volumes(self) -> dict[str, Manifest]:
        """Its volumes by their names, those that are claimed included."""
        claims = self.owner["spec"].get("volumeClaimTemplates", ())
        return {
            **{volume["name"]: volume for volume in self.spec["volumes"]},
            **{claim["metadata"]["name"]: {"claim": claim["spec"]} for claim in claims},
        }


class Rendered:
    """All manifests of a rendering."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self.manifests = list(manifests)

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        """Manifests by their names."""
        return {each["metadata"]["name"]: each for each in self.manifests if each["kind"] == kind}

    @property
    def pods(self) -> list[Pod]:
        """Pods of every kind."""
        return [Pod(each) for each in self.manifests if "template" in each.get("spec", {})]

    def selected(self, selector: Manifest) -> list[Pod]:
        """Pods that a label selector takes: `matchLabels` and `matchExpressions` with In."""
        return [pod for pod in self.pods if _takes(selector, pod.labels)]

    def environment(self, pod: Pod) -> dict[str, str]:
        """Variables of the pod's container, as it would have them."""
        content = pod.container.content
        found: dict[str, str] = {}
        for source in content.get("envFrom", ()):
            found |= self.of_kind("ConfigMap")[source["configMapRef"]["name"]]["data"]
        for variable in content.get("env", ()):
            found[variable["name"]] = _value(variable, content)
        return found

    def references(self) -> Iterator[tuple[str, str]]:
        """Kind and name of whatever a pod refers to."""
        for pod in self.pods:
            yield "ServiceAccount", pod.spec["serviceAccountName"]
            for source in pod.container.content.get("envFrom", ()):
                yield "ConfigMap", source["configMapRef"]["name"]
            for volume in pod.volumes.values():
                if "secret" in volume:
                    yield "Secret", volume["secret"]["secretName"]
                if "configMap" in volume:
                    yield "ConfigMap", volume["configMap"]["name"]
                if "persistentVolumeClaim" in volume:
                    yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def _takes(selector: Manifest, labels: Labels) -> bool:
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    expressions = selector.get("matchExpressions", ())
    assert all(each["operator"] == "In" for each in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def _value(variable: Manifest, container: Manifest) -> str:
    if "value" in variable:
        value: str = variable["value"]
        return value
    field = variable["valueFrom"]["resourceFieldRef"]
    assert field["divisor"] == "1"
    kind, resource = field["resource"].split(".")
    return str(container["resources"][kind][resource])
