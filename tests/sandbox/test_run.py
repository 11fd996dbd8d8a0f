"""What `make run` says where it cannot start, before it starts anything."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "abc", "Settings: PORT is not a port: 1 to 65535.\n"),
        ("PORT", "99999", "Settings: PORT is not a port: 1 to 65535.\n"),
        ("HOST", "a b", "Settings: HOST is neither an address nor a name.\n"),
        ("HOST", "no.such.host.invalid", "HOST=no.such.host.invalid PORT=8080: nobody can listen"),
        ("HOST", "192.0.2.1", "HOST=192.0.2.1 PORT=8080: nobody can listen there: Cannot assign"),
        ("WEB_THREADS", "x", "Settings: WEB_THREADS is not a positive whole number.\n"),
    ],
)
def test_a_wrong_setting_is_a_sentence(tmp_path: object, name: str, value: str, said: str) -> None:
    code = f"import pathlib; from sandbox import run; run.KEPT = pathlib.Path({str(tmp_path)!r}); "
    done = subprocess.run(
        [sys.executable, "-c", f"{code} run.main()"],
        env={name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
