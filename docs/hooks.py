"""What mkdocs does besides what mkdocs.yml says, so that a page reads the same on GitHub and in the site.

A link that leads out of docs/, as to ../gpu_backprop/network/layers.py, leads to a page made of that file, and
[`Dense.linear`](../gpu_backprop/network/layers.py) to the line that defines it. Equations become MathML, which browsers
set by themselves, without a script.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from html import unescape
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"^( *)(```+)[^`\n]*\n.*?^\1\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s#:]+)(#[^()\s]*)?\)")
NAMED = re.compile(r'<a href="([^"]*?source/([^"]+\.py)\.html)"><code>([\w.]+)</code></a>')
WORD = re.compile(
    r"<(a|h[1-6]|pre)\b.*?</\1>|<code>(gb\.|gpu_backprop\.|trainer\.|net\.|population\.)?(\w+(?:\.\w+)?)(?:\([^<]*\))?</code>",
    re.DOTALL,
)
CLASSES = {"trainer.": "Trainer.", "net.": "Network.", "population.": "Population."}
EQUATION = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)
LOADED = re.compile(r"""(?:<(?:script|img|iframe|source)\b[^>]*?\bsrc=|<link\b[^>]*?\bhref=|url\()["']?([^"'\s>)]+)""")
FONT = "STIXTwoMath-Regular.ttf"
LANGUAGES = {".cu": "cuda", ".cuh": "cuda", ".hpp": "cpp"}  # others are called as they end


@cache
def lines(file: Path) -> dict[str, int]:
    """Finds where a Python file itself defines each `function`, `Class`, `Class.method` and `CONSTANT`."""

    def defined(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, int]]:
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + node.name, node.lineno
            if isinstance(node, ast.ClassDef):
                yield from defined(node.body, f"{prefix}{node.name}.")
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from ((prefix + target.id, node.lineno) for target in targets if isinstance(target, ast.Name))

    return dict(defined(ast.parse(file.read_text(encoding="utf-8")).body, ""))


def place(path: str) -> str:
    """Says where in the site the file or folder is that has this path in the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if (ROOT / path).is_dir():
        return place(f"{path}/README.md") if (ROOT / path / "README.md").exists() else f"source/{path}/index.md"
    if path.endswith((".md", ".svg", ".png", ".json")):
        return f"source/{path}"
    return re.sub(r"/\.", "/", f"source/{path}.md")  # mkdocs leaves out what begins with a dot


def origin(place: str) -> str:
    """Says which path a page of Markdown has in the repository: the inverse of `place`."""
    return place.removeprefix("source/") if place.startswith("source/") else f"docs/{place}"


def links(text: str, path: str) -> Iterator[tuple[re.Match[str], str]]:
    """Finds the links of the file of this path that lead to files of ours, and the paths of these."""
    blocks = [block.span() for block in CODE.finditer(text)]
    for link in LINK.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2]))
        of_ours = not target.startswith("../") and (ROOT / target).exists()
        if of_ours and not any(begin <= link.start() < end for begin, end in blocks):
            yield link, target


def title(path: str) -> str:
    """Reads what a page is called."""
    return (ROOT / path).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def shown(path: str) -> str:
    """Writes the page of a file or a folder that is none of Markdown."""
    file = ROOT / path
    head = f"---\ntitle: {path}\nhide: [navigation, toc]\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if file.is_dir():
        inside = sorted(one.name + "/" * one.is_dir() for one in file.iterdir() if one.name[0] not in "._")
        return head + "\n".join(f"- `{name}`" for name in inside)
    language = LANGUAGES.get(file.suffix, file.suffix[1:])
    return f'{head}````````{language} linenums="1"\n{file.read_text(encoding="utf-8")}\n````````\n'


def commands() -> str:
    """Writes the page of the command line: what each command says of itself."""
    from gpu_backprop.arguments import parse
    from gpu_backprop.cli import COMMANDS

    page = "# Commands\n\nWhat `gpu-backprop COMMAND --help` says.\n"
    for name in COMMANDS:
        with redirect_stdout(StringIO()) as said, suppress(SystemExit):
            parse([name, "--help"])
        page += f"\n## {name}\n\n```text\n{said.getvalue().strip()}\n```\n"
    return page


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds CONTRIBUTING.md, CHANGELOG.md, whatever outside docs/ a page links to, commands, and a font of equations."""
    from mkdocs.structure.files import File

    waiting = [origin(page.src_uri) for page in files.documentation_pages()] + ["CONTRIBUTING.md", "CHANGELOG.md"]
    known: set[str] = set()
    while waiting:
        if (path := waiting.pop()) in known:
            continue
        known.add(path)
        if files.get_file_from_path(place(path)) is None:
            is_page = place(path).endswith(".md") and not path.endswith(".md")
            given: Any = {"content": shown(path)} if is_page else {"abs_src_path": str(ROOT / path)}
            files.append(File.generated(config, place(path), **given))
        if path.endswith(".md"):
            waiting += [target for _, target in links((ROOT / path).read_text(encoding="utf-8"), path)]
    files.append(File.generated(config, "reference/commands.md", content=commands()))
    (package,) = find_spec("ziamath").submodule_search_locations  # a font of equations that pip can bring
    files.append(File.generated(config, f"assets/{FONT}", abs_src_path=str(Path(package, "fonts", FONT))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of ours into links within the site, and names of pages into their titles."""
    path = origin(page.file.src_uri)
    if not path.endswith(".md") or not (ROOT / path).exists():
        return markdown
    made, end = "", 0
    for link, target in links(markdown, path):
        uri = posixpath.relpath(place(target), posixpath.dirname(page.file.src_uri))
        words = f"“{title(target)}”" if link[1].endswith(".md") else link[1]
        made += f"{markdown[end : link.start()]}[{words}]({uri}{link[3] or ''})"
        end = link.end()
    return made + markdown[end:]


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of names to their lines, and sets the equations."""
    from math_core import LatexError, LatexToMathML
    from mkdocs.exceptions import PluginError

    def to_line(link: re.Match[str]) -> str:
        line = lines(ROOT / link[2]).get(link[3])
        return f'<a href="{link[1]}#__codelineno-0-{line}"><code>{link[3]}</code></a>' if line else link[0]

    def to_reference(word: re.Match[str]) -> str:
        if word[1] or not (word[2] or word[3][0].isupper() or page.file.src_uri.startswith("reference/")):
            return word[0]  # is a link, or had better be none
        name = CLASSES.get(word[2], "") + word[3]
        return f'<autoref optional identifier="gpu_backprop.{name}">{word[0]}</autoref>'

    def set_equation(found: re.Match[str]) -> str:
        try:
            return converter.convert_with_local_state(unescape(found[2]), displaystyle=found[1] == "[")
        except LatexError as error:
            raise PluginError(f"{origin(page.file.src_uri)}: {unescape(found[2]).strip()}: {error}") from error

    converter = LatexToMathML(annotation=True, fancy_error=False)
    if not page.file.src_uri.startswith("source/"):
        html = WORD.sub(to_reference, html)
    return EQUATION.sub(set_equation, NAMED.sub(to_line, html))


def elsewhere(text: str) -> list[str]:
    """Finds what a page or a style sheet would load from another place."""
    return [address for address in LOADED.findall(text) if re.match(r"(\w+:)?//", address)]


def on_post_build(config: MkDocsConfig) -> None:
    """Makes sure that the site can be read without a network."""
    from mkdocs.exceptions import PluginError

    for file in Path(config.site_dir).rglob("*"):
        if file.suffix in {".html", ".css"} and (found := elsewhere(file.read_text(encoding="utf-8"))):
            raise PluginError(f"{file} loads {found[0]}, and a page has to be complete without a network")
