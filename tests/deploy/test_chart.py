"""The Helm chart: Helm itself lints and renders it, Kubernetes' schemas accept the objects, and they mean what the docs say."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from pathlib import Path

import helm_python
import kubernetes_validate
import pytest
import yaml

from jobs_core import config_sources
from jobs_core.cli.systemd import STOP_RESERVE

from ..support.http import fetch
from ..support.project import Project, until

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "jobs"
KUBERNETES = ("1.25", "1.30", "1.37")
"""The oldest version that the chart claims, and newer ones."""

WITHOUT_SCHEMA = {"ScaledObject"}
"""Kinds that are not part of Kubernetes; its schemas do not know them."""

VALUES = {
    "defaults": {},
    "keda": {"autoscaling": {"kind": "keda", "topics": ["mail", "default"]}},
    "hpa": {"autoscaling": {"kind": "hpa", "topics": ["mail", "default"]}},
    "everything": {
        "image": {"repository": "shop", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "pools": {
            "default": {"workers": {"min": 1, "max": 4}, "stop_timeout": 30, "topics": ["mail", "default"]},
            "reports": {"workers": 1, "stop_timeout": 600, "mode": "threads", "concurrency": 4},
        },
        "env": {"JOBS_LEASE": "20s", "WORDS": 'a "quoted" one'},
        "envFrom": [{"configMapRef": {"name": "shop"}}],
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}]},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "jobs", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
    },
    "bare": {"metrics": {"annotations": False}, "networkPolicy": {"enabled": False}},
}


def rendered(values: dict[str, object]) -> dict[str, dict]:
    """Return the objects of the chart by kind."""
    texts = helm_python.Chart.load(CHART).render(values, name="shop-jobs", namespace="shop")
    objects = [yaml.safe_load(text) for name, text in texts.items() if not name.endswith("NOTES.txt")]
    return {each["kind"]: each for each in objects if each is not None}


def pod(values: dict[str, object]) -> dict:
    return rendered(values)["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_to_complain_of(values):
    report = helm_python.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"] if each["error"] != "icon is recommended"] == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_accepts_every_object(values, version):
    objects = rendered(values)
    assert {"Deployment", "PodDisruptionBudget", "ServiceAccount"} <= objects.keys()
    for kind, each in objects.items():
        if kind not in WITHOUT_SCHEMA:
            kubernetes_validate.validate(each, version, strict=True)


def test_every_combination_of_switches_is_accepted():
    """Rendered once each; the schema of one version is enough, as VALUES are compared with all of them."""
    switches = {
        "autoscaling": [{"kind": kind} for kind in ("none", "keda", "hpa")],
        "metrics": [{"annotations": True}, {"annotations": False}],
        "networkPolicy": [{"enabled": False}, {"enabled": True}, {"from": [{"podSelector": {}}]}],
        "pools": [{}, {"mail": {"workers": 1, "stop_timeout": 5}}],
    }
    for chosen in itertools.product(*switches.values()):
        objects = rendered(dict(zip(switches, chosen, strict=True)))
        autoscaling, _, policy, _ = chosen
        assert ("ScaledObject" in objects) == (autoscaling["kind"] == "keda")
        assert ("HorizontalPodAutoscaler" in objects) == (autoscaling["kind"] == "hpa")
        assert ("NetworkPolicy" in objects) == policy.get("enabled", True)
        for kind, each in objects.items():
            if kind not in WITHOUT_SCHEMA:
                kubernetes_validate.validate(each, KUBERNETES[1], strict=True)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"replica": 3}, "replica"),
        ({"pools": {"mail": {"workers": 2}}}, "stop_timeout"),
        ({"pools": {"Default": {"stop_timeout": 1}}}, "Default"),
        ({"autoscaling": {"kind": "vpa"}}, "kind"),
        ({"autoscaling": {"kind": "keda", "min": 0}}, "min"),
        ({"stopReserve": 1}, "stopReserve"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_in_the_values_is_refused_by_name(values, says):
    chart = helm_python.Chart.load(CHART)
    with pytest.raises(helm_python.HelmValuesError, match=says):
        chart.validate_schema(chart.merge_values(values))


# -- what the objects mean -------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "longest"), [({}, 30), (VALUES["everything"], 600)], ids=["default", "long"])
def test_a_pod_has_longer_than_the_longest_stop_timeout(values, longest):
    made = pod(values)
    given = yaml.safe_load((CHART / "values.yaml").read_text())
    assert given["stopReserve"] >= STOP_RESERVE
    assert made["terminationGracePeriodSeconds"] == longest + given["stopReserve"] + given["preStop"]
    assert made["containers"][0]["lifecycle"]["preStop"] == {"exec": {"command": ["jobsctl", "quiet"]}}


def configuration(values: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return the configuration that a pod has, read as jobs reads it."""
    (tmp_path / "url").write_text("redis://redis/0")
    (tmp_path / "jobs.toml").write_text('modules = ["tasks"]\n')
    for variable in pod(values)["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    monkeypatch.setenv("JOBS_BACKEND_FILE", str(tmp_path / "url"))
    monkeypatch.chdir(tmp_path)
    return config_sources.load().config


def test_the_variables_of_a_pod_are_a_configuration(tmp_path, monkeypatch):
    config = configuration(VALUES["everything"], tmp_path, monkeypatch)
    assert config.backend == "redis://redis/0"
    assert (config.pools["default"].workers.min, config.pools["default"].workers.max) == (1, 4)
    assert [*config.pools["default"].topics] == ["mail", "default"]
    assert (config.pools["reports"].stop_timeout, config.pools["reports"].concurrency) == (600, 4)
    assert (config.lease, config.http.listen) == (20, "0.0.0.0:9000")


def test_a_pod_has_no_variables_of_services_which_might_look_like_configuration():
    assert pod({})["enableServiceLinks"] is False


def test_the_probes_ask_the_port_on_which_the_supervisor_listens(tmp_path, monkeypatch):
    config = configuration({}, tmp_path, monkeypatch)
    (container,) = pod({})["containers"]
    (port,) = container["ports"]
    assert config.http.listen == f"0.0.0.0:{port['containerPort']}"
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/startupz",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port["name"]}


def test_a_supervisor_started_as_in_a_pod_answers_the_probes_and_stops_in_time(tmp_path):
    """With the command and the variables of the container; only the port and the places that a node mounts are other ones."""
    (container,) = pod({})["containers"]
    project = Project(tmp_path / "app", "from jobs_core import job\n\n@job\ndef work(): ...\n")
    (tmp_path / "url").write_text(f"sqlite:///{tmp_path}/jobs.db")
    places = {
        "JOBS_BACKEND_FILE": str(tmp_path / "url"),
        "JOBS_RUN_DIR": str(tmp_path / "run"),
        "JOBS_HTTP__LISTEN": f"unix:{tmp_path}/http",
    }
    variables = {**{each["name"]: each["value"] for each in container["env"]}, **places}
    project.configure(backend="")  # a jobs.toml as an image has it: modules alone
    ours = [sys.executable, "-m", "jobs_core"]
    name, *arguments = container["args"]
    assert name == "jobsctl"
    try:
        supervisor = project.start_program(*ours, *arguments, **variables)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            until(lambda path=path: (tmp_path / "http").exists() and answers(tmp_path / "http", path))
        name, *quiet = container["lifecycle"]["preStop"]["exec"]["command"]
        assert name == "jobsctl"
        assert "take no new jobs" in project.here(*quiet, **variables)
        assert not answers(tmp_path / "http", "/readyz")
        assert answers(tmp_path / "http", "/livez")
        assert supervisor.stop() == 0
    finally:
        project.close()


def answers(socket: Path, path: str) -> bool:
    """Return whether a probe of this path succeeds."""
    try:
        return "ok" in fetch(socket, path)
    except (OSError, AssertionError, ValueError):
        return False


def test_a_pod_can_write_only_where_it_has_to():
    made = pod({})
    (container,) = made["containers"]
    security = container["securityContext"]
    assert made["securityContext"]["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert not security["allowPrivilegeEscalation"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"/run/jobs", "/tmp"}
    (place,) = [variable["value"] for variable in container["env"] if variable["name"] == "JOBS_RUN_DIR"]
    assert Path(place).parent == Path("/run/jobs")  # a mounted directory belongs to root: jobs makes its own below it


def test_the_queries_of_the_autoscalers_are_those_of_the_files_without_helm():
    """tests/docs/test_deploy.py compares those with the metrics that are exported."""
    (trigger,) = rendered(VALUES["keda"])["ScaledObject"]["spec"]["triggers"]
    file = yaml.safe_load((ROOT / "deploy/kubernetes/keda.yaml").read_text())["spec"]["triggers"][0]
    assert re.sub('".*"', "", trigger["metadata"]["query"]) == re.sub('".*"', "", file["metadata"]["query"])
    assert trigger["metadata"].keys() == file["metadata"].keys()
    assert 'topic=~"mail|default"' in trigger["metadata"]["query"]
    metrics = rendered(VALUES["hpa"])["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (plain, _) = yaml.safe_load_all((ROOT / "deploy/kubernetes/hpa.yaml").read_text())
    assert metrics[0] == plain["spec"]["metrics"][0]
    assert len(metrics) == 2


def test_an_autoscaler_decides_alone_how_many_pods_there_are():
    assert "replicas" in rendered({})["Deployment"]["spec"]
    assert "replicas" not in rendered(VALUES["keda"])["Deployment"]["spec"]


def test_the_manifests_for_kubectl_are_the_chart_as_it_is():
    spec = importlib.util.spec_from_file_location("render_chart", ROOT / "tools" / "render_chart.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "deploy" / "kubernetes" / "jobs.yaml").read_text()
    assert written == module.manifests(), "tools/render_chart.py writes deploy/kubernetes/jobs.yaml anew"
