"""What follows from the public address of the repository, and is left out as long as it has none.

The address is `Repository` in `[project.urls]` of pyproject.toml, where pip and package indexes
read it. MkDocs reads it at every build. README.md and CITATION.cff are read as they are, so

    uv run python docs/_site/repository.py

writes its lines into them, once after each change of the address.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def urls() -> dict[str, str]:
    """`[project.urls]`: `Repository`, `Documentation` and others, if they are known."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    return tomllib.loads(text)["project"].get("urls", {})


def fill(text: str, address: str) -> str:
    """`text` with the lines between `<!-- NAME -->` and `<!-- /NAME -->` that are made from the
    address, or without them."""
    lines = {
        "badges": f"[![tests]({address}/actions/workflows/tests.yml/badge.svg)]"
        f"({address}/actions/workflows/tests.yml)",
        "clone": f"```sh\ngit clone {address} && cd {address.rsplit('/', 1)[-1]}\n```",
    }
    for name, line in lines.items():
        block = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(block, rf"\1\n{line}\n\n\2" if address else r"\1\2", text, flags=re.DOTALL)
    return text


def fill_citation(text: str, address: str) -> str:
    """CITATION.cff with the address in its last line, or without it."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.MULTILINE)
    return text + f'repository-code: "{address}"\n' if address else text


if __name__ == "__main__":
    address = urls().get("Repository", "")
    for name, filled in {"README.md": fill, "CITATION.cff": fill_citation}.items():
        path = ROOT / name
        path.write_text(filled(path.read_text("utf-8"), address), "utf-8")
