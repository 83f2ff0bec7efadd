"""Every name that Spillway shows in a cluster: API group, labels, annotations, containers, volumes, mount points."""

from __future__ import annotations

from typing import Final

GROUP: Final = "spillway.dev"
VERSION: Final = "v1alpha1"
KIND: Final = "KVCachePool"
PLURAL: Final = "kvcachepools"
SHORT_NAME: Final = "kvpool"
CATEGORY: Final = "spillway"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CRD_NAME: Final = f"{PLURAL}.{GROUP}"
MAX_POOL_NAME_LENGTH: Final = 52

# The path that the API server calls is this and a token, which the webhook finds in files of that prefix.
INJECT_PATH: Final = "/inject"
INJECT_TOKEN_PREFIX: Final = "inject-token-"
# The API server takes nothing for part of a path that could not stand in a DNS name.
INJECT_TOKEN_PATTERN: Final = "[0-9a-f]{64}"

POOL_LABEL: Final = "spillway.dev/pool"
INJECT_LABEL: Final = "spillway.dev/inject"
REVISION_LABEL: Final = "spillway.dev/revision"
STATUS_ANNOTATION: Final = "spillway.dev/status"
SKIPPED_ANNOTATION: Final = "spillway.dev/skipped"
SKIPPED_MESSAGE_ANNOTATION: Final = "spillway.dev/skipped-message"
# The operator's question whether the webhook is called: a pod, never stored, of a pool that no pool can be the name of.
PROBE_POOL: Final = "Injection-Probe"
PROBED_ANNOTATION: Final = "spillway.dev/probed"
PROBE_ANSWER: Final = "the Spillway webhook was called"
ABANDON_DISK_ANNOTATION: Final = "spillway.dev/abandon-disk"
SAFE_TO_EVICT_ANNOTATION: Final = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
POD_SECURITY_ENFORCE_LABEL: Final = "pod-security.kubernetes.io/enforce"

DISK_CONTAINER: Final = "spillway-disk"
CLIENT_CONTAINER: Final = "spillway-client"
SIDECAR_CONTAINER: Final = "spillway"
CONTAINERS: Final = (DISK_CONTAINER, CLIENT_CONTAINER, SIDECAR_CONTAINER)

# Every volume that injection adds begins so, and no container may mount one that injection did not give it.
VOLUME_PREFIX: Final = "spillway-"
ARENA_VOLUME: Final = f"{VOLUME_PREFIX}arena"
INDEX_VOLUME: Final = f"{VOLUME_PREFIX}index"
RUN_VOLUME: Final = f"{VOLUME_PREFIX}run"
CLIENT_VOLUME: Final = f"{VOLUME_PREFIX}client"
NVME_VOLUME: Final = f"{VOLUME_PREFIX}nvme"
CONFIG_VOLUME: Final = f"{VOLUME_PREFIX}config"

NO_TOKEN_VOLUME: Final = f"{VOLUME_PREFIX}no-token"

# Where the API server mounts the pod's ServiceAccount token into every container that mounts nothing there itself.
TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
MOUNT_ROOT: Final = "/spillway"
ARENA_PATH: Final = f"{MOUNT_ROOT}/arena"
INDEX_PATH: Final = f"{MOUNT_ROOT}/index"
RUN_PATH: Final = f"{MOUNT_ROOT}/run"
CLIENT_PATH: Final = f"{MOUNT_ROOT}/client"
NVME_PATH: Final = f"{MOUNT_ROOT}/nvme"
CONFIG_PATH: Final = f"{MOUNT_ROOT}/config"
CLIENT_PYTHONPATH: Final = f"{CLIENT_PATH}/current"
# What names our plugin in a list that came by envFrom.
CLIENT_ENV_FROM_PATH: Final = f"{CLIENT_PYTHONPATH}/spillway/adapters/vllm/env_from"
DISK_COMMAND: Final = ("python3", "-m", "spillway.daemon.own_disk", NVME_PATH)
CLIENT_INSTALL_COMMAND: Final = ("/usr/local/bin/spillway-client-install", CLIENT_PATH)

# The sidecar's user inside a pod's own user namespace, which has 65536 of them, and the group of what it writes.
SIDECAR_UID: Final = 65532
LAST_NAMESPACED_USER: Final = 65535
# Users of pools that name none; who names one names one below.
FIRST_DERIVED_USER: Final = 2**30
LAST_DERIVED_USER: Final = 2**31 - 2


def pool_folder(host_path: str, namespace: str, pool_uid: str) -> str:
    """The folder of a pool on a node's disk, below the path that the administrator listed: docs/adr/0001."""
    return f"{host_path}/{namespace}/{pool_uid}"


def config_map_name(pool_name: str) -> str:
    """Name of the ConfigMap with the pool's live overrides."""
    return f"{pool_name}-spillway"
