#!/usr/bin/env python3
"""Judges rendered manifests: Kubernetes' schemas of three releases, and the janitor's container by our own rules, which
no schema knows. One command line for each way of getting the janitor into a cluster; part of `make deploy-test`.

    manifests.py NAME PROGRAM FILE COUNT
        FILE is what kustomize, helm or inject wrote, COUNT how many of its pods must have a janitor
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import kubernetes_validate
import yaml

RELEASES = ("1.29", "1.33", "1.37")
# Of other projects' APIs, which no release of Kubernetes knows. Of those that are ours to write: every field that they use,
# by the operator's reference of monitoring.coreos.com/v1. A field that is not here is misspelt, or to be looked up there
# and added. A type says what a value is, a list what its items are, `...` that any key may be there.
LABELS = {...: str}
FOREIGN = {
    "Certificate": None,
    "PodMonitor": {
        "selector": {"matchLabels": LABELS},
        "podMetricsEndpoints": [{
            "portNumber": int, "path": str, "interval": str,
            "relabelings": [{"targetLabel": str, "replacement": str}],
        }],
    },
    "PrometheusRule": {
        "groups": [{
            "name": str,
            "rules": [{"alert": str, "expr": str, "for": str, "labels": LABELS, "annotations": LABELS}],
        }],
    },
}
# What an object of these is nothing without.
REQUIRED = {"PodMonitor": ("selector", "podMetricsEndpoints"), "PrometheusRule": ("groups",)}
# When Kubernetes learnt them.
SINCE = {"MutatingAdmissionPolicy": "1.36", "MutatingAdmissionPolicyBinding": "1.36"}
POD_SPECS = {
    "Pod": lambda o: o["spec"],
    "StatefulSet": lambda o: o["spec"]["template"]["spec"],
    "DaemonSet": lambda o: o["spec"]["template"]["spec"],
}


class Wrong(Exception):
    pass


def need(fine, what):
    if not fine:
        raise Wrong(what)


def version(text):
    return tuple(int(n) for n in text.split("."))


def schemas(documents):
    for release in RELEASES:
        for document in documents:
            if document["kind"] in FOREIGN or version(SINCE.get(document["kind"], "1.0")) > version(release):
                continue
            try:
                kubernetes_validate.validate(document, release, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as refused:
                where = ".".join(str(step) for step in getattr(refused, "path", ()))
                raise Wrong(f"Kubernetes {release} refuses {document['kind']} {where}: {refused.message}") from None


def fits(value, shape, where):
    if isinstance(shape, list):
        need(isinstance(value, list) and value, f"{where}: a list of something")
        for at, item in enumerate(value):
            fits(item, shape[0], f"{where}[{at}]")
    elif isinstance(shape, dict):
        need(isinstance(value, dict), f"{where}: fields")
        for key, inner in value.items():
            need(key in shape or ... in shape, f"{where}.{key}: no such field is known")
            fits(inner, shape.get(key, shape.get(...)), f"{where}.{key}")
    else:
        need(type(value) is shape, f"{where}: {value!r} is no {shape.__name__}")


def judge_foreign(document):
    kind = document["kind"]
    if FOREIGN[kind] is None:
        return
    need(document["apiVersion"] == "monitoring.coreos.com/v1", f"apiVersion {document['apiVersion']}")
    metadata = {"name": str, "namespace": str, "labels": LABELS}
    fits(document, {"apiVersion": str, "kind": str, "metadata": metadata, "spec": FOREIGN[kind]}, kind)
    for key in REQUIRED[kind]:
        need(key in document["spec"], f"no spec.{key}")
    for group in document["spec"].get("groups", []):
        for rule in group["rules"]:
            need({"alert", "expr"} <= set(rule), f"a rule of {group['name']} without a name or an expression")


def janitors(spec):
    """(the container, whether it is a native sidecar)"""
    for native, key in ((True, "initContainers"), (False, "containers")):
        for container in spec.get(key) or []:
            if container["name"] == "etcd-janitor":
                yield container, native


def judge_container(container, native, beside_etcd, pods_user):
    need(not native or container.get("restartPolicy") == "Always", "an init container that is no sidecar never ends")
    # A probe that needs etcd holds etcd back; readiness is the whole pod's.
    for probe in ("startupProbe", "readinessProbe"):
        need(probe not in container, f"{probe}: none on the janitor")
    live = container["livenessProbe"]["httpGet"]
    need(live["path"] == "/livez", f"livenessProbe asks {live['path']}: only /livez does not depend on etcd")
    need(isinstance(live["port"], int), "livenessProbe: a named port of an init container has no number before 1.32")
    for port in container.get("ports", []):
        need(port["containerPort"] == 8379, f"port {port['containerPort']}")
        need(port["name"] == "janitor-http", f"port {port['name']!r}: `metrics` is often etcd's own")
    need("memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"], "resources")
    security = container["securityContext"]
    need(security.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation")
    need(security.get("capabilities", {}).get("drop") == ["ALL"], "capabilities")
    need(security.get("readOnlyRootFilesystem") is True, "readOnlyRootFilesystem")
    need(security.get("seccompProfile", {}).get("type") == "RuntimeDefault", "seccompProfile")
    if beside_etcd:
        need(security.get("runAsNonRoot") is True, "runAsNonRoot")
        # The image's own is not asked where the pod says one: the kubelet would refuse to start it, and etcd waits for it.
        need(security.get("runAsUser", pods_user) != 0, "runAsNonRoot as root: it never starts, and neither does etcd")
    need(container["lifecycle"]["preStop"]["exec"]["command"] == ["/etcd-janitor", "quiesce"], "preStop")
    names = {variable["name"] for variable in container.get("env", [])}
    need("ETCD_JANITOR__ETCD__MEMBER_NAME" in names, "without member_name a load balancer is not noticed")
    need({"POD_NAME", "POD_NAMESPACE"} <= names, "POD_NAME and POD_NAMESPACE: it is told apart by them")
    for mount in container.get("volumeMounts", []):
        need(mount.get("readOnly") is True, f"{mount['mountPath']} is writable")
        need("subPath" not in mount, f"{mount['mountPath']}: what is mounted by subPath never changes")


def judge_probes(spec):
    """Of two handlers in one probe the API server refuses the pod, which no schema says."""
    for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            kinds = {"exec", "httpGet", "tcpSocket", "grpc"} & set(container.get(name, {}))
            need(name not in container or len(kinds) == 1, f"{container['name']}: {name} by {sorted(kinds)}")


def judge_config(program, text):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        said = subprocess.run([program, "config", "check", "--config", file.name], capture_output=True, text=True, check=False)
    need(said.returncode == 0, f"etcd-janitor config check: {said.stdout}{said.stderr}")


def judge(program, documents):
    schemas(documents)
    found = 0
    for document in documents:
        where = f"{document['kind']} {document['metadata']['name']}"
        try:
            if document["kind"] in FOREIGN:
                judge_foreign(document)
            if document["kind"] == "ConfigMap" and "etcd-janitor.yaml" in document.get("data", {}):
                judge_config(program, document["data"]["etcd-janitor.yaml"])
            if document["kind"] not in POD_SPECS:
                continue
            spec = POD_SPECS[document["kind"]](document)
            volumes = {volume["name"] for volume in spec.get("volumes", [])}
            volumes |= {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
            judge_probes(spec)
            beside = document["kind"] != "DaemonSet" and not spec.get("hostNetwork")
            for container, native in janitors(spec):
                judge_container(container, native, beside, spec.get("securityContext", {}).get("runAsUser"))
                for mount in container.get("volumeMounts", []):
                    need(mount["name"] in volumes, f"no volume {mount['name']}")
                found += 1
        except Wrong as wrong:
            raise Wrong(f"{where}: {wrong}") from None
    return found


def main():
    name, program, rendered, count = sys.argv[1:]
    documents = [d for d in yaml.safe_load_all(Path(rendered).read_text()) if d]
    documents = [item for d in documents for item in (d["items"] if d["kind"] == "List" else [d])]
    try:
        need(documents, "nothing was rendered")
        found = judge(program, documents)
        need(found == int(count), f"{found} pods have a janitor instead of {count}")
    except Wrong as wrong:
        sys.exit(f"{name}: {wrong}")
    kinds = ", ".join(sorted({d["kind"] for d in documents}))
    print(f"{name}: {len(documents)} documents, {found} with a janitor: {kinds}")


if __name__ == "__main__":
    main()
