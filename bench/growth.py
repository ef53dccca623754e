"""Part "growth": what more members and more keys cost, and a picture of it."""

import time
from pathlib import Path

import chart
from cluster import Janitors, Members, due_in
from load import fill
from machine import ROOT, describe, table

PICTURE = ROOT / "docs/growth.svg"


def members_grow(options):
    """A round of 1, 3, 5, 7 members with the same small file each: what is not etcd's own is ours."""
    rows, points = [], []
    for count in options.members:
        with Members(count) as members:
            fill(members, options.small, ["--value-size=1KiB", "--churn=1", "--clients=32"])
            members.compact_to_head()
            defrags, seconds = members.defrags()
            received = sum(page_total(page) for page in members.pages())
            yaml = (f"compaction: {{ enabled: false }}\n"
                    f"defrag: {{ schedule: '{due_in(10 + count)}', rule: 'dbSize > 0', pause_between: 0s, window: 30m, "
                    f"small_cluster: allow }}\n")
            with Janitors(members, yaml) as janitors:
                time.sleep(8 + count)
                begun = time.monotonic()
                cpu = sum(janitor.schedule()[0] for janitor in janitors.all)
                janitors.all_done()
                wall = time.monotonic() - begun
                cpu = sum(janitor.schedule()[0] for janitor in janitors.all) - cpu
                peak = max(janitor.memory()[1] for janitor in janitors.all)
            done, took = members.defrags()
            requests = sum(page_total(page) for page in members.pages()) - received
            if done - defrags != count:
                raise RuntimeError(f"{count} members: {done - defrags:.0f} defrags")
            rows.append([count, f"{wall:.0f} s", f"{took - seconds:.2f} s", f"{cpu / count * 1000:.0f} ms",
                         f"{requests / count:.0f}", f"{peak:.1f} MiB"])
            points.append((count, cpu / count * 1000))
    table(["members", "round, from its firing", "defrags, etcd's own", "our CPU, a member", "gRPC messages to a member",
           "most memory of a janitor"], rows)
    return points


def page_total(page):
    return sum(value for key, value in page.items() if key.startswith("grpc_server_msg_received_total"))


def keys_grow(options):
    """One member with more and more keys: fill, compaction of every older version, defrag; and what the janitor needs."""
    rows, per_key, load_memory = [], [], []
    for keys in options.keys:
        with Members(1) as members:
            stage, resident = fill(members, keys)
            members.compact_to_head()
            size, in_use = members.sizes()
            yaml = (f"compaction: {{ enabled: false }}\n"
                    f"defrag: {{ schedule: '{due_in(12)}', rule: 'dbSize > 0', pause_between: 0s, window: 1h, "
                    f"small_cluster: allow, liveness_budget: 0s }}\n")
            with Janitors(members, yaml) as janitors:
                time.sleep(8)
                cpu = janitors.all[0].schedule()[0]
                janitors.all_done()
                cpu = janitors.all[0].schedule()[0] - cpu
                peak = janitors.all[0].memory()[1]
            took = members.defrags()[1]
            rows.append([f"{keys:,}".replace(",", " "), f"{stage['per_second']:.0f}", f"{resident:.1f} MiB",
                         f"{size / 2**20:.0f} MiB", f"{took:.2f} s", f"{took / keys * 1e6:.1f} µs",
                         f"{cpu * 1000:.0f} ms", f"{peak:.1f} MiB"])
            per_key.append((keys, took / keys * 1e6))
            load_memory.append((keys, resident))
            print(f"<!-- {keys} keys: {rows[-1]} -->", flush=True)
    table(["keys", "etcd-load, keys a second", "its memory", "file", "defrag, etcd's own", "a key",
           "our CPU in the round", "our memory, most"], rows)
    return per_key, load_memory


def large(options):
    """One file as large as asked: the round must wait for it as for a small one."""
    keys = int(options.large * 2**30 / 8192)
    with Members(1) as members:
        stage, _ = fill(members, keys, ["--value-size=8000B", "--clients=64"])
        size, _ = members.sizes()
        yaml = (f"compaction: {{ enabled: false }}\n"
                f"defrag: {{ schedule: '{due_in(15)}', rule: 'dbSize > 0', pause_between: 0s, window: 1h, timeout: 30m, "
                f"small_cluster: allow, liveness_budget: 0s }}\n")
        with Janitors(members, yaml) as janitors:
            janitors.all_done()
            peak = janitors.all[0].memory()[1]
        print(f"A file of {size / 2**30:.1f} GiB: defragmented in {members.defrags()[1]:.0f} s by etcd's own clock; the "
              f"janitor needed at most {peak:.1f} MiB.\n", flush=True)


def growth(options):
    describe()
    cost = members_grow(options)
    per_key, memory = keys_grow(options)
    if options.large:
        large(options)
    chart.write(PICTURE, [
        chart.Plot("members", "CPU of a janitor in a round, ms", cost),
        chart.Plot("keys", "defrag by etcd, µs a key", per_key),
        chart.Plot("keys", "memory of etcd-load, MiB", memory),
    ])
    print(f"{Path(PICTURE).relative_to(ROOT)} shows it.")
