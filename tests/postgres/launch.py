"""A program that starts the embedded PostgreSQL and waits for its input to end.

`launch.py FOLDER [USER]`: as USER when given (by root). Prints the DSN of the running server, and
at Ctrl-C whether the server still answers.
"""

import os
import pwd
import sys
from pathlib import Path

import psycopg2

from sandbox import postgres

if len(sys.argv) > 2:
    user = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)

with postgres.start(Path(sys.argv[1]), durable=True) as server:
    try:
        print(server.dsn(), flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        psycopg2.connect(server.dsn()).close()
        print("still answers", flush=True)
