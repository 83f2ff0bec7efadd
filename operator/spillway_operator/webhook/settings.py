"""What the chart tells the webhook by environment, beside the shared settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from spillway_operator.settings import SharedSettings


class WebhookSettings(SharedSettings):
    """Settings of the webhook's process."""

    port: int = Field(default=8443, ge=0, le=65535, description="Port of /inject, HTTPS. 0: any free one.")
    http_port: int = Field(
        default=8080, ge=0, le=65535, description="Port of /healthz, /readyz and /metrics. 0: any free one."
    )
    tls_dir: Path = Field(
        default=Path("/etc/spillway/tls"),
        description="Folder with tls.crt, tls.key and inject-token-*; read again when changed.",
    )
    client_ca_file: Path | None = Field(
        default=None, description="PEM of the CA of whom /inject demands a client certificate. Absent: it demands none."
    )
    status_keys_dir: Path = Field(
        default=Path("/etc/spillway/status-keys"),
        description="Folder with one raw Ed25519 public key in base64 per file; read again when changed.",
    )
