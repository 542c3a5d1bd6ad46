#!/bin/sh
# Prints a Python of version $1 (3.12) that works: on the path, or among pyenv's. A shim of pyenv's that answers "not
# found" does not work. Nothing found: exit code 1.
for found in "$(command -v "python$1")" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
    if [ -n "$found" ] && "$found" -c 'import sys' 2>/dev/null; then
        echo "$found"
        exit 0
    fi
done
exit 1
