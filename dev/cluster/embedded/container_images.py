"""Images in the embedded cluster's containerd, and the record of what each was built from."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dev.cluster.commands import CommandError, run
from dev.cluster.embedded.paths import Paths
from dev.cluster.load_record import LoadRecord


class ContainerImages:
    """containerd keeps images over the cluster's life; a file beside it keeps their content hashes."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._record = LoadRecord(paths.images)

    def ctr(self, *arguments: str, check: bool = True) -> str:
        """Run containerd's own client in the namespace that the kubelet uses."""
        return run("ctr", "-a", self._paths.containerd_socket, "-n", "k8s.io", *arguments, check=check)

    def present(self) -> set[str]:
        return set(self.ctr("images", "list", "-q").split())

    def loaded(self) -> dict[str, str]:
        """References that are there, each with its recorded content hash."""
        there = self.present()
        return {name: content for name, content in self._record.read().items() if name in there}

    def import_layout(self, name: str, layout: Path, content_hash: str) -> None:
        """Import an OCI layout folder that holds `name`. It is piped as a tar, so that no archive lies on disk."""
        archive = subprocess.Popen(["tar", "-C", str(layout), "-cf", "-", "."], stdout=subprocess.PIPE)
        arguments = ["ctr", "-a", str(self._paths.containerd_socket), "-n", "k8s.io", "images", "import", "-"]
        try:
            done = subprocess.run(arguments, stdin=archive.stdout, capture_output=True, text=True, check=False)
        finally:
            if archive.stdout is not None:
                archive.stdout.close()
            archive.wait()
        if done.returncode != 0:
            raise CommandError(arguments, done.returncode, done.stderr)
        self._record.add(name, content_hash)
