"""A whole TLS handshake in memory, as the API server and the webhook have one."""

from __future__ import annotations

import ssl
from pathlib import Path

from spillway_operator.controller.certificates import Pair


def shake_hands(leaf: Pair, bundle: str, name: str, folder: Path) -> None:
    """Raises ssl.SSLError where a client with that bundle does not believe a server of that name."""
    (folder / "tls.crt").write_bytes(leaf.certificate)
    (folder / "tls.key").write_bytes(leaf.key)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cadata=bundle).wrap_bio(to_client, to_server, server_hostname=name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
