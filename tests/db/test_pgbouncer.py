"""The pool behind PgBouncer, which gives a connection to somebody else after each transaction."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from app import clock
from app.db.pool import Database, PoolTiming
from app.db.queries import leases, sessions, users
from sandbox.postgres import server_user

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer"),
    pytest.mark.skipif("DATABASE_URL" in os.environ, reason="needs a server without passwords"),
]


@pytest.fixture
def dsn(database: Any) -> Iterator[str]:
    """The database by way of PgBouncer with two connections, as a role with limits of its own."""
    role = f"{database.name}_login"
    database.execute(
        f"CREATE ROLE {role} LOGIN IN ROLE ksef_proxy;"
        f" ALTER ROLE {role} SET statement_timeout = 800"
    )
    server = parse_dsn(database.owner_dsn)
    folder = Path(tempfile.mkdtemp(prefix="pgb-", dir="/tmp"))
    folder.chmod(0o777)
    (folder / "users").write_text(f'"{role}" ""\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n{database.name} = host={server['host']} port={server['port']}\n"
        f"[pgbouncer]\nauth_type = trust\nauth_file = {folder}/users\n"
        f"listen_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\n"
        "pool_mode = transaction\ndefault_pool_size = 2\n"
    )
    process = subprocess.Popen(
        [str(PGBOUNCER), "--quiet", folder / "pgbouncer.ini"],
        stderr=subprocess.DEVNULL,
        **server_user(),
    )
    dsn = make_dsn(host=str(folder), port=6432, user=role, dbname=database.name)
    try:
        await_connection(dsn)
        yield dsn
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)
        database.execute(f"DROP ROLE {role}")


def await_connection(dsn: str) -> None:
    deadline = clock.monotonic() + 10
    while True:
        try:
            psycopg2.connect(dsn).close()
            return
        except psycopg2.OperationalError:
            if clock.monotonic() > deadline:
                raise
            clock.sleep(0.02)


def test_many_share_few_connections_and_no_settings(dsn: str, database: Any) -> None:
    timing = PoolTiming(connect=5, wait=20, lock=5, statement=9)
    pool = Database(dsn, size=8, timing=timing)
    nip, key = "5265877635", {"company_nip": "5265877635", "environment": "test"}

    def limit(connection: Any) -> str:
        with connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            return str(cursor.fetchone()[0])

    def work(number: int) -> list[Any]:
        holder = f"00000000-0000-0000-0000-{number:012}"
        told = [pool.run(limit)]
        session = {**key, "reference_number": f"S{number % 2}"}  # of which there is the first
        told.append(pool.run(sessions.look, **session, form="", tags=[], look_every=9.0).final)
        with pool.transaction() as connection:
            told.append(limit(connection))
            told.append(leases.take_lease(connection, name=holder, holder=holder, seconds=9.0))
        told.append(pool.run(users.get_company, nip=nip).nip)
        told.append(pool.run(leases.release_lease, name=holder, holder=holder))
        return [*told, len(pool.rows(users.list_users)), pool.run(limit), holder]

    database.execute(
        f"INSERT INTO companies (nip, name) VALUES ('{nip}', 'x');"
        f"INSERT INTO kept_sessions VALUES ('{nip}', 'test', 'S0', '{{}}', NULL, true, now(),"
        " now(), now(), now(), now())"
    )
    try:
        with ThreadPoolExecutor(8) as threads:
            for number, told in enumerate(threads.map(work, range(80))):
                holder, final = told[-1], None if number % 2 else True
                assert told == ["800ms", final, "9s", holder, nip, 1, 0, "800ms", holder]
        used = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE '%_login'"
        assert database.execute(used)[0][0] <= 2
    finally:
        pool.close()
