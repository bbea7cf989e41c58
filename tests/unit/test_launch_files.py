"""The files in launch/: scripts by shellcheck, KubeRay manifests by its own schemas, cluster files by Ray's own validation."""

import copy
import os
import shutil
import stat
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.launch.kuberay import SCHEMAS, mistakes, schema_of

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch")])
RAY_JOBS = sorted((LAUNCH / "kuberay").glob("rayjob*.yaml"))
CLUSTERS = sorted((LAUNCH / "ray-up").glob("*.yaml"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(LAUNCH)) for path in paths]


# ---- scripts


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed (Debian: shellcheck)")
@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_shellcheck_finds_nothing(script):
    done = subprocess.run(["shellcheck", "--external-sources", script], cwd=LAUNCH.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=names(SCRIPTS))
def test_what_is_called_can_be_and_what_is_sourced_is_not(script):
    called = script.read_text().startswith("#!")
    assert bool(script.stat().st_mode & stat.S_IXUSR) == called


def test_a_token_is_made_once_and_is_its_owners(tmp_path):
    def token() -> str:
        script = "umask 000; source launch/common.sh; make_token; echo $RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH"
        environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        said = subprocess.check_output(["bash", "-euc", script], cwd=LAUNCH.parent, env=environment, text=True)
        mode, path = said.split()
        assert mode == "token" and stat.S_IMODE(os.stat(path).st_mode) == 0o600
        return Path(path).read_text()

    first = token()
    assert len(first) == 64 and token() == first


STAND_IN = """
run_to_its_end() { eval "$RUN" & run=$!; await_run; }
trap stop_run USR1
status=0; run_to_its_end || status=$?
echo "$status ${asked:-unasked}"
"""


@pytest.mark.parametrize("run, said", [
    ("sleep 0.3; exit 7", "7 unasked"), ("exit 0", "0 unasked"),
    ("trap 'sleep 0.3; exit 130' TERM; kill -USR1 $$; sleep 5 &>/dev/null & wait", "130 1"),
])
def test_the_run_s_exit_status_arrives_whatever_signals_came(run, said):
    """The function that waits, with a few lines of shell in place of the run."""
    environment = os.environ | {"RUN": run}
    done = subprocess.run(["bash", "-uc", "source launch/common.sh" + STAND_IN], cwd=LAUNCH.parent, env=environment,
                          capture_output=True, text=True, timeout=20)
    assert done.stdout.strip() == said


# ---- KubeRay

needs_schemas = pytest.mark.skipif(not SCHEMAS.is_dir(), reason=f"KubeRay's custom resource definitions are not at {SCHEMAS}")


@needs_schemas
@pytest.mark.parametrize("manifest", RAY_JOBS, ids=names(RAY_JOBS))
def test_a_manifest_is_what_kuberay_expects(manifest):
    assert mistakes(yaml.safe_load(manifest.read_text())) == []


@needs_schemas
@pytest.mark.parametrize("keys, new, said", [
    (["spec", "shutdownAfterJobFinishes"], "shutdownAfterJobFinish", "'shutdownAfterJobFinish' was unexpected"),
    (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "livenessProbe", "httpGet", "path"],
     "pathh", "'pathh' was unexpected"),
    (["spec", "rayClusterSpec", "headGroupSpec"], "headGroup", "'headGroupSpec' is a required property"),
])
def test_a_misspelt_field_is_a_mistake(keys, new, said):
    manifest = copy.deepcopy(yaml.safe_load(RAY_JOBS[0].read_text()))
    place = manifest
    for key in keys[:-1]:
        place = place[key]
    place[new] = place.pop(keys[-1])
    assert any(said in mistake for mistake in mistakes(manifest))


@needs_schemas
def test_a_value_of_another_kind_is_a_mistake():
    manifest = yaml.safe_load(RAY_JOBS[0].read_text())
    manifest["spec"]["backoffLimit"] = "three"
    assert mistakes(manifest) == ["spec.backoffLimit: 'three' is not of type 'integer'"]


@needs_schemas
def test_the_claim_for_storage_is_what_kubernetes_expects():
    """RayJob's schema has that of a claim's specification in it."""
    schema = schema_of("RayJob", "v1")["properties"]["spec"]["properties"]["rayClusterSpec"]["properties"]["headGroupSpec"]
    volumes = schema["properties"]["template"]["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claim = yaml.safe_load((LAUNCH / "kuberay" / "storage.yaml").read_text())
    jsonschema.validate(claim["spec"], volumes["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"])
    assert claim["kind"] == "PersistentVolumeClaim"


@pytest.mark.parametrize("manifest", RAY_JOBS, ids=names(RAY_JOBS))
def test_pods_are_closed_and_have_what_a_run_needs(manifest):
    cluster = yaml.safe_load(manifest.read_text())["spec"]["rayClusterSpec"]
    claim = yaml.safe_load((LAUNCH / "kuberay" / "storage.yaml").read_text())["metadata"]["name"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert [group["labels"]["role"] for group in cluster["workerGroupSpecs"]] == ["training", "rollout"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert pod["securityContext"]["runAsNonRoot"] and pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounts["/runs"]]["persistentVolumeClaim"]["claimName"] == claim
        assert container["startupProbe"] and container["livenessProbe"]


# ---- ray up


@pytest.mark.parametrize("file", CLUSTERS, ids=names(CLUSTERS))
def test_ray_accepts_a_cluster_file(file):
    """As `ray up` does before it asks a cloud anything. What stands in node_config, AWS alone judges."""
    config = prepare_config(yaml.safe_load(file.read_text()))
    validate_config(config)
    commands = " ".join(config["head_start_ray_commands"] + config["worker_start_ray_commands"])
    assert commands.count("ray start") == commands.count("RAY_AUTH_MODE=token ") == 2


@pytest.mark.parametrize("file", CLUSTERS, ids=names(CLUSTERS))
def test_ray_refuses_a_misspelt_key(file):
    config = yaml.safe_load(file.read_text())
    config["worker_start_ray_command"] = config.pop("worker_start_ray_commands")
    with pytest.raises(jsonschema.ValidationError, match="'worker_start_ray_command' was unexpected"):
        validate_config(prepare_config(config))


def test_types_of_nodes_say_their_role():
    types = yaml.safe_load((LAUNCH / "ray-up" / "aws.yaml").read_text())["available_node_types"]
    assert {name: kind.get("labels") for name, kind in types.items()} == {
        "head": None, "training": {"role": "training"}, "rollout": {"role": "rollout"}}
