"""Generate ``service/generated`` from the protos beside this file; run by ``make proto`` in an environment of its own.

protoc writes imports relative to the folder of the protos (``from penfield.v1 import tensor_pb2``), as their package
names demand; here they become relative to the package that holds them.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "generated"
RELEASED = PROTOS / "penfield_v1.binpb"
PACKAGES = ("penfield", "inference")
IMPORT = re.compile(rf"^(from|import) ((?:{'|'.join(PACKAGES)})\b)", re.MULTILINE)


def generate(out: Path = GENERATED) -> None:
    """Replace the generated modules in `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _protoc(PACKAGES, *(f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")))
    for folder in (out, *filter(Path.is_dir, out.rglob("*"))):
        (folder / "__init__.py").touch()
    for file in (*out.rglob("*.py"), *out.rglob("*.pyi")):
        file.write_text(IMPORT.sub(r"\1 service.generated.\2", file.read_text()))


def release(out: Path = RELEASED) -> None:
    """Write the protocol as it is now to `out`: later versions are held to stay readable by its clients."""
    _protoc(("penfield",), "--include_imports", f"--descriptor_set_out={out}")


def _protoc(packages: tuple[str, ...], *outputs: str) -> None:
    from grpc_tools import protoc  # type: ignore[import-not-found]

    bundled = Path(protoc.__file__).parent / "_proto"
    files = [str(path) for package in packages for path in sorted((PROTOS / package).rglob("*.proto"))]
    if code := protoc.main(["protoc", f"-I{PROTOS}", f"-I{bundled}", *outputs, *files]):
        sys.exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path, nargs="?", default=GENERATED, help="folder of the generated modules")
    parser.add_argument("--release", action="store_true", help=f"write {RELEASED.name} too, when a version is released")
    arguments = parser.parse_args()
    generate(arguments.out)
    if arguments.release:
        release()
