#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps what is generated about formats equal to the headers: the table in README.md and
docs/formats/README.md, and one page per format, docs/formats/NAME.md.

A page holds the comment of the format's struct, its fields in a picture, and what each bit of a
block does, as docs/describe_formats.cpp finds by turning it over.

usage: check_docs.py DESCRIBE_FORMATS_PROGRAM [--write]
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- formats: begin -->\n", "<!-- formats: end -->"
SIZES = {"half": 2, "bfloat16": 2, "float": 4, "e8m0": 1, "ue4m3": 1, "std::uint8_t": 1,
         "std::int8_t": 1, "std::uint16_t": 2, "std::int16_t": 2, "std::uint32_t": 4}
NAMES = {"half": "f16", "bfloat16": "bf16", "float": "f32"}
FIELD = re.compile(r"^  ((?:std::)?\w+) (\w+)(?:\[(\d+)\])?;", re.M)


def read_header(name):
    """The comment of the struct, and its fields as (type, name, count, offset)."""
    text = (ROOT / f"include/subbyte/format/{name}.hpp").read_text()
    found = re.search(rf"((?:^///.*\n)+)struct {name} ", text, re.M)
    if not found:
        sys.exit(f"{name}.hpp: no commented struct {name}")
    comment = re.sub(r"^/// ?", "", found[1], flags=re.M)
    body = text[found.end():]
    fields, offset = [], 0
    for kind, field, count in FIELD.findall(body[:body.index("\n};")]):
        if kind not in SIZES:
            continue
        count = int(count or 1)
        fields.append((kind, field, count, offset))
        offset += SIZES[kind] * count
    return comment, fields, offset


def read_bits(program):
    """For each format its size, and for each bit what it does and to which weights."""
    text = subprocess.run([program, "--bits"], check=True, capture_output=True, text=True).stdout
    formats = {}
    for line in text.splitlines():
        what, *rest = line.split()
        if what == "format":
            bits = []
            formats[rest[0]] = (int(rest[1]), bits)
        elif what == "code":
            bits.append(("code", (int(rest[0]),), int(rest[1])))
        else:
            ends = [int(number) for number in rest]
            weights = [w for a, b in zip(ends[::2], ends[1::2]) for w in range(a, b + 1)]
            bits.append((what, tuple(weights), 0))
    return formats


def runs_of(bits):
    """Neighbouring bits of a byte that do the same: (first, last, what, weights, place)."""
    runs = []
    for at, (what, weights, place) in enumerate(bits):
        last = runs[-1] if runs else None
        if last and last[2] == what == "code" and last[3] == weights and (
                place == last[4] + at - last[0]):
            last[1] = at
        elif last and last[2] == what == "value" and set(last[3]) & set(weights):
            last[1], last[3] = at, tuple(sorted(set(last[3]) | set(weights)))
        elif last and last[2] == what != "code" and last[3] == weights:
            last[1] = at
        else:
            runs.append([at, at, what, weights, place])
    return [tuple(r) for r in runs]


def shift_between(a, b):
    """By how much the weights of all runs of b lie behind those of a, or None."""
    if len(a) != len(b):
        return None
    shifts = set()
    for x, y in zip(a, b):
        if x[:3] != y[:3] or x[4] != y[4] or len(x[3]) != len(y[3]):
            return None
        shifts |= {v - u for u, v in zip(x[3], y[3])}
    return shifts.pop() if len(shifts) == 1 else (0 if not shifts else None)


def repeats(layout, start, end, period):
    """How many times the pattern of `period` bytes at `start` repeats, and its shift."""
    count, shift = 1, None
    while start + (count + 1) * period <= end:
        moves = {shift_between(layout[start + (count - 1) * period + i],
                               layout[start + count * period + i]) for i in range(period)}
        move = moves.pop() if len(moves) == 1 else None
        if move is None or shift not in (None, move):
            break
        shift, count = move, count + 1
    return count, shift


def ranges_text(weights):
    parts = []
    for w in weights:
        if parts and w == parts[-1][1] + 1:
            parts[-1][1] = w
        else:
            parts.append([w, w])
    return ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in parts)


