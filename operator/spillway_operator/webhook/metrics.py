"""Every metric of the webhook process, declared once; docs/metrics.md is generated from it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from spillway_operator.api import SkipReason
from spillway_operator.kube.reflector import WatchMetrics

REGISTRY = CollectorRegistry()

REVIEWS = Counter(
    "spillway_webhook_reviews",
    "Pods reviewed, by outcome (injected, unchanged, skipped; probed: asked by the operator).",
    ["outcome"],
    registry=REGISTRY,
)
SKIPS = Counter("spillway_webhook_skips", "Pods started without a sidecar, by reason.", ["reason"], registry=REGISTRY)
ERRORS = Counter(
    "spillway_webhook_errors",
    "Errors that cost a pod its sidecar, by kind (unreadable-review, api-server, unexpected).",
    ["kind"],
    registry=REGISTRY,
)
STRANGERS = Counter(
    "spillway_webhook_strangers", "Requests to /inject without a token of it, answered 404.", registry=REGISTRY
)
REVIEW_SECONDS = Histogram(
    "spillway_webhook_review_seconds",
    "Duration of one review, the reads it waited for included.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
    registry=REGISTRY,
)
LIVE_READS = Counter(
    "spillway_webhook_live_reads",
    "Reads from the API server during a review, by kind of object.",
    ["kind"],
    registry=REGISTRY,
)
DRY_RUNS = Counter(
    "spillway_webhook_dry_runs",
    "Injected pods that the API server was asked about, by its answer (admissible, refused, undecided; unasked: no turn in time).",
    ["answer"],
    registry=REGISTRY,
)
DRY_RUN_SECONDS = Histogram(
    "spillway_webhook_dry_run_seconds",
    "Duration of the dry runs of one review.",
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5),
    registry=REGISTRY,
)
WATCHES = WatchMetrics.declare("spillway_webhook", "cached_objects", REGISTRY)

# Each value is there from the start: a series that begins at 1 shows no increase to an alert.
for counter, values in {
    REVIEWS: ("injected", "unchanged", "skipped", "probed"),
    SKIPS: tuple(SkipReason),
    ERRORS: ("unreadable-review", "api-server", "unexpected"),
    DRY_RUNS: ("admissible", "refused", "undecided", "unasked"),
}.items():
    for value in values:
        counter.labels(str(value))
