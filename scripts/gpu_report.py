#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What scripts/gpu_check.sh measured, as a page with plots: cuda-<device>.json, .md and .png files.
Without a folder: the targets and the main figures as text.

usage: gpu_report.py RESULTS.json [FOLDER]
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

# Shares of the device's own ceilings that the library is to reach.
DECODE_TARGET = 0.85
VECTOR_CODEBOOKS = {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s"}
VECTOR_TARGET = 0.40
SCALAR_TARGET, SCALAR_BITS = 0.60, (4, 9.5)  # 4- to 8-bit formats, their scales included
LARGE_OUTPUT = 64e6
CUBLAS_ROWS = 4  # never slower than cuBLAS up to so many rows of x


def gemv_target(row):
    """The share of the read ceiling that a format is to reach; None: none is set."""
    if row["format"] in VECTOR_CODEBOOKS:
        return VECTOR_TARGET
    return SCALAR_TARGET if SCALAR_BITS[0] <= row["bits_per_weight"] < SCALAR_BITS[1] else None


def shape(row):
    return f"{row['n']}x{row['k']}"


def unique(values):
    return list(dict.fromkeys(values))


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def number(value, digits=3):
    """Three significant digits, without an exponent where that is readable."""
    if value is None:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits}g}"
        return f"{float(text):.0f}" if abs(value) >= 10 ** digits else text
    return f"{value:.{digits}g}"


def quickest(rows):
    """Of the ways that x may be stored, the quickest of each (format, shape, m)."""
    best = {}
    for row in rows:
        if "us" in row:
            key = (row["format"], shape(row), row["m"])
            if key not in best or row["us"] < best[key]["us"]:
                best[key] = row
    return best


class Results:
    def __init__(self, data):
        self.data = data
        self.probes = data.get("probes", {})
        self.products = data.get("products", {})
        self.machine = self.products.get("machine") or self.probes.get("machine")
        if not self.machine:
            raise ValueError("neither probes nor products: nothing was measured")
        ceilings = (self.probes.get("ceilings") or [{}])[0]
        self.read = ceilings.get("read_tb_per_s")
        self.copy = ceilings.get("copy_tb_per_s")
        self.decoded = [r for r in self.products.get("dequantize", []) if "us" in r]
        self.gemv = quickest(self.products.get("gemv", []))
        self.name = "cuda-" + re.sub(r"[^a-z0-9]+", "-", self.machine["device"].lower()).strip("-")

    def judged(self):
        """(target, {what: share or ratio that met it}, {... that did not})."""
        out = []

        def add(text, rows):
            met = {k: v for k, v, target in rows if v >= target}
            out.append((text, met, {k: v for k, v, _ in rows if k not in met}))

        if self.copy:
            add(f"dequantize to half: {DECODE_TARGET:.2f} of the copy ceiling",
                [(f"{r['format']} {shape(r)}", r["tb_per_s"] / self.copy, DECODE_TARGET)
                 for r in self.decoded if 2 * r["n"] * r["k"] >= LARGE_OUTPUT])
        if self.read:
            for text, target in (("4- to 8-bit formats", SCALAR_TARGET),
                                 ("vector codebooks", VECTOR_TARGET)):
                add(f"gemv, m = 1, {text}: {target:.2f} of the read ceiling",
                    [(f"{r['format']} {shape(r)}", r["tb_per_s"] / self.read, target)
                     for r in self.gemv.values() if r["m"] == 1 and gemv_target(r) == target])
        ratio = "times_as_quick_as_cublas_bf16"
        add(f"gemv, m <= {CUBLAS_ROWS}: not slower than cuBLAS bf16",
            [(f"{r['format']} {shape(r)} m = {r['m']}", r[ratio], 1.0)
             for r in self.gemv.values() if r["m"] <= CUBLAS_ROWS and ratio in r])
        return out


def machine_lines(results):
    m = results.machine
    lines = [f"# {m['device']}", "",
             "Written by `scripts/gpu_report.py` from what `scripts/gpu_check.sh` measured; figures "
             "compare on this device only.", "",
             f"{m['date']}, commit {m['commit'] or 'unknown'}, driver {m['driver'] or 'unknown'}, "
             f"CUDA {m['toolkit']}, cuBLAS {m.get('cublas', 'not used')}; "
             f"{m['multiprocessors']} multiprocessors, {m['l2_bytes'] / 2**20:.0f} MiB of L2, "
             f"compute capability {m['compute_capability']}.", ""]
    for part, of in (("probes", results.probes), ("products", results.products)):
        for clock in of.get("clocks", []):
            values = ", ".join(f"{clock[k]:g} {unit}" for k, unit in
                               (("sm_mhz", "MHz"), ("memory_mhz", "MHz of memory"), ("watts", "W"),
                                ("celsius", "degrees")) if k in clock)
            lines.append(f"- {clock['when']} the {part}: {values}")
    steps = results.data.get("steps", [])
    if steps:
        lines += ["", "Steps: " + ", ".join(
            f"{s['name']} {s['status']}" + (f" ({s['why']})" if s["why"] else "") for s in steps)
                  + "."]
    return lines + [""]


