#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the demo's results with gnuplot: KL divergence over bits per weight, perplexity over size.

usage: plot_demo.py RESULTS.json FOLDER
"""

import json
import subprocess
import sys

COLOURS = "set style line 1 lc rgb '#1f5fa8' pt 7 ps 1.2; set style line 2 lc rgb '#888888' dt 2"


def block(name, rows):
    lines = "\n".join(" ".join(str(value) for value in row) for row in rows)
    return f"${name} << END\n{lines}\nEND\n"


def plot(folder, leaf, data, body):
    for terminal, ending in (("svg size 800,560 dynamic background rgb 'white'", "svg"),
                             ("png size 800,560", "png")):
        script = (f"{data}\nset terminal {terminal}\nset output '{folder}/{leaf}.{ending}'\n"
                  f"{COLOURS}\nset grid lc rgb '#dddddd'\nset key off\n{body}\n")
        subprocess.run(["gnuplot"], input=script.encode(), check=True)
        print(f"{folder}/{leaf}.{ending}")


def main():
    if len(sys.argv) != 3:
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 2
    with open(sys.argv[1], encoding="utf-8") as file:
        results = json.load(file)
    base, models = results["models"][0], results["models"][1:]
    folder = sys.argv[2]
    tokens = base["tokens"]

    rows = [(m["bits_per_weight"], m["kl_mean"], m["kl_standard_error"], m["format"].upper())
            for m in models]
    plot(folder, "kl_over_bits", block("kl", rows), f"""
set title 'What each format does to the predictions ({tokens} tokens)'
set xlabel 'bits per weight, everything stored'
set ylabel 'KL divergence from F16, nats per token'
set logscale y
set format y '%g'
set offsets graph 0.05, graph 0.12, graph 0.08, graph 0.05
plot $kl using 1:2:3 with yerrorbars ls 1, \\
     $kl using 1:2:4 with labels noenhanced left offset 0.9,0.4""")

    rows = [(m["file_bytes"] / 1e6, m["perplexity"], m["format"].upper()) for m in [base] + models]
    plot(folder, "perplexity_over_size", block("ppl", rows), f"""
set title 'What each format costs and saves ({tokens} tokens)'
set xlabel 'size of the file, MB'
set ylabel 'perplexity'
set offsets graph 0.05, graph 0.12, graph 0.08, graph 0.05
plot {base["perplexity"]} with lines ls 2, \\
     $ppl using 1:2 with points ls 1, \\
     $ppl using 1:2:3 with labels noenhanced left offset 0.9,0.4""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
