"""The protocol: named as buf's STANDARD rules ask, documented, kept for older clients, and generated as committed."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Callable, Iterator
from filecmp import dircmp
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2 as pb

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "service" / "proto"
PENFIELD = sorted((PROTOS / "penfield" / "v1").glob("*.proto"))

Field = pb.FieldDescriptorProto
PASCAL = re.compile(r"([A-Z][a-z0-9]*)+")
LOWER_SNAKE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
UPPER_SNAKE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
DECLARATION = re.compile(r"\s*((message|service|rpc|enum|oneof) \w+|(repeated |optional )?[\w.<>, ]+ \w+ = \d+;)")


def protocol() -> pb.FileDescriptorSet:
    """What the generated modules speak."""
    files = pb.FileDescriptorSet()
    for path in PENFIELD:
        module = importlib.import_module(f"service.generated.penfield.v1.{path.stem}_pb2")
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files


def released() -> pb.FileDescriptorSet:
    files = pb.FileDescriptorSet.FromString((PROTOS / "penfield_v1.binpb").read_bytes())
    return pb.FileDescriptorSet(file=[file for file in files.file if file.package == "penfield.v1"])


def messages(
    holder: pb.FileDescriptorProto | pb.DescriptorProto, prefix: str
) -> Iterator[tuple[str, pb.DescriptorProto]]:
    """Full names and descriptors of all messages in a file, nested ones included."""
    found = holder.message_type if isinstance(holder, pb.FileDescriptorProto) else holder.nested_type
    for message in found:
        name = f"{prefix}.{message.name}"
        yield name, message
        yield from messages(message, name)


def surface(files: pb.FileDescriptorSet) -> dict[str, object]:
    """All that older clients rely on, bytes on the wire as well as names and files of the generated code."""
    found: dict[str, object] = {}
    for file in files.file:
        found[f"file {file.name}"] = file.package
        for name, message in messages(file, file.package):
            found[f"message {name}"] = file.name
            for field in message.field:
                oneof = message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
                kind = (field.type, field.type_name, field.label, field.proto3_optional)
                found[f"field {name}.{field.number}"] = (field.name, *kind, oneof)
        for enum in file.enum_type:
            found[f"enum {enum.name}"] = file.name
            found |= {f"value {enum.name}.{value.number}": value.name for value in enum.value}
        for service in file.service:
            found[f"service {service.name}"] = file.name
            for rpc in service.method:
                streams = (rpc.client_streaming, rpc.server_streaming)
                found[f"rpc {service.name}.{rpc.name}"] = (rpc.input_type, rpc.output_type, *streams)
    return found


def breaking_changes(old: pb.FileDescriptorSet, new: pb.FileDescriptorSet) -> list[str]:
    now = surface(new)
    return [key for key, value in surface(old).items() if now.get(key) != value]


def faults(files: pb.FileDescriptorSet) -> list[str]:
    """Where buf's STANDARD lint rules are broken."""
    found = [fault for file in files.file for fault in (*file_faults(file), *name_faults(file))]
    types = [
        t for file in files.file for s in file.service for rpc in s.method for t in (rpc.input_type, rpc.output_type)
    ]
    return found + [f"RPC_REQUEST_RESPONSE_UNIQUE {t}" for t in set(types) if types.count(t) > 1]


def file_faults(file: pb.FileDescriptorProto) -> Iterator[str]:
    folder, _, stem = file.name.removesuffix(".proto").rpartition("/")
    if file.syntax != "proto3":
        yield f"SYNTAX_SPECIFIED {file.name}"
    if file.package.replace(".", "/") != folder:
        yield f"PACKAGE_DIRECTORY_MATCH {file.name}"
    if not re.search(r"\.v\d+$", file.package):
        yield f"PACKAGE_VERSION_SUFFIX {file.name}"
    if not LOWER_SNAKE.fullmatch(stem):
        yield f"FILE_LOWER_SNAKE_CASE {file.name}"
    if file.public_dependency or file.weak_dependency:
        yield f"IMPORT_NO_PUBLIC {file.name}"


def name_faults(file: pb.FileDescriptorProto) -> Iterator[str]:
    for name, message in messages(file, file.package):
        if not (PASCAL.fullmatch(message.name) or message.options.map_entry):
            yield f"MESSAGE_PASCAL_CASE {name}"
        yield from (f"FIELD_LOWER_SNAKE_CASE {name}" for f in message.field if not LOWER_SNAKE.fullmatch(f.name))
        # The oneofs that stand for `optional` are protoc's own.
        mine = {f.oneof_index for f in message.field if f.HasField("oneof_index") and not f.proto3_optional}
        names = [message.oneof_decl[index].name for index in mine]
        yield from (f"ONEOF_LOWER_SNAKE_CASE {name}" for one in names if not LOWER_SNAKE.fullmatch(one))
    for enum in file.enum_type:
        yield from enum_faults(enum)
    for service in file.service:
        if not (PASCAL.fullmatch(service.name) and service.name.endswith("Service")):
            yield f"SERVICE_SUFFIX {service.name}"
        for rpc in service.method:
            if not PASCAL.fullmatch(rpc.name):
                yield f"RPC_PASCAL_CASE {rpc.name}"
            for kind, type_name in (("Request", rpc.input_type), ("Response", rpc.output_type)):
                if type_name != f".{file.package}.{rpc.name}{kind}":
                    yield f"RPC_{kind.upper()}_STANDARD_NAME {rpc.name}"


