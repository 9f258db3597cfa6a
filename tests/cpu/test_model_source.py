"""A model's name leads to a directory, or to a message that says what to do."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ellm.core.errors import ModelNotFound
from ellm.llm import model_source
from ellm.llm.model_source import resolve_model


def test_a_directory_is_itself(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path


def test_a_directory_named_like_a_bundled_model_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ellm-base").mkdir()
    assert resolve_model("ellm-base") == Path("ellm-base")


@pytest.mark.parametrize("name", ["/no/such/dir", "./nowhere", "a/b/c", "sp ace"])
def test_a_path_is_never_asked_for_at_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ModelNotFound, match="no directory"):
        resolve_model(name)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    with pytest.raises(ModelNotFound, match=r"is a file.*config\.json"):
        resolve_model(str(path))


def test_a_hub_id_fetches_only_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def answer(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert resolve_model("some/model") == tmp_path
    assert asked["name"] == "some/model"
    assert "*.safetensors" in asked["allow_patterns"]  # type: ignore[operator]


def test_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("outgoing traffic has been disabled\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ModelNotFound, match=r"unset HF_HUB_OFFLINE.*local model.*ellm-base"
    ) as info:
        resolve_model("some/model")
    assert "\n" not in str(info.value)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ModelNotFound, match="give the path"):
        resolve_model("some/model")


def test_an_impossible_id_is_refused_by_the_hub_library() -> None:
    with pytest.raises(ModelNotFound, match="not a hub id"):
        resolve_model("bad--name/x")


def test_a_missing_bundled_model_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_source, "MODELS", {"ellm-base": tmp_path / "bundled" / "base"})
    with pytest.raises(ModelNotFound, match=r"bundled.base"):
        resolve_model("ellm-base")