def weights_text(weights, count, shift):
    texts = [ranges_text([w + i * (shift or 0) for w in weights]) for i in (0, 1, count - 1)]
    if count == 1 or shift == 0:
        return texts[0]
    joint = "; " if any("," in t or ".." in t for t in texts) else ", "
    if count == 2:
        return joint.join(texts[:2])
    return joint.join(texts[:2] + ["..."] * (count > 3) + texts[2:])


def does(what, place, first, last):
    width = last - first + 1
    if what == "code":
        return f"code bits {place}..{place + width - 1} of" if width > 1 else f"code bit {place} of"
    return {"scale": "scale of", "offset": "offset of", "sign": "sign of", "value": "values of",
            "none": "nothing that is decoded"}[what]


def table_of(field, layout):
    """Rows of the table for one field: bytes, bits, what for, weights."""
    kind, name, count, start = field
    end = start + SIZES[kind] * count
    rows = []
    at = start
    while at < end:
        best = max(((*repeats(layout, at, end, p), p) for p in (1, 2, 4, 8, 16) if at + p <= end),
                   key=lambda r: (r[0], -r[2]))  # the most bytes in a row of the table
        times, shift, period = best if best[0] > 1 else (1, 0, 1)
        for i in range(period):
            first = at + i
            where = str(first)
            if times > 1:
                stop = first + (times - 1) * period
                where = f"{first}..{stop}" if period == 1 else (
                    ", ".join(str(first + j * period) for j in range(min(times, 2))) +
                    (f", ..., {stop}" if times > 2 else ""))
            for a, b, what, weights, place in layout[first]:
                bits = f"{b}..{a}" if a != b else str(a)
                rows.append(f"| `{name}` | {where} | {bits} | {does(what, place, a, b)} | "
                            f"{weights_text(weights, times, shift)} |")
        at += times * period
    return rows


def picture(fields, size):
    """The block as a strip, one box per field, with offsets above."""
    boxes = []
    for kind, name, count, offset in fields:
        label = f" {name}:{NAMES.get(kind, kind.replace('std::', '').replace('_t', ''))}"
        boxes.append((offset, (label + (f"[{count}] " if count > 1 else " "))))
    above = "".join(str(offset).ljust(len(text) + 1) for offset, text in boxes) + str(size)
    line = "+" + "+".join("-" * len(text) for _, text in boxes) + "+"
    return "\n".join([above, line, "|" + "|".join(text for _, text in boxes) + "|", line])


def page(name, size, bits):
    comment, fields, end = read_header(name)
    if end != size:
        sys.exit(f"{name}.hpp: fields of {end} bytes found, the block has {size}")
    summary, _, rest = comment.partition("\n\n")
    layout = [runs_of(bits[8 * i:8 * i + 8]) for i in range(size)]
    rows = [row for field in fields for row in table_of(field, layout)]
    return f"""# {summary.split(':')[0]}

{summary}

```text
{picture(fields, size)}
```

```text
{rest.rstrip()}
```

## Every bit

Bytes count from the start of the block, bit 0 is the least significant, weights are in row order. *Offset*: what it adds
does not depend on the codes; *values*: bits that several weights share, or all of one. Generated by
`scripts/check_docs.py` from `include/subbyte/format/{name}.hpp` and from what turning over each bit changes.

| field | bytes | bits | holds | weights |
|---|---|---|---|---|
""" + "\n".join(rows) + "\n"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    table = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout
    texts = {}
    for name, folder in (("README.md", "docs/formats/"), ("docs/formats/README.md", "")):
        head, found, rest = (ROOT / name).read_text().partition(BEGIN)
        _, found_end, tail = rest.partition(END)
        if not found or not found_end:
            sys.exit(f"{name}: the markers of the format table are missing")
        texts[name] = head + BEGIN + table.replace("](", f"]({folder}") + END + tail
    for name, (size, bits) in read_bits(sys.argv[1]).items():
        texts[f"docs/formats/{name}.md"] = page(name, size, bits)
    there = {str(p.relative_to(ROOT)) for p in (ROOT / "docs/formats").glob("*.md")}
    stale = [name for name in sorted(there - texts.keys())]
    for name, text in texts.items():
        path = ROOT / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if "--write" in sys.argv:
            path.write_text(text)
    if stale and "--write" not in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}; run {sys.argv[0]} {sys.argv[1]} --write")
    print("formats:", f"rewritten: {', '.join(stale)}" if stale else "up to date")


main()
