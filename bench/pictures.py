#!/usr/bin/env python3
"""Draws the pictures of a run, SVG and PNG, from its raw results: pictures.py RESULTS.json [FOLDER]."""
import json
import os
import re
import sys

COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#edae49", "#5d4e8c", "#8d6b48", "#2e4057", "#9a9a9a")
FAULT_COLOUR = "#d1495b"


def bars(axes, data):
    names = [bar[0] for bar in data["bars"]]
    middle = [bar[2] for bar in data["bars"]]
    spread = [[bar[2] - bar[1] for bar in data["bars"]], [bar[3] - bar[2] for bar in data["bars"]]]
    axes.barh(names, middle, xerr=spread, color=COLOURS[0], ecolor="#333333", capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel(data["unit"] + " (median, least and most)")


def lines(axes, data):
    for number, (name, points) in enumerate(data["lines"].items()):
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", color=COLOURS[number % len(COLOURS)], label=name)
    if data.get("log_x"):
        axes.set_xscale("log")
    if data.get("log_y"):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(data["x"])
    axes.set_ylabel(data["y"])
    axes.legend()


def percentiles(axes, data):
    """Each curve as HdrHistogram's plotter draws it: milliseconds by 1 / (1 - share)."""
    for number, (name, buckets) in enumerate(data["curves"].items()):
        total, seen, xs, ys = sum(count for _, count in buckets), 0, [], []
        for high, count in buckets:
            xs.append(1 / max(1 - seen / total, 1 / total))
            ys.append(high / 1000)
            seen += count
        if xs:
            axes.step(xs, ys, where="post", color=COLOURS[number % len(COLOURS)], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = [1, 2, 10, 100, 1000, 10000]
    axes.set_xticks(ticks, ["0", "50", "90", "99", "99.9", "99.99"])
    axes.set_xlabel("percentile")
    axes.set_ylabel("ms")
    axes.legend()


def timeline(axes, data):
    """Rates by second, what was on its way, and when what happened."""
    for number, (name, points) in enumerate(data["lines"].items()):
        axes.plot([x for x, _ in points], [y for _, y in points], color=COLOURS[(0, 2, 4, 5)[number % 4]], label=name)
    top = axes.get_ylim()[1]
    for begin, end, name in data["faults"]:
        axes.axvspan(begin, max(end, begin + 0.2), color=FAULT_COLOUR, alpha=0.25)
        axes.text(begin, top * 0.99, " " + name, rotation=90, va="top", ha="left", fontsize=8, color=FAULT_COLOUR)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(data["y"])
    axes.legend(loc="best")


FORMS = {"bars": bars, "lines": lines, "percentiles": percentiles, "timeline": timeline}


def draw(results, folder):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot
    matplotlib.rcParams.update({"svg.hashsalt": "weir", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True,
                                "axes.spines.top": False, "axes.spines.right": False})
    with open(results) as file:
        document = json.load(file)
    made = []
    for suite, entry in document["suites"].items():
        if entry["status"] != "ok":
            continue
        for picture in entry.get("pictures", []):
            data = picture["data"]
            figure, axes = matplotlib.pyplot.subplots(figsize=(8, 4.2))
            FORMS[picture["form"]](axes, data)
            axes.set_title(data["title"], loc="left")
            figure.text(0.995, 0.005, f"{document['begun_at'][:10]}, {document['revision']}, {document['machine']['cores']} cores, "
                        f"load {entry['load_before'][0]:.1f}, {document['size']}", ha="right", va="bottom", fontsize=6, color="#777777")
            figure.tight_layout()
            os.makedirs(folder, exist_ok=True)
            name = re.sub(r"[^a-z0-9-]+", "-", f"{suite}-{picture['name']}".lower())
            for form in ("svg", "png"):
                made.append(f"{folder}/{name}.{form}")
                figure.savefig(made[-1], dpi=144, metadata={"Date": None} if form == "svg" else {"Software": None})
            matplotlib.pyplot.close(figure)
    return made


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for path in draw(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else sys.argv[1].removesuffix(".json")):
        print(path)
