"""Spillway / Control plane: are pods injected, and is the operator well."""

from __future__ import annotations

from dashboards.panels import CONTROL, Board, Panel


def _rate(metric: str, *labels: str) -> str:
    by = f" by ({', '.join(labels)})" if labels else ""
    return f"sum{by} (rate({metric}{{{CONTROL}}}[$__rate_interval]))"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{{CONTROL}}}[$__rate_interval])))"


_INJECTION = (
    Panel(
        "Labelled pods with a sidecar",
        "Of the live pods that ask for a pool.",
        "percentunit",
        {"injected": f"spillway:injected_pods:ratio{{{CONTROL}}}"},
        kind="stat",
        width=6,
        thresholds={0.9: "yellow", 1.0: "green"},
        low_is_bad=True,
        alert="SpillwayInjectedShareLow",
    ),
    Panel(
        "Namespaces where the webhook is not called",
        "By a pod on trial in each namespace with pools; 0 is well.",
        "short",
        {"namespaces": f"max(spillway_operator_webhook_problems{{{CONTROL}}})"},
        kind="stat",
        width=6,
        thresholds={1: "red"},
        alert="SpillwayWebhookNotCalled",
    ),
    Panel(
        "Injection breakers opened",
        "Over the time shown: sidecars kept pods of a pool from starting.",
        "short",
        {"opened": f"sum(increase(spillway_operator_injection_breakers_opened_total{{{CONTROL}}}[$__range]))"},
        kind="stat",
        width=6,
        thresholds={1: "red"},
        alert="SpillwayInjectionBreakerOpen",
    ),
    Panel(
        "Webhook's certificate ends in",
        "It is renewed 30 days before its end.",
        "s",
        {"left": f"min(spillway_operator_webhook_certificate_expiry_timestamp_seconds{{{CONTROL}}} > 0) - time()"},
        kind="stat",
        width=6,
        thresholds={7 * 86400: "yellow", 21 * 86400: "green"},
        low_is_bad=True,
        alert="SpillwayCertificateNearExpiry",
    ),
    Panel(
        "Pools whose breaker is open",
        "Their sidecars keep pods from starting, so new pods start plain.",
        "short",
        {"pools": f"max(spillway_operator_open_injection_breakers{{{CONTROL}}})"},
        kind="stat",
        width=12,
        thresholds={1: "red"},
        alert="SpillwayInjectionBreakerOpen",
    ),
    Panel(
        "Outdated pods",
        "Injected pods of an earlier revision; they change when they are created again.",
        "short",
        {"pods": f"max(spillway_operator_outdated_pods{{{CONTROL}}})"},
        kind="stat",
        width=12,
        thresholds={1: "yellow"},
        alert="SpillwayPodsOutdated",
    ),
    Panel(
        "Live pods",
        "Labelled pods that are neither finished nor leaving, by whether they have a sidecar.",
        "short",
        {"injected: {{injected}}": f"sum by (injected) (spillway_operator_labelled_pods{{{CONTROL}}})"},
        kind="stacked",
        alert="SpillwayInjectedShareLow",
    ),
    Panel(
        "Reviews, by outcome",
        "Pods that the API server asked the webhook about.",
        "cps",
        {"{{outcome}}": _rate("spillway_webhook_reviews_total", "outcome")},
    ),
    Panel(
        "Pods left alone, by reason",
        "By the webhook; the reasons stand on the pods.",
        "cps",
        {
            "{{reason}}": _rate("spillway_webhook_skips_total", "reason"),
            "seen by the operator: {{reason}}": _rate("spillway_operator_pods_skipped_total", "reason"),
        },
        alert="SpillwayInjectedShareLow",
    ),
    Panel(
        "Time of a review",
        "The API server waits 5 s at most, then the pod starts plain.",
        "s",
        {
            "p50": _quantile(0.5, "spillway_webhook_review_seconds"),
            "p99": _quantile(0.99, "spillway_webhook_review_seconds"),
            "p99 of its dry runs": _quantile(0.99, "spillway_webhook_dry_run_seconds"),
        },
        thresholds={1: "yellow", 5: "red"},
        alert="SpillwayWebhookFailsOpen",
    ),
    Panel(
        "Webhook errors",
        "Each cost a pod its sidecar. Strangers: requests without the token.",
        "cps",
        {
            "{{kind}}": _rate("spillway_webhook_errors_total", "kind"),
            "strangers": _rate("spillway_webhook_strangers_total"),
        },
        alert="SpillwayWebhookErrors",
    ),
    Panel(
        "What the webhook asks the API server",
        "Dry runs by answer, and reads that its caches could not answer.",
        "cps",
        {
            "dry run: {{answer}}": _rate("spillway_webhook_dry_runs_total", "answer"),
            "read: {{kind}}": _rate("spillway_webhook_live_reads_total", "kind"),
        },
    ),
)

