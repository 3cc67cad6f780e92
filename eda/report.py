"""Report: one HTML file, without network or script, that tells a person what is in a log."""

from __future__ import annotations

import base64
from collections.abc import Callable
from html import escape
from pathlib import Path

from matplotlib.figure import Figure
from tqdm import tqdm

from config import SplitConfig
from eda import plots, statistics, units
from eda.files import save
from eda.summary import Summary, summarise, table
from eda.verdict import Finding, suggested_split, verdict
from zoo.data import splits
from zoo.data.dataset import DataError, Dataset


def explore(dataset: Dataset, directory: str | Path, split: SplitConfig | None = None, seed: int = 0) -> Path:
    """Draws every figure that applies to the log and writes them with numbers and a verdict in words.

    Args:
        directory: gets a PNG per figure and `report.html`, which embeds them; made where it does not exist.
        split: whose training and test parts are compared; None: the split that the verdict suggests.
        seed: of a split that draws users.

    Returns:
        the path of the report.

    Raises:
        DataError: the log has no event.
        ConfigError: `directory` cannot be written, or a date of `split` cannot be read.
    """
    directory = Path(directory)
    if not len(dataset.events):
        raise DataError(f"{dataset.name}: there is no event to explore; check the filters of data")
    summary = summarise(dataset)
    config = split or SplitConfig(strategy=suggested_split(summary))
    drift, missing = None, []
    try:
        drift = statistics.drift(splits.split(dataset, config, seed))
    except DataError as error:
        missing.append(("train_test_drift", str(error)))
    drawn = []
    for draw, caption in tqdm(FIGURES, "figures", leave=False, disable=None):  # silent where nobody watches
        path = directory / f"{draw.__name__}.png"
        try:
            figure = draw(dataset)
        except plots.NotApplicable as reason:
            missing.append((draw.__name__, str(reason)))
            path.unlink(missing_ok=True)  # of another log
            continue
        save(figure, path)
        drawn.append((path, caption))
    path = directory / f"{plots.train_test_drift.__name__}.png"
    if drift is not None:
        save(plots.train_test_drift(drift), path)
        drawn.append((path, DRIFT))
    else:
        path.unlink(missing_ok=True)
    report = directory / "report.html"
    save(render(dataset, summary, verdict(summary, drift), drawn, missing), report)
    return report


def render(
    dataset: Dataset,
    summary: Summary,
    findings: list[Finding],
    figures: list[tuple[Path, str]],
    missing: list[tuple[str, str]],
) -> str:
    """The report as one HTML text with the figures in it.

    Args:
        figures: (PNG file, how to read it).
        missing: (name of a figure, why it is left out).
    """
    tiles = [
        ("users", units.count(summary.users.size)),
        ("items", units.count(summary.items.size)),
        ("events", units.count(summary.events)),
        ("density", units.percent(summary.density)),
        ("events of the median user", units.count(summary.users.median)),
    ]
    if summary.time is not None and summary.clock == "global":
        tiles.append(("time span", units.duration(summary.time.last - summary.time.first)))
    notes = [finding for finding in findings if not finding.warning]
    warnings = [finding for finding in findings if finding.warning]
    body = [
        f"<header><p class=kicker>Exploratory data analysis</p><h1>{escape(summary.name)}</h1></header>",
        "<ul class=tiles>" + "".join(f"<li><b>{value}</b>{name}</li>" for name, value in tiles) + "</ul>",
        "<h2>Verdict</h2><dl class=verdict>",
        *(f"<dt>{escape(topic)}</dt><dd>{_emphasise(escape(text))}</dd>" for topic, text, _ in notes),
        "</dl>",
    ]
    if warnings:
        rows = "".join(f"<li>{escape(finding.text)}</li>" for finding in warnings)
        body.append(f"<section class=warnings><h3>Look at this before training</h3><ul>{rows}</ul></section>")
    body.append("<h2>Numbers</h2><div class=numbers>")
    for heading, lines in table(summary):
        cells = "".join(f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in lines)
        body.append(f"<table><caption>{escape(heading)}</caption><tbody>{cells}</tbody></table>")
    body.append("</div><h2>Figures</h2><div class=figures>")
    for path, caption in figures:
        picture = base64.b64encode(path.read_bytes()).decode("ascii")
        body.append(
            f'<figure><img alt="{escape(_title(path.stem))}" src="data:image/png;base64,{picture}">'
            f"<figcaption>{escape(caption)} <code>{escape(path.name)}</code></figcaption></figure>"
        )
    body.append("</div>")
    if missing:
        rows = "".join(f"<li><b>{escape(_title(name))}</b>: {escape(reason)}.</li>" for name, reason in missing)
        body.append(f"<h2>Left out</h2><ul class=plain>{rows}</ul>")
    if dataset.notes:
        rows = "".join(f"<li>{escape(note)}</li>" for note in dataset.notes)
        body.append(f"<h2>What was read and cleaned</h2><ul class=plain>{rows}</ul>")
    body.append(f"<footer>Times are UTC. sha256 of the events: <code>{dataset.sha256()}</code></footer>")
    title = escape(f"{summary.name}: exploratory data analysis")
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{title}</title>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        "<body><main>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _emphasise(text: str) -> str:
    """The first words, up to the colon, are the finding; what follows explains it."""
    head, colon, rest = text.partition(":")
    return f"<b>{head}</b>{colon}{rest}" if colon and len(head) <= 40 else text


