//! Examples below the help of each command.

pub(super) const RUN: &str = "Examples:
  etcd-janitor run --config /etc/etcd-janitor/config.yaml
  etcd-janitor run --dry-run    decides and says everything, sends nothing";

pub(super) const STATUS: &str = "Examples:
  etcd-janitor status
  etcd-janitor status --watch
  etcd-janitor status -o wide
  etcd-janitor status -o json
  kubectl exec etcd-0 -c etcd-janitor -- etcd-janitor status

Exit codes: 0 well, 1 attention or no daemon, 3 neither daemon nor etcd answers.";

pub(super) const EXPLAIN: &str = "Examples:
  etcd-janitor explain
  etcd-janitor explain compaction --limit 3
  etcd-janitor explain -o json";

pub(super) const CHECK: &str =
    "Changes nothing that stays: one key under the prefix is written and deleted, one lease granted and
revoked.

Examples:
  etcd-janitor check
  etcd-janitor check -o short
  etcd-janitor check -o json

Exit codes: 0 no check failed, 1 a check failed, 2 the configuration is not valid, 3 neither daemon nor etcd answers.";

pub(super) const HISTORY: &str = "Examples:
  etcd-janitor history
  etcd-janitor history --member etcd-2 --limit 5
  etcd-janitor history -o wide";

pub(super) const DEFRAG: &str = "Examples:
  etcd-janitor defrag --dry-run    shows the plan and decides, sends nothing
  etcd-janitor defrag

A defrag that was sent cannot be cancelled: Ctrl-C ends this command and not the defrag.

Exit codes: 0 done, 1 failed, 3 nobody reachable, 4 skipped or refused, 5 outcome unknown, 130 interrupted.";

pub(super) const COMPACT: &str = "Examples:
  etcd-janitor compact --dry-run
  etcd-janitor compact

What is older than the retention is known only from what a daemon has watched and stored.";

pub(super) const HOLD: &str = "Examples:
  etcd-janitor hold --for 2h --reason 'disk swap'
  etcd-janitor hold --for 1d --reason 'upgrade to 3.6' --by ana --replace";

pub(super) const RELEASE: &str = "Example:
  etcd-janitor release";

pub(super) const QUIESCE: &str = "Example, in the pod's template:
  lifecycle: { preStop: { exec: { command: [etcd-janitor, quiesce] } } }";

pub(super) const PROBE: &str = "Examples:
  etcd-janitor probe livez
  etcd-janitor probe readyz";

pub(super) const CONFIG: &str = "Examples:
  etcd-janitor config check --config new.yaml
  etcd-janitor config show
  etcd-janitor config schema > etcd-janitor.schema.json";

pub(super) const COMPLETIONS: &str = "Examples:
  source <(etcd-janitor completions bash)
  etcd-janitor completions zsh > \"${fpath[1]}/_etcd-janitor\"
  etcd-janitor completions fish > ~/.config/fish/completions/etcd-janitor.fish";
