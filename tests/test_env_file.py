"""Files of settings: what systemd reads from them, and nothing that it would pass over."""

import shlex
import subprocess
from pathlib import Path

import pytest

from app.env_file import EnvFileError, read

# systemd's own reader of the same format, which it runs for each user's environment.d.
SYSTEMD = Path("/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator")

FILE = r"""
# A comment = none
; neither = this

A=plain
  B  =  blanks around go··
C="a b" 'c'"d" e f
D='it"s \ x'
E="es\"c \\ \y x"
F=x\y\
  z\·
G="two
lines"
H=a"b"c # no comment
J=   "x\
y"
K=\
  lead
L=a=b
M=\"q\"
_n1=zażółć
A=the last one""".replace("·", " ")
READ = {
    "A": "the last one",
    "B": "blanks around go",
    "C": "a bcde f",
    "D": r'it"s \ x',
    "E": r'es"c \ \y x',
    "F": "xy  z ",
    "G": "two\nlines",
    "H": 'a"b"c # no comment',
    "J": "xy",
    "K": "  lead",
    "L": "a=b",
    "M": '"q"',
    "_n1": "zażółć",
}


def written(folder: Path, text: str) -> Path:
    file = folder / "settings.env"
    file.write_bytes(text.encode())
    return file


def test_values_are_read(tmp_path: Path) -> None:
    assert read(written(tmp_path, FILE)) == READ


@pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd")
def test_systemd_reads_the_same(tmp_path: Path) -> None:
    folder = tmp_path / ".config/environment.d"
    folder.mkdir(parents=True)
    (folder / "50-settings.conf").write_text(FILE)
    # It answers in the same format, each value quoted where it needs that, and \\n for a new line.
    answer = subprocess.run(
        [SYSTEMD], env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    found = read(written(tmp_path, answer.stdout.replace(r"\n", "\n")))
    assert {name: found.get(name) for name in READ} == READ


@pytest.mark.parametrize("text", ["", "\n", "# only\n;this", "   "])
def test_nothing_is_no_variable(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == {}


@pytest.mark.parametrize("text", ["A=", "A=\n", 'A=""', "A='' \n", "A=\r\n"])
def test_a_value_may_be_empty(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path, text)) == {"A": ""}


@pytest.mark.parametrize(
    "line",
    [
        "export A=s3cret",
        "s3cret",
        "A: s3cret",
        "1A=s3cret",
        "Ä=s3cret",
        "=s3cret",
        'A="s3cret',
        "A='s3cret",
        'A= "s3cret',
        "A='s3' 'cret",
        "A=s3cret\0",
        'A="s3cret\0"',
    ],
)
def test_a_wrong_line_is_refused_and_not_shown(tmp_path: Path, line: str) -> None:
    file = written(tmp_path, f"GOOD=1\n# comment\n{line}\n")
    with pytest.raises(EnvFileError) as refused:
        read(file)
    assert str(refused.value) == (
        f"{file}, line 3, is not NAME=value: a name has letters, digits and _ only"
        " (no `export` before it), and each quote needs its second."
    )


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "latin"
    file.write_bytes("A=zażółć".encode("iso-8859-2"))
    with pytest.raises(EnvFileError, match="is not UTF-8"):
        read(file)


def test_a_byte_order_mark_is_told_as_that(tmp_path: Path) -> None:
    """Which is not seen in an editor, and with which systemd passes over the first line."""
    file = tmp_path / "bom"
    file.write_bytes(b"\xef\xbb\xbfA=s3cret\n")
    with pytest.raises(EnvFileError) as refused:
        read(file)
    assert str(refused.value) == (
        f"{file} begins with a byte order mark: save it as UTF-8 without one (without BOM)."
    )


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")


def test_make_run_s_file_is_of_this_kind(tmp_path: Path) -> None:
    """What a shell quotes is read back, whatever it is."""
    value = """a'b "c" \\ $d é"""
    assert read(written(tmp_path, f"A={shlex.quote(value)}\n")) == {"A": value}
