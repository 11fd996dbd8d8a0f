"""A program that starts the embedded PostgreSQL and waits for its input to end.

`launch.py FOLDER [USER]`: as USER when given (by root). Prints the DSN of the running server.
"""

import os
import pwd
import sys
from pathlib import Path

from sandbox import postgres

if len(sys.argv) > 2:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)

try:
    with postgres.start(Path(sys.argv[1]), durable=True) as server:
        print(server.dsn(), flush=True)
        sys.stdin.read()
except KeyboardInterrupt:
    print("stopped in order", flush=True)
