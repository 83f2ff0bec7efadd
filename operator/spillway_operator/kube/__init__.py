"""The API server as Spillway speaks to it: kinds, errors, writes (`client`), reads and watches (`reader`, `reflector`, `cache`).

The one place that knows paths, status codes and how a watch goes on. It knows nothing of pools. Modules are imported one by one:
the webhook does without the `kubernetes` package, whose import alone costs 60 MiB.
"""