def enum_faults(enum: pb.EnumDescriptorProto) -> Iterator[str]:
    if not PASCAL.fullmatch(enum.name):
        yield f"ENUM_PASCAL_CASE {enum.name}"
    if enum.options.allow_alias:
        yield f"ENUM_NO_ALLOW_ALIAS {enum.name}"
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    if enum.value[0].number != 0 or enum.value[0].name != f"{prefix}UNSPECIFIED":
        yield f"ENUM_ZERO_VALUE_SUFFIX {enum.name}"
    for value in enum.value:
        if not (value.name.startswith(prefix) and UPPER_SNAKE.fullmatch(value.name)):
            yield f"ENUM_VALUE_PREFIX {value.name}"


def unused_imports(text: str, declared: dict[str, set[str]]) -> list[str]:
    """Imports of a file, none of whose messages and enums it names."""
    body = re.sub(r"//.*|^import .*", "", text, flags=re.MULTILINE)
    words = set(re.findall(r"\w+", body))
    return [path for path in re.findall(r'import "([^"]+)"', text) if path in declared and not declared[path] & words]


def undocumented(text: str) -> list[str]:
    """Declarations without a comment right above."""
    lines = text.splitlines()
    pairs = zip(["", *lines], lines, strict=False)
    return [line.strip() for above, line in pairs if DECLARATION.match(line) and not above.strip().startswith("//")]


def message(files: pb.FileDescriptorSet, name: str) -> pb.DescriptorProto:
    return next(m for file in files.file for full, m in messages(file, file.package) if full == f"penfield.v1.{name}")


def file(files: pb.FileDescriptorSet, stem: str) -> pb.FileDescriptorProto:
    return next(f for f in files.file if f.name == f"penfield/v1/{stem}.proto")


def change(edit: Callable[[pb.FileDescriptorSet], object]) -> pb.FileDescriptorSet:
    files = protocol()
    edit(files)
    return files


def test_names_follow_the_rules_of_buf() -> None:
    assert faults(protocol()) == []


@pytest.mark.parametrize(
    ("rule", "edit"),
    [
        ("MESSAGE_PASCAL_CASE", lambda f: setattr(message(f, "Tensor"), "name", "named_tensor")),
        ("FIELD_LOWER_SNAKE_CASE", lambda f: setattr(message(f, "Tensor").field[0], "name", "dType")),
        ("ONEOF_LOWER_SNAKE_CASE", lambda f: setattr(message(f, "Image").oneof_decl[0], "name", "Content")),
        ("ENUM_PASCAL_CASE", lambda f: setattr(file(f, "tensor").enum_type[0], "name", "dataType")),
        ("ENUM_VALUE_PREFIX", lambda f: setattr(file(f, "tensor").enum_type[0].value[1], "name", "BOOL")),
        (
            "ENUM_ZERO_VALUE_SUFFIX",
            lambda f: setattr(file(f, "tensor").enum_type[0].value[0], "name", "DATA_TYPE_NONE"),
        ),
        ("ENUM_NO_ALLOW_ALIAS", lambda f: setattr(file(f, "tensor").enum_type[0].options, "allow_alias", True)),
        ("SERVICE_SUFFIX", lambda f: setattr(file(f, "model").service[0], "name", "Models")),
        ("RPC_PASCAL_CASE", lambda f: setattr(file(f, "model").service[0].method[0], "name", "list_models")),
        (
            "RPC_REQUEST_STANDARD_NAME",
            lambda f: setattr(file(f, "model").service[0].method[0], "input_type", ".penfield.v1.Model"),
        ),
        (
            "RPC_REQUEST_RESPONSE_UNIQUE",
            lambda f: setattr(file(f, "model").service[0].method[0], "input_type", ".penfield.v1.LoadModelRequest"),
        ),
        ("PACKAGE_DIRECTORY_MATCH", lambda f: setattr(file(f, "model"), "package", "penfield.v2")),
        ("PACKAGE_VERSION_SUFFIX", lambda f: setattr(file(f, "model"), "package", "penfield")),
        ("FILE_LOWER_SNAKE_CASE", lambda f: setattr(file(f, "model"), "name", "penfield/v1/Model.proto")),
        ("SYNTAX_SPECIFIED", lambda f: setattr(file(f, "model"), "syntax", "proto2")),
        ("IMPORT_NO_PUBLIC", lambda f: file(f, "encoding").public_dependency.append(0)),
    ],
)
def test_a_broken_rule_is_found(rule: str, edit: Callable[[pb.FileDescriptorSet], object]) -> None:
    assert [fault for fault in faults(change(edit)) if fault.startswith(rule)]


