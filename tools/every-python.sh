#!/bin/sh
# Runs the tests on every Python from 3.10 to 3.13 that is on the path or among pyenv's versions.
set -u
status=0
for version in 3.10 3.11 3.12 3.13; do
    found=$(command -v "python$version" || ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python 2>/dev/null | head -n 1)
    if [ -z "$found" ] || ! "$found" -c 'import sys' 2>/dev/null; then
        echo "python $version: not on this machine"
        continue
    fi
    make -s test PYTHON="$found" VENV=".venv-$version" >".venv-$version.log" 2>&1 || status=1
    echo "python $version: $(tail -n 1 ".venv-$version.log")"
done
exit $status
