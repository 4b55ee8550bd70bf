"""The house keeps its own rules; each test names all places that break one."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.house_figures import FunctionNode, SourceFile, length, loop_depth, read_files

ROOT = Path(__file__).parent.parent
FILES = read_files(ROOT, "yoloflow")
TESTS = read_files(ROOT, "tests")
BY_PATH = {file.path: file for file in FILES}
DRAWERS = re.compile(r"(^|/)(utils?|misc|common|helpers?|tools|factory|base_utils)(\.py|/)")
# A docstring says what a thing does or is; such clauses leave the reader to guess the verb.
CLAUSE = re.compile(r"(What|How|Where|Whether|So many|Who|Whose|Which|Why|When)\b")


def test_a_file_stays_under_400_lines() -> None:
    assert [f"{file.path}: {file.lines}" for file in FILES if file.lines > 400] == []


def test_a_function_stays_under_60_lines() -> None:
    too_long = [
        f"{file.path}:{node.lineno} {node.name}: {length(node)}"
        for file in FILES
        for node in file.functions
        # The flow's eight steps have a limit of their own, below.
        if length(node) > (80 if (file.path, node.name) == ("yoloflow/flow.py", "train") else 60)
    ]
    assert too_long == []


def test_no_file_is_a_drawer() -> None:
    assert [file.path for file in FILES if DRAWERS.search(file.path)] == []


def forbidden(file: SourceFile) -> Iterator[ast.stmt | ast.expr | ast.ExceptHandler]:
    for node in ast.walk(file.tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("eval", "exec")
        ):
            yield node
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            yield node
        if isinstance(node, ast.ExceptHandler) and (
            node.type is None or ast.unparse(node.type) == "Exception"
        ):
            yield node


def test_no_eval_no_star_import_no_blanket_except() -> None:
    assert [f"{file.path}:{node.lineno}" for file in FILES for node in forbidden(file)] == []


def test_only_the_runtime_names_what_cuda_alone_has() -> None:
    names = re.compile(r"torch\.cuda|torch\.backends\.cud|from torch import .*\bcuda\b")
    assert [file.path for file in FILES if names.search(file.text)] == [
        "yoloflow/runtime/cuda_graph.py",
        "yoloflow/runtime/device.py",
        "yoloflow/runtime/random_generators.py",
    ]


def public_docstrings(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Line and first line of the docstrings of the module and of what is public in it."""
    todo: list[ast.Module | ast.ClassDef | FunctionNode] = [file.tree]
    while todo:
        node = todo.pop()
        if docstring := ast.get_docstring(node):
            yield node.body[0].lineno, docstring.splitlines()[0]
        if not isinstance(node, FunctionNode):
            named = [part for part in node.body if isinstance(part, ast.ClassDef | FunctionNode)]
            todo += [part for part in named if not part.name.startswith("_") or part.name == "__init__"]


def test_a_docstring_begins_with_a_sentence_that_says_what_the_thing_does_or_is() -> None:
    clauses = [
        f"{file.path}:{line} {text}"
        for file in FILES
        for line, text in public_docstrings(file)
        if CLAUSE.match(text) or not text.endswith(".")
    ]
    assert clauses == []


def test_the_flow_is_a_page_with_eight_numbered_steps() -> None:
    file = BY_PATH["yoloflow/flow.py"]
    (train,) = [node for node in file.functions if node.name == "train"]
    lines = file.text.splitlines()[train.lineno - 1 : train.end_lineno]
    numbers = [int(match.group(1)) for line in lines if (match := re.match(r"\s*# (\d)\. ", line))]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8]
    assert length(train) <= 80
    assert file.lines <= 150


def test_the_loop_is_a_page_at_most_three_calls_above_the_train_step() -> None:
    file = BY_PATH["yoloflow/trainer/trainer.py"]
    depth = loop_depth(file)
    assert depth is not None
    assert depth <= 3
    assert file.lines <= 180


def test_the_package_does_not_grow_unnoticed() -> None:
    # What it takes to come below 24,000 stands in docs/decisions/0005-the-house.md.
    assert sum(file.lines for file in FILES) < 44_700


def test_no_test_imports_another_test() -> None:
    imports = re.compile(r"^\s*(?:from|import) (tests\.(?:\w+\.)*test_\w+)", re.MULTILINE)
    assert [f"{file.path}: {name}" for file in TESTS for name in imports.findall(file.text)] == []


def test_a_file_of_tests_stays_under_650_lines() -> None:
    assert [f"{file.path}: {file.lines}" for file in TESTS if file.lines > 650] == []
