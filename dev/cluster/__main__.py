"""The command line of the cluster harness."""

from __future__ import annotations

import argparse
import sys

from dev.cluster import images, instance
from dev.cluster.commands import ClusterError
from dev.cluster.progress import say
from dev.cluster.provider import choose_provider
from dev.cluster.settings import Settings

COMMANDS = {
    "up": "bring the cluster up; nothing to do where it is up",
    "down": "end it, leave nothing behind, and print the comparison with before",
    "status": "exit with 0 when a cluster is up",
    "images": "build and load images (all, or those named)",
    "kubeconfig": "print the path of the kubeconfig",
    "env": "print shell lines that put kubectl, helm and the kubeconfig to use",
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev.cluster", description=__doc__)
    names = [one.name for one in instance.ALL]
    parser.add_argument(
        "--cluster", choices=names, default=instance.E2E.name, help="whose cluster (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in COMMANDS.items():
        command = commands.add_parser(name, help=help_text)
        if name == "images":
            command.add_argument("names", nargs="*", help="engine, control, sidecar, sidecar-next, sidecar-swap")
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    provider = choose_provider(settings, instance.find(arguments.cluster))
    match arguments.command:
        case "up":
            provider.up()
        case "down":
            provider.down()
        case "status":
            up = provider.is_up()
            print(f"{provider.name}: {'up' if up else 'not up'}")
            return 0 if up else 1
        case "images":
            provider.up()
            images.ensure(settings, provider, arguments.names)
        case "kubeconfig":
            print(provider.kubeconfig())
        case "env":
            print(f'export KUBECONFIG="{provider.kubeconfig()}" PATH="{settings.tools}:$PATH"')
    return 0


def main() -> int:
    try:
        return _run(_arguments())
    except ClusterError as error:
        say(f"failed: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
