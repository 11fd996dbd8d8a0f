"""Files of settings, `ksef-proxy --env-file`, in the format of systemd's EnvironmentFile=."""

import re
from pathlib import Path

_NOTHING = re.compile(r"[ \t]*(?:[#;].*)?(?:\n|\Z)")
# What is quoted may go on over several lines and has something beside it: 'a'"b" c is abc. What is
# not may hold quotes, and goes on after a backslash at the end of a line.
_ASSIGNMENT = re.compile(
    r"""
    [ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=
    ((?:[ \t]*(?:'[^'\0]*'|"(?:\\[^\0]|[^"\\\0])*"))*)
    [ \t]*((?![ \t'"])(?:\\[^\0]|[^\\\n\0])*)
    (?:\n|\Z)
    """,
    re.VERBOSE,
)
_QUOTED = re.compile(r"""'([^']*)'|["]((?:\\.|[^"\\])*)["]""", re.DOTALL)
_TRAILING = re.compile(r"((?:\\.|[^\\])*?)[ \t]*", re.DOTALL)


class EnvFileError(Exception):
    """The file is not in this format; the text says where, and shows nothing of it."""


def read(file: Path) -> dict[str, str]:
    """The variables of a file; of one that is set twice, the last value.

    Raises EnvFileError where a line is neither an assignment nor a comment: systemd would pass over
    it. Raises OSError if the file cannot be read.
    """
    try:
        text = file.read_text("utf-8")
    except UnicodeError:
        raise EnvFileError(f"{file} is not UTF-8.") from None
    if text.startswith("\N{BYTE ORDER MARK}"):  # systemd would pass over its first line
        raise EnvFileError(
            f"{file} begins with a byte order mark: save it as UTF-8 without one (without BOM)."
        )
    found = {}
    at = 0
    while at < len(text):
        if not (match := _NOTHING.match(text, at)):
            match = _ASSIGNMENT.match(text, at)
            if not match:
                line = text.count("\n", 0, at) + 1
                raise EnvFileError(
                    f"{file}, line {line}, is not NAME=value: a name has letters, digits and _ only"
                    " (no `export` before it), and each quote needs its second."
                )
            name, quoted, bare = match.groups()
            found[name] = _unquoted(quoted) + _unescaped(bare)
        at = match.end()
    return found


def _unquoted(text: str) -> str:
    """Quoted parts, one after the other, without their quotes."""
    return "".join(
        # A backslash before anything else is itself.
        single or re.sub(r'\\(?:(["\\`$])|\n)', r"\1", double)
        for single, double in _QUOTED.findall(text)
    )


def _unescaped(text: str) -> str:
    """What is not quoted: a backslash goes, with the line's end if it stands before that."""
    kept = _TRAILING.fullmatch(text)
    return re.sub(r"\\(?:\n|(.))", r"\1", kept[1] if kept else text)