_OPERATOR = (
    Panel(
        "Active operators",
        "One leads, the others stand by.",
        "short",
        {"leaders": f"sum(spillway_operator_leader{{{CONTROL}}})"},
        kind="stat",
        width=6,
        thresholds={1: "green", 2: "red"},
        low_is_bad=True,
        alert="SpillwayOperatorWithoutLeader",
    ),
    Panel(
        "Pools",
        "Pools that the controller knows.",
        "short",
        {"pools": f"max(spillway_operator_pools{{{CONTROL}}})"},
        kind="stat",
        width=6,
    ),
    Panel(
        "Pods",
        "Pods with the label, those that ended included.",
        "short",
        {"pods": f"max(spillway_operator_pods{{{CONTROL}}})"},
        kind="stat",
        width=6,
    ),
    Panel(
        "Stuck pods deleted",
        "Over the time shown: pods that could not start because of their sidecar and were made again.",
        "short",
        {"deleted": f"sum(increase(spillway_operator_stuck_pods_deleted_total{{{CONTROL}}}[$__range]))"},
        kind="stat",
        width=6,
        alert="SpillwayInjectionBreakerOpen",
    ),
    Panel(
        "Conditions of pools",
        "Pools by condition and status, those that are well left out.",
        "short",
        {
            "{{type}}={{status}}": f"max by (type, status) (spillway_operator_pool_conditions{{{CONTROL},"
            'type=~"Degraded|Progressing",status="True"})'
            f" or max by (type, status) (spillway_operator_pool_conditions{{{CONTROL},"
            'type!~"Degraded|Progressing",status="False"})'
        },
        alert="SpillwayPoolDegraded",
    ),
    Panel(
        "Reconciles, by result",
        "retried: the API server refused something or did not answer.",
        "cps",
        {
            "{{result}}": _rate("spillway_operator_reconciles_total", "result"),
            "unexpected errors": _rate("spillway_operator_escaped_errors_total"),
        },
        alert="SpillwayReconcilesFail",
    ),
    Panel(
        "Time of a reconcile, and what waits",
        "Keys waiting for one of 16 workers.",
        "s",
        {
            "p50": _quantile(0.5, "spillway_operator_reconcile_seconds"),
            "p99": _quantile(0.99, "spillway_operator_reconcile_seconds"),
        },
    ),
    Panel(
        "Keys waiting",
        "Pools that wait for a worker. It empties in seconds.",
        "short",
        {"keys": f"max(spillway_operator_queue_depth{{{CONTROL}}})"},
    ),
    Panel(
        "Event loop stands still",
        "Share of the time in stalls of 50 ms and more. A stall of 7 s ends the process.",
        "percentunit",
        {"{{pod}}": _rate("spillway_operator_loop_stall_seconds_sum", "pod")},
        thresholds={0.05: "red"},
        alert="SpillwayOperatorLoopStalls",
    ),
    Panel(
        "Reads of sidecars, by outcome",
        "unreachable: a network policy or a dead pod; refused: the token is not taken.",
        "cps",
        {"{{outcome}}": _rate("spillway_operator_member_reads_total", "outcome")},
        kind="stacked",
        alert="SpillwaySidecarsUnreadable",
    ),
    Panel(
        "Writes to the API server",
        "Nothing at rest.",
        "cps",
        {"{{verb}} {{kind}}": _rate("spillway_operator_api_writes_total", "verb", "kind")},
    ),
)

_WATCHES = (
    Panel(
        "Objects followed",
        "By kind; a standby follows nothing.",
        "short",
        {
            "operator: {{kind}}": f"max by (kind) (spillway_operator_watched_objects{{{CONTROL}}})",
            "webhook: {{kind}}": f"max by (kind) (spillway_webhook_cached_objects{{{CONTROL}}})",
        },
    ),
    Panel(
        "Watches begun anew",
        "A few an hour are the API server's own time limit; many are a broken connection.",
        "cps",
        {
            "operator: {{kind}}": _rate("spillway_operator_watch_restarts_total", "kind"),
            "webhook: {{kind}}": _rate("spillway_webhook_watch_restarts_total", "kind"),
        },
    ),
    Panel(
        "Objects that could not be understood",
        "CRD and processes differ in version.",
        "cps",
        {
            "operator: {{kind}}": _rate("spillway_operator_untaken_objects_total", "kind"),
            "webhook: {{kind}}": _rate("spillway_webhook_untaken_objects_total", "kind"),
        },
    ),
)

BOARD = Board(
    "spillway-control-plane",
    "Spillway / Control plane",
    "Whether pods get their sidecar, and whether operator and webhook are well.",
    by_pool=False,
    rows={"Injection": _INJECTION, "Operator": _OPERATOR, "Watches": _WATCHES},
)
