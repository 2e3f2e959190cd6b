"""How anything fitted is written down: arrays, blobs and a manifest of plain values under a registered kind.

No pickled classes and no module paths, so that code may move and a file from elsewhere cannot run anything.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import ArtifactError

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class Artifact:
    """A fitted thing as values.

    Parameters
    ----------
    kind
        Registered name of what can be made of it again (``registry.load_policy``).
    manifest
        Plain JSON values: hyper-parameters, names, hashes.
    arrays
        Numeric arrays by name; never of dtype object.
    blobs
        Opaque bytes by name (a VW model, an ONNX graph).
    """

    kind: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    blobs: Mapping[str, bytes] = field(default_factory=dict)

    def files(self) -> dict[str, bytes]:
        """All files of the artefact by relative name, the manifest (with the others' hashes) last."""
        out: dict[str, bytes] = {}
        for name in sorted(self.arrays):
            buffer = io.BytesIO()
            np.save(buffer, self.arrays[name], allow_pickle=False)
            out[f"arrays/{name}.npy"] = buffer.getvalue()
        for name in sorted(self.blobs):
            out[f"blobs/{name}"] = bytes(self.blobs[name])
        header = {
            "format": FORMAT_VERSION,
            "kind": self.kind,
            "manifest": dict(self.manifest),
            "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in out.items()},
        }
        out["manifest.json"] = json.dumps(header, indent=1, sort_keys=True, allow_nan=False).encode()
        return out

    @property
    def digest(self) -> str:
        """Hash of the whole content, 16 hexadecimal digits: the version of what was fitted."""
        return hashlib.sha256(self.files()["manifest.json"]).hexdigest()[:16]


def nest_artifact(outer: Artifact, name: str, inner: Artifact) -> Artifact:
    """Put one artefact inside another, under a name; ``inner_artifact`` takes it out again."""
    return Artifact(
        kind=outer.kind,
        manifest={**outer.manifest, name: {"kind": inner.kind, "manifest": dict(inner.manifest)}},
        arrays={**outer.arrays, **{f"{name}.{key}": array for key, array in inner.arrays.items()}},
        blobs={**outer.blobs, **{f"{name}.{key}": blob for key, blob in inner.blobs.items()}},
    )


def inner_artifact(outer: Artifact, name: str) -> Artifact:
    """Take out what ``nest_artifact`` put in.

    Raises
    ------
    ArtifactError
        If there is nothing under that name.
    """
    if name not in outer.manifest:
        raise ArtifactError(f"artefact of kind {outer.kind!r} holds no {name!r}; save it again with this version")
    header, prefix = outer.manifest[name], f"{name}."
    return Artifact(
        kind=header["kind"],
        manifest=header["manifest"],
        arrays={key.removeprefix(prefix): a for key, a in outer.arrays.items() if key.startswith(prefix)},
        blobs={key.removeprefix(prefix): b for key, b in outer.blobs.items() if key.startswith(prefix)},
    )


def save_artifact(artifact: Artifact, folder: Path) -> Path:
    """Write an artefact into a new folder: all of it appears at once, or none of it.

    Raises
    ------
    ArtifactError
        If the folder exists already.
    """
    if folder.exists():
        raise ArtifactError(f"{folder} exists already; artefacts are never overwritten: choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in artifact.files().items():
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return folder


def load_artifact(folder: Path) -> Artifact:
    """Read an artefact and check every file against the hash in its manifest.

    Raises
    ------
    ArtifactError
        If a file is missing, damaged, or the format is from a later version.
    """
    try:
        header = json.loads((folder / "manifest.json").read_bytes())
        version, kind, manifest, hashes = header["format"], header["kind"], header["manifest"], header["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} is not an artefact ({error}); expected a folder with manifest.json") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder} has artefact format {version}; this version reads {FORMAT_VERSION}: upgrade nextoffer"
        )
    arrays: dict[str, NDArray[Any]] = {}
    blobs: dict[str, bytes] = {}
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file() or ".." in Path(name).parts:
            raise ArtifactError(f"{folder} lacks {name}; copy the whole folder again")
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ArtifactError(f"{path} does not match its hash in the manifest; copy the whole folder again")
        if name.startswith("arrays/"):
            arrays[path.stem] = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            blobs[path.name] = content
    return Artifact(kind=kind, manifest=manifest, arrays=arrays, blobs=blobs)
