import hashlib
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.file_server import file_server
from yoloflow.cli import app
from yoloflow.config.recipes import list_recipes
from yoloflow.structures import YoloflowError
from yoloflow.weights.published import (
    find_published,
    list_published,
    published_file,
    weights_folder,
)


def test_each_published_file_is_of_one_of_our_recipes_and_has_a_hash_in_its_name() -> None:
    recipes = {recipe.name for recipe in list_recipes()}
    rows = list_published()
    assert len(rows) == 53
    assert max(Counter(row.file_name for row in rows).values()) == 1
    for row in rows:
        assert row.recipe in recipes or row.mask_ap is not None, row.recipe
        assert int(row.sha256_prefix, 16) > 0
        assert 0.2 < row.ap < 0.6


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-small-data", "yolov8n-finetune"])
def test_the_weights_of_a_recipe_are_the_best_of_them(name: str) -> None:
    assert find_published(name).ap == 0.373


def test_a_file_s_name_finds_that_file() -> None:
    assert find_published("yolov8-n_500e_mAP372-cc07f5bd.ckpt").ap == 0.372


def test_a_recipe_without_published_weights_is_told_the_nearest() -> None:
    with pytest.raises(YoloflowError, match=r"yolov5l6: no weights are published.*yolov5l6-mindyolo"):
        find_published("yolov5l6")


def test_weights_that_are_not_there_are_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(YoloflowError, match="`yoloflow weights get yolov8s` downloads them"):
        published_file("yolov8s", tmp_path)
    (tmp_path / "yolov8-s_500e_mAP446-3086f0c9.ckpt").touch()
    assert published_file("yolov8s", tmp_path).name == "yolov8-s_500e_mAP446-3086f0c9.ckpt"


def test_the_commands_list_and_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    content = b"weights"
    row = find_published("yolox-nano")
    runner = CliRunner()
    with file_server() as server:
        server.files[f"/{row.file_name}"] = content
        refused = runner.invoke(app, ["weights", "get", "yolox-nano", "--mirror", server.url])
    assert isinstance(refused.exception, YoloflowError)
    found = hashlib.sha256(content).hexdigest()[:16]
    assert f"SHA-256 {found}..., which should begin with {row.sha256_prefix}" in str(refused.exception)
    assert not list(weights_folder().iterdir())
    (weights_folder() / row.file_name).write_bytes(content)
    listed = runner.invoke(app, ["weights", "list"]).output
    assert f"* yolox-nano         416  0.241  {row.file_name}" in listed
    assert "Apache-2.0" in listed
