"""Figures of the code itself: `python -m benchmarks.house_figures [--tree PATH ...] [--junit FILE ...]`.

Everything is read from the source with `ast`, so an older checkout can be measured too: two `--tree` give a
table of before and after. `--junit` adds the tests' seconds (`python -m pytest --junitxml=FILE`), one file
for each tree, in the same order. What a figure means is said where it is computed.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree

PACKAGE = "yoloflow"
MARKS = ("process", "training", "compile", "browser", "oracle", "fuzz", "full")
LONG_FUNCTION, MANY_PARAMETERS = 60, 8

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class SourceFile:
    """A Python file and what is in it."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @property
    def lines(self) -> int:
        """Lines, blank ones included."""
        return self.text.count("\n")

    @cached_property
    def functions(self) -> list[FunctionNode]:
        """Functions and methods, nested ones included."""
        return [node for node in ast.walk(self.tree) if isinstance(node, FunctionNode)]

    @property
    def room(self) -> str:
        """The first name below the package, such as `data` or `flow`."""
        return self.path.split("/")[1].removesuffix(".py")


def read_files(tree: Path, folder: str) -> list[SourceFile]:
    """Reads all Python files of a folder of a checkout; none where there is no such folder."""
    files = sorted((tree / folder).rglob("*.py"))
    return [SourceFile(path.relative_to(tree).as_posix(), path.read_text(encoding="utf-8")) for path in files]


def count_lines(tree: Path, *suffixes: str) -> int:
    """Counts the lines of the package's files with one of these suffixes."""
    files = [path for path in (tree / PACKAGE).rglob("*") if path.suffix in suffixes]
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files)


