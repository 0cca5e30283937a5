#!/usr/bin/env python3
"""Checks the include floors and the doors of third-party code; prints every offending line.

usage: check_floors.py [--self-test] [ROOT]
"""
import pathlib
import re
import sys
import tempfile

# A header includes its own folder, lower floors and nothing else. simd/ is for kernel/ and above
# only, exec/ and num/ see core/ only, siblings do not see each other.
FLOOR = {"core": 0, "num": 1, "exec": 1, "tensor": 2, "simd": 2, "format": 3, "matrix": 4,
         "layout": 5, "metrics": 5, "quantize": 6, "kernel": 6, "io": 6, "calibrate": 7,
         "checkpoint": 7, "attention": 7, "train": 7, "interop": 7, "cuda": 8}
ONLY = {"simd": {"core", "num"}, "interop": {"core", "tensor", "matrix"},
        "cuda": {f for f, floor in FLOOR.items() if floor <= 5} - {"simd"}}
SEES_SIMD = {"kernel", "calibrate", "checkpoint", "attention", "train"}
CORE_PARTS = set(FLOOR) - {"simd", "kernel", "io", "calibrate", "checkpoint", "attention", "train",
                           "interop", "cuda"}
# The floors whose every header an umbrella includes; it may include core's as well. Left out is
# what needs a library or a compiler flag that the component does not promise.
UMBRELLA = {"subbyte.hpp": CORE_PARTS, "cpu.hpp": {"simd", "kernel"},
            "io.hpp": {"io", "checkpoint"}, "calibrate.hpp": {"calibrate"}}
NOT_IN_UMBRELLA = r"exec/(thread_pool|openmp)\.hpp|simd/primitives/|calibrate/statistics_file\.hpp"
CORE_FILES = {"fwd.hpp", "version.hpp"}  # at the top, but of floor 0

# (what, pattern of the line, where it may stand): third-party doors and words with one home.
HEAVY = r"#\s*include\s*<(iostream|regex|ranges|functional|random)>"
ABOVE_KERNEL = r"(io|calibrate|checkpoint|attention|train|interop)/"
DOORS = [
    ("xsimd", r"#\s*include\s*[<\"]xsimd|\bxsimd::", r"simd/register\.hpp$"),
    ("Eigen", r"#\s*include\s*[<\"](Eigen|unsupported)\b|\bEigen::", r"calibrate/|interop/eigen\.hpp$"),
    ("JSON", r"#\s*include\s*[<\"]nlohmann|\bnlohmann::", r"io/json_header\.hpp$"),
    ("CUDA", r"#\s*include\s*[<\"]cu(da|rand|blas)[\w/]*\.h|\b__CUDA_ARCH__\b",
     r"cuda/|core/config\.hpp"),
    ("intrinsics", r"#\s*include\s*<(\w*intrin|arm_\w+)\.h>|\b_mm\d*_\w+\(", r"simd/|kernel/cpu/"),
    ("a heavy include", HEAVY, ABOVE_KERNEL),
    ("arch::native", r"(?<!= )(?<!= subbyte::)\barch::native\b(?!>;)", r"core/arch\.hpp$"),
    ("a macro without the prefix SUBBYTE_", r"#\s*define\s+(?!SUBBYTE_)", r"$^"),
]


def edge_error(name, folder, target):
    """Why the header `name` of `folder` must not include `target`, or None."""
    if target == "subbyte.hpp" and name in UMBRELLA:
        return None
    parts = target.split("/")
    other = "core" if target in CORE_FILES else parts[0] if len(parts) > 1 else None
    if other not in FLOOR:
        return "is no floor"
    if folder is None:
        return None if other in UMBRELLA.get(name, set()) | CORE_PARTS else "is not part of this umbrella"
    if folder == other:
        return None
    if other in ONLY.get(folder, FLOOR) and FLOOR[other] < FLOOR[folder] and (
            other != "simd" or folder in SEES_SIMD):
        return None
    return f"is not below {folder}/"


def unreachable(base, umbrella, parts):
    """The headers of the component that its umbrella does not include, directly or not."""
    todo, seen = [umbrella], set()
    while todo:
        name = todo.pop()
        if name not in seen and (base / name).is_file():
            seen.add(name)
            todo += re.findall(r'#\s*include\s*"subbyte/([^"]+)"', (base / name).read_text())
    names = {p.relative_to(base).as_posix() for part in parts for p in (base / part).rglob("*.hpp")}
    return sorted(n for n in names - seen if not re.match(NOT_IN_UMBRELLA, n))


