"""Metrics, rules and boards: what the chart watches is what the processes serve."""
