"""Compiles the environments in ocean_c/ with CFFI (API mode): on first use and after a change, or by hand.

    python build.py                   all environments
    python build.py pong squared      these
    python build.py pong --debug      with AddressSanitizer and UBSan, kept beside the fast build
    python build.py --force           even where nothing changed

`load(name)` is what the rest of the project calls. A compiled module is named after a hash of everything it
is made from (its header, the shared headers, this file, compiler, flags, Python, processor), so it is never
stale. The compiler is $CC, else the one Python was built with.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

import cffi

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "ocean_c"
COMPILED = ROOT / ".compiled"
SHARED = ("env.h", "vec.h", "rng.h", "draw.h", "cores.h")
LIBRARIES = ("advantage.h", "network.h")  # C that is no environment; its users give load() the declarations

WARNINGS = ["-std=gnu11", "-D_GNU_SOURCE=1", "-Wall", "-Wextra", "-Werror"]
FAST = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"]
DEBUG = [
    "-O1",
    "-march=native",  # or what is for some processors alone would go unchecked
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
]

VEC_DECLARATIONS = """
typedef ... Vec;
int vec_agents(const Config *config);
int vec_observation_bytes(const Config *config);
Vec *vec_create(int num_envs, const Config *config, Rows rows, size_t observation_bytes, int actions,
                int continuous, const void *bounds);
