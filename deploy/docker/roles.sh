#!/bin/sh
# Run once by the postgres image, when the database is made: the service's role, which may log in.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$DATABASE_PASSWORD" --username=postgres <<'SQL'
CREATE ROLE ksef_proxy LOGIN PASSWORD :'password';
SQL
