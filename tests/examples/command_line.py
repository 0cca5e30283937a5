#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile command lines end in one clear line on stderr and a non-zero exit code, and leave no file
behind.

usage: command_line.py --programs FOLDER --data FOLDER
"""

import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time

from checks import arguments, check, exit_status


def main():
    args = arguments()
    programs = os.path.abspath(args.programs)
    data = os.path.abspath(args.data)
    gguf = os.path.join(data, "model-f16.gguf")
    text = os.path.join(data, "alice.txt")
    tokens = os.path.join(data, "alice.tokens.u16")
    count = 0

    def refused(command, expected, folder, **options):
        """One line with `expected` in it, an error code of the program's own, nothing written."""
        nonlocal count
        count += 1
        before = sorted(os.listdir(folder))
        options.setdefault("stdout", subprocess.DEVNULL)
        done = subprocess.run([os.path.join(programs, command[0])] + command[1:], cwd=folder,
                              stderr=subprocess.PIPE, timeout=120, **options)
        said = done.stderr.decode(errors="replace")
        shown = " ".join(command)
        check(done.returncode in (1, 2), f"{shown}: exit code {done.returncode}")
        check(said.count("\n") == 1 and said.endswith("\n"), f"{shown}: one line, not {said!r}")
        check(said.startswith(command[0] + ": "), f"{shown}: names the program, {said!r}")
        check(re.search(expected, said) is not None, f"{shown}: /{expected}/ in {said!r}")
        check("\x1b" not in said, f"{shown}: prints a control character")
        after = sorted(os.listdir(folder))
        check(before == after, f"{shown}: left {set(after) - set(before)}")

    with tempfile.TemporaryDirectory() as folder:
        def write(name, content):
            path = os.path.join(folder, name)
            with open(path, "wb") as file:
                file.write(content)
            return path

        with open(gguf, "rb") as file:
            whole = file.read()
        empty = write("empty.gguf", b"")
        cut_header = write("cut_header.gguf", whole[:5000])
        cut_data = write("cut_data.gguf", whole[:len(whole) // 2])
        wrong_model = write("other.gguf", whole.replace(b"llama", b"elama", 1))
        escape = write("escape.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) +
                       struct.pack("<Q", 5) + b"\x1b[31m" + struct.pack("<IQ", 8, 1 << 60))
        huge = write("huge.safetensors", struct.pack("<Q", 1 << 62) + b"{}")
        not_json = write("bad.safetensors", struct.pack("<Q", 4) + b"{abc")
        last = len(whole) - 768 * 256 * 2  # blk.3.ffn_down.weight, F16
        nan = write("nan.gguf", whole[:last] + b"\x00\x7e" + whole[last + 2:])
        os.mkdir(os.path.join(folder, "directory"))
        checkpoint = os.path.join(folder, "checkpoint")
        os.mkdir(checkpoint)
        os.symlink(os.path.join(data, "model.safetensors"), os.path.join(checkpoint, "model.safetensors"))

        readers = [["inspect"], ["generate"], ["quantize"], ["dequantize"],
                   ["perplexity", "--tokens", tokens, "--speed", "0"]]
        for reader in readers:
            program = reader[0]
            rest = ["out.gguf"] if program in ("quantize", "dequantize") else []

            def with_input(path):
                return [program, path] + rest + reader[1:]

            refused(with_input("/no/such/file"), "/no/such/file.*No such file", folder)
            refused(with_input(folder), "directory", folder)
            refused(with_input(empty), "empty", folder)
            refused(with_input(text), "alice.txt.*GGUF", folder)
            refused(with_input(cut_header), "cut_header.gguf.*bytes", folder)
            refused(with_input(cut_data), "cut_data.gguf.*bytes", folder)
            refused(with_input(escape), "escape.gguf", folder)
            refused(with_input("/dev/null"), "not a regular file", folder)
            refused(with_input("line\nbreak"), "No such file", folder)
            refused(with_input(gguf) + ["--no-such-option"], "no-such-option", folder)
            refused([program], "required", folder)
            if program in ("generate", "perplexity"):
                refused(with_input(wrong_model), "general.architecture|architecture is", folder)
        for program in ("inspect", "quantize"):
            rest = ["out.gguf"] if program == "quantize" else []
            refused([program, huge] + rest, "header claims", folder)
            refused([program, not_json] + rest, "bad.safetensors", folder)

        quantize = ["quantize", gguf, "out.gguf"]
        refused(quantize + ["--format", "q9_z"], '"q9_z".*q4_k', folder)
        refused(quantize + ["--format", ""], "format", folder)
        refused(quantize + ["--format", "q8_k"], '"q8_k"', folder)
        refused(quantize + ["--output-format", "q9_z"], '"q9_z"', folder)
        refused(quantize + ["--recipe", "q9_z"], '"q9_z".*Q4_K_M', folder)
        refused(quantize + ["--recipe", "q4_k_m", "--format", "q4_k"], "excludes", folder)
        refused(quantize + ["--pure"], "requires", folder)
        refused(quantize + ["--tensor-type", "attn_v"], "REGEX|PATTERN=TYPE", folder)
        refused(quantize + ["--tensor-type", "(a=q8_0"], "without a \\)", folder)
        refused(quantize + ["--imatrix", "missing.dat"], "No such file", folder)
        refused(quantize + ["--imatrix", gguf], "general.type|in_sum2", folder)
        refused(quantize + ["--recipe", "IQ2_XS"], "importance", folder)
        refused(quantize + ["--threads", "-1"], "threads", folder)
        refused(quantize + ["--threads", "many"], "threads", folder)
        refused(["quantize", gguf], "output", folder)
        refused(["quantize", gguf, ""], "output", folder)
        refused(["quantize", gguf, "directory"], "directory", folder)
        refused(["quantize", gguf, "no/such/folder/out.gguf"], "No such file", folder)
        refused(["quantize", gguf, os.path.join(text, "out.gguf")], "Not a directory", folder)
        refused(["quantize", gguf, "/dev/full"], "not a regular file", folder)
        refused(["quantize", gguf, "/proc/out.gguf"], "/proc/out.gguf", folder)
        refused(["quantize", nan, "out.gguf"], "blk.3.ffn_down.weight.*nan", folder)
        refused(["quantize", checkpoint, "out.gguf"], "config.json.*No such file", folder)
        write("checkpoint/config.json", b'{"model_type": "mamba", "vocab_size": 1, "hidden_size": 2,'
              b'"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 1,'
              b'"max_position_embeddings": 1}')
        refused(["quantize", checkpoint, "out.gguf"], "mamba", folder)
        write("checkpoint/config.json", b'{"model_type": "llama", "vocab_size": "many"}')
        refused(["quantize", checkpoint, "out.gguf"], "vocab_size", folder)
        write("checkpoint/config.json", b"[[[[")
        refused(["quantize", checkpoint, "out.gguf"], "config.json", folder)

        # Sets of shards that lie, each named by the shard that does.
        def shard(number, count, total, name):
            """A GGUF file with the keys of a split and one F32 value."""
            keys = b"".join(struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value
                            for key, kind, value in (
                                (b"split.no", 2, struct.pack("<H", number)),
                                (b"split.count", 2, struct.pack("<H", count)),
                                (b"split.tensors.count", 5, struct.pack("<i", total))))
            head = (b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + keys + struct.pack("<Q", len(name)) +
                    name + struct.pack("<IQIQ", 1, 1, 0, 0))
            return head + b"\0" * (-len(head) % 32) + b"\0" * 32

        first = write("set-00001-of-00002.gguf", shard(0, 2, 2, b"a"))
        programs_of_splits = [["quantize", first, "out.gguf"], ["dequantize", first, "out.gguf"],
                              ["generate", first],
                              ["perplexity", "--tokens", tokens, "--speed", "0", first]]
        for command in programs_of_splits:
            refused(command, "set-00002-of-00002.gguf.*not there", folder)
        for content, expected in ((shard(0, 2, 2, b"b"), "set-00002.*split.no is 0"),
                                  (shard(1, 3, 2, b"b"), "set-00002.*split.count is 3"),
                                  (shard(1, 2, 2, b"a"), "set-00002.*tensor a is in"),
                                  (shard(1, 2, 7, b"b"), "set-00002.*split.tensors.count is 7"),
                                  (b"GGUF", "set-00002.*bytes")):
            write("set-00002-of-00002.gguf", content)
            for command in programs_of_splits:
                refused(command, expected, folder)

        for command in (quantize, ["dequantize", gguf, "out"]):
            option = "--split-max-size" if command is quantize else "--max-shard-size"
            refused(command + [option, "-1"], option[2:], folder)
            refused(command + [option, "2 miles"], option[2:], folder)
            refused(command + [option, "9500000000G"], option[2:], folder)
        refused(quantize + ["--split-max-tensors", "0"], "split-max-tensors", folder)
        refused(["dequantize", gguf, "out", "--type", "q4_0"], '"q4_0".*bf16', folder)
        refused(["dequantize", gguf, ""], "output", folder)
        refused(["dequantize", gguf], "output", folder)
        refused(["dequantize", gguf, "no/such/folder"], "No such file", folder)
        refused(["dequantize", gguf, "empty.gguf/out"], "empty.gguf", folder)
        refused(["dequantize", wrong_model, "out"], 'architecture is "elama"', folder)
        stray = write("stray.gguf", whole.replace(b"blk.3.ffn_down.weight",
                                                  b"blk.3.ffn_mean.weight", 1))
        refused(["dequantize", stray, "out"], "blk.3.ffn_mean.weight has no place", folder)

        # A target that already exists keeps its bytes whatever goes wrong.
        kept = write("kept.gguf", whole)
        refused(["quantize", kept, "kept.gguf"], "also the input", folder)
        os.symlink("kept.gguf", os.path.join(folder, "link.gguf"))
        refused(["quantize", kept, "link.gguf"], "also the input", folder)
        refused(["quantize", nan, "kept.gguf"], "nan", folder)
        refused(["dequantize", kept, "kept.gguf"], "also the input", folder)
        refused(["dequantize", kept, "link.gguf"], "also the input", folder)
        parts = write("parts-00001-of-00002.gguf", shard(0, 2, 2, b"a"))
        write("parts-00002-of-00002.gguf", shard(1, 2, 2, b"b"))
        refused(["quantize", parts, "parts.gguf", "-f", "f32", "--split-max-tensors", "1"],
                "parts-0000.*also the input", folder)

        def limit_file_size():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        refused(["quantize", gguf, "kept.gguf", "-f", "q8_0"], "kept.gguf.*too large", folder,
                preexec_fn=limit_file_size)
        refused(["quantize", gguf, "out.gguf", "-f", "q8_0"], "out.gguf.*too large", folder,
                preexec_fn=limit_file_size)
        refused(["quantize", gguf, "out.gguf", "-f", "q8_0", "--split-max-size", "2M"],
                "out-0000.*too large", folder, preexec_fn=limit_file_size)
        for rest in ([], ["--max-shard-size", "2MB"], ["--type", "f32"]):
            refused(["dequantize", gguf, "out"] + rest, "model.*too large", folder,
                    preexec_fn=limit_file_size)
        with open(kept, "rb") as file:
            check(file.read() == whole, "an existing target keeps its bytes")

        # Root may write anywhere; everybody else is stopped by the mode.
        if os.geteuid() != 0:
            locked = os.path.join(folder, "locked")
            os.mkdir(locked, 0o555)
            refused(["quantize", gguf, "locked/out.gguf"], "denied", folder)
            refused(["dequantize", gguf, "locked/out"], "denied", folder)
            os.chmod(kept, 0o444)
            refused(["quantize", gguf, "kept.gguf"], "denied", folder)
            os.chmod(kept, 0o644)
        # A really full file system, where one can be made.
        small = os.path.join(folder, "small")
        os.mkdir(small)
        mounted = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small],
            capture_output=True).returncode == 0
        if mounted:
            try:
                refused(["quantize", gguf, "out.gguf", "-f", "q8_0"], "No space left", small)
                refused(["quantize", gguf, "out.gguf", "-f", "q8_0", "--split-max-size", "100k"],
                        "No space left", small)
                refused(["dequantize", gguf, "out"], "No space left", small)
                refused(["dequantize", gguf, "out", "--max-shard-size", "100k"], "No space left",
                        small)
                subprocess.run(["mount", "-o", "remount,ro", small], check=True)
                refused(["quantize", gguf, "out.gguf", "-f", "q8_0"], "Read-only", small)
                refused(["dequantize", gguf, "out"], "Read-only", small)
                refused(["dequantize", gguf, "out.gguf"], "Read-only", small)
            finally:
                subprocess.run(["umount", small], check=True)

        # An interrupt leaves nothing behind. iq4_xs takes long enough to be met on the way.
        before = sorted(os.listdir(folder))
        running = subprocess.Popen([os.path.join(programs, "quantize"), gguf, "interrupted.gguf",
                                    "-f", "iq4_xs", "--threads", "1"], cwd=folder,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while running.poll() is None and sorted(os.listdir(folder)) == before:
            if time.monotonic() > deadline:
                break
            time.sleep(0.001)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=120)
        if running.returncode != 0:  # on a very fast machine it may be done
            check(running.returncode == 1, f"interrupted: exit code {running.returncode}")
            check(said.count(b"\n") == 1 and b"interrupted" in said, f"interrupted: said {said!r}")
            check(sorted(os.listdir(folder)) == before, "interrupted: left a file")

        score = ["perplexity", gguf, "--speed", "0"]
        refused(["perplexity", "--tokens", tokens], "at least one", folder)
        refused(score, "--text or --tokens", folder)
        refused(score + ["--tokens", "/no/such/file"], "No such file", folder)
        refused(score + ["--tokens", write("odd.u16", b"abc")], "3 bytes", folder)
        refused(score + ["--tokens", write("short.u16", b"ab")], "one window", folder)
        refused(score + ["--tokens", write("wild.u16", b"\xff\xff" * 600)], "token 65535", folder)
        refused(score + ["--tokens", tokens, "--text", text], "excludes", folder)
        refused(score + ["--tokens", tokens, "--windows", "1", "--json", "no/such/folder/x.json"],
                "x.json", folder)
        refused(score + ["--tokens", tokens, "--windows", "1", "--json", "/dev/full"], "/dev/full",
                folder)
        refused(["generate", gguf, "word " * 400], "context", folder)
        refused(["generate", gguf, "--temperature", "-1"], "temperature", folder)
        refused(["generate", gguf, "-n", "0"], "tokens", folder)
        for command in (["inspect", gguf], ["inspect", gguf, "--json"], ["generate", gguf, "-n", "1"],
                        ["quantize", gguf, "--dry-run"],
                        score + ["--tokens", tokens, "--windows", "1"]):
            with open("/dev/full", "wb") as full:
                if command[0] == "generate":  # prints its speed first
                    done = subprocess.run([os.path.join(programs, command[0])] + command[1:],
                                          stdout=full, stderr=subprocess.PIPE)
                    check(done.returncode == 1, "generate: standard output is full")
                else:
                    refused(command, "standard output", folder, stdout=full)

    for program in ("inspect", "quantize", "dequantize", "perplexity", "generate"):
        done = subprocess.run([os.path.join(programs, program), "--help"], capture_output=True)
        check(done.returncode == 0 and b"Usage" in done.stdout and not done.stderr,
              f"{program} --help")
    return exit_status(f"{count} command lines refused; ")


if __name__ == "__main__":
    sys.exit(main())
