#!/bin/sh
# What became of a session, and the UPO of each accepted invoice as a PDF in this folder.
# KSEF_SERVICE=http://127.0.0.1:8080 KSEF_USER=… KSEF_PASSWORD=… sh session.sh test REFERENCE
set -eu
session="$KSEF_SERVICE/invoices/$1/status/$2"

# The password does not stand in the list of processes. curl itself repeats after 5xx, and waits
# for Retry-After; --fail-with-body: anything but a 2xx ends the script, its body tells why.
get() {
    printf 'user = "%s:%s"\n' "$KSEF_USER" "$KSEF_PASSWORD" |
        curl --config - --silent --show-error --fail-with-body --max-time 40 --retry 5 "$@"
}

until answer=$(get "$session") || { echo "$answer" >&2; exit 1; }
    echo "$answer" | grep -q '"final":true'; do
    sleep "$(echo "$answer" | sed 's/.*"nextCheckAfter":\([0-9]*\).*/\1/')"
done
echo "$answer"

for number in $(echo "$answer" | grep -o '"ksefNumber":"[^"]*","acquisitionDate"' | cut -d '"' -f 4); do
    get --header 'Accept: application/pdf' --output "$number-upo.pdf" \
        "$session/$number/upo?docType=pdf"
done
