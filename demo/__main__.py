"""`python -m demo up|down`."""

from __future__ import annotations

import os
import sys

import typer

from demo import story
from demo.report import REPORT
from tests.cluster import images, installation
from tests.cluster.commands import ClusterError
from tests.cluster.progress import say
from tests.cluster.provider import Provider, choose_provider
from tests.cluster.settings import Settings
from tests.e2e.kit.kube import Kube

_IMAGES = ("engine", "control", "sidecar")
_CONTROL = "localhost/spillway-control:dev"
_ENGINE = "localhost/vllm-cpu:0.32.0"

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def up() -> None:
    """Get a cluster, install Spillway, talk to the example's engine, end it twice, and print what was reused."""
    settings = Settings.from_environment()
    provider = choose_provider(settings)
    say(f"Kubernetes: {provider.name}")
    provider.up()
    images.ensure(settings, provider, list(_IMAGES))
    installation.install(host_path_prefixes=[str(story.FOLDER)])
    kube = _connect(provider)
    story.make_folder(kube, provider.image_reference(_CONTROL))
    tale = story.Story(kube, {_ENGINE: provider.image_reference(_ENGINE)})
    tale.clear()
    report = tale.tell()
    report.write()
    report.show()
    say(f"the same as JSON: {REPORT}; the cluster stays up, `make demo-down` ends it")
    if not report.tokens_equal:
        raise ClusterError("the outputs differ; this must not happen, please report it with the sidecar's log")


@app.command()
def down() -> None:
    """Remove the example and Spillway, and end the cluster that `up` made."""
    provider = choose_provider(Settings.from_environment())
    if provider.is_up():
        kube = _connect(provider)
        story.Story(kube, {}).clear()
        if kube.get("v1", "Namespace", installation.NAMESPACE) is not None:
            story.remove_folder(kube, provider.image_reference(_CONTROL))
        installation.uninstall()
    provider.down()


def _connect(provider: Provider) -> Kube:
    path = str(provider.kubeconfig())
    os.environ["KUBECONFIG"] = path
    return Kube(path)


def main() -> int:
    try:
        app()
    except (ClusterError, AssertionError) as error:
        say(f"failed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
