# SPDX-License-Identifier: Apache-2.0
"""Arguments, and checks that are counted, for the scripts beside it."""

import argparse
import subprocess

failures = 0


def check(condition, message):
    global failures
    if not condition:
        failures += 1
        print(f"FAILED: {message}")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", required=True)
    parser.add_argument("--data", required=True)
    return parser.parse_args()


def run_program(path, *options, refused="", status=(1,), **process):
    """What it prints. It must end well or, where `refused` is given, say that in one line of errors
    and exit with one of `status`."""
    done = subprocess.run([path, *options], check=False, capture_output=True, text=True, **process)
    if refused:
        check(done.returncode in status, f"{path} {options} fails")
        check(refused in done.stderr and done.stderr.count("\n") == 1,
              f"{path} {options}: {refused!r} in {done.stderr!r}")
    else:
        check(done.returncode == 0, f"{path} {options}: {done.stderr}")
    return done.stdout


def exit_status(done=""):
    """Prints how it went, behind what was `done`, and returns what main() exits with."""
    print(done + ("failed" if failures else "passed"))
    return 1 if failures else 0
