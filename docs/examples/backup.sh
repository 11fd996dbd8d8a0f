pg_dump --format=custom --file=ksef-proxy.dump "$OWNER"
pg_restore --no-owner --exit-on-error --single-transaction --dbname="$RESTORED" ksef-proxy.dump
