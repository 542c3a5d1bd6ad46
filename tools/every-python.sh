#!/bin/sh
# Runs a target of make ($1, default: test) on every Python from 3.10 to 3.14 that is on the path or among pyenv's versions.
set -u
status=0
for version in 3.10 3.11 3.12 3.13 3.14; do
    if ! found=$(tools/find-python.sh "$version"); then
        echo "python $version: not on this machine"
        continue
    fi
    make -s "${1:-test}" PYTHON="$found" VENV=".venv-$version" >".venv-$version.log" 2>&1 || status=1
    echo "python $version: $(tail -n 1 ".venv-$version.log")"
done
exit $status