def target_lines(results):
    lines = ["## Targets", "", "gemv is judged by the quickest x that the format takes.", ""]
    rows = []
    for text, met, missed in results.judged():
        if not met and not missed:
            rows.append((text, "not measured", ""))
            continue
        verdict = "met" if not missed else f"not met by {len(missed)} of {len(met) + len(missed)}"
        worst = sorted(missed.items(), key=lambda item: item[1])[:8]
        rows.append((text, verdict, ", ".join(f"{k} ({v:.2f})" for k, v in worst)
                     + (" ..." if len(missed) > len(worst) else "")))
    return lines + table(("target", "verdict", "furthest from it"), rows)


def decode_lines(results):
    if not results.decoded:
        return []
    return (["## Dequantize to half", ""]
            + table(("format", "bits", "matrix", "us", "TB/s", "of the copy ceiling",
                     "of cudaMemcpy beside it", "spread"),
                    [(r["format"], number(r["bits_per_weight"], 4), shape(r), number(r["us"]),
                      number(r["tb_per_s"]),
                      number(r["tb_per_s"] / results.copy if results.copy else None),
                      number(r.get("share_of_copy")), f"{100 * r['spread']:.1f} %") for r in results.decoded]))


def gemv_lines(results, rows_of_x=None):
    if not results.gemv:
        return []
    formats = unique(k[0] for k in results.gemv)
    shapes = unique(k[1] for k in results.gemv)
    rows_of_x = rows_of_x or sorted(set(k[2] for k in results.gemv))
    bits = {r["format"]: r["bits_per_weight"] for r in results.gemv.values()}
    lines = ["## gemv", ""]
    for m in rows_of_x:
        lines += [f"m = {m}: share of the read ceiling / times as quick as cuBLAS bf16, by the "
                  "quickest x (f float, h half, i integer).", ""]
        rows = []
        for name in formats:
            cells = []
            for s in shapes:
                r = results.gemv.get((name, s, m))
                if r is None:
                    cells.append("-")
                    continue
                share = number(r["tb_per_s"] / results.read if results.read else None, 2)
                ratio = number(r.get("times_as_quick_as_cublas_bf16"), 3)
                cells.append(f"{share} / {ratio} {r['x'][0]}")
            rows.append((name, number(bits[name], 4), *cells))
        lines += table(("format", "bits", *shapes), rows)
    return lines


def cublas_lines(results):
    rows = [r for r in results.products.get("cublas", []) if "us" in r]
    if not rows:
        return []
    shapes = unique(shape(r) for r in rows)
    lines = ["## cuBLAS", "", "us, the quickest of cublasGemmEx and the proposals of cublasLt "
             "(reduced-precision sums of a split k are allowed, as by default).", ""]
    for kind in unique(r["type"] for r in rows):
        cells = {(r["m"], shape(r)): r for r in rows if r["type"] == kind}
        lines += [f"{kind}:", ""] + table(
            ("m", *shapes),
            [(m, *(number(cells[m, s]["us"], 4) if (m, s) in cells else "-" for s in shapes))
             for m in sorted(set(m for m, _ in cells))])
    return lines


def ceiling_lines(results):
    ceilings = results.probes.get("ceilings")
    return table(("read, TB/s", "copy, read and written, TB/s", "write, TB/s"),
                 [tuple(number(ceilings[0][k + "_tb_per_s"]) for k in ("read", "copy", "write"))]
                 ) if ceilings else []


def probe_lines(results):
    p = results.probes
    lines = ["## Probes", ""] if p else []
    lines += ceiling_lines(results)
    for key in ("reads", "bulk_reads", "writes", "l2", "reads_by_size"):
        if p.get(key):
            lines += table((key.replace("_", " "), "us", "TB/s"),
                           [(r["name"], number(r["us"], 4), number(r["tb_per_s"])) for r in p[key]])
    for key in ("matrix_instructions", "lane_instructions"):
        if p.get(key):
            lines += table((key.replace("_", " "), "10^12/s", "per clock and multiprocessor", "MHz"),
                           [(r["name"], number(r["tera_per_s"]),
                             number(r["per_clock_and_multiprocessor"], 4),
                             number(r["clock_mhz"], 4)) for r in p[key]])
    if p.get("launches"):
        lines += table(("kernels of a graph", "us each"),
                       [(r["name"], number(r["us"])) for r in p["launches"]])
    return lines


