"""The documentation as tests read it: the pages beside README and those of docs/."""

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
EXAMPLES = DOCS / "examples"


@dataclass(frozen=True)
class Page:
    """One page of Markdown."""

    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def tokens(self) -> list[Token]:
        return MarkdownIt("commonmark").enable("table").parse(self.text)

    @cached_property
    def anchors(self) -> set[str]:
        """What `#…` may name: its headings, as GitHub makes anchors of them."""
        titles = [
            self.tokens[i + 1].content
            for i, token in enumerate(self.tokens)
            if token.type == "heading_open"
        ]
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    @cached_property
    def targets(self) -> list[str]:
        """Where its links and pictures lead."""
        children = [child for token in self.tokens for child in token.children or ()]
        return [
            str(child.attrs["href" if child.type == "link_open" else "src"])
            for child in children
            if child.type in ("link_open", "image")
        ]

    @property
    def leads_to(self) -> set[Path]:
        """The files to which it has links."""
        return {(self.path.parent / target.partition("#")[0]).resolve() for target in self.targets}

    @cached_property
    def names(self) -> list[str]:
        """What stands between backticks in its text."""
        children = [child for token in self.tokens for child in token.children or ()]
        return [child.content for child in children if child.type == "code_inline"]

    @cached_property
    def stressed(self) -> list[str]:
        """What stands in italics in its text."""
        lines = [token.children for token in self.tokens if token.children]
        return [
            after.content
            for line in lines
            for one, after in pairwise(line)
            if one.type == "em_open"
        ]

    @cached_property
    def fences(self) -> list[str]:
        """The contents of its blocks of code."""
        return [token.content for token in self.tokens if token.type == "fence"]

    def section(self, title: str) -> str:
        """The text below a heading, up to the next one of its level or above."""
        [found] = re.finditer(rf"^(#+) {re.escape(title)}$", self.text, re.MULTILINE)
        rest = self.text[found.end() :]
        return re.split(rf"^#{{1,{len(found[1])}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]

    def rows(self, title: str) -> list[list[str]]:
        """The cells of the tables below a heading, without their heads."""
        lines = [line for line in self.section(title).splitlines() if line.startswith("|")]
        return [
            [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line, below in zip(lines, [*lines[1:], ""], strict=True)
            if not line.startswith("|---") and not below.startswith("|---")
        ]


def spans(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


README = Page(PROJECT / "README.md")
ANSWERS, DECISIONS, ERP, OPERATORS, SANDBOX = (
    Page(DOCS / f"{name}.md") for name in ("answers", "decisions", "erp", "operators", "sandbox")
)
CONTRIBUTING, SECURITY = (Page(PROJECT / f"{name}.md") for name in ("CONTRIBUTING", "SECURITY"))
POLISH = Page(DOCS / "pl" / "README.md")
PAGES = (README, CONTRIBUTING, SECURITY, ANSWERS, DECISIONS, ERP, OPERATORS, SANDBOX, POLISH)
