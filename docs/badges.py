"""The badges of the README, from what pyproject.toml says.

python docs/badges.py   # writes them again; a test compares them
"""

import re
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "_static" / "badges"
TOLERANCE = "1e-4"
"""Of latents, as a share of the largest: what ``tests/parity/test_pipeline.py`` holds."""
CHARACTER = 6.1
"""Pixels that a character takes, about; ``textLength`` makes it exact."""


def badges() -> dict[str, str]:
    """The SVG of each badge, by its name."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    first, last = _versions(needs, "jax")
    diffusers, _ = _versions(needs, "diffusers")
    return {
        "parity": badge("latents", f"within {TOLERANCE} of diffusers {diffusers}", "#1a7f37"),
        "jax": badge("jax", f"{first} to {last}", "#0969da"),
        "python": badge("python", f"{project['requires-python'].removeprefix('>=')}+", "#0969da"),
        "licence": badge("licence", project["license"], "#57606a"),
    }


def _versions(needs: list[str], package: str) -> tuple[str, str]:
    """The first and the last release that a requirement ``package>=A.B.C,<A.D`` allows."""
    for need in needs:
        match = re.match(rf"{package}>=(\d+)\.(\d+)\S*,<\1\.(\d+)", need)
        if match:
            major, low, above = match.groups()
            return f"{major}.{low}", f"{major}.{int(above) - 1}"
    raise LookupError(f"no requirement of {package} with a least and a most version")


def badge(label: str, value: str, color: str) -> str:
    """Two words beside each other, the second on a color."""
    left = round(len(label) * CHARACTER) + 12
    right = round(len(value) * CHARACTER) + 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
        f'aria-label="{label}: {value}">\n'
        f"<title>{label}: {value}</title>\n"
        f'<clipPath id="round"><rect width="{left + right}" height="20" rx="4"/></clipPath>\n'
        '<g clip-path="url(#round)" fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" '
        'font-size="11">\n'
        f'<rect width="{left}" height="20" fill="#32383f"/>\n'
        f'<rect x="{left}" width="{right}" height="20" fill="{color}"/>\n'
        f'<text x="6" y="14" textLength="{left - 12}">{label}</text>\n'
        f'<text x="{left + 6}" y="14" textLength="{right - 12}">{value}</text>\n'
        "</g>\n</svg>\n"
    )


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, svg in badges().items():
        (FOLDER / f"{name}.svg").write_text(svg, encoding="utf-8")
