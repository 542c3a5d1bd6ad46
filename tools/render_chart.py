"""Render the Helm chart with its defaults into deploy/kubernetes/jobs.yaml, for clusters without Helm. A test compares them."""

from __future__ import annotations

import re
from pathlib import Path

import helm_python

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "jobs"
HEAD = """\
# Workers of the application "shop", for kubectl apply -f. Written by tools/render_chart.py from deploy/helm/jobs: adapt a copy.
# First, store the backend's URL: kubectl create secret generic shop-backend --from-file=url=FILE
"""


def manifests() -> str:
    """Return the chart's objects with its default values, as one file of YAML."""
    rendered = helm_python.Chart.load(CHART).render({}, name="shop-jobs", namespace="default")
    texts = [rendered[name].strip() for name in sorted(rendered) if not name.endswith("NOTES.txt")]
    return HEAD + "".join(f"---\n{re.sub(r'(?m)^ +$', '', text)}\n" for text in texts if text)


if __name__ == "__main__":
    (DEPLOY / "kubernetes" / "jobs.yaml").write_text(manifests())
