"""What is published is whole: one version, all files of data, files of the project that hold together."""

import re
import tomllib
from pathlib import Path

import yaml

import yoloflow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "yoloflow.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", yoloflow.__version__)
    version = re.escape(yoloflow.__version__)
    others = [*(ROOT / "yoloflow").rglob("*.py"), ROOT / "pyproject.toml", ROOT / "CITATION.cff"]
    stated = re.compile(rf"version[\W_]{{1,8}}{version}", re.IGNORECASE)
    assert [path.name for path in others if stated.search(path.read_text())] == ["__init__.py"]


def test_every_file_of_data_is_part_of_the_wheel() -> None:
    package = ROOT / "yoloflow"
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["yoloflow"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    data = {
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts
    }
    assert data - packed == set()
    assert all(list(package.glob(pattern)) for pattern in patterns)


def test_the_citation_has_what_its_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["abstract"] == PROJECT["project"]["description"]


def test_the_image_copies_files_that_are_there_and_that_are_not_ignored() -> None:
    recipe = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", recipe, re.MULTILINE) for name in line.split()]
    assert {"pyproject.toml", "README.md", "LICENSE", "NOTICE", "yoloflow"} == set(copied)
    assert [name for name in copied if not (ROOT / name).exists() or f"!{name}" not in ignored] == []
    (base,) = re.findall(r"^FROM python:(\S+)-slim$", recipe, re.MULTILINE)
    assert f"Programming Language :: Python :: {base}" in PROJECT["project"]["classifiers"]


def test_workflows_try_each_python_that_the_project_names() -> None:
    for name in ("ci", "release"):
        jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]
        tried = [job["strategy"]["matrix"]["python-version"] for job in jobs.values() if "strategy" in job]
        named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
        assert tried == [named]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
