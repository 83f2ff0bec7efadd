"""The chart's boards for Grafana as code. `make generate` writes their JSON to charts/spillway/dashboards, where nothing is edited by hand.

A board lists rows, a row lists panels; `panels` knows how a panel looks and what every panel must have: a unit, a description, data.
"""

from __future__ import annotations

from dashboards import control_plane, data_plane, pool
from dashboards.panels import Board, render

BOARDS: tuple[Board, ...] = (pool.BOARD, data_plane.BOARD, control_plane.BOARD)

__all__ = ["BOARDS", "Board", "render"]
