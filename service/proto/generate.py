"""Generate ``service/generated`` from the protos beside this file; run by ``make proto`` in an environment of its own.

protoc writes imports relative to the folder of the protos (``from penfield.v1 import tensor_pb2``), as their package
names demand; here they become relative to the package that holds them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PROTOS = Path(__file__).parent
GENERATED = PROTOS.parent / "generated"
PACKAGES = ("penfield", "inference")
IMPORT = re.compile(rf"^(from|import) ((?:{'|'.join(PACKAGES)})\b)", re.MULTILINE)


def generate(out: Path = GENERATED) -> None:
    """Replace the generated modules in `out`."""
    from grpc_tools import protoc

    bundled = Path(protoc.__file__).parent / "_proto"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    outputs = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    files = [str(path) for package in PACKAGES for path in sorted((PROTOS / package).rglob("*.proto"))]
    if protoc.main(["protoc", f"-I{PROTOS}", f"-I{bundled}", *outputs, *files]):
        sys.exit(1)
    for folder in {out, *(file.parent for file in out.rglob("*.py")), *(file.parents[1] for file in out.rglob("*.py"))}:
        if folder.is_relative_to(out):
            (folder / "__init__.py").touch()
    for file in (*out.rglob("*.py"), *out.rglob("*.pyi")):
        file.write_text(IMPORT.sub(r"\1 service.generated.\2", file.read_text()))


if __name__ == "__main__":
    generate(*map(Path, sys.argv[1:]))
