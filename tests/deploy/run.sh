#!/usr/bin/env bash
# Everything in deploy/, and the image, judged by the tools that operators have.
#
#   tests/deploy/run.sh manifests [PROGRAM]   what is rendered; also in the normal run (tests/deploy.rs)
#   tests/deploy/run.sh image [PROGRAM]       the same by trivy and amtool, the Dockerfile and the image: make deploy-test
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PWD/.cache/tools/deploy/bin:$PATH:$PWD/.cache/tools/bin

say() { printf '\ndeploy-test: %s\n' "$*"; }

part=${1:?manifests or image}
janitor=$(realpath "${2:-target/release/etcd-janitor}")
python=$PWD/.cache/tools/deploy/python/bin/python
for tool in kubectl helm promtool "$python"; do
    command -v "$tool" >/dev/null || { say "$tool is missing: make tools"; exit 1; }
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ "$part" = image ]; then
    say "the Dockerfile"
    hadolint Dockerfile
    trivy config --quiet --skip-check-update --skip-version-check --exit-code 1 Dockerfile
fi

# What an operator's own rules would say first. Not KSV-0125: which registries are trusted is not ours to know.
printf 'KSV-0125\n' >"$scratch/trivyignore"

# judge NAME COUNT: the manifests on standard input, by schemas and by our own rules; by trivy, too, where that is there.
judge() {
    cat >"$scratch/$1.yaml"
    "$python" tests/deploy/manifests.py "$1" "$janitor" "$scratch/$1.yaml" "$2" || return 1
    [ "$part" = image ] || return 0
    trivy config --quiet --skip-check-update --skip-version-check --ignorefile "$scratch/trivyignore" \
        --severity MEDIUM,HIGH,CRITICAL --exit-code 1 "$scratch/$1.yaml" >"$scratch/trivy" || { cat "$scratch/trivy"; exit 1; }
}

say "kustomize"
kubectl kustomize deploy/kustomize/etcd | judge kustomize-etcd 1
kubectl kustomize tests/deploy/component | judge kustomize-component 1

say "helm"
helm lint --strict deploy/helm/etcd-janitor
helm template etcd-janitor deploy/helm/etcd-janitor --namespace etcd | judge helm-chart 0
# With everything that can be said, and with everything switched off.
helm template etcd-janitor deploy/helm/etcd-janitor --namespace etcd --set prometheusRule.runbooks=https://runbooks.example/etcd \
    --set podMonitor.labels.release=prometheus --set config.defrag.schedule='0 3 * * *' >"$scratch/said.yaml"
grep -q 'runbook_url: https://runbooks.example/etcd#etcdjanitordown' "$scratch/said.yaml"
judge helm-chart-said 0 <"$scratch/said.yaml"
helm template etcd-janitor deploy/helm/etcd-janitor --set podMonitor.enabled=false --set prometheusRule.enabled=false \
    --set dashboard.enabled=false | judge helm-chart-least 0
if helm template etcd-janitor deploy/helm/etcd-janitor --set podMonitor.enable=false >"$scratch/typo" 2>&1; then
    say "a misspelt value was taken"
    exit 1
fi
# What the operator would take, which no schema here knows: the rules by promtool.
"$python" -c 'import sys, yaml
rules = [d for d in yaml.safe_load_all(open(sys.argv[1])) if d and d["kind"] == "PrometheusRule"]
assert len(rules) == 1, rules
yaml.safe_dump(rules[0]["spec"], open(sys.argv[2], "w"))' "$scratch/said.yaml" "$scratch/rules.yaml"
promtool check rules "$scratch/rules.yaml"

# bitnami NAME WANTED…: the values for bitnami/etcd, with options of helm until `--`, then what must be rendered.
bitnami() {
    local name=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    helm template e tests/deploy/bitnami -f deploy/helm/bitnami-etcd.yaml "${options[@]}" >"$scratch/$name.out"
    for wanted; do
        grep -qF -- "$wanted" "$scratch/$name.out" || { say "$name: $wanted is not in it"; exit 1; }
    done
    judge "$name" 1 <"$scratch/$name.out"
}
bitnami bitnami-default -- 'value: 125s' 'value: /opt/bitnami/etcd/secrets/etcd-root-password'
# That chart's probe is a command with TLS.
bitnami bitnami-tls --set auth.client.secureTransport=true,auth.client.enableAuthentication=true -- 'value: 120s' \
    'value: e-etcd-0.e-etcd-headless.default.svc.cluster.local' 'value: /opt/bitnami/etcd/certs/client/ca.crt' \
    'value: /opt/bitnami/etcd/certs/client/key.pem'
bitnami bitnami-open --set auth.rbac.create=false,livenessProbe.enabled=false -- 'value: 0s'
bitnami bitnami-authority --set auth.client.secureTransport=true,auth.client.caFilename=ca.pem -- \
    'value: /opt/bitnami/etcd/certs/client/ca.pem' 'value: /opt/bitnami/etcd/certs/client/key.pem'
