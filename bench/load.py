"""Parts "load" and "story": etcd-load beside what people do instead, and their load test run whole."""

import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

from cluster import Janitors, Members, due_in
from machine import ROOT, describe, etcd_program, memory, ours, program, table


def run(members, words, environment=None):
    """Runs etcd-load; its report, and its highest resident memory in MiB."""
    report, resident = members.folder / "load.json", 0.0
    process = subprocess.Popen([ours("etcd-load"), "--quiet", f"--report={report}", "--timeout=60s", *words],
                               stdout=subprocess.DEVNULL, env=environment)
    while process.poll() is None:
        # It ends between two lines of this.
        try:
            resident = max(resident, memory(process.pid)[1])
        except (OSError, KeyError):
            pass
        time.sleep(0.2)
    if process.returncode != 0:
        raise RuntimeError(f"etcd-load ended with {process.returncode}")
    return json.loads(report.read_text()), resident


def fill(members, keys, words=()):
    """Fills; the stage of the report, and etcd-load's highest resident memory."""
    told, resident = run(members, [f"--endpoint={members.urls[0]}", f"--keys={keys}", *words])
    return told["stages"][0], resident


def by_shell(members, keys):
    """Keys a second of the loop that people write."""
    environment = {**os.environ, "ETCDCTL_API": "3"}
    begun = time.monotonic()
    for number in range(keys):
        subprocess.run([etcd_program("etcdctl"), "--endpoints=" + members.urls[0], "put", f"loop{number}", "bar"],
                       env=environment, check=True, capture_output=True)
    return keys / (time.monotonic() - begun)


def by_bare_loop(members, keys):
    """Keys a second of the client library in a loop, with as many connections, clients and threads."""
    bare = program(ROOT / "target/release/examples/bare-load", "run `make bench`")
    done = subprocess.run([bare, members.urls[0], str(keys), "4", "256"], check=True, capture_output=True, text=True)
    return float(done.stdout)


def load(options):
    describe()
    shell, bare, ours_, percentiles, resident = [], [], [], [], 0.0
    for _ in range(options.repeat):
        with Members(1) as members:
            shell.append(by_shell(members, options.loop))
            bare.append(by_bare_loop(members, options.keys))
            stage, highest = fill(members, options.keys)
            ours_.append(stage["per_second"])
            percentiles.append(stage["kinds"]["write"]["latency_seconds"])
            resident = max(resident, highest)
    shell, bare, mine = map(statistics.median, (shell, bare, ours_))
    p50, p99 = (statistics.median(latency[at] for latency in percentiles) * 1000 for at in ("p50", "p99"))
    table(["median of %d" % options.repeat, "keys", "a second", "etcd-load is", "p50", "p99", "memory"], [
        ["a loop of `etcdctl put`", options.loop, f"{shell:.1f}", f"{mine / shell:.0f} times it", "", "", ""],
        ["the client library in a bare loop", options.keys, f"{bare:.0f}", f"{mine / bare:.2f} of it", "", "", ""],
        ["`etcd-load`", options.keys, f"{mine:.0f}", "", f"{p50:.1f} ms", f"{p99:.1f} ms", f"{resident:.1f} MiB"],
    ])


def sizes(members):
    size, in_use = members.sizes()
    return f"{size / members.count / 2**20:.0f} MiB, {in_use / members.count / 2**20:.0f} MiB in use"


def story(options):
    """The load test whole: its keys, written twice, compacted to the retention and defragmented, by the janitors' own
    schedules and by the CronJob's commands, on the same data."""
    describe()
    rows = []
    with Members(3) as members:
        begun = time.monotonic()
        words = ["--endpoint=" + ",".join(members.urls), f"--keys={options.keys}", "--churn=1"]
        told, resident = run(members, words)
        rows.append(["fill and churn by etcd-load", f"{time.monotonic() - begun:.0f} s", sizes(members)])
        for stage in told["stages"]:
            latency = stage["kinds"]["write"]["latency_seconds"]
            failed = sum(error["count"] for error in stage["errors"].values())
            rows.append([f"– {stage['stage']}: {stage['operations']} puts, {stage['per_second']:.0f} a second, p99 "
                         f"{latency['p99'] * 1000:.0f} ms, {failed} failed", f"{stage['seconds']:.0f} s", ""])
        data = members.keep()
    try:
        with Members(3, data=data) as members:
            yaml = (f"compaction: {{ schedule: '*/10 * * * * *', retention: 10s }}\n"
                    f"defrag: {{ schedule: '{due_in(options.wait)}', pause_between: 2s, leader_wait: 5m, "
                    f"liveness_budget: 0s }}\n")
            count, took = members.defrags()
            begun = time.monotonic()
            with Janitors(members, yaml) as janitors:
                janitors.all_done()
                compactions = [event for janitor in janitors.all for event in janitor.events()
                               if event.get("task") == "compaction" and event.get("outcome") == "done"]
                rows.append([f"the janitors: compactions: {len(compactions)}; a round "
                             f"({members.defrags()[1] - took:.1f} s of defrags)", f"{time.monotonic() - begun:.0f} s",
                             sizes(members)])
        with Members(3, data=data) as members:
            begun = time.monotonic()
            # etcd's own compaction, which is beside the CronJob, ends where the janitors' did: nothing new came.
            members.compact_to_head()
            count, took = members.defrags()
            compacted = time.monotonic()
            for url in members.urls:
                members.etcdctl([url], "defrag")
                time.sleep(2)
            rows.append([f"compaction ({compacted - begun:.0f} s) and the CronJob's commands "
                         f"({members.defrags()[1] - took:.1f} s of defrags)",
                         f"{time.monotonic() - begun:.0f} s", sizes(members)])
    finally:
        shutil.rmtree(data.folder, ignore_errors=True)
    table([f"{options.keys} keys, memory of etcd-load {resident:.0f} MiB", "took", "each member then"], rows)
