"""Pages of the site from the notebooks, with the outputs that are stored in them."""

import base64
import json
import re
from pathlib import Path
from typing import Any


def write_pages(notebooks: Path, folder: Path) -> None:
    """Write a page for each notebook of a folder, with its pictures beside it."""
    folder.mkdir(exist_ok=True)
    for path in sorted(notebooks.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = []
        for number, cell in enumerate(cells):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(source)
                continue
            parts.append(f"```python\n{source}\n```")
            for place, output in enumerate(cell["outputs"]):
                parts.append(_shown(output, folder, f"{path.stem}_{number}_{place}"))
        title, _, rest = "\n\n".join(part for part in parts if part).partition("\n")
        note = f"The notebook is `docs/notebooks/{path.name}`; a test runs it."
        (folder / f"{path.stem}.md").write_text(f"{title}\n\n{note}\n{rest}\n", encoding="utf-8")


def _shown(output: dict[str, Any], folder: Path, name: str) -> str:
    """One output of a cell as Markdown; what goes to standard error is left out."""
    data = output.get("data", {})
    if "image/png" in data:
        (folder / f"{name}.png").write_bytes(base64.b64decode("".join(data["image/png"])))
        return f"![what the cell shows]({name}.png)"
    if "text/html" in data:
        html = "".join(data["text/html"])
        return f"```{{raw}} html\n{html}\n```"
    text = "".join(data.get("text/plain", output.get("text", "")))
    if not text.strip() or output.get("name") == "stderr":
        return ""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.rstrip())
    return f"```text\n{plain}\n```"
