"""KubeRay's custom resource definitions as strict JSON schemas: what the API server would drop without a word is a mistake.

The definitions are those that KubeRay installs, gzipped, in the folder that KUBERAY_CRDS names.
"""

import gzip
import os
from functools import cache
from pathlib import Path

import jsonschema
import yaml

SCHEMAS = Path(os.environ.get("KUBERAY_CRDS") or Path(__file__).parents[3] / "shared" / "data" / "kuberay")


def mistakes(manifest: dict) -> list[str]:
    """What KubeRay's API does not know or expect in a manifest, each with its path."""
    schema = schema_of(manifest["kind"], manifest["apiVersion"].removeprefix("ray.io/"))
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'.'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


@cache
def schema_of(kind: str, version: str) -> dict:
    """The schema of a kind, closed to unknown fields. Raises FileNotFoundError, StopIteration where it is not defined."""
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml.gz"
    with gzip.open(path) as file:
        definition = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # in C where there is one: ten times faster
    one = next(one for one in definition["spec"]["versions"] if one["name"] == version and one["served"])
    return _closed(one["schema"]["openAPIV3Schema"], root=True)


def _closed(schema: dict, root: bool = False) -> dict:
    """OpenAPI as Kubernetes has it, as a JSON schema: an object admits what is described alone; IntOrString is either."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        made |= {"type": ["integer", "string"]}
        made.pop("anyOf", None)
    made["properties"] = {name: _closed(value) for name, value in schema.get("properties", {}).items()}
    if schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if root:  # of every object, and described elsewhere
        made["properties"]["metadata"] = {"type": "object", "properties": dict.fromkeys(
            ("name", "generateName", "namespace", "labels", "annotations"), True), "additionalProperties": False}
    if isinstance(schema.get("items"), dict):
        made["items"] = _closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        made["additionalProperties"] = _closed(schema["additionalProperties"])
    return made
