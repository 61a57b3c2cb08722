"""The messages of the errors that a person can cause, collected from the source.

``conf.py`` writes them to a page of the reference, and ``tests/test_docs.py`` compares the guide to
troubleshooting with them.
"""

import ast
import functools
from pathlib import Path
from typing import NamedTuple

LIBRARY = Path(__file__).parents[1] / "helios_jax"
BASE = "HeliosError"
ELLIPSIS = "..."
"""What stands where a message has a value."""


class Message(NamedTuple):
    """What one place of the source says.

    Attributes:
      error: the class.
      text: with :data:`ELLIPSIS` for its values.
      file: below the package.
    """

    error: str
    text: str
    file: str


@functools.cache
def sources() -> list[tuple[str, ast.Module]]:
    """Every file of the library, by its path below it; the kernels lie behind a link."""
    paths = sorted(LIBRARY.rglob("*.py")) + sorted((LIBRARY / "kernels").rglob("*.py"))
    found = []
    for path in paths:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.append((path.relative_to(LIBRARY).as_posix(), tree))
    return found


@functools.cache
def error_classes() -> dict[str, str]:
    """Every subclass of the base error, with the first paragraph of its docstring."""
    found = {BASE: ""}
    for _ in range(4):  # subclasses of subclasses
        for _, tree in sources():
            for node in ast.walk(tree):
                if not isinstance(node, ast.ClassDef):
                    continue
                if any(isinstance(base, ast.Name) and base.id in found for base in node.bases):
                    doc = (ast.get_docstring(node) or "").split("\n\n")[0]
                    found[node.name] = " ".join(doc.split())
    return found


def messages() -> list[Message]:
    """Every message that an error is made with in place, in the order of the files."""
    classes = error_classes()
    found = []
    for file, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            if node.func.id in classes and node.args:
                text = template(node.args[-1])
                if text.replace(ELLIPSIS, "").strip(" :,;()"):
                    found.append(Message(node.func.id, text, file))
    return found


def template(node: ast.expr) -> str:
    """The text of an expression, with an ellipsis for what is known only when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    return ELLIPSIS


def as_page() -> str:
    """The page of the reference: messages by the class of their errors, which is explained."""
    classes = error_classes()
    by_class: dict[str, dict[str, str]] = {}
    for message in messages():
        by_class.setdefault(message.error, {}).setdefault(message.text, message.file)
    lines = [
        "# Messages",
        "",
        "Every message of an error that files, arguments or a machine can cause, as it stands in "
        "the source: it says what is wrong, where, and what to do. Dots stand for names and "
        "numbers. A command prints it in one line and exits with status 2.",
        "",
    ]
    for name in sorted(by_class):
        lines += [f"## {name}", "", classes[name], "", "```text"]
        for text, file in by_class[name].items():
            lines.append(f"{' '.join(text.split())}    [{file}]")
        lines += ["```", ""]
    return "\n".join(lines)
