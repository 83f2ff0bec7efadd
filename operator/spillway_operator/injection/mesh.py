"""Keep a service mesh off the sidecar's port: under strict mTLS neither the operator nor Prometheus would reach it.

A mesh takes a port out of its inbound capture by an annotation of the pod, which it reads when it injects its proxy, or its CNI plugin
when the pod starts. Which webhook is called first is nobody's promise. So the annotation is set where a mesh is seen by label, annotation
or proxy, and where the mesh was there first, its init container, which has its arguments already, is given the port as well. A pod that got
its proxy after us is looked at again when the API server calls a second time.

Istio: excluded ports count only where all are captured; a list of captured ports is the user's choice, and ours is seldom on it.
Sources: istio's injection-template.yaml and istio-iptables (capture/run.go), linkerd2's _proxy-init.tpl and "Proxy Configuration".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spillway_operator.injection.facts import Container, Pod
from spillway_operator.injection.qos import all_containers

_ALL = "*"
_ISTIO_INJECT: Final = "sidecar.istio.io/inject"
_ISTIO_NAMESPACE: Final = "istio-injection"
_ISTIO_REVISION: Final = "istio.io/rev"
_ISTIO_CAPTURED: Final = "traffic.sidecar.istio.io/includeInboundPorts"
_LINKERD_INJECT: Final = "linkerd.io/inject"
_LINKERD_PORTS: Final = "config.linkerd.io/skip-inbound-ports"

# What is asked here of a namespace's annotations.
MESH_ANNOTATIONS: Final = (_LINKERD_INJECT, _LINKERD_PORTS)


@dataclass(frozen=True)
class Mesh:
    """How one mesh is told a port. `ports_flag` stands before the list in the arguments of `init_container`."""

    annotation: str
    proxy: str
    init_container: str
    ports_flag: str


ISTIO: Final = Mesh("traffic.sidecar.istio.io/excludeInboundPorts", "istio-proxy", "istio-init", "-d")
LINKERD: Final = Mesh(_LINKERD_PORTS, "linkerd-proxy", "linkerd-init", "--inbound-ports-to-ignore")


@dataclass(frozen=True)
class Exclusion:
    """A mesh that was seen, and the ports that it takes from elsewhere where the pod's annotation names none."""

    mesh: Mesh
    inherited: str = ""


def find_exclusions(
    pod: Pod, namespace_labels: Mapping[str, str], namespace_annotations: Mapping[str, str]
) -> tuple[Exclusion, ...]:
    """The meshes that capture, or will capture, what comes into `pod`; empty where none is seen or none would capture ours."""
    found = []
    if (_has_proxy(pod, ISTIO) or _istio_will_come(pod, namespace_labels)) and _captures_all(pod):
        found.append(Exclusion(ISTIO))
    if _has_proxy(pod, LINKERD) or _linkerd_will_come(pod, namespace_annotations):
        # The pod's annotation would take the place of the namespace's.
        found.append(Exclusion(LINKERD, namespace_annotations.get(_LINKERD_PORTS, "")))
    return tuple(found)


def find_present(pod: Pod) -> tuple[Exclusion, ...]:
    """The meshes whose proxy is in `pod` already: all that a second look has to go by."""
    return tuple(
        Exclusion(mesh)
        for mesh in (ISTIO, LINKERD)
        if _has_proxy(pod, mesh) and (mesh is LINKERD or _captures_all(pod))
    )


def exclude_port(pod: Pod, exclusions: tuple[Exclusion, ...], port: int) -> None:
    """Have each mesh leave `port` alone, in place, behind what it was told already. A second time changes nothing."""
    for exclusion in exclusions:
        mesh = exclusion.mesh
        metadata = pod["metadata"]
        annotations = metadata.get("annotations") or {}
        theirs = annotations.get(mesh.annotation) or exclusion.inherited
        metadata["annotations"] = {**annotations, mesh.annotation: _with_port(theirs, port)}
        for container in pod["spec"].get("initContainers") or []:
            if container["name"] == mesh.init_container:
                _extend_arguments(container, mesh.ports_flag, port)


def _captures_all(pod: Pod) -> bool:
    captured = (pod["metadata"].get("annotations") or {}).get(_ISTIO_CAPTURED, _ALL)
    return bool(captured.strip() == _ALL)


def _istio_will_come(pod: Pod, namespace_labels: Mapping[str, str]) -> bool:
    metadata = pod["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    wish = labels.get(_ISTIO_INJECT, annotations.get(_ISTIO_INJECT))
    # Istio leaves pods on the node's network alone.
    if pod["spec"].get("hostNetwork") or wish == "false" or namespace_labels.get(_ISTIO_NAMESPACE) == "disabled":
        return False
    by_namespace = namespace_labels.get(_ISTIO_NAMESPACE) == "enabled" or _ISTIO_REVISION in namespace_labels
    return wish == "true" or _ISTIO_REVISION in labels or by_namespace


def _linkerd_will_come(pod: Pod, namespace_annotations: Mapping[str, str]) -> bool:
    annotations = pod["metadata"].get("annotations") or {}
    wish = annotations.get(_LINKERD_INJECT, namespace_annotations.get(_LINKERD_INJECT))
    return wish in ("enabled", "ingress") and not pod["spec"].get("hostNetwork")


def _has_proxy(pod: Pod, mesh: Mesh) -> bool:
    return any(container["name"] == mesh.proxy for container in all_containers(pod))


def _extend_arguments(container: Container, flag: str, port: int) -> None:
    arguments: list[Any] = list(container.get("args") or [])
    if flag not in arguments[:-1]:
        return
    at = arguments.index(flag) + 1
    arguments[at] = _with_port(str(arguments[at]), port)
    container["args"] = arguments


def _with_port(theirs: str, port: int) -> str:
    """The comma-separated list with `port` behind it, unless it is there or in one of its ranges."""
    entries = [entry.strip() for entry in theirs.split(",") if entry.strip()]
    if any(_covers(entry, port) for entry in entries):
        return theirs
    return ",".join([*entries, str(port)])


def _covers(entry: str, port: int) -> bool:
    first, _, last = entry.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        return False
    return int(first) <= port <= int(last or first)
