"""What the chart tells the operator by environment. Parsed once, in `__main__`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from spillway_operator.settings import SharedSettings

WEBHOOK_SERVICE = "spillway-webhook"
WEBHOOK_CONFIGURATION = "spillway"
LEASE_NAME = "spillway-operator"
OPERATOR_DEPLOYMENT = "spillway-operator"


class OperatorSettings(SharedSettings):
    """Settings of the operator's process."""

    namespace: str = Field(min_length=1, description="The release namespace: Lease, Secrets, cleanup pods.")
    pod_name: str = Field(default="spillway-operator", description="Name of this process in the Lease.")
    control_image: str = Field(min_length=1, description="Image of operator and webhook, run by disk-cleanup pods.")
    control_pull_policy: str = Field(default="IfNotPresent", description="imagePullPolicy of disk-cleanup pods.")
    http_port: int = Field(default=8080, ge=1, le=65535, description="Port of /healthz, /readyz and /metrics.")


class UninstallSettings(BaseSettings):
    """Settings of the Job that runs before the release is removed."""

    model_config = SettingsConfigDict(env_prefix="SPILLWAY_", frozen=True, extra="ignore")

    namespace: str = Field(min_length=1, description="The release namespace.")
    finish_seconds: float = Field(default=120, ge=0, le=600, description="Wait for pools that are being deleted.")
