"""The files of an ONNX model: the model, and the files beside it with its weights."""

from __future__ import annotations

import difflib
import hashlib
import re
from pathlib import Path, PurePosixPath

from mltrigger.errors import InvalidModel
from mltrigger.text import short
from mltrigger.versions.address import Address

# StringStringEntryProto {key: "location", value: …} of TensorProto.external_data in protobuf:
# https://github.com/onnx/onnx/blob/main/docs/ExternalData.md
_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
_LFS = b"version https://git-lfs"


def path_of(address: Address) -> Path:
    """Return the file of *address*, or raise InvalidModel with near names."""
    path = Path(address.rest)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise InvalidModel(
                    f"{path.name} is a pointer of Git LFS, not the model: git lfs pull"
                )
        return path
    if path.is_dir():
        raise InvalidModel(
            f"{path.name!r} is a folder; name the file in it: onnx:{path.name}/model.onnx"
        )
    shown = path.name if path.is_absolute() else str(path)
    near = difflib.get_close_matches(
        path.name, [other.name for other in path.parent.glob("*.onnx")], n=3
    )
    hint = f"; did you mean {' or '.join(map(repr, near))} there?" if near else ""
    raise InvalidModel(
        f"there is no file {shown[:200]!r} (looked for from the working directory){hint}"
    )


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of the file. With weights in files beside it, it is over all sums."""
    try:
        raw = path.read_bytes()
        model = hashlib.sha256(raw).hexdigest()
        sums = [f"{name}\0{_sum(path.parent / name)}" for name in weights_of(raw, path)]
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror}") from error
    return hashlib.sha256("\0".join([model, *sums]).encode()).hexdigest() if sums else model


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_of(raw: bytes, path: Path) -> list[str]:
    """Return the names of the files beside the model that hold its weights.

    Raises
    ------
    InvalidModel
        When one is missing, or in another folder.
    """
    found: set[str] = set()
    for match in _LOCATION.finditer(raw):
        size = match[1][0] if len(match[1]) == 1 else match[1][0] & 0x7F | match[1][1] << 7
        found.add(raw[match.end() : match.end() + size].decode("utf-8", "backslashreplace"))
    for name in found:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or "\\" in name:
            raise InvalidModel(
                f"{path.name} keeps weights in {short(name)!r}, which is not in its folder; only"
                " files there are read"
            )
        if not path.parent.joinpath(name).is_file():
            raise InvalidModel(
                f"{path.name} keeps weights in {short(name)!r}, which is not beside it; both files"
                " belong together"
            )
    return sorted(found)
