"""Programs that Debian does not have, compiled once from the Go modules pinned under go/ and kept by version."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import ClusterError, run, succeeds
from dev.cluster.progress import say, step
from dev.cluster.settings import COREDNS_VERSION, HELM_VERSION, KIND_VERSION, KUBERNETES_VERSION, PROJECT, Settings

_MODULES: Final = PROJECT / "dev" / "cluster" / "go"
_STAMP: Final = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES_VERSION.split(".")


@dataclass(frozen=True)
class Program:
    """One program: the module folder below go/ that pins it and the package to build there."""

    name: str
    version: str
    module: str
    package: str

    def path(self, settings: Settings) -> Path:
        return settings.binaries / f"{self.name}-{self.version}"


def _kubernetes(name: str) -> Program:
    return Program(name, KUBERNETES_VERSION, "kubernetes", f"k8s.io/kubernetes/cmd/{name}")


KUBECTL: Final = _kubernetes("kubectl")
HELM: Final = Program("helm", HELM_VERSION, "helm", "helm.sh/helm/v3/cmd/helm")
KIND: Final = Program("kind", KIND_VERSION, "kind", "sigs.k8s.io/kind")
COREDNS: Final = Program("coredns", COREDNS_VERSION, "coredns", ".")
CLIENTS: Final = (KUBECTL, HELM)
NODE: Final = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    COREDNS,
)


def ensure(settings: Settings, programs: tuple[Program, ...]) -> None:
    """Build those of `programs` that the cache lacks, and link all of them under their plain names."""
    absent = [program for program in programs if not program.path(settings).exists()]
    if absent:
        names = " ".join(f"{program.name}-{program.version}" for program in absent)
        say(f"will compile into {settings.binaries} (once, a minute or two each): {names}")
    if absent and not succeeds("go", "version"):
        raise ClusterError("`go` is not on the PATH; `make setup` installs it")
    for program in absent:
        with step(f"compiling {program.name} {program.version}"):
            _build(program, program.path(settings))
    settings.tools.mkdir(parents=True, exist_ok=True)
    for program in programs:
        _link(settings.tools / program.name, program.path(settings))


def tool(settings: Settings, program: Program) -> Path:
    """Path of a program, built first if the cache lacks it."""
    ensure(settings, (program,))
    return program.path(settings)


def _build(program: Program, target: Path) -> None:
    # One set of flags for all: other flags would share nothing of Go's build cache.
    stamps = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": _MAJOR, "gitMinor": _MINOR, "gitTreeState": "clean"}
    linker = " ".join(["-s", "-w", *(f"-X {_STAMP}.{key}={value}" for key, value in stamps.items())])
    if program is HELM:
        linker += f" -X helm.sh/helm/v3/internal/version.version=v{HELM_VERSION}"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    # Without cgo they are static, as the images without a base need.
    run(
        "go", "build", "-trimpath", "-ldflags", linker, "-o", unfinished, program.package,
        cwd=_MODULES / program.module, environment={"CGO_ENABLED": "0"},
    )  # fmt: skip
    unfinished.rename(target)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    unfinished = link.with_name(f"{link.name}.{os.getpid()}.tmp")
    unfinished.symlink_to(target)
    unfinished.replace(link)