def problem_lines(results):
    wrong = [f"- {r.get('format', 'cuBLAS ' + r.get('type', ''))} {shape(r)}: {r['error']}"
             for part in ("cublas", "dequantize", "gemv")
             for r in results.products.get(part, []) if "error" in r]
    skipped = results.probes.get("skipped", []) + results.products.get("skipped", [])
    lines = ["## Wrong results", ""] + wrong + [""] if wrong else []
    if skipped:
        lines += ["## Not measured, for lack of time", "", f"{len(skipped)}: "
                  + "; ".join(skipped[:12]) + ("; ..." if len(skipped) > 12 else "") + ".", ""]
    return lines


def bars(path, title, axis, names, series, line):
    """Grouped bars: series [(label, {name: value})]; line: a horizontal one, or None."""
    script = ["$data << END"]
    for name in names:
        script.append(" ".join([f'"{name}"'] + [f"{values[name]:.5g}" if name in values else "NaN"
                                               for _, values in series]))
    script += ["END", f"set terminal png size {max(900, 30 * len(names))},560 background rgb 'white'",
               f"set output '{path}'", f"set title '{title}' noenhanced", f"set ylabel '{axis}'",
               "set style data histograms", "set style histogram clustered gap 1",
               "set style fill solid 0.9 noborder", "set xtics rotate by -60 noenhanced",
               "set grid ytics lc rgb '#dddddd'", "set key outside top right noenhanced",
               "set yrange [0:*]", "set bmargin 9"]
    colours = ("#1f5fa8", "#e08a1e", "#4a9a4a", "#a83c3c", "#7a5aa8")
    plots = [f"$data using {i + 2}:xtic(1) title '{label}' lc rgb '{colours[i % len(colours)]}'"
             for i, (label, _) in enumerate(series)]
    for value in line:
        plots.append(f"{value} with lines lc rgb '#444444' dt 2 title 'target {value:.2f}'")
    script.append("plot " + ", ".join(plots))
    subprocess.run(["gnuplot"], input="\n".join(script).encode(), check=True)


def plots(results, folder):
    """Draws what there is; returns the names of the files with what they show."""
    drawn = []
    if results.decoded and results.copy:
        shapes = unique(shape(r) for r in results.decoded)
        file = f"{results.name}-dequantize.png"
        bars(folder / file, f"{results.machine['device']}: dequantize to half",
             "share of the copy ceiling", unique(r["format"] for r in results.decoded),
             [(s, {r["format"]: r["tb_per_s"] / results.copy for r in results.decoded
                   if shape(r) == s}) for s in shapes], [DECODE_TARGET])
        drawn.append((file, "dequantize, share of the copy ceiling"))
    single = [r for r in results.gemv.values() if r["m"] == 1]
    if single and results.read:
        file = f"{results.name}-gemv.png"
        bars(folder / file, f"{results.machine['device']}: gemv, one row of x",
             "share of the read ceiling", unique(r["format"] for r in single),
             [(s, {r["format"]: r["tb_per_s"] / results.read for r in single if shape(r) == s})
              for s in unique(shape(r) for r in single)], [SCALAR_TARGET, VECTOR_TARGET])
        drawn.append((file, "gemv, share of the read ceiling"))
    ratio = "times_as_quick_as_cublas_bf16"
    beside = [r for r in results.gemv.values() if ratio in r]
    if beside:
        largest = max((r["n"] * r["k"], shape(r)) for r in beside)[1]
        beside = [r for r in beside if shape(r) == largest]
        file = f"{results.name}-cublas.png"
        bars(folder / file, f"{results.machine['device']}: gemv beside cuBLAS bf16, {largest}",
             "times as quick", unique(r["format"] for r in beside),
             [(f"m = {m}", {r["format"]: r[ratio] for r in beside if r["m"] == m})
              for m in sorted(set(r["m"] for r in beside))], [1.0])
        drawn.append((file, "gemv, times as quick as cuBLAS bf16"))
    return drawn


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__.strip().splitlines()[-1], file=sys.stderr)
        return 2
    source = pathlib.Path(sys.argv[1])
    try:
        results = Results(json.loads(source.read_text(encoding="utf-8")))
    except ValueError as error:
        print(f"{source}: {error}", file=sys.stderr)
        return 1
    if len(sys.argv) == 2:
        print("\n".join(decode_lines(results) + gemv_lines(results, [1]) + ceiling_lines(results)
                        + target_lines(results) + problem_lines(results)))
        return 0
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / f"{results.name}.json")
    drawn = plots(results, folder) if shutil.which("gnuplot") else []
    lines = machine_lines(results) + target_lines(results)
    for file, text in drawn:
        lines += [f"![{text}]({file})", ""]
    lines += (decode_lines(results) + gemv_lines(results) + cublas_lines(results)
              + probe_lines(results) + problem_lines(results))
    page = folder / f"{results.name}.md"
    page.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(page)
    for text, met, missed in results.judged():
        print(f"{text}: {len(met)} met, {len(missed)} not")
    return 0


if __name__ == "__main__":
    sys.exit(main())
