#!/usr/bin/env python3
"""Carries out what deploy/admission/policy.yaml says, on pods of several kinds, and prints the pods that come of it. No API
server is at hand: the expressions are parsed and evaluated by another implementation of CEL, which knows no types of
Kubernetes; that the result has the right ones, the schemas say (manifests.py)."""

import json
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

# celpy compares timestamps with the one and matches regular expressions with the other. Neither is asked for here, and both
# are compiled packages for few releases of Python.
for module in ("re2", "pendulum", "pendulum.tz", "pendulum.tz.exceptions"):
    sys.modules[module] = MagicMock()

import celpy  # noqa: E402
import yaml  # noqa: E402

ADMISSION = Path(__file__).resolve().parents[2] / "deploy/admission"
CONTAINER = {
    "name": "etcd", "image": "registry.example/etcd:3.5.30",
    "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"memory": "1Mi"}},
    "securityContext": {"runAsUser": 10001, "runAsGroup": 10001, "runAsNonRoot": True, "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True,
                        "seccompProfile": {"type": "RuntimeDefault"}},
}
FIRST = {**CONTAINER, "name": "first"}
DATA = {"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}


def pod(name, **spec):
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"etcd-janitor/inject": "true"}},
            "spec": {"automountServiceAccountToken": False, "securityContext": {"fsGroup": 10001}, "containers": [CONTAINER],
                     **spec}}


def plain_value(value):
    """celpy's booleans are numbers, and its sum of two lists is no list of its own."""
    if isinstance(value, celpy.celtypes.BoolType):
        return bool(value)
    if isinstance(value, dict):
        return {str(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain_value(inner) for inner in value]
    return int(value) if isinstance(value, int) else str(value)


def evaluate(expression, variables):
    environment = celpy.Environment()
    environment.compile(expression)
    # Typed objects are Kubernetes' own; without their names they are maps.
    plain = re.sub(r"(?:Object[\w.]*|JSONPatch)\{", "{", expression)
    plain = re.sub(r"(?<=[{\s])([A-Za-z]\w*):(?=\s)", r'"\1":', plain)
    program = environment.program(environment.compile(plain))
    value = program.evaluate({name: celpy.json_to_cel(value) for name, value in variables.items()})
    return plain_value(value)


def add(document, path, value):
    """The one operation of a JSON patch that the policy uses."""
    *way, last = path.strip("/").split("/")
    for step in way:
        document = document[int(step) if isinstance(document, list) else step]
    if last == "-":
        document.append(value)
    else:
        assert last not in document, f"{path} is overwritten"
        document[last] = value


def admit(policy, params, document):
    variables = {"object": document, "params": params}
    for condition in policy["matchConditions"]:
        if not evaluate(condition["expression"], variables):
            return None
    document = json.loads(json.dumps(document))
    for mutation in policy["mutations"]:
        for patch in evaluate(mutation["jsonPatch"]["expression"], variables):
            assert patch["op"] == "add", patch
            add(document, patch["path"], patch["value"])
    return document


def main():
    documents = list(yaml.safe_load_all((ADMISSION / "policy.yaml").read_text()))
    policy, binding = (next(d for d in documents if d["kind"] == kind)
                       for kind in ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"))
    params = yaml.safe_load((ADMISSION / "params.yaml").read_text())
    assert binding["spec"]["policyName"] == policy["metadata"]["name"], "the binding is another policy's"
    assert binding["spec"]["paramRef"]["name"] == params["metadata"]["name"], "the binding is to another ConfigMap"
    assert policy["spec"]["failurePolicy"] == "Ignore", "a broken policy must not keep etcd from starting"
    policy = policy["spec"]
    janitor = {**CONTAINER, "name": "etcd-janitor"}
    for there in (pod("native", initContainers=[FIRST, janitor]), pod("plain", containers=[CONTAINER, janitor])):
        assert admit(policy, params, there) is None, f"{there['metadata']['name']}: it has a janitor already"
    changed = []
    root = {"securityContext": {"runAsUser": 0, "fsGroup": 10001}}
    for document in (pod("least"), pod("both", initContainers=[FIRST], volumes=[DATA]), pod("volume", volumes=[DATA]),
                     pod("root", **root), pod("root-both", initContainers=[FIRST], **root)):
        after = admit(policy, params, document)
        assert after is not None, f"{document['metadata']['name']} is left without a janitor"
        for key in ("initContainers", "volumes"):
            before = document["spec"].get(key, [])
            assert after["spec"][key][:len(before)] == before, f"{key}: what was there has changed"
        again = admit(policy, params, after)
        assert again is None, "a second time changes it again"
        changed.append(after)
    yaml.safe_dump_all(changed, sys.stdout)


if __name__ == "__main__":
    main()
