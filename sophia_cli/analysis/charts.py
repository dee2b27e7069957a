"""Shows the figures of `sophia stats` in a terminal: tables, and bars of R(c) and of lengths."""

from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from sophia_cli.runtime.tables import fitted_table

BAR_WIDTH, MIN_BAR_WIDTH = 40, 4
"""Cells of the longest bar, in a wide terminal and in a narrow one."""
# More labels on an axis of this width overlap.
MAX_LABELS = 20


def print_figures(figures: dict[str, Any], console: Console) -> None:
    """Prints the figures; what no record has is skipped."""
    console.print(_summary_table(figures))
    if figures["caption_reward"]["histogram"]:
        console.print(_reward_bars(figures))
    for name, title in (("trajectories", "trajectories, tokens"), ("captions", "captions, tokens")):
        if figures["lengths"][name]:
            console.print(_length_bars(figures["lengths"], name, title, console.width))
    for name, groups in figures["by"].items():
        console.print(_group_table(name, groups, console.width))


def _summary_table(figures: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in _summary_lines(figures):
        table.add_row(f"[bold]{name}[/bold]", text)
    return table


def _summary_lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    tokens, leaks, found, again = (figures[name] for name in ("tokens", "leaks", "caption_reward", "repeated"))
    items, trajectories = figures["items"], figures["trajectories"]
    lines = [
        ("records", f"{figures['records']:,} ({figures['failed']:,} failed, {figures['unreadable']:,} unreadable)"),
        ("items", f"{items:,}"),
        ("captions", f"{figures['captions']:,}"),
        ("trajectories", f"{trajectories:,}"),
    ]
    if not figures["captions"] and not trajectories:
        return lines
    if figures["verdicts"]:
        parts = [f"{name} {number:,} ({number / trajectories:.1%})" for name, number in figures["verdicts"].items()]
        lines.append(("verdicts", ", ".join(parts)))
    if figures["graded"]:
        over = f"over {figures['alpha']}: {found['over_alpha']:,} of {found['captions']:,}"
        lines += [
            ("right", f"{figures['accuracy']:.1%} of {figures['graded']:,} graded"),
            ("R(c)", f"mean {found['mean']:.3f}, {over}" if found["captions"] else "no caption is graded"),
            ("solved", f"{figures['solved']:,} items; {figures['items_right']:,} have a correct trajectory"),
            ("selected", f"{figures['selected']:,} trajectories"),
        ]
    spent = f"{tokens['total']:,} ({tokens['captions']:,} in captions, {tokens['trajectories']:,} in trajectories)"
    lines.append(("tokens", spent + (f"; {tokens['per_selected']:,.0f} per selected one" if tokens["per_selected"] else "")))
    if trajectories:
        lines.append(("cut off", f"{figures['truncated']:.1%} by the token limit"))
    if leaks["judged"]:
        share = f"{leaks['rate']:.1%} ({leaks['count']:,} of {leaks['judged']:,}) mention a caption"
        lines.append(("leaks", f"{share}, {leaks['selected']:,} of the selected"))
    same = f"{again['texts']:,} trajectories and {again['captions']:,} captions with the same words"
    lines.append(("repeated", f"{again['trajectories']:,} records, {again['conflicting']:,} ids with two contents, {same}"))
    return lines


def _reward_bars(figures: dict[str, Any]) -> Table:
    rows, alpha = figures["caption_reward"]["histogram"], figures["alpha"]
    table = Table(title="captions by R(c)", title_justify="left", box=None, show_header=False)
    most = max(row["count"] for row in rows)
    for row in rows:
        color = "green" if row["reward"] > alpha else "default"
        table.add_row(f"{row['reward']:.3g}", f"{row['count']:,}", Bar(most, 0, row["count"], width=BAR_WIDTH, color=color))
    return table


def _length_bars(lengths: dict[str, Any], name: str, title: str, width: int) -> Table:
    """Returns bars of all lengths and of the selected ones, on separate scales."""
    spread, kept = lengths[name], lengths["selected"] if name == "trajectories" else None
    quantiles = f"median {spread['p50']:,.0f}, 5% under {spread['p5']:,.0f}, 5% over {spread['p95']:,.0f}"
    table = Table(title=f"{title}: {quantiles}, longest {spread['max']:,}", title_justify="left", box=None)
    columns = [("all", spread)] + ([("selected", kept)] if kept else [])
    table.add_column("", no_wrap=True)
    for column, _ in columns:
        table.add_column("", justify="right", no_wrap=True)
        table.add_column(column, no_wrap=True)
    labels = [f"{bin['from']:,.0f}–{bin['to'] - 1:,.0f}" for bin in spread["histogram"]]
    counts = [len(f"{max(bin['count'] for bin in figures['histogram']):,}") for _, figures in columns]
    room = width - len(max(labels, key=len)) - sum(counts) - 2 * (2 * len(columns) + 1)
    bar_width = max(min(BAR_WIDTH, room) // len(columns), MIN_BAR_WIDTH)
    most = [max(bin["count"] for bin in figures["histogram"]) for _, figures in columns]
    first = next(number for number, bin in enumerate(spread["histogram"]) if bin["count"])
    for number in range(first, len(spread["histogram"])):
        cells: list[Any] = [labels[number]]
        for (_, figures), highest in zip(columns, most, strict=True):
            count = figures["histogram"][number]["count"] if number < len(figures["histogram"]) else 0
            cells += [f"{count:,}", Bar(highest, 0, count, width=bar_width)]
        table.add_row(*cells)
    return table


def _group_table(name: str, groups: dict[str, Any], width: int) -> Table:
    """Returns a row per value. length: median tokens of a trajectory; tokens: all tokens spent per selected trajectory."""
    columns = (name, "items", "traj.", "right", "R(c)", "solved", "kept", "length", "tokens", "leaks")
    ordered = sorted(groups.items(), key=lambda group: -group[1]["trajectories"])
    rows = [[label, *_group_cells(figures)] for label, figures in ordered[:MAX_LABELS]]
    more = f"… and {len(ordered) - MAX_LABELS} more; --json has them all" if len(ordered) > MAX_LABELS else ""
    return fitted_table(f"by {name}", columns, rows, width, (name,), more)


def _group_cells(figures: dict[str, Any]) -> list[str]:
    spread, each = figures["lengths"]["trajectories"], figures["tokens"]["per_selected"]
    found = figures["caption_reward"]["mean"]
    return [
        f"{figures['items']:,}",
        f"{figures['trajectories']:,}",
        "" if figures["accuracy"] is None else f"{figures['accuracy']:.1%}",
        "" if found is None else f"{found:.3f}",
        f"{figures['solved']:,}",
        f"{figures['selected']:,}",
        f"{spread['p50']:,.0f}" if spread else "",
        "" if each is None else f"{each:,.0f}",
        "" if figures["leaks"]["rate"] is None else f"{figures['leaks']['rate']:.1%}",
    ]
