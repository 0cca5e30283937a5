# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_check.sh with stand-ins for nvcc, compute-sanitizer and the GPU.

usage: gpu_check.py REPOSITORY
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

# "Compiles" every -o file to a script that does what the program of that name would.
NVCC = r"""#!/bin/bash
out=; previous=
for argument in "$@"; do
  [ "$previous" != -o ] || out=$argument
  if [[ $argument == *.o && $previous != -o && ! -e $argument ]]; then echo "error: $argument"; exit 1; fi
  previous=$argument
done
[ -n "$out" ] && [ "$out" != /dev/null ] || exit 0
case $(basename "$out") in
  "$BROKEN_SOURCE") echo "error: broken"; exit 1 ;;
  *.o) echo object >"$out"; exit 0 ;;
  capability) body='[ -z "$NO_GPU" ] && echo 90a' ;;
  probes | products) body='echo "{\"machine\": {\"device\": \"stand-in\"}, \"skipped\": []}" >"$2"' ;;
  *) body='[ "$1" = "[sanitize]" ] || [ -z "$SLOW_TESTS" ] || sleep 60
    [ "$(basename "$0")" != "$FAILING_TEST" ]' ;;
esac
printf '#!/bin/bash\n%s\n' "$body" >"$out"
chmod +x "$out"
"""
# --tool NAME --error-exitcode 9 PROGRAM CASES
SANITIZER = r"""#!/bin/bash
[ "$2" != "$FINDING_TOOL" ] || exit 9
[ "$6" = "[sanitize]" ] && shift 4 && exec "$@"
"""


def check(condition, what):
    if not condition:
        print(f"failed: {what}")
        sys.exit(1)


class Runs:
    def __init__(self, repository, folder):
        self.repository, self.folder, self.count = repository, folder, 0
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name, text in (("nvcc", NVCC), ("compute-sanitizer", SANITIZER)):
            (self.tools / name).write_text(text)
            (self.tools / name).chmod(0o755)

    def __call__(self, *steps, tools=True, **environment):
        """(exit status, {step: status}, results or None, output)"""
        self.count += 1
        out = self.folder / f"run{self.count}"
        path = f"{self.tools}:/usr/bin:/bin" if tools else "/usr/bin:/bin"
        done = subprocess.run(
            [str(self.repository / "scripts/gpu_check.sh"), *steps], capture_output=True, text=True,
            env={"PATH": path, "HOME": os.environ.get("HOME", "/"), "OUT": str(out),
                 "CUDA_PATH": "/nonexistent",
                 "GPU_CHECK_OBJECTS": str(self.folder / f"objects{self.count}"), **environment})
        results = out / "results.json"
        data = json.loads(results.read_text()) if results.exists() else None
        states = {s["name"]: s["status"] for s in data["steps"]} if data else {}
        return done.returncode, states, data, done.stdout + done.stderr


def main():
    repository = pathlib.Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        run = Runs(repository, pathlib.Path(folder))

        status, states, data, output = run()
        check(status == 0, f"a run in which all passes: {status}\n{output}")
        check(set(states.values()) == {"passed"} and len(states) == 8, f"every step passed: {states}\n{output}")
        check(data["products"]["machine"]["device"] == "stand-in", "results hold the programs' files")

        status, states, _, output = run(FAILING_TEST="tests.kernels.3")
        check(status == 1 and states["tests"] == "failed", f"a failing test fails: {states}\n{output}")
        check(states["products"] == "passed", "later steps run all the same")
        check("tests.kernels.3: exit 1" in output, "the failing program is named")

        status, states, _, output = run(FINDING_TOOL="racecheck")
        check(status == 1 and states["racecheck"] == "failed", f"a finding fails: {states}\n{output}")
        check(states["memcheck"] == "passed", "the other tool passes")

        status, states, _, output = run(BROKEN_SOURCE="products.o")
        check(status == 1 and states["build"] == "failed", f"a broken build fails: {states}\n{output}")
        check(states["tests"] == "passed" and states["products"] == "failed",
              f"what could be built runs: {states}")

        status, states, _, output = run("build", "tests", BROKEN_SOURCE="tests.kernels.5.o")
        check(status == 1 and states == {"build": "failed", "tests": "passed"},
              f"the other tests run: {states}\n{output}")

        objects = run.folder / "kept"
        status, states, _, output = run("build", GPU_CHECK_OBJECTS=str(objects))
        check(status == 0 and states == {"build": "passed"}, f"one step: {states}\n{output}")
        begin = time.monotonic()
        status, states, _, output = run("tests", "memcheck", SLOW_TESTS="1", GPU_CHECK_SECONDS="60",
                                        GPU_CHECK_OBJECTS=str(objects))
        check(status == 1 and states == {"tests": "cut", "memcheck": "passed"},
              f"what hangs is cut: {states}\n{output}")
        check(time.monotonic() - begin < 40, "it is cut in time")

        status, states, data, output = run(NO_GPU="1")
        check(status == 77 and "products" not in data and "NO GPU HERE" in output, f"no GPU: {status}\n{output}")
        status, _, data, output = run(NO_GPU="1", BROKEN_SOURCE="probes.o")
        check(status == 1, f"no GPU and a broken build: {status}\n{output}")

        if not pathlib.Path("/usr/bin/nvcc").exists():
            status, _, data, output = run(tools=False)
            check(status == 78 and data is None and "no nvcc" in output, f"no nvcc: {status}\n{output}")
        status, _, _, output = run("mischief")
        check(status == 1 and "mischief" in output, f"an unknown step: {output}")
    print("gpu_check: all as it says")


if __name__ == "__main__":
    main()
