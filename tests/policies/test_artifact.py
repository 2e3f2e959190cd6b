from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from policies.artifact import Artifact, inner_artifact, load_artifact, nest_artifact, save_artifact
from policies.errors import ArtifactError, UnknownNameError
from policies.registry import known_kinds, known_reward_models, load_policy, load_reward_model

ONE = Artifact("uniform", {"a": 1.5}, {"x.y": np.arange(6.0).reshape(2, 3)}, {"m.bin": b"\x00\x01"})


def test_a_save_reads_back_equal(tmp_path: Path) -> None:
    """Manifest, arrays (names with dots too) and blobs survive the disk, and the digest with them."""
    again = load_artifact(save_artifact(ONE, tmp_path / "v1"))
    assert again.manifest == ONE.manifest
    assert np.array_equal(again.arrays["x.y"], ONE.arrays["x.y"])
    assert again.blobs == ONE.blobs
    assert again.digest == ONE.digest


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A second save under one name is refused and leaves no scratch folder behind."""
    save_artifact(ONE, tmp_path / "v1")
    with pytest.raises(ArtifactError, match="never overwritten"):
        save_artifact(ONE, tmp_path / "v1")
    assert [p.name for p in tmp_path.iterdir()] == ["v1"]


def test_a_damaged_or_missing_file_is_found(tmp_path: Path) -> None:
    """Every byte is covered by a hash in the manifest."""
    folder = save_artifact(ONE, tmp_path / "v1")
    (folder / "blobs" / "m.bin").write_bytes(b"\x00\x02")
    with pytest.raises(ArtifactError, match="does not match its hash"):
        load_artifact(folder)
    (folder / "blobs" / "m.bin").unlink()
    with pytest.raises(ArtifactError, match="lacks"):
        load_artifact(folder)


def test_pickled_arrays_are_never_read_or_written(tmp_path: Path) -> None:
    """An array of objects is refused on the way out, so that no file can run anything on the way in."""
    with pytest.raises(ValueError, match="Object arrays"):
        save_artifact(Artifact("uniform", arrays={"x": np.asarray([{}], dtype=object)}), tmp_path / "v1")
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_points_outside_is_refused(tmp_path: Path) -> None:
    """A name with .. in it never leads out of the folder."""
    folder = save_artifact(ONE, tmp_path / "v1")
    (tmp_path / "secret").write_text("x")
    header = json.loads((folder / "manifest.json").read_text())
    header["sha256"]["../secret"] = "0"
    (folder / "manifest.json").write_text(json.dumps(header))
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_a_folder_of_something_else_or_of_a_later_format_says_so(tmp_path: Path) -> None:
    """No manifest and a later format are told apart."""
    with pytest.raises(ArtifactError, match="is not an artefact"):
        load_artifact(tmp_path)
    folder = save_artifact(ONE, tmp_path / "v1")
    header = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(ArtifactError, match="upgrade nextoffer"):
        load_artifact(folder)


def test_one_artefact_inside_another_comes_out_as_it_went_in() -> None:
    """Nesting keeps kind, manifest, arrays and blobs apart from those outside."""
    outer = nest_artifact(Artifact("greedy", {"b": 2}), "model", ONE)
    inner = inner_artifact(outer, "model")
    assert (inner.kind, inner.manifest, inner.blobs) == (ONE.kind, ONE.manifest, ONE.blobs)
    assert np.array_equal(inner.arrays["x.y"], ONE.arrays["x.y"])
    with pytest.raises(ArtifactError, match="holds no 'other'"):
        inner_artifact(outer, "other")


def test_unknown_kinds_answer_with_the_nearest() -> None:
    """A kind that no package registers is answered with those that are near."""
    with pytest.raises(UnknownNameError, match="did you mean 'squarecb'"):
        load_policy(Artifact("squarecbb"))
    with pytest.raises(UnknownNameError, match="did you mean 'ridge'"):
        load_reward_model(Artifact("rigde"))
    assert {"uniform", "vw", "lints"} <= set(known_kinds())
    assert {"ridge", "onnx"} <= set(known_reward_models())