# Every figure of a log, in the order of the report, with how to read it. A file bears the name of its function.
FIGURES: tuple[tuple[Callable[[Dataset], Figure], str], ...] = (
    (
        plots.per_user_interaction_count,
        "Each bar counts the users whose number of events falls in the range below it. Of users on the left little is "
        "known.",
    ),
    (
        plots.per_item_interaction_count,
        "The same for items. Of items on the left a model can learn little but from their features.",
    ),
    (
        plots.rank_frequency,
        "Items and users from the busiest to the quietest. A straight line is a power law; the steeper it falls, the "
        "more a few hold. The Gini coefficient is 0 where all have the same and nears 1 where one has everything.",
    ),
    (plots.scores, "The share of the events that bear each score."),
    (
        plots.average_score_per_item,
        "Items by their mean score. A mean of few scores is mostly chance and is drawn grey.",
    ),
    (
        plots.activity_over_time,
        "Events, and users with at least one event, in each period. The first and the last period may be incomplete.",
    ),
    (
        plots.cold_start_over_time,
        "How much of each period a model trained before it could not have known. Where the line of items stays high, "
        "features matter; where that of users stays high, histories must be read, not learned as ids.",
    ),
    (
        plots.gaps_between_events,
        "Each bar holds the gaps up to the duration below it and longer than the one to its left. Events at the same "
        "time have no order but that of the file.",
    ),
    (plots.session_lengths, "A session is a run of events of one user without a silence of more than 30 minutes."),
    (
        plots.repeat_rate,
        "Of the events at each place of a history, those that return to an item already in it. Where returns are "
        "many, people want to be shown what they know.",
    ),
    (
        plots.action_funnel,
        "Pairs of a user and an item with at least one event of the action, the most frequent action first, and the "
        "users and events behind them.",
    ),
    (
        plots.domain_overlap,
        "Users grouped by the exact set of domains they act in. Those in several (blue) can carry taste across.",
    ),
)
DRIFT = (
    "Items are ordered by their events in training and cut where each group holds a fifth of them. If popularity "
    "stayed as it was, the two bars of every pair would be equal; the last pair is what training could not foresee."
)

STYLE = """
:root { --ink: #1f2933; --grey: #5f6b76; --line: #e4e8ec; --paper: #fff; --wash: #f6f8fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 40px 32px 56px; background: var(--paper); }
header { border-bottom: 3px solid var(--accent); padding-bottom: 14px; }
.kicker { margin: 0; color: var(--grey); font-size: 13px; letter-spacing: .08em; text-transform: uppercase; }
h1 { margin: 2px 0 0; font-size: 32px; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 21px; }
h3 { margin: 0 0 6px; font-size: 16px; }
code { font: 12.5px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; color: var(--grey);
  overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0; padding: 0; list-style: none; }
.tiles li { flex: 1 1 130px; padding: 12px 14px; background: var(--wash); border-radius: 6px; color: var(--grey);
  font-size: 13.5px; }
.tiles b { display: block; color: var(--ink); font-size: 23px; font-weight: 650; line-height: 1.3; }
.verdict { display: grid; grid-template-columns: 150px 1fr; margin: 0; border-top: 1px solid var(--line); }
.verdict dt, .verdict dd { margin: 0; padding: 10px 0; border-bottom: 1px solid var(--line); }
.verdict dt { color: var(--grey); }
.warnings { margin-top: 22px; padding: 14px 18px; border-left: 4px solid #d98200; background: #fff8ec; }
.warnings ul, .plain { margin: 0; padding-left: 20px; }
.warnings li + li { margin-top: 6px; }
.numbers { columns: 3 320px; column-gap: 36px; }
table { width: 100%; margin: 0 0 26px; border-collapse: collapse; font-size: 14.5px; break-inside: avoid; }
caption { padding-bottom: 4px; color: var(--accent); font-weight: 650; text-align: left; }
th, td { padding: 4px 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
th { padding-right: 12px; font-weight: 400; }
td { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 500px), 1fr)); gap: 30px 36px; }
figure { margin: 0; break-inside: avoid; }
img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 6px; color: var(--grey); font-size: 14px; }
footer { margin-top: 44px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--grey); font-size: 13px; }
@media (max-width: 640px) { main { padding: 24px 16px; } .verdict { grid-template-columns: 1fr; }
  .verdict dt { padding-bottom: 0; border: 0; } .verdict dd { padding-top: 0; } }
@media print { body, main { background: #fff; font-size: 11pt; } main { max-width: none; padding: 0; }
  h2 { break-after: avoid; } .tiles { gap: 8px; } .tiles li { flex: 1 1 90px; padding: 8px; font-size: 11px; }
  .tiles b { font-size: 17px; } .tiles li, .warnings { border: 1px solid var(--line); }
  .figures { grid-template-columns: 1fr 1fr; gap: 18px 20px; } }
"""