def test_every_import_is_used() -> None:
    declared = {f.name: {m.name for m in f.message_type} | {e.name for e in f.enum_type} for f in protocol().file}
    declared |= {f"google/protobuf/{name.lower()}.proto": {name} for name in ("Duration", "Timestamp", "Struct")}
    assert {path.stem: unused_imports(path.read_text(), declared) for path in PENFIELD} == {
        p.stem: [] for p in PENFIELD
    }
    idle = 'import "penfield/v1/tensor.proto";\nmessage Other {\n  // A Tensor.\n  string name = 1;\n}'
    assert unused_imports(idle, declared) == ["penfield/v1/tensor.proto"]


@pytest.mark.parametrize("path", [*PENFIELD, PROTOS / "inference" / "grpc_service.proto"], ids=lambda path: path.stem)
def test_everything_is_documented(path: Path) -> None:
    assert undocumented(path.read_text()) == []
    longest = max(path.read_text().splitlines(), key=len)
    assert len(longest) <= 120


def test_what_is_not_documented_is_found() -> None:
    text = "// A.\nmessage A {\n  // B.\n  oneof b {\n    int32 c = 1;\n  }\n  map<string, A> d = 2;\n}\n"
    text += "enum E {\n  E_F = 0;\n}\n"
    assert undocumented(text) == ["int32 c = 1;", "map<string, A> d = 2;", "enum E {", "E_F = 0;"]


def test_clients_of_the_released_protocol_are_still_understood() -> None:
    assert breaking_changes(released(), protocol()) == []


@pytest.mark.parametrize(
    ("what", "edit"),
    [
        ("field penfield.v1.Tensor.2", lambda f: message(f, "Tensor").field.pop(1)),
        ("field penfield.v1.Tensor.2", lambda f: setattr(message(f, "Tensor").field[1], "number", 9)),
        ("field penfield.v1.Tensor.2", lambda f: setattr(message(f, "Tensor").field[1], "name", "size")),
        ("field penfield.v1.Tensor.2", lambda f: setattr(message(f, "Tensor").field[1], "type", Field.TYPE_INT32)),
        ("field penfield.v1.Tensor.2", lambda f: setattr(message(f, "Tensor").field[1], "label", Field.LABEL_OPTIONAL)),
        ("field penfield.v1.Image.1", lambda f: message(f, "Image").field[0].ClearField("oneof_index")),
        ("message penfield.v1.Shape", lambda f: file(f, "media").message_type.pop()),
        (
            "message penfield.v1.Shape",
            lambda f: file(f, "tensor").message_type.append(file(f, "media").message_type.pop()),
        ),
        ("enum DataType", lambda f: file(f, "tensor").enum_type.pop()),
        ("value DataType.8", lambda f: file(f, "tensor").enum_type[0].value.pop()),
        ("service ModelService", lambda f: file(f, "model").service.pop()),
        ("rpc ModelService.ListModels", lambda f: file(f, "model").service[0].method.pop(0)),
        (
            "rpc ModelService.ListModels",
            lambda f: setattr(file(f, "model").service[0].method[0], "server_streaming", True),
        ),
        ("file penfield/v1/media.proto", lambda f: setattr(file(f, "media"), "package", "penfield.v2")),
    ],
)
def test_a_change_that_breaks_clients_is_found(what: str, edit: Callable[[pb.FileDescriptorSet], object]) -> None:
    assert what in breaking_changes(protocol(), change(edit))


def test_additions_break_nothing() -> None:
    def add(files: pb.FileDescriptorSet) -> None:
        message(files, "Tensor").field.add(name="layout", number=4, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
        file(files, "tensor").enum_type[0].value.add(name="DATA_TYPE_INT8", number=9)
        file(files, "model").service[0].method.add(name="CopyModel")

    assert breaking_changes(protocol(), change(add)) == []
    assert len(breaking_changes(change(add), protocol())) == 3


def compiler() -> str:
    """The Python with grpc_tools, which asks for an older protobuf than the package takes."""
    python = ROOT / ".venv-proto" / "bin" / "python"
    if not python.exists():
        pytest.skip("no .venv-proto; `make clients` makes it")
    return str(python)


def differences(compared: dircmp[str]) -> list[str]:
    compared.ignore.append("__pycache__")
    found = [*compared.left_only, *compared.right_only, *compared.diff_files, *compared.funny_files]
    found = [name for name in found if name != "__pycache__"]
    return found + [name for below in compared.subdirs.values() for name in differences(below)]


@pytest.mark.slow
def test_generated_code_is_that_of_the_protos_and_imports_with_the_oldest_protobuf(tmp_path: Path) -> None:
    python = compiler()
    package = tmp_path / "service"
    subprocess.run([python, PROTOS / "generate.py", package / "generated"], check=True)
    assert differences(dircmp(package / "generated", ROOT / "service" / "generated")) == []

    # The package around it asks for more than the generated code does.
    (package / "__init__.py").touch()
    modules = [path.relative_to(tmp_path).with_suffix("") for path in (package / "generated").rglob("*_pb2*.py")]
    assert len(modules) == 2 * (len(PENFIELD) + 1)
    imports = "; ".join(f"import {'.'.join(module.parts)}" for module in modules)
    subprocess.run([python, "-c", imports], cwd=tmp_path, check=True)