def check(root):
    """The violations under root/include and root/cuda, as lines of text."""
    errors = []
    for umbrella, parts in UMBRELLA.items():
        base = root / "include" / "subbyte"
        if (base / umbrella).is_file():
            errors += [f"include/subbyte/{umbrella}: does not include {name}"
                       for name in unreachable(base, umbrella, parts)]
    for base in (root / "include" / "subbyte", root / "cuda" / "subbyte"):
        for path in sorted(p for p in base.rglob("*") if p.suffix in (".hpp", ".cuh")):
            name = path.relative_to(base).as_posix()
            folder = name.split("/")[0] if "/" in name else "core" if name in CORE_FILES else None
            text = re.sub(r"/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), path.read_text(), flags=re.S)
            for number, line in enumerate(text.splitlines(), 1):
                where = f"{path.relative_to(root)}:{number}"
                code = re.sub(r"//.*", "", line)
                include = re.match(r'\s*#\s*include\s*(?:"([^"]+)"|<(subbyte/[^>]+)>)', code)
                if include:
                    target = include[1] or include[2]
                    if not target.startswith("subbyte/"):
                        errors.append(f"{where}: \"{target}\" does not start with subbyte/")
                    elif reason := edge_error(name, folder, target.removeprefix("subbyte/")):
                        errors.append(f"{where}: {name} -> {target} {reason}")
                for what, pattern, home in DOORS:
                    if re.search(pattern, code) and not re.match(home, name):
                        errors.append(f"{where}: {what} does not belong here: {line.strip()}")
                if folder == "format" and re.search(r"#\s*include\s*<(vector|string)>", code):
                    errors.append(f"{where}: format/ stays free of {line.strip()}")
            if folder is not None and folder not in FLOOR:
                errors.append(f"{path.relative_to(root)}: {folder}/ is no floor")
    return errors


def self_test():
    """Every planted violation is reported, at its line; the clean headers are not."""
    clean = {
        "core/arch.hpp": "using native = int;  // arch::native is declared here",
        "num/a.hpp": '#include "subbyte/core/bits.hpp"',
        "format/a.hpp": '#include "subbyte/fwd.hpp"\ntemplate <class Arch = arch::native> void f();',
        "quantize/a.hpp": '#include "subbyte/exec/executor.hpp"',
        "kernel/a.hpp": '#include "subbyte/simd/register.hpp"\n#define SUBBYTE_X',
        "io/json_header.hpp": "#include <nlohmann/json.hpp>\n#include <functional>",
        "simd/register.hpp": "#include <xsimd/xsimd.hpp>",
        "exec/pool.hpp": "using thread_pool = basic_thread_pool<arch::native>;",
        "metrics/b.hpp": "",
        "io.hpp": '#include "subbyte/subbyte.hpp"\n' + "\n".join(
            f'#include "subbyte/io/{h}.hpp"' for h in ("a", "b", "json_header")),
        "exec/openmp.hpp": "",
        "calibrate.hpp": '#include "subbyte/subbyte.hpp"\n#include "subbyte/calibrate/b.hpp"',
        "calibrate/b.hpp": "",
    }
    planted = {
        "core/a.hpp": '#include "subbyte/num/half.hpp"',
        "num/b.hpp": '#include "subbyte/exec/executor.hpp"',
        "tensor/a.hpp": '#include "subbyte/simd/register.hpp"',
        "format/b.hpp": "#include <vector>",
        "format/c.hpp": '#include "subbyte/kernel/gemv.hpp"',
        "matrix/a.hpp": '#include "subbyte/simd/register.hpp"',
        "io/a.hpp": '#include "subbyte/kernel/dot.hpp"',
        "io/b.hpp": "#include <nlohmann/json.hpp>",
        "kernel/b.hpp": '#include "subbyte/io/gguf.hpp"',
        "kernel/c.hpp": "#include <functional>",
        "kernel/d.hpp": "auto x = _mm256_setzero_ps();",
        "kernel/e.hpp": "#include <xsimd/xsimd.hpp>",
        "quantize/b.hpp": "#include <Eigen/Dense>",
        "quantize/c.hpp": '#include "reference.hpp"',
        "num/c.hpp": "#include <cuda_fp16.h>",
        "num/d.hpp": "#define HALF 1",
        "tensor/b.hpp": "#include <immintrin.h>",
        "metrics/a.hpp": "void f() { g<arch::native>(); }",
        "cpu.hpp": '#include "subbyte/io/gguf.hpp"',
        "subbyte.hpp": '#include "subbyte/metrics/b.hpp"',
        "misc/a.hpp": "",
        "../../cuda/subbyte/cuda/a.cuh": '#include "subbyte/quantize/rtn.hpp"',
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {**clean, **planted}.items():
            path = root / "include" / "subbyte" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        errors = check(root)
    reported = {error.split(":")[0] for error in errors}
    expected = {p.removeprefix("../../") if p.startswith("..") else f"include/subbyte/{p}"
                for p in planted}
    wrong = [f"not reported: {p}" for p in sorted(expected - reported)]
    wrong += [f"reported for nothing: {e}" for e in errors if e.split(":")[0] not in expected]
    return wrong


def main(arguments):
    if "--self-test" in arguments:
        errors = self_test()
    else:
        roots = arguments or [pathlib.Path(__file__).resolve().parent.parent]
        errors = check(pathlib.Path(roots[0]))
    print("\n".join(errors) or "floors: no violation")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
