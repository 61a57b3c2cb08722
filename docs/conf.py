"""Sphinx builds the site from the Markdown beside this file, docstrings and the commands' flags:

pip install -e '.[docs]' && sphinx-build -W -b html docs docs/_build

Where there is a network, ``sphinx-build -b linkcheck docs docs/_build/links`` asks every outside
link for an answer.
"""

import sys
from pathlib import Path

from absl import flags

import helios_jax
from helios_jax.commands import COMMANDS
from helios_jax.commands.cli import help_text
from helios_jax.commands.flag_lists import find_command, subcommands

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from configuration import as_page as configuration_page  # noqa: E402  beside this file
from figures import write_figures  # noqa: E402
from messages import as_page  # noqa: E402
from notebook_pages import write_pages  # noqa: E402

project = "helios-jax"
author = "The helios-jax developers"
version = release = helios_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "sphinx_book_theme"
html_title = "helios-jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_navbar_depth": 2, "navbar_persistent": []}
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and dtypes stand in the docstrings
linkcheck_ignore = [r"http://127\.0\.0\.1"]  # where the live page listens
linkcheck_timeout = 20
linkcheck_retries = 2
linkcheck_workers = 4
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["myst.xref_missing"]  # links to results and sources, which are not pages


def write_commands() -> None:
    """Write ``reference/commands.md``: the help text of every command."""
    parts = ["# Commands", "", "`helios-jax COMMAND --help` prints the same.", ""]
    for name, what in COMMANDS.items():
        parts += [f"## {name}", "", f"{what[0].upper()}{what[1:]}.", ""]
        for subcommand, doc, define_flags in subcommands(find_command(name)):
            options = flags.FlagValues()
            define_flags(options, [f"helios-jax {name}"])
            heading = [f"### {name} {subcommand}", ""] if subcommand else []
            parts += [*heading, "```text", help_text(doc, options), "```", ""]
    folder = HERE / "reference"
    folder.mkdir(exist_ok=True)
    (folder / "commands.md").write_text("\n".join(parts))


def write_configuration() -> None:
    """Write ``reference/configuration.md``: every field of every recipe."""
    (HERE / "reference" / "configuration.md").write_text(configuration_page(), encoding="utf-8")


def write_changelog() -> None:
    """Write ``reference/changelog.md``: the repository's, with links from where it stands now."""
    text = (HERE.parent / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](../")
    (HERE / "reference" / "changelog.md").write_text(text, encoding="utf-8")


def write_messages() -> None:
    """Write ``reference/messages.md``: what the errors of the library say."""
    (HERE / "reference" / "messages.md").write_text(as_page(), encoding="utf-8")


write_commands()
write_messages()
write_configuration()
write_changelog()
write_figures(HERE / "figures")
write_pages(HERE / "notebooks", HERE / "tutorials")
