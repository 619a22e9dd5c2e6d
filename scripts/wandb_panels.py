"""Draw what a viewer of the W&B project sees, from the files that W&B wrote offline.

    python scripts/wandb_panels.py --runs runs --out docs/wandb.png

Nothing is sent anywhere, and this is no picture of W&B's own pages: its files are read (records
of a LevelDB log, parsed by W&B's own message definitions) and drawn with matplotlib, arranged as
the workspace arranges them by default, a section per first part of a metric's name.
"""

import argparse
import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FILE_HEADER, _BLOCK = 7, 2**15
_RECORD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _LAST = 1, 4


def log_records(path: Path) -> Iterator[bytes]:
    """Records of a LevelDB log: in blocks of 32 KiB, long ones in parts."""
    content = path.read_bytes()
    if content[:4] != b":W&B":
        raise ValueError(f"'{path}' is no W&B log")
    place, parts = _FILE_HEADER, b""
    while place + _RECORD.size <= len(content):
        left = _BLOCK - place % _BLOCK
        if left < _RECORD.size:  # too little for a header: filled up with zeros
            place += left
            continue
        _, length, kind = _RECORD.unpack_from(content, place)
        place += _RECORD.size
        parts += content[place : place + length]
        place += length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


@dataclass
class OfflineRun:
    """What one offline folder holds."""

    name: str = ""
    group: str = ""
    tags: list[str] = field(default_factory=list)
    history: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)
    rollouts: list[list[str]] = field(default_factory=list)
    exit_code: int | None = None


def _name(item: Any) -> str:
    return "/".join(item.nested_key) if item.nested_key else str(item.key)


def read_run(folder: Path) -> OfflineRun:
    """Read an `offline-run-*` folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    run = OfflineRun()
    for content in log_records(path):
        record = Record.FromString(content)
        match record.WhichOneof("record_type"):
            case "run":
                run.name, run.group = record.run.display_name, record.run.run_group
                run.tags = list(record.run.tags)
            case "history":
                step = int(record.history.step.num)
                for item in record.history.item:
                    name, value = _name(item), json.loads(item.value_json)
                    # parts of a table have longer names, W&B's own values a leading underscore
                    if name.count("/") == 1 and isinstance(value, (int, float)):
                        run.history[name].append((step, value))
            case "summary":
                for item in record.summary.update:
                    run.summary[_name(item)] = json.loads(item.value_json)
            case "artifact" if record.artifact.type == "result":
                run.artifacts.append(f"{record.artifact.name} ({record.artifact.type})")
            case "exit":
                run.exit_code = record.exit.exit_code
    for table in sorted(folder.glob("files/media/table/**/*.table.json")):
        run.rollouts = json.loads(table.read_text(encoding="utf-8"))["data"]
    return run


def _bars(axis: Any, runs: list[OfflineRun], section: str) -> None:
    """A summary section as grouped bars: a group per value, a bar per run."""
    # counts and seconds are panels of their own in W&B; here they would dwarf the losses
    names = sorted({n for run in runs for n in run.summary if n.startswith(f"{section}/")})
    if section == "result":
        names = [name for name in names if name.endswith("_nats")]
    height = 0.8 / len(runs)
    for number, run in enumerate(runs):
        places = [place + number * height for place in range(len(names))]
        axis.barh(places, [run.summary.get(name, 0.0) for name in names], height)
    labels = [name.partition("/")[2] for name in names]
    axis.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], labels, fontsize=7)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.invert_yaxis()
    axis.set_title(section, loc="left", fontsize=9)


def draw(runs: list[OfflineRun], out: Path) -> None:
    """Runs with their tags, a panel per metric of training, sections of the summary, rollouts."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    metrics = sorted({name for run in runs for name in run.history})
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    figure = plt.figure(figsize=(14, 11), layout="constrained")
    rows = figure.subfigures(4, 1, height_ratios=(0.9, 3.4, 2.6, 0.9))
    listed = rows[0].add_subplot()
    listed.axis("off")
    listed.set_title(f"group {runs[0].group}", loc="left", fontsize=10, fontweight="bold")
    for number, run in enumerate(runs):
        state = "finished" if run.exit_code == 0 else "failed"
        text = f"{run.name}  {state}  {'  '.join(run.tags)}  artifact {', '.join(run.artifacts)}"
        place = 0.85 - number * 0.85 / max(1, len(runs))
        listed.plot(0.005, place, "o", color=colours[number % len(colours)])
        listed.text(0.015, place, text, fontsize=7, va="center")
    listed.set_xlim(0, 1)
    listed.set_ylim(0, 1)
    panels = rows[1].subplots(2, -(-len(metrics) // 2), squeeze=False).flatten()
    for axis in panels[len(metrics) :]:
        axis.axis("off")
    for axis, name in zip(panels, metrics, strict=False):
        for number, run in enumerate(runs):
            steps, values = zip(*run.history.get(name, [(0, float("nan"))]), strict=True)
            axis.plot(steps, values, color=colours[number % len(colours)], lw=1.2)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_xlabel("Step", fontsize=7)
        axis.tick_params(labelsize=7)
    for axis, section in zip(
        rows[2].subplots(1, 3), ("damage_nats", "edited_ce_nats", "result"), strict=True
    ):
        _bars(axis, runs, section)
        axis.tick_params(axis="x", labelsize=7)
    texts = rows[3].add_subplot()
    texts.axis("off")
    # of the run nearest to chance
    shown = min(runs, key=lambda run: abs(run.summary.get("result/to_chance_nats", float("inf"))))
    texts.set_title(f"rollouts/texts of {shown.name}", loc="left", fontsize=9)
    if shown.rollouts:
        cells = [[cell.replace("\n", " ")[:75] for cell in row] for row in shown.rollouts]
        table = texts.table(
            cells,
            colLabels=["language", "prompt", "before", "after"],
            colWidths=[0.06, 0.2, 0.37, 0.37],
            cellLoc="left",
            loc="upper left",
        )
        table.auto_set_font_size(False)
        table.set_fontsize(6)
    figure.text(
        0.5,
        0.002,
        "Drawn with matplotlib from W&B's offline files; not a screenshot of W&B.",
        ha="center",
        fontsize=8,
        style="italic",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def main() -> None:
    """Read all offline folders below a folder of run directories and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("docs/wandb.png"))
    options = parser.parse_args()
    folders = sorted(options.runs.glob("*/wandb/offline-run-*"))
    if not folders:
        parser.error(f"no offline W&B run below '{options.runs}': make some, or give --runs")
    draw([read_run(folder) for folder in folders], options.out)
    print(options.out)


if __name__ == "__main__":
    main()
