#!/bin/sh
# Run once by the postgres image, when the database is made: the roles that log in, of the service and of the ERP.
set -eu
psql --set=ON_ERROR_STOP=1 --set=service="$DATABASE_PASSWORD" --set=erp="$ERP_PASSWORD" --username=postgres <<'SQL'
CREATE ROLE ksef_proxy LOGIN PASSWORD :'service';
CREATE ROLE erp LOGIN PASSWORD :'erp';
SQL
