"""Descriptor sets and Python stubs of the contract, made from the .proto files beside this module.

The wheel build, the editable install and ``make proto`` all come through here, so that there is
one way to make them. Two things that the contract imports lie in packages and not in this
repository: the protos of ``google.rpc`` are files of googleapis-common-protos, and
``buf/validate/validate.proto`` is the descriptor inside protovalidate, whose wheel carries no
source of it.

No ``buf.validate`` Python module is made: the stubs are generated from descriptors whose import of
``buf/validate/validate.proto`` is taken out. The rules stay where they were, as option bytes, which
is where protovalidate reads them. A module of that name would be a file that several wheels
install, and of two versions of that proto in one process protobuf's descriptor pool refuses one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc
from protovalidate import ViolationPb

SOURCES = Path(__file__).resolve().parent
PACKAGE = "leyline/v1"
RULES = "buf/validate/validate.proto"
STUBS = "*_pb2*.py*"


class ProtocError(Exception):
    """protoc refused the contract; it has said why on stderr."""


def sources() -> list[str]:
    """The contract's files, as import paths, sorted."""
    return sorted(
        path.relative_to(SOURCES).as_posix() for path in (SOURCES / PACKAGE).glob("*.proto")
    )


def contract() -> FileDescriptorSet:
    """Compiles the contract: descriptors with comments, its own and those of all it imports.

    Raises:
        ProtocError: a file does not compile, or imports what it does not use.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rules, compiled = Path(scratch, "rules.binpb"), Path(scratch, "contract.binpb")
        descriptor = FileDescriptorProto.FromString(ViolationPb.desc().file.proto.to_binary())
        rules.write_bytes(FileDescriptorSet(file=[descriptor]).SerializeToString())
        _protoc(
            "--fatal_warnings",
            f"--proto_path={SOURCES}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",
            f"--proto_path={Path(str(files('google.rpc') / 'status.proto')).parents[2]}",
            f"--descriptor_set_in={rules}",
            "--include_imports",
            "--include_source_info",
            f"--descriptor_set_out={compiled}",
            *sources(),
        )
        return FileDescriptorSet.FromString(compiled.read_bytes())


def without_comments(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    """The same without positions and comments: a baseline that no edit of a comment changes."""
    bare = FileDescriptorSet()
    bare.CopyFrom(descriptors)
    for file in bare.file:
        file.ClearField("source_code_info")
    return bare


def write_stubs(descriptors: FileDescriptorSet, root: Path) -> list[Path]:
    """Writes stubs and their types into ``root/leyline/v1``; removes those of protos that are gone.

    A file that would not change is not touched, and one that does is replaced at once: a process
    that imports meanwhile finds the earlier or the later one, never half of it.

    Args:
        descriptors: what ``contract`` returned.
        root: the directory that holds the package ``leyline``.

    Returns:
        Every stub of the package, sorted.
    """
    target = root / PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".stubs-") as scratch:
        pruned, out = Path(scratch, "contract.binpb"), Path(scratch, "stubs")
        pruned.write_bytes(_without_rules_import(descriptors).SerializeToString())
        out.mkdir()
        _protoc(
            f"--descriptor_set_in={pruned}",
            f"--plugin=protoc-gen-mypy={_plugin('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={_plugin('protoc-gen-mypy_grpc')}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{out}",
            *sources(),
        )
        fresh = {path.name: path for path in (out / PACKAGE).glob(STUBS)}
        for path in target.glob(STUBS):
            if path.name not in fresh:
                path.unlink()
        for name, path in fresh.items():
            earlier = target / name
            if not (earlier.exists() and earlier.read_bytes() == path.read_bytes()):
                os.replace(path, earlier)
        return sorted(target / name for name in fresh)


def _without_rules_import(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    pruned = FileDescriptorSet()
    for file in descriptors.file:
        if file.name != RULES:
            kept = pruned.file.add()
            kept.CopyFrom(file)
            kept.dependency[:] = [name for name in file.dependency if name != RULES]
    return pruned


def _protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        raise ProtocError(f"protoc failed on {PACKAGE}")


def _plugin(name: str) -> str:
    # pip puts an isolated build's programs on PATH; otherwise they lie beside the interpreter.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
    found = shutil.which(name, path=path)
    if found is None:
        raise ProtocError(f"{name} is not installed; it comes with mypy-protobuf")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make stubs and descriptor sets of the contract.")
    parser.add_argument(
        "--stubs", type=Path, metavar="DIR", help="write Python stubs into DIR/leyline/v1"
    )
    parser.add_argument(
        "--descriptors", type=Path, metavar="FILE", help="write descriptors with comments"
    )
    parser.add_argument(
        "--baseline", type=Path, metavar="FILE", help="write descriptors without comments"
    )
    options = parser.parse_args(arguments)
    try:
        descriptors = contract()
        if options.stubs:
            write_stubs(descriptors, options.stubs)
    except ProtocError as error:
        print(error, file=sys.stderr)
        return 1
    for path, content in (
        (options.descriptors, descriptors),
        (options.baseline, without_comments(descriptors)),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.SerializeToString(deterministic=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
