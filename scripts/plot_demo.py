#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the demo's results with gnuplot: KL divergence over bits per weight, perplexity over size.

usage: plot_demo.py RESULTS.json FOLDER
"""

import json
import math
import subprocess
import sys

WIDTH, HEIGHT = 800, 560
CHARACTER, LINE = 8, 15  # of the labels, in pixels


def place_labels(points):
    """Where each label goes, (dx, dy, alignment) in pixels, so that it covers no point and no other."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    places = []
    for x, y, text in points:
        width = CHARACTER * len(text)
        choices = [(12 * side, LINE * step) for step in (0, 1, -1, 2, -2) for side in (1, -1)]
        for dx, dy in choices + [choices[0]]:
            left = x + dx - (0 if dx > 0 else width)
            box = (left, y + dy - LINE / 2, left + width, y + dy + LINE / 2)
            if all(box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1] for t in taken):
                break
        taken.append(box)
        places.append((dx, dy, "left" if dx > 0 else "right"))
    return places


def plot(path, title, axes, ranges, log_y, rows, extra):
    """rows: (x, y, error of y, label); extra: what else to draw, a gnuplot plot element each."""
    def share(value, low, high, log):
        if log:
            value, low, high = (math.log(v) for v in (value, low, high))
        return (value - low) / (high - low)

    pixels = [(share(x, *ranges[0], False) * WIDTH * 0.85, share(y, *ranges[1], log_y) * HEIGHT * 0.8,
               label) for x, y, _, label in rows]
    script = ["$points << END"] + [f"{x} {y} {error}" for x, y, error, _ in rows] + ["END"]
    for (x, y, _, label), (dx, dy, side) in zip(rows, place_labels(pixels)):
        script.append(f"set label '{label}' at {x},{y} {side} "
                      f"offset {dx / CHARACTER:.2f},{dy / LINE:.2f} noenhanced")
    script += [f"set title '{title}'", f"set xlabel '{axes[0]}'", f"set ylabel '{axes[1]}'",
               f"set xrange [{ranges[0][0]}:{ranges[0][1]}]",
               f"set yrange [{ranges[1][0]}:{ranges[1][1]}]",
               "set logscale y" if log_y else "", "set format y '%g'",
               "set style line 1 lc rgb '#1f5fa8' pt 7 ps 1.2", "set style line 2 lc rgb '#888888' dt 2",
               "set grid lc rgb '#dddddd'", "set key off"]
    for terminal in ("svg", "png"):
        script += [f"set terminal {terminal} size {WIDTH},{HEIGHT} background rgb 'white'",
                   f"set output '{path}.{terminal}'",
                   "plot " + ", ".join(extra + ["$points using 1:2:3 with yerrorbars ls 1"])]
    subprocess.run(["gnuplot"], input="\n".join(script).encode(), check=True)
    print(f"{path}.svg  {path}.png")


def main():
    if len(sys.argv) != 3:
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    base, models = results["models"][0], results["models"][1:]
    folder, tokens = sys.argv[2], base["tokens"]

    rows = [(m["bits_per_weight"], m["kl_mean"], m["kl_standard_error"], m["format"].upper())
            for m in models]
    plot(f"{folder}/kl_over_bits", f"What each format does to the predictions ({tokens} tokens)",
         ("bits per weight, everything stored", "KL divergence from F16, nats per token"),
         ((0, max(r[0] for r in rows) + 1.5), (min(r[1] for r in rows) / 2, max(r[1] for r in rows) * 2)),
         True, rows, [])

    # No error bars here: the scatter between texts is shared by all formats.
    rows = [(m["file_bytes"] / 1e6, m["perplexity"], 0, m["format"].upper()) for m in [base] + models]
    spread = max(r[1] for r in rows) - min(r[1] for r in rows)
    plot(f"{folder}/perplexity_over_size", f"What each format costs and saves ({tokens} tokens)",
         ("size of the file, MB", "perplexity"),
         ((0, max(r[0] for r in rows) * 1.15),
          (min(r[1] for r in rows) - 0.15 * spread, max(r[1] for r in rows) + 0.15 * spread)),
         False, rows, [f"{base['perplexity']} with lines ls 2"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
