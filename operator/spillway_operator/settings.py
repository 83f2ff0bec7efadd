"""What the chart sets by environment and both operator and webhook read. Parsed once, at the start of the process."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from spillway.config import LogLevel

from spillway_operator.api import Allowed

PullPolicy = Literal["Always", "IfNotPresent", "Never"]


class SharedSettings(BaseSettings):
    """Settings of every process of the control plane. Lists are JSON: SPILLWAY_HOST_PATHS='["/mnt/nvme0"]'."""

    model_config = SettingsConfigDict(env_prefix="SPILLWAY_", frozen=True, extra="ignore")

    sidecar_image: str = Field(min_length=1, description="Image of the sidecar where a pool names none.")
    sidecar_pull_policy: PullPolicy = Field(default="IfNotPresent", description="imagePullPolicy of what is injected.")
    allowed_repositories: tuple[str, ...] = Field(
        default=(), description="Repositories that spec.sidecar.image may come from, beside the default image."
    )
    host_paths: tuple[str, ...] = Field(
        default=(), description="Folders of nodes that spec.tiers.nvme.volume.hostPath.path may name."
    )
    log_level: LogLevel = Field(default="Info", description="Least level that is logged.")

    @property
    def allowed(self) -> Allowed:
        """What pools may ask for."""
        return Allowed(self.sidecar_image, self.allowed_repositories, self.host_paths)
