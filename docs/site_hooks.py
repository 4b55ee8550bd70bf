"""Files of the repository that the pages link to, taken into the site.

The pages are read in two places: in the repository, where `../CONTRIBUTING.md` leads out of `docs/`, and in
the site, which knows `docs/` alone. Each file that is linked becomes a page of the site, and the links lead
there. So do those to `page.zh.md`, which the site has under the name of `page.md` in the other language.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")
CODE = {".py": "python", ".toml": "toml", ".yaml": "yaml"}


def site_path(path: str) -> str:
    """Where the site has a file of the repository, both from their roots."""
    inside = path.removeprefix("docs/").replace(".zh.md", ".md")
    return inside if inside != path or Path(path).suffix not in CODE else str(Path(path).with_suffix(".md"))


def outside_files(docs: Path) -> list[str]:
    """Files outside `docs/` that its pages, or these files, link to: paths in the repository, each once."""
    pages, found = list(docs.rglob("*.md")), set()
    for page in pages:  # grows
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.is_file() and not path.is_relative_to(docs) and path not in found:
                found.add(path)
                pages += [path] if path.suffix == ".md" else []
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@event_priority(-100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the linked files to the site of the language that is built, once the languages are told apart."""
    languages = config.plugins["i18n"]
    language = "" if languages.is_default_language_build else f"{languages.current_language}/"
    for name in outside_files(Path(config.docs_dir)):
        path = ROOT / name
        if path.suffix in CODE:
            text = f"# {name}\n\n```{CODE[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"
            file = File.generated(config, site_path(name), content=text)
        else:
            file = File.generated(config, name, abs_src_path=str(path))
        file.dest_uri = language + file.dest_uri
        file.inclusion = InclusionLevel.NOT_IN_NAV  # or in it, as mkdocs.yml says
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = posixpath.dirname(page.file.src_uri)
    folder = here if page.file.generated_by else posixpath.join("docs", here)

    def within(found: re.Match[str]) -> str:
        path = site_path(posixpath.normpath(posixpath.join(folder, found[1])))
        return f"]({posixpath.relpath(path, here or '.')}{found[2] or ''})"

    return LINK.sub(within, markdown)
