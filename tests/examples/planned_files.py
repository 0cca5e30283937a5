#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mixed precision from end to end: quantize --target-bpw and --max-kl, formats by part of the
model, and limits that no mix keeps.

usage: planned_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import re
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf

KINDS = {2: "q4_0", 6: "q5_0", 8: "q8_0"}


def main():
    args = arguments()
    model = os.path.join(args.data, "model-f16.gguf")
    tokens = os.path.join(args.data, "calibration.tokens.u16")

    def run(program, *options, **expected):
        return run_program(os.path.join(args.programs, program), *options, **expected)

    with tempfile.TemporaryDirectory() as folder:
        def path(name):
            return os.path.join(folder, name)

        calibration = path("calibration.safetensors")
        run("perplexity", model, "--tokens", tokens, "--windows", "4", "--calibrate", calibration)
        calibrated = ["--calibration", calibration, "--candidates", "q8_0,q4_0,q5_0"]
        measured = [*calibrated, "--tokens", tokens, "--windows", "1", "--threads", "1"]

        def matrices(file):
            return {name: (KINDS.get(t[1], t[1]), t[0][0] * t[0][1], len(t[2]))
                    for name, t in read_gguf(file)[1].items() if len(t[0]) == 2}

        def planned(printed):
            return dict(re.findall(r"^(\S+\.weight) +(\w+) +[\d.]+ +\d+ +\S+ +[\d.]+%$", printed,
                                   re.MULTILINE))

        def divergence(quantized):
            run("perplexity", quantized, "--base", model, "--tokens", tokens, "--windows", "1",
                "--speed", "0", "--json", path("score.json"))
            with open(path("score.json"), encoding="utf-8") as file:
                return json.load(file)["models"][1]["kl_mean"]

        # A size: kept, used up to one step of one small matrix, and better than one format for all.
        one, two = path("one.gguf"), path("two.gguf")
        printed = run("quantize", model, one, "--target-bpw", "5.5", *measured)
        written = matrices(one)
        weights = sum(w for _, w, _ in written.values())
        stored = sum(b for _, _, b in written.values())
        check(stored * 8 <= 5.5 * weights, f"{stored} bytes are within 5.5 bits")
        check(stored * 8 >= 5.45 * weights, f"{stored} bytes use the 5.5 bits")
        check(len({f for f, _, _ in written.values()}) > 1, "it is a mix")
        check(planned(printed) == {name: t[0] for name, t in written.items()},
              "what is printed is what is written")
        check(f"plan: {stored} bytes, " in printed and "predicted KL" in printed, printed)
        check(read_gguf(one)[0]["general.file_type"] == 1024, "no single file type")
        run("quantize", model, two, "-f", "q5_0")
        uniform, mix = divergence(two), divergence(one)
        check(mix < uniform, f"KL {mix} of the mix, {uniform} of q5_0")

        # Without a text the layers' losses are all there is to plan with.
        printed = run("quantize", model, one, "--target-bpw", "5", *calibrated, "--threads", "1")
        check("predicted loss" in printed and "measured" not in printed, "planned without a text")
        run("quantize", model, two, "--target-bpw", "5", *calibrated, "--threads", "3")
        with open(one, "rb") as a, open(two, "rb") as b:
            check(a.read() == b.read(), "the same mix for any number of threads")

        # A divergence: measured, below the limit, and not by more than a step of the search.
        printed = run("quantize", model, one, "--max-kl", "0.008", *measured)
        found = float(re.search(r"measured KL (\S+) on 1 windows", printed).group(1))
        check(0.006 < found <= 0.008, f"{found} is at most 0.008")
        kl = divergence(one)
        check(abs(kl / found - 1) < 1e-3, f"the file has {kl}, the plan had {found}")

        # By part, with and without a plan for the rest.
        parts = ["--attention", "q8_0", "--feed-forward", "q5_0"]
        run("quantize", model, one, "-f", "q4_0", *parts)
        run("quantize", model, two, "--target-bpw", "6", *calibrated, *parts)
        for name, (kind, _, _) in matrices(one).items():
            check(kind == ("q8_0" if ".attn_" in name else "q5_0" if ".ffn_" in name else "q4_0"),
                  f"{name} is {kind}")
            if ".attn_" in name or ".ffn_" in name:
                check(matrices(two)[name][0] == kind, f"{name} is {kind} in a plan, too")

        names = os.listdir(folder)
        target = path("no.gguf")
        run("quantize", model, target, "--target-bpw", "4", *calibrated,
            refused="the smallest mix of these candidates takes 4.5000")
        run("quantize", model, target, "--target-bpw", "5", *calibrated, "--attention", "f16",
            refused="the smallest mix of these candidates takes 6.656")
        run("quantize", model, target, "--target-bpw", "3", refused="--calibration is required")
        run("quantize", model, target, "--max-kl", "1", *calibrated, refused="--tokens is required")
        run("quantize", model, target, "--target-bpw", "3", "--calibration", calibration,
            "--candidates", "q3_k,q9", refused="a GGUF file can hold")
        run("quantize", model, target, "--target-bpw", "3", "--calibration", calibration, "-m",
            "awq", refused="planned tensor by tensor")
        for wrong in ("-1", "0", "many"):
            run("quantize", model, target, "--target-bpw", wrong, *calibrated,
                refused="--target-bpw", status=(2,))
        run("quantize", model, target, "--target-bpw", "3", "--max-kl", "1", *calibrated,
            refused="excludes", status=(2,))
        check(os.listdir(folder) == names, "a run that fails leaves no file")
    return exit_status("planned mixes: ")


if __name__ == "__main__":
    sys.exit(main())
