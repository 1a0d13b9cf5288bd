"""What MkDocs calls when it builds the site: the pages that are made from the code."""

import functools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from eqloop.cli._main import app
from eqloop.cli.fields import as_toml, described_fields
from eqloop.run import GROUPS
from eqloop.tasks import TASKS

sys.path.append(str(Path(__file__).parent))
from repository import fill, urls


def on_config(config: MkDocsConfig) -> None:
    if repository := urls().get("Repository"):
        config.repo_url, config.repo_name = repository, config.site_name
    if (site := urls().get("Documentation")) and not config.site_url:  # `mkdocs serve` has its own
        config.site_url = site


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    for file in list(files):
        if re.fullmatch(r"notebooks/\w+\.py", file.src_uri):
            made = notebook(Path(file.src_uri).stem, file.content_string)
            for name, content in made.items():
                files.append(File.generated(config, name, content=content))


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    parts = {"commands.md": commands, "fields.md": fields}
    if page.file.src_uri in parts:
        markdown += "\n\n" + parts[page.file.src_uri]()
    return fill(markdown, urls().get("Repository", ""))


def commands() -> str:
    """What `--help` says of every command."""
    page = []
    for path, command in subcommands(typer.main.get_command(app), "eqloop"):
        with command.make_context(path, [], resilient_parsing=True) as context:
            usage = " ".join([path, *command.collect_usage_pieces(context)])
            records = [parameter.get_help_record(context) for parameter in command.params]
        text, found, example = command.help.partition("Example: ")
        page += [f"## {path}", f"```text\n{usage}\n```", escaped(text)]
        page += [f"```sh\n{' '.join(example.split())}\n```"] if found else []
        options = filter(None, records)
        page.append("\n".join(f"- `{name}`: {escaped(meaning)}" for name, meaning in options))
    return "\n\n".join(page)


def subcommands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if not below:
        yield path, command
    for name, sub in below.items():
        yield from subcommands(sub, f"{path} {name}")


def fields() -> str:
    """What `eqloop fields` says of every field."""
    page = []
    for group, cls in {**GROUPS, **{f"task {name}": TASKS[name] for name in TASKS}}.items():
        page.append(f"## {group}")
        for name, field in described_fields({group.split()[0]: cls}).items():
            anchor = f"{group.split()[-1]}.{name.split('.')[1]}"
            default = f"{name} = {as_toml(field['default'])}"
            page.append(f"#### `{default}` {{ #{anchor} data-toc-label='{name}' }}")
            page.append(f"{escaped(field['meaning'])} Allowed: {escaped(field['allowed'])}.")
    return "\n\n".join(page)


def escaped(text: str) -> str:
    """Plain text as Markdown; what is between backticks stays code, and options become code."""
    parts = re.split(r"(`[^`]*`)", re.sub(r"(?<![\w`=-])(--[a-z][\w-]*)(?![^`]*`)", r"`\1`", text))
    return "".join(
        part if part.startswith("`") else re.sub(r"([\\*_<\[\]])", r"\\\1", part) for part in parts
    )


@functools.cache  # `mkdocs serve` builds the site again at every change of a page
def notebook(name: str, source: str) -> dict[str, str | bytes]:
    """A notebook in the percent format as a page with its results: path -> content.

    `EQLOOP_NOTEBOOKS=off` leaves the results out, which takes minutes off a build.
    """
    book = jupytext.reads(source, fmt="py:percent")
    book.metadata["language_info"] = {"name": "python"}
    if os.environ.get("EQLOOP_NOTEBOOKS") != "off":
        with tempfile.TemporaryDirectory() as folder:
            where = {"metadata": {"path": folder}}
            NotebookClient(book, resources=where, timeout=600, kernel_name="python3").execute()
    names = {"unique_key": name, "output_files_dir": name}
    body, resources = MarkdownExporter().from_notebook_node(book, resources=names)
    title, rest = body.lstrip().split("\n", 1)
    page = f"{title}\n\n*This page is [{name}.py]({name}.py), run when the site was made.*\n{rest}"
    images = {f"notebooks/{path}": data for path, data in resources["outputs"].items()}
    return {f"notebooks/{name}.md": page, **images}