bitnami bitnami-root --set podSecurityContext.runAsUser=0 -- 'runAsUser: 65532'
bitnami bitnami-probe --set customLivenessProbe.httpGet.path=/livez,customLivenessProbe.timeoutSeconds=7 -- 'value: 27s'
bitnami bitnami-probe-command --set 'customLivenessProbe.exec.command={x},customLivenessProbe.failureThreshold=2' -- 'value: 10s'
bitnami bitnami-probe-tcp --set customLivenessProbe.tcpSocket.port=2379 -- 'value: 0s'
for wrong in auth.client.secureTransport=true,auth.client.useAutoTLS=true usePasswordFiles=false; do
    if helm template e tests/deploy/bitnami -f deploy/helm/bitnami-etcd.yaml --set "$wrong" >"$scratch/wrong" 2>&1; then
        say "$wrong was taken"
        exit 1
    fi
    grep -q 'etcd-janitor: ' "$scratch/wrong" || { cat "$scratch/wrong"; exit 1; }
done

# Without trivy: of these the etcd is somebody else's.
say "inject"
for manifest in bitnami.yaml bitnami-tls.yaml cert-manager.yaml etcd-io.yaml list.json pod.yaml; do
    for way in native plain; do
        options=(--image registry.example/etcd-janitor:1)
        [ "$way" = native ] || options+=(--plain)
        "$janitor" inject "${options[@]}" "tests/inject/$manifest" >"$scratch/injected" 2>"$scratch/summary" ||
            { cat "$scratch/summary"; exit 1; }
        "$python" tests/deploy/manifests.py "inject-${manifest%.*}-$way" "$janitor" "$scratch/injected" 1
    done
done

for options in '--config-map janitor' '--password-secret etcd/password' '--move-liveness-probe --plain' \
    '--config-map janitor --password-secret etcd/password --move-liveness-probe'; do
    # shellcheck disable=SC2086 # several options are several words
    "$janitor" inject --image registry.example/etcd-janitor:1 $options tests/inject/etcd-io.yaml >"$scratch/injected" \
        2>"$scratch/summary" || { cat "$scratch/summary"; exit 1; }
    "$python" tests/deploy/manifests.py "inject $options" "$janitor" "$scratch/injected" 1
done

say "prometheus"
[ "$part" = manifests ] || amtool check-config deploy/prometheus/alertmanager.yaml
# Debian's Prometheus is built without Kubernetes: the rest of the entry is judged with a target in its place.
sed '/kubernetes_sd_configs:/,/role: pod/c\    static_configs: [{ targets: ["localhost:8379"] }]' deploy/prometheus/scrape.yaml >"$scratch/scrape.yaml"
promtool check config --lint=all "$scratch/scrape.yaml"
judge podmonitor 0 <deploy/prometheus/podmonitor.yaml
judge prometheusrule 0 <deploy/prometheus/prometheusrule.yaml
# A field that is misspelt would be taken by the API server, and ignored.
if sed 's/portNumber:/portnumber:/' deploy/prometheus/podmonitor.yaml | judge typo 0 >"$scratch/typo" 2>&1; then
    say "a misspelt field of a PodMonitor was taken"
    exit 1
fi
grep -q 'portnumber: no such field' "$scratch/typo"

say "admission policy, static pod, DaemonSet"
"$python" tests/deploy/admission.py | judge admission 5
judge admission-policy 0 <deploy/admission/policy.yaml
judge admission-params 0 <deploy/admission/params.yaml
# These two work on the host itself: its network, its keys, root. trivy objects to each, and is right for anything else.
# As the page tells it, in another folder than /etc/kubernetes: in, in with a patch that fails, and out again.
told() {
    awk -v wanted="$1" '/^## /{on = /kubeadm/} /^```/{if (!inside) {at += on} inside = !inside; next} on && inside && at == wanted' \
        deploy/README.md | sed "s|/etc/kubernetes|$scratch/kubernetes|g"
}
manifest=$scratch/kubernetes/manifests/etcd.yaml
install -D -m 644 tests/deploy/kubeadm/etcd.yaml "$manifest"
told 1 | bash
"$python" tests/deploy/manifests.py kubeadm "$janitor" "$manifest" 1
cp "$manifest" "$scratch/with"
if told 1 | sed 's|patch-file |patch-file no/such/|' | bash >"$scratch/said" 2>&1 || ! cmp -s "$manifest" "$scratch/with"; then
    say "a patch that fails is not noticed, or takes etcd's manifest along"
    exit 1
fi
told 2 | bash
"$python" -c 'import sys, yaml
before, after = (yaml.safe_load(open(name)) for name in sys.argv[1:])
after["metadata"].pop("creationTimestamp", None)
after.pop("status", None)
assert before == after, after' tests/deploy/kubeadm/etcd.yaml "$manifest"
"$python" tests/deploy/manifests.py daemonset "$janitor" deploy/daemonset/daemonset.yaml 1

if [ "$part" = image ]; then
    say "the image"
    tests/deploy/image.py "$janitor"
    say "what the Dockerfile's first stage builds"
    tests/deploy/context.sh
fi

say "all well"
