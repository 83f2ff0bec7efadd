"""Every metric of the operator process, declared once; docs/metrics.md is generated from it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from spillway_operator.kube.reflector import WatchMetrics

REGISTRY = CollectorRegistry()

LEADER = Gauge("spillway_operator_leader", "1 in the one active controller, 0 in a standby.", registry=REGISTRY)
POOLS = Gauge("spillway_operator_pools", "Pools that the controller knows.", registry=REGISTRY)
PODS = Gauge("spillway_operator_pods", "Pods with the pool label that the controller knows.", registry=REGISTRY)
LABELLED_PODS = Gauge(
    "spillway_operator_labelled_pods",
    "Labelled pods that are neither finished nor leaving, by whether they have a sidecar.",
    ["injected"],
    registry=REGISTRY,
)
OUTDATED_PODS = Gauge(
    "spillway_operator_outdated_pods",
    "Injected pods of another revision than a new pod of their pool would get.",
    registry=REGISTRY,
)
POOL_CONDITIONS = Gauge(
    "spillway_operator_pool_conditions",
    "Pools by the type of a condition and its status.",
    ["type", "status"],
    registry=REGISTRY,
)
OPEN_BREAKERS = Gauge(
    "spillway_operator_open_injection_breakers",
    "Pools whose injection breaker is open or tries a pod, so that their new pods start without a sidecar.",
    registry=REGISTRY,
)
QUEUE_DEPTH = Gauge("spillway_operator_queue_depth", "Keys waiting for a worker.", registry=REGISTRY)
RECONCILES = Counter(
    "spillway_operator_reconciles", "Reconciles by result (done, retried).", ["result"], registry=REGISTRY
)
RECONCILE_SECONDS = Histogram(
    "spillway_operator_reconcile_seconds",
    "Duration of one reconcile.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
    registry=REGISTRY,
)
LOOP_STALL_SECONDS = Histogram(
    "spillway_operator_loop_stall_seconds",
    "Stalls of the event loop of 50 ms and more.",
    buckets=(0.1, 0.2, 0.5, 1, 2, 4, 7),
    registry=REGISTRY,
)
API_WRITES = Counter(
    "spillway_operator_api_writes",
    "Writes that the API server accepted, by verb and kind.",
    ["verb", "kind"],
    registry=REGISTRY,
)
MEMBER_READS = Counter(
    "spillway_operator_member_reads",
    "Reads of a sidecar's /status by outcome (ok, unreachable, refused, unreadable).",
    ["outcome"],
    registry=REGISTRY,
)
PODS_SKIPPED = Counter(
    "spillway_operator_pods_skipped",
    "Labelled pods that started without a sidecar, by reason.",
    ["reason"],
    registry=REGISTRY,
)
STUCK_PODS_DELETED = Counter(
    "spillway_operator_stuck_pods_deleted",
    "Pods that could not start because of their sidecar and were deleted, for their owner to make them again.",
    registry=REGISTRY,
)
BREAKERS_OPENED = Counter(
    "spillway_operator_injection_breakers_opened",
    "Times that a pool's injection breaker opened.",
    registry=REGISTRY,
)
WEBHOOK_PROBLEMS = Gauge(
    "spillway_operator_webhook_problems",
    "Namespaces of pools in which a pod created on trial did not meet the webhook, 1 where it serves none; 0 in a standby.",
    registry=REGISTRY,
)
ESCAPED_ERRORS = Counter(
    "spillway_operator_escaped_errors",
    "Unexpected exceptions caught at an edge, by edge.",
    ["edge"],
    registry=REGISTRY,
)
CERTIFICATE_EXPIRY = Gauge(
    "spillway_operator_webhook_certificate_expiry_timestamp_seconds",
    "When the webhook's serving certificate ends.",
    registry=REGISTRY,
)
WATCHES = WatchMetrics.declare("spillway_operator", "watched_objects", REGISTRY)

# Each value is there from the start: a series that begins at 1 shows no increase to an alert.
for counter, values in {
    RECONCILES: ("done", "retried"),
    MEMBER_READS: ("ok", "unreachable", "refused", "unreadable"),
    ESCAPED_ERRORS: ("work_queue",),
}.items():
    for value in values:
        counter.labels(value)
