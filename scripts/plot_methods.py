#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws what compare_methods measured with gnuplot: KL divergence over bits per weight, one line
per method, and KL divergence over the number of calibration windows where several were measured.

usage: plot_methods.py FOLDER RESULTS.json...
"""

import json
import os
import subprocess
import sys

WIDTH, HEIGHT = 900, 600
COLORS = ["#888888", "#1f5fa8", "#c23b22", "#2e8b57", "#8a4fbf", "#d98c00", "#0aa0a0", "#b0305c",
          "#5b5b1e", "#3a3a8c"]


def draw(path, title, axes, series, log_x):
    """series: {label: [(x, y, error of y)]}"""
    script = []
    for number, points in enumerate(series.values()):
        script += [f"$s{number} << END"] + [f"{x} {y} {e}" for x, y, e in sorted(points)] + ["END"]
    values = [(x, y) for points in series.values() for x, y, _ in points]
    low, high = min(y for _, y in values), max(y for _, y in values)
    left, right = min(x for x, _ in values), max(x for x, _ in values)
    margin = (right - left) * 0.05 or 1
    ticks = ", ".join(f"{digit}e{power}" for power in range(-6, 2) for digit in (1, 2, 3, 5))
    script += [f"set title '{title}' noenhanced", f"set xlabel '{axes[0]}'",
               f"set ylabel '{axes[1]}'", f"set yrange [{low / 1.3}:{high * 1.3}]",
               "set logscale y", "set format y '%g'", f"set ytics ({ticks})",
               "set grid lc rgb '#dddddd'", "set key outside right noenhanced"]
    if log_x:
        script += ["set logscale x 2", f"set xrange [{left / 1.3}:{right * 1.3}]"]
    else:
        script += [f"set xrange [{left - margin}:{right + margin}]"]
    lines = [f"$s{n} using 1:2:3 with yerrorlines lc rgb '{COLORS[n % len(COLORS)]}' "
             f"pt {5 + n % 6} title '{label}'" for n, label in enumerate(series)]
    for terminal in ("svg", "png"):
        script += [f"set terminal {terminal} size {WIDTH},{HEIGHT} background rgb 'white'",
                   f"set output '{path}.{terminal}'", "plot " + ", ".join(lines)]
    subprocess.run(["gnuplot"], input="\n".join(script).encode(), check=True)
    print(f"{path}.svg  {path}.png")


def main():
    if len(sys.argv) < 3:
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 2
    folder, combinations = sys.argv[1], []
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            combinations += json.load(file)["combinations"]
    if not combinations:
        print("plot_methods.py: no combinations were measured", file=sys.stderr)
        return 1
    counts = sorted({c["calibration_windows"] for c in combinations if c["calibration_windows"]})
    for number, score in enumerate(combinations[0]["scores"]):
        text = os.path.basename(score["text"]).split(".")[0]
        over_bits, over_windows = {}, {}
        for c in combinations:
            kl = (c["scores"][number]["kl_mean"], c["scores"][number]["kl_standard_error"])
            windows = c["calibration_windows"]
            if windows in (None, counts[-1] if counts else None):
                over_bits.setdefault(c["method"], []).append((c["bits_per_weight"], *kl))
            if windows and len(counts) > 1:
                name = f"{c['method']} {c['format']}" + (f" g{c['group']}" if c["group"] else "")
                over_windows.setdefault(name, []).append((windows, *kl))
        draw(f"{folder}/methods_{text}", f"What each method makes of the same bits ({text})",
             ("bits per weight of the quantized matrices",
              "KL divergence from F16, nats per token"),
             over_bits, False)
        over_windows = {n: points for n, points in over_windows.items() if len(points) > 1}
        if over_windows:
            draw(f"{folder}/calibration_{text}", f"How much calibration is needed ({text})",
                 ("calibration windows of 255 tokens", "KL divergence from F16, nats per token"),
                 over_windows, True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
