# SPDX-License-Identifier: Apache-2.0
"""Arguments, and checks that are counted, for the scripts beside it."""

import argparse

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


def exit_status(done=""):
    """Prints how it went, behind what was `done`, and returns what main() exits with."""
    print(done + ("failed" if failures else "passed"))
    return 1 if failures else 0