void vec_close(Vec *vec);
void vec_seed(Vec *vec, uint64_t seed);
void vec_reset(Vec *vec, int start, int end);
int vec_bad_actions(const Vec *vec, int start, int end);
int vec_step(void *vec, int start, int end);
void vec_log(Vec *vec, int start, int end, double *sums);
void vec_render(const Vec *vec, int copy, uint8_t *pixels, int width, int height);
size_t vec_state_size(void);
void vec_save(const Vec *vec, char *bytes);
void vec_load(Vec *vec, const char *bytes);
"""


class BuildError(RuntimeError):
    """An environment that cannot be compiled; the first line of the message says why."""


def compiler_command() -> str:
    return os.environ.get("CC", "").strip() or sysconfig.get_config_var("CC") or "cc"


def has_compiler() -> bool:
    """Whether there is one; what is wrong with a CC that is no command, `load` says."""
    return bool(shutil.which(compiler_command().split()[0]))


def environments() -> list[str]:
    """Names of the environments that have a header in ocean_c/."""
    return sorted(p.stem for p in SOURCES.glob("*.h") if p.name not in SHARED + LIBRARIES)


def load(name: str, declarations: str = "", debug: bool | None = None, force: bool = False) -> ModuleType:
    """The compiled module of ocean_c/<name>.h, with `ffi` and `lib`; compiles it first where that is needed.

    name          an environment or, with `declarations` (C prototypes), a library of plain functions
    debug         with sanitizers; by default when CLEANPUFFER_DEBUG is set (and the sanitizers are preloaded)
    Raises BuildError, its first line clear, without a header, a compiler or Python.h, or if it does not
    compile.
    """
    debug = bool(os.environ.get("CLEANPUFFER_DEBUG")) if debug is None else debug
    path = compile_module(name, declarations, debug, force)
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_module(name: str, declarations: str = "", debug: bool = False, force: bool = False) -> Path:
    """Compiles ocean_c/<name>.h unless its module is there already; returns its path. Raises as `load`."""
    header = SOURCES / f"{name}.h"
    if not header.exists():
        raise BuildError(f"no environment '{name}': there is no {header}")
    command = compiler_command()
    try:
        compiler = shlex.split(command)
    except ValueError as error:
        raise BuildError(f"CC is {command!r}, which is no command: {error}") from None
    flags = WARNINGS + (DEBUG if debug else FAST)
    parts = [
        header.read_bytes(),
        *((SOURCES / shared).read_bytes() for shared in SHARED),
        Path(__file__).read_bytes(),
    ]
    parts += [" ".join(compiler + flags), sys.version, processor(), declarations]
    digest = hashlib.sha256(b"\0".join(p if isinstance(p, bytes) else p.encode() for p in parts)).hexdigest()[
        :16
    ]
    module = f"{name}_{'debug_' if debug else ''}{digest}"
    path = COMPILED / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if path.exists() and not force:
        return path

    include = sysconfig.get_path("include")
    if not shutil.which(compiler[0]):
        raise BuildError(
            f"no C compiler: '{compiler[0]}' is not on the PATH; install gcc or clang, or set CC"
        )
    if not (Path(include) / "Python.h").exists():
        raise BuildError(
            f"no Python headers: {include}/Python.h is missing; install python3-dev (or python3-devel)"
        )
    try:
        COMPILED.mkdir(exist_ok=True)
        with (
            open(COMPILED / f"{name}.lock", "w") as lock,
            tempfile.TemporaryDirectory(dir=COMPILED) as folder,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here, and finds the module made
            if not path.exists() or force:
                source, made = Path(folder) / f"{module}.c", Path(folder) / path.name
                emit_source(name, header.read_text(), declarations, module, source)
                link = shlex.split(sysconfig.get_config_var("LDSHARED"))[1:]
                # What CFFI writes counts as a system header: warnings are errors in our own code only.
                search = [f"-I{SOURCES}", f"-isystem{include}", f"-isystem{folder}"]
                command = [*compiler, *flags, *search, "-fPIC", str(source), *link, "-lm", "-o", str(made)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise BuildError(f"ocean_c/{name}.h does not compile\n{done.stderr.strip()}")
                os.replace(made, path)
    except OSError as error:
        raise BuildError(f"cannot write the compiled environment to {COMPILED}: {error.strerror}") from None
    return path


def emit_source(name: str, header: str, declarations: str, module: str, source: Path) -> None:
    """Writes the C source of the module: the header, names for vec.h, an include of what CFFI generates."""
    preamble = f'#include "env.h"\n#include "{name}.h"\n'
    if not declarations:
        rows = struct_text((SOURCES / "env.h").read_text(), "Rows", "env")
        kind = re.search(r"typedef struct (\w+)Config \{", header)
        if not kind:
            raise BuildError(
                f"ocean_c/{name}.h has no 'typedef struct <Name>Config {{'; see ocean_c/squared.h"
            )
        kind = kind[1]
        config, log = (struct_text(header, kind + part, name) for part in ("Config", "Log"))
        names = f"typedef {kind}Config Config;\ntypedef {kind}Log Log;\n"
        declarations = rows + config + log + names + VEC_DECLARATIONS
        preamble += f"typedef {kind} State;\n{names}"
        for function in ("agents", "observation_bytes", "init", "reset", "step", "render"):
            preamble += f"#define env_{function} {name}_{function}\n"
        preamble += '#include "vec.h"\n'
    ffi = cffi.FFI()
    try:
        ffi.cdef(declarations)
    except (cffi.CDefError, cffi.FFIError) as error:
        raise BuildError(
            f"ocean_c/{name}.h: structs that Python reads hold plain numbers only\n{error}"
        ) from None
    ffi.set_source(module, "")
    generated = source.with_name(f"{module}_cffi.c")
    with contextlib.redirect_stdout(None):  # it announces the file
        ffi.emit_c_code(str(generated))
    source.write_text(f"{preamble}#include <{generated.name}>\n")


def struct_text(header: str, struct: str, name: str) -> str:
    found = re.search(rf"typedef struct {struct} \{{.*?\}} {struct};\n", header, re.DOTALL)
    if not found:
        raise BuildError(
            f"ocean_c/{name}.h has no 'typedef struct {struct} {{ … }} {struct};'; see ocean_c/squared.h"
        )
    return found[0]


def processor() -> str:
    """What -march=native depends on, so that a checkout shared by machines holds a build for each."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        return "\n".join(
            line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))
        )
    except OSError:
        return " ".join(os.uname())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="environments; all of them if none is given")
    parser.add_argument("--debug", action="store_true", help="with AddressSanitizer and UBSan")
    parser.add_argument("--force", action="store_true", help="compile even where nothing changed")
    args = parser.parse_args()
    for name in args.names or environments():
        try:
            path = compile_module(name, debug=args.debug, force=args.force)
        except BuildError as error:
            print(f"build.py: error: {error}", file=sys.stderr)
            return 2
        print(f"{name}: {path.relative_to(ROOT)}")
    if args.debug:
        print("To run them: CLEANPUFFER_DEBUG=1 LD_PRELOAD=$(gcc -print-file-name=libasan.so) python …")
    return 0


if __name__ == "__main__":
    sys.exit(main())