def length(node: FunctionNode) -> int:
    """Lines of a function from `def` to its end, docstring included, decorators not."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def parameters(node: FunctionNode) -> int:
    """Parameters of a function without `self` and `cls`."""
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def docstring_lines(file: SourceFile) -> int:
    """Lines that belong to docstrings."""
    total = 0
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Module | ast.ClassDef | FunctionNode) and ast.get_docstring(node, False):
            expression = node.body[0]
            total += (expression.end_lineno or expression.lineno) - expression.lineno + 1
    return total


def comment_lines(file: SourceFile) -> int:
    """Lines with nothing but a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(file.text).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def arrows(files: Iterable[SourceFile]) -> set[tuple[str, str]]:
    """Returns which room imports from which other; imports for types only are counted too."""
    found = set()
    for file in files:
        for node in ast.walk(file.tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{PACKAGE}."):
                found.add((file.room, node.module.split(".")[1]))
    return {(one, other) for one, other in found if one not in (other, "__init__")}


def class_fields(files: Iterable[SourceFile]) -> dict[str, ast.ClassDef]:
    """Returns the classes by name."""
    nodes = (node for file in files for node in ast.walk(file.tree))
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def setting_keys(classes: Mapping[str, ast.ClassDef]) -> set[str]:
    """Returns the names of all settings: the fields of `Config` and of the sections in it, bases included."""
    keys, seen, todo = set(), set(), ["Config"]
    while todo:
        name = todo.pop()
        if name in seen or name not in classes:
            continue
        seen.add(name)
        todo += [base.id for base in classes[name].bases if isinstance(base, ast.Name)]
        for node in classes[name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                sections = [part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)]
                todo += [section for section in sections if section in classes]
                if not node.target.id.startswith("_"):
                    keys.add(node.target.id)
    return keys


def named_places(file: SourceFile) -> Iterator[tuple[str, int]]:
    """Yields name and line of what may be a place of a setting.

    Such a place is a typed field of a class, a parameter with a default, an argument `key=x.key`, or the
    key's name as a text, docstrings aside.
    """
    for node in ast.walk(file.tree):
        if isinstance(node, ast.ClassDef):
            fields = [part for part in node.body if isinstance(part, ast.AnnAssign)]
            yield from ((part.target.id, part.lineno) for part in fields if isinstance(part.target, ast.Name))
        elif isinstance(node, FunctionNode):
            plain = [*node.args.posonlyargs, *node.args.args]
            with_default = plain[len(plain) - len(node.args.defaults) :]
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            with_default += [argument for argument, default in pairs if default is not None]
            yield from ((argument.arg, argument.lineno) for argument in with_default)
        elif isinstance(node, ast.keyword) and isinstance(node.value, ast.Attribute):
            if node.arg == node.value.attr:
                yield node.value.attr, node.value.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value, node.lineno


def places_of_settings(files: list[SourceFile]) -> dict[str, int]:
    """Counts for every setting the places where it is declared or copied by name (see `named_places`).

    Only names of two words or more are counted: `device` or `name` mean other things as well.
    """
    keys = {key for key in setting_keys(class_fields(files)) if "_" in key}
    places: dict[str, set[tuple[str, int]]] = {key: set() for key in keys}
    for file in files:
        for name, line in named_places(file):
            if name in places:
                places[name].add((file.path, line))
    return {key: len(found) for key, found in places.items()}


def called_names(node: ast.AST) -> list[str]:
    """Returns the names that a function calls, methods and attributes by their last part."""
    functions = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
    attributes = [function.attr for function in functions if isinstance(function, ast.Attribute)]
    return attributes + [function.id for function in functions if isinstance(function, ast.Name)]


def loop_depth(file: SourceFile) -> int | None:
    """Counts the calls from `Trainer.train` to the train step on the shortest way; None without one."""
    calls = {node.name: called_names(node) for node in file.functions}
    queue, seen = deque([("train", 0)]), {"train"}
    while queue:
        name, depth = queue.popleft()
        for callee in calls.get(name, []):
            if callee in ("train_step", "train_step_fn"):
                return depth + 1
            if callee in calls and callee not in seen:
                seen.add(callee)
                queue.append((callee, depth + 1))
    return None


def marks_of(decorators: Iterable[ast.AST]) -> set[str]:
    """Returns the marks that expressions such as `pytest.mark.process` name."""
    nodes = [node for decorator in decorators for node in ast.walk(decorator)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in MARKS]
    return {node.attr for node in attributes if ast.unparse(node.value) == "pytest.mark"}


def marked_tests(files: Iterable[SourceFile]) -> dict[tuple[str, str], str]:
    """Returns the first mark (or "none") of every test function, by module and name."""
    found = {}
    for file in files:
        assigned = [
            node.value
            for node in file.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        ]
        module = file.path.removesuffix(".py").replace("/", ".")
        for node in file.functions:
            if node.name.startswith("test_"):
                own = [item for item in node.decorator_list if "parametrize" not in ast.unparse(item)]
                marks = marks_of([*assigned, *own])
                found[module, node.name] = next((mark for mark in MARKS if mark in marks), "none")
    return found


def junit_seconds(junit: Path, marks: Mapping[tuple[str, str], str]) -> dict[str, tuple[int, float]]:
    """Returns cases and seconds by mark, from a report of pytest."""
    totals: dict[str, list[float]] = defaultdict(list)
    for case in ElementTree.parse(junit).iter("testcase"):
        function = case.get("name", "").split("[")[0]
        totals[marks.get((case.get("classname", ""), function), "none")].append(float(case.get("time", 0)))
    return {mark: (len(times), sum(times)) for mark, times in totals.items()}


def spread(values: Iterable[int]) -> str:
    """Returns median / 90th percentile / largest."""
    ordered = sorted(values)
    return f"{statistics.median(ordered):g} / {ordered[int(0.9 * len(ordered))]} / {ordered[-1]}"


def size_of(files: Iterable[SourceFile], path: str, function: str | None = None) -> str:
    """Returns the lines of a file, or of a function in it; "-" where there is none."""
    for file in files:
        if file.path == f"{PACKAGE}/{path}":
            if function is None:
                return str(file.lines)
            return next((str(length(node)) for node in file.functions if node.name == function), "-")
    return "-"


def find_trainer(files: Iterable[SourceFile]) -> SourceFile | None:
    """Returns the file of the loop."""
    return next(
        (file for file in files if file.path.endswith(("/trainer/trainer.py", "/engine/trainer.py"))), None
    )


def measure(tree: Path, junit: Path | None) -> dict[str, str]:
    """Measures a checkout; texts by what they say."""
    files, tests = read_files(tree, PACKAGE), read_files(tree, "tests")
    functions = [node for file in files for node in file.functions]
    lines = sum(file.lines for file in files)
    settings = places_of_settings(files)
    trainer = find_trainer(files)
    depth = loop_depth(trainer) if trainer else None
    most = max(settings, key=lambda key: settings[key])
    marks = marked_tests(tests)
    counts = Counter(marks.values())
    figures = {
        "Python files of the package": str(len(files)),
        "Python lines": f"{lines:,}",
        "JavaScript and CSS lines": f"{count_lines(tree, '.js', '.css'):,}",
        "YAML lines": f"{count_lines(tree, '.yaml'):,}",
        "lines of a file: median / p90 / largest": spread(file.lines for file in files),
        "functions": f"{len(functions):,}",
        "lines of a function: median / p90 / largest": spread(map(length, functions)),
        f"functions of more than {LONG_FUNCTION} lines": str(
            sum(length(node) > LONG_FUNCTION for node in functions)
        ),
        f"functions of more than {MANY_PARAMETERS} parameters": str(
            sum(parameters(node) > MANY_PARAMETERS for node in functions)
        ),
        "lines of docstrings": f"{sum(map(docstring_lines, files)) / lines:.1%}",
        "lines of comments": f"{sum(map(comment_lines, files)) / lines:.1%}",
        "rooms": str(len({file.room for file in files} - {"__init__", "__main__"})),
        "arrows between rooms": str(len(arrows(files))),
        "`flow.py`, lines": size_of(files, "flow.py"),
        "`train` in it, lines": size_of(files, "flow.py", "train"),
        "`trainer.py`, lines": "-" if trainer is None else str(trainer.lines),
        "calls from `Trainer.train` to the train step": "-" if depth is None else str(depth),
        "settings with a name of two words or more": str(len(settings)),
        "places of a setting: mean / median / most": (
            f"{statistics.mean(settings.values()):.1f} / {statistics.median(settings.values()):g}"
            f" / {settings[most]} (`{most}`)"
        ),
        "test files / lines": f"{len(tests)} / {sum(file.lines for file in tests):,}",
        "test functions without a mark": str(counts["none"]),
        **{f"test functions marked {mark}": str(counts[mark]) for mark in MARKS},
    }
    if junit is not None:
        for mark, (cases, seconds) in sorted(junit_seconds(junit, marks).items()):
            label = "without a mark" if mark == "none" else f"marked {mark}"
            figures[f"tests {label}: cases, seconds"] = f"{cases:,}, {seconds:,.0f} s"
    return figures


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Returns a Markdown table with a column for each tree."""
    rows = list(dict.fromkeys(key for figures in columns.values() for key in figures))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    lines += [
        f"| {row} | " + " | ".join(part.get(row, "-") for part in columns.values()) + " |" for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout (default: this one)")
    parser.add_argument(
        "--junit", type=Path, action="append", default=[], help="pytest's XML report of a tree"
    )
    arguments = parser.parse_args()
    trees = arguments.tree or [Path(__file__).parent.parent]
    names = {1: ["now"], 2: ["before", "after"]}.get(len(trees), [str(tree) for tree in trees])
    reports = [*arguments.junit, *[None] * len(trees)]
    print(
        table(
            {name: measure(tree, report) for name, tree, report in zip(names, trees, reports, strict=False)}
        )
    )


if __name__ == "__main__":
    main()
