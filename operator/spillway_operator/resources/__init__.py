"""From a pool to manifests: one file per kind, each a pure `build_` function that returns a dict.

No I/O and no clock here. The controller compares what these return with what it observed and applies the difference.
"""

from spillway_operator.resources.cleanup_pod import DiskCleanup, build_cleanup_pod, cleanup_pod_name
from spillway_operator.resources.config_map import build_config_map, build_live_overrides

__all__ = ["DiskCleanup", "build_cleanup_pod", "build_config_map", "build_live_overrides", "cleanup_pod_name"]
