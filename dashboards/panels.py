"""From a few words per panel to Grafana's JSON.

Whatever is the same on all panels is decided here: the data source is a variable, widths add up to 24, the first look is at alerts.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import prometheus as models

Kind = Literal["timeseries", "stacked", "stat", "states", "alerts"]
AnyPanel = timeseries.Panel | stat.Panel | statetimeline.Panel | table.Panel

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
# What the chart puts the address of the runbooks for, where it is given one.
RUNBOOKS: Final = "docs/runbooks"
ALERTS: Final = 'ALERTS{alertname=~"Spillway.+",cluster=~"$cluster"}'

# Selectors: figures of sidecars have namespace and pool, those of operator and webhook neither of a user's.
SIDECAR: Final = 'cluster=~"$cluster",namespace=~"$namespace",pool=~"$pool"'
CONTROL: Final = 'cluster=~"$cluster"'


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` gives a legend per query; `thresholds` the value from which on a colour holds, below it is green.

    `states` names the values of a "states" panel with their colour, `alert` the runbook to read when it looks bad.
    """

    title: str
    description: str
    unit: str
    queries: Mapping[str, str]
    kind: Kind = "timeseries"
    width: int = 8
    thresholds: Mapping[float, str] = field(default_factory=dict)
    states: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    alert: str = ""
    low_is_bad: bool = False


@dataclass(frozen=True)
class Board:
    """A board: `rows` by title. `name` is its file and its uid."""

    name: str
    title: str
    description: str
    by_pool: bool
    rows: Mapping[str, tuple[Panel, ...]]


FIRING: Final = Panel(
    "Alerts",
    "What fires or is about to. A click on a name opens its runbook.",
    "none",
    {"{{alertname}}": ALERTS},
    kind="alerts",
    width=24,
)


def render(board: Board) -> str:
    """The board's JSON, the same for the same board."""
    builder = (
        builders.Dashboard(board.title)
        .uid(board.name)
        .description(board.description)
        .tags(["spillway"])
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .variables(_variables(board))
        .link(_boards_link())
        .with_panel(_build(FIRING).id(1))
    )
    # Numbers of panels stand in links that people keep: a row takes a hundred, so that a new panel moves few.
    for row, (title, panels) in enumerate(board.rows.items(), start=1):
        builder = builder.with_row(builders.Row(title).id(100 * row))
        for number, panel in enumerate(panels, start=1):
            builder = builder.with_panel(_build(panel).id(100 * row + number))
    return JSONEncoder(sort_keys=True, indent=1).encode(builder.build()) + "\n"


def _boards_link() -> builders.DashboardLink:
    link = builders.DashboardLink("Spillway boards").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["spillway"])
    return link.keep_time(True).include_vars(True)


def _variables(board: Board) -> list[Builder[dashboard.VariableModel]]:
    source = builders.DatasourceVariable("datasource").label("Data source").type("prometheus")
    served_by = "spillway_engines" if board.by_pool else "spillway_operator_leader"
    chosen: list[Builder[dashboard.VariableModel]] = [source, _variable("cluster", served_by, "")]
    if board.by_pool:
        chosen.append(_variable("namespace", served_by, 'cluster=~"$cluster"'))
        chosen.append(_variable("pool", served_by, 'cluster=~"$cluster",namespace=~"$namespace"'))
    return chosen


def _variable(label: str, metric: str, selector: str) -> builders.QueryVariable:
    """All of it at first. `.*` also matches where Prometheus adds no such label, which a list of values would not."""
    return (
        builders.QueryVariable(label)
        .label(label.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({metric}{f'{{{selector}}}' if selector else ''}, {label})")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(dashboard.VariableOption(text="All", value="$__all"))
    )


def _build(panel: Panel) -> AnyPanel:
    built = _KINDS[panel.kind](panel)
    built.title(panel.title).description(_describe(panel)).datasource(SOURCE).unit(panel.unit)
    built.span(panel.width).height(6 if panel.kind == "alerts" else 4 if panel.kind == "stat" else 8)
    for letter, (legend, expression) in zip(string.ascii_uppercase, panel.queries.items(), strict=False):
        query = prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend).datasource(SOURCE)
        if panel.kind in ("stat", "alerts"):
            query.instant()
        if panel.kind == "alerts":
            query.format(models.PromQueryFormat.TABLE)
        built.with_target(query)
    if panel.alert:
        built.links([builders.DashboardLink("Runbook").url(f"{RUNBOOKS}/{panel.alert}.md").target_blank(True)])
    return built


def _describe(panel: Panel) -> str:
    return f"{panel.description} Runbook: {RUNBOOKS}/{panel.alert}.md" if panel.alert else panel.description


def _thresholds(panel: Panel) -> builders.ThresholdsConfig:
    base = "red" if panel.low_is_bad else "green"
    steps = [dashboard.Threshold(value=None, color=base)]
    steps += [dashboard.Threshold(value=value, color=color) for value, color in sorted(panel.thresholds.items())]
    return builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps)


def _timeseries(panel: Panel) -> timeseries.Panel:
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.TABLE)
    legend.placement(common.LegendPlacement.BOTTOM).show_legend(True).calcs(["lastNotNull", "max"])
    built = timeseries.Panel().legend(legend).fill_opacity(10).show_points(common.VisibilityMode.NEVER).min(0)
    if panel.kind == "stacked":
        built.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(40)
    if panel.thresholds:
        style = common_builders.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED)
        built.thresholds(_thresholds(panel)).thresholds_style(style)
    return built


def _stat(panel: Panel) -> stat.Panel:
    color = common.BigValueColorMode.VALUE if panel.thresholds else common.BigValueColorMode.NONE
    last = common_builders.ReduceDataOptions().calcs(["lastNotNull"])
    built = stat.Panel().thresholds(_thresholds(panel)).color_mode(color).reduce_options(last)
    return built.graph_mode(common.BigValueGraphMode.NONE)


def _states(panel: Panel) -> statetimeline.Panel:
    options = {
        str(value): dashboard.ValueMappingResult(text=text, color=color, index=value)
        for value, (text, color) in panel.states.items()
    }
    return statetimeline.Panel().mappings([dashboard.ValueMap(options=options)])


def _alerts(_panel: Panel) -> table.Panel:
    """A row per alert; columns that say nothing to a person are left out."""
    built = (
        table.Panel()
        .no_value("Nothing fires.")
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True, "Value": True, "__name__": True}},
            )
        )
    )
    link = {"title": "Runbook", "url": f"{RUNBOOKS}/${{__data.fields.alertname}}.md", "targetBlank": True}
    return built.override_by_name("alertname", [dashboard.DynamicConfigValue(id_val="links", value=[link])])


_KINDS: Final[Mapping[Kind, Callable[[Panel], AnyPanel]]] = {
    "timeseries": _timeseries,
    "stacked": _timeseries,
    "stat": _stat,
    "states": _states,
    "alerts": _alerts,
}
