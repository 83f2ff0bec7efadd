"""The program behind `make demo`: a conversation whose KV cache outlives its engine and its pod, told in one table.

It stands on the cluster harness (dev/cluster) and on the end-to-end kit (tests/e2e/kit), and does what a user would:
install the chart, apply examples/quickstart.yaml, talk to the engine through its Service.
"""
