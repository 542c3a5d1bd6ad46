#!/bin/sh
# Writes constraints.txt anew: what the newest releases resolve to on the oldest and on the newest supported Python.
set -eu
work=$(mktemp -d)
cp constraints.txt "$work/before"
for version in 3.10 3.13; do
    python=$(tools/find-python.sh "$version")
    : >constraints.txt
    tools/bootstrap.sh "$work/$version" "$python" || { cp "$work/before" constraints.txt; exit 1; }
    "$work/$version/bin/pip" freeze --exclude-editable | grep '==' | sort -f >"$work/$version.txt"
done
{
    echo "# Pinned versions for developing and testing; \`make pins\` writes it anew. No index address: pip's own settings say where from."
    comm -12 "$work/3.10.txt" "$work/3.13.txt"
    comm -23 "$work/3.10.txt" "$work/3.13.txt" | sed 's/$/; python_version < "3.11"/'
    comm -13 "$work/3.10.txt" "$work/3.13.txt" | sed 's/$/; python_version >= "3.11"/'
} | sed 's/^\(Django==.*\)"3.11"/\1"3.12"/' >constraints.txt # the newest Django wants 3.12
rm -rf "$work"
