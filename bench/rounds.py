"""Part "rounds": what a round costs the cluster's clients, by each way of doing it, on the same data."""

import shutil
import statistics
import subprocess
import time

from clients import Balancer, Clients, Defrags, Leases
from cluster import Janitors, Members, due_in
from machine import describe, ours, table

# A client behind a balancer should never wait longer, or than twice the longest wait of a quiet time.
BOUND = 0.3


def fill(members, options):
    """Every key once, then the first of them again, then compacted to the head: so that a defrag has work."""
    again = int(options.keys * options.again)
    base = [ours("etcd-load"), "--quiet", "--endpoint=" + members.urls[0], f"--value-size={options.value_size}",
            "--clients=64", "--connections=4", "--timeout=60s"]
    for words in ([f"--keys={options.keys}"], [f"--keys={again}", "--no-fill", "--churn=1", "--seed=1"]):
        done = subprocess.run([*base, *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"etcd-load: {done.stdout}{done.stderr}")
    members.compact_to_head()


def by_cronjob(members, options, _):
    """The CronJob's loop, member after member, the leader where it stands."""
    for url in members.urls:
        members.etcdctl([url], "defrag")
        members.etcdctl([url], "endpoint", "status", "--write-out=table")
        members.etcdctl([url], "alarm", "disarm")
        members.etcdctl([url], "alarm", "list")
        time.sleep(options.pause)


def by_etcdctl(members, *_):
    members.etcdctl(members.urls[:1], "defrag", "--cluster")


def by_us(_, __, janitors):
    janitors.all_done()


def schedule(options, drain):
    # The first firing leaves time for the balancer to learn who is there.
    return (f"compaction: {{ enabled: false }}\n"
            f"defrag: {{ schedule: '{due_in(15)}', rule: 'dbSize > 0', pause_between: {options.pause}s, "
            f"leader_wait: 5m, window: 30m, drain: {drain}, liveness_budget: 0s }}\n")


def slowest(before, after):
    """The bound that the slowest flush of the log kept, between two readings of the histogram."""
    bounds = sorted(after)
    counts = [after[bound] - before[bound] for bound in bounds]
    return next(bound for bound, count in zip(bounds, counts) if count == counts[-1])


def one_round(name, act, data, options, drain):
    """A round, an equally long time without one, and a leadership that is moved by hand."""
    with Members(3, data=data) as members:
        members.leader()
        time.sleep(3)
        size, in_use = members.sizes()
        changes = members.leader_changes()
        flushes = members.flushes()
        count, seconds = members.defrags()
        janitors = Janitors(members, schedule(options, drain)) if drain is not None else None
        if janitors:
            janitors.__enter__()
        health = ([janitor.url + "/etcd/readyz" for janitor in janitors.all] if janitors
                  else [url + "/readyz" for url in members.metrics])
        balancer = Balancer(list(zip(members.urls, health))).begin()
        clients = Clients(members, balancer.url)
        watch, leases = Defrags(members), Leases(members, balancer.url, options.lease)
        try:
            clients.start()
            watch.start()
            time.sleep(2)
            leader = members.leader()
            act(members, options, janitors)
            # A lease that nobody could renew is gone within its time.
            time.sleep(options.lease + 1)
            lost, watch_end = leases.lost(), time.monotonic()
            flushed = members.flushes()
            watch.finish()
            if watch.first is None:
                raise RuntimeError(f"{name}: no defrag was seen")
            moved = members.leader_changes() - changes
            after, _ = members.sizes()
            peak = max(janitor.memory()[1] for janitor in janitors.all) if janitors else None
            begin = watch.first - 5
            long = watch_end - begin
            quiet_from = time.monotonic()
            time.sleep(long)
            quiet_to = time.monotonic()
            flush = {"round": slowest(flushes, flushed), "quiet": slowest(flushed, members.flushes())}
            members.move_leader()
            time.sleep(8)
            by_hand_to = time.monotonic()
        finally:
            leases.finish()
            clients.finish()
            balancer.end()
            if janitors:
                janitors.__exit__()
        done, took = members.defrags()
        if done - count != 3:
            raise RuntimeError(f"{name}: {done - count:.0f} defrags of three")
    times = {"round": (begin, watch_end), "quiet": (quiet_from, quiet_to), "by_hand": (quiet_to, by_hand_to)}
    seen = {kind: {when: clients.between(kind, *between) for when, between in times.items()} for kind in clients.kinds}
    bound = max(BOUND, 2 * seen["balanced"]["quiet"]["longest"])
    result = {
        "wall": watch.last - watch.first, "defrags": took - seconds, "leases": lost, "changes": moved,
        "reclaimed": (size - after) / max(size - in_use, 1.0), "peak": peak, "bound": bound,
        "pinned_leader": max(took for begun, took, _ in clients.kinds["pinned"][leader].calls if begun < watch_end),
        "seen": seen, "flush": flush,
    }
    tell(name, result)
    return result


def tell(name, result):
    """One round, as it ends: whoever waits sees something, and a failure later loses nothing."""
    seen = result["seen"]
    words = "; ".join(f"{kind}: longest {seen[kind]['round']['longest']:.2f} s, lost {seen[kind]['round']['lost']:.2f} s, "
                      f"failed {len(seen[kind]['round']['failures'])} of {seen[kind]['round']['calls']}" for kind in seen)
    print(f"<!-- {name}: wall {result['wall']:.1f} s, defrags {result['defrags']:.1f} s; {words}; quiet longest "
          f"{seen['balanced']['quiet']['longest']:.3f} s; by hand longest {seen['balanced']['by_hand']['longest']:.2f} s; "
          f"slowest flush {result['flush']}; leases lost {result['leases']}; failures of the balanced "
          f"{seen['balanced']['round']['failures']}, by hand {seen['balanced']['by_hand']['failures']} -->", flush=True)


def rounds(options):
    describe()
    ways = [
        ("the CronJob's commands", by_cronjob, None),
        ("`etcdctl defrag --cluster`", by_etcdctl, None),
        ("ours", by_us, "0s"),
        (f"ours, `drain: {options.drain}`", by_us, options.drain),
    ]
    ways = [way for way in ways if options.only in way[0]]
    with Members(3) as members:
        fill(members, options)
        size, in_use = (part / 3 / 2**30 for part in members.sizes())
        data = members.keep()
    try:
        print(f"{options.keys} keys of {options.value_size}, a share of {options.again} of them written again, compacted "
              f"to the head: {in_use:.2f} GiB in use in files of {size:.2f} GiB; pause between members "
              f"{options.pause} s; median of {options.repeat}.\n", flush=True)
        seen = {name: [] for name, _, _ in ways}
        # Round-robin, not one way after the other: what else the machine does meets all of them.
        for _ in range(options.repeat):
            for name, act, drain in ways:
                seen[name].append(one_round(name, act, data, options, drain))
    finally:
        shutil.rmtree(data.folder, ignore_errors=True)
    print()
    show(seen, options)


def show(seen, options):
    def middle(results, figure):
        return statistics.median(figure(result) for result in results)

    def of(kind, what, when="round"):
        return lambda result: result["seen"][kind][when][what]

    def failed(kind, when="round"):
        return lambda result: len(result["seen"][kind][when]["failures"])

    table(["a round by", "wall", "sum of etcd's defrags", "ratio", "beyond defrags and pauses", "leader changes",
           "reclaimed of free"], [[
               name, f"{middle(results, lambda r: r['wall']):.1f} s", f"{middle(results, lambda r: r['defrags']):.1f} s",
               f"{middle(results, lambda r: r['wall'] / r['defrags']):.2f}",
               f"{middle(results, lambda r: r['wall'] - r['defrags'] - (0 if 'cluster' in name else 2 * options.pause)):.1f} s",
               f"{middle(results, lambda r: r['changes']):.0f}",
               f"{middle(results, lambda r: r['reclaimed']):.0%}",
           ] for name, results in seen.items()])
    table(["clients in a round by", "pinned: longest wait", "pinned to the first leader", "failing over: longest",
           "lost", "balanced: longest", "lost", "failed", "slower than allowed", "slowest flush of etcd's log"], [[
               name, f"{middle(results, of('pinned', 'longest')):.2f} s",
               f"{middle(results, lambda r: r['pinned_leader']):.2f} s", f"{middle(results, of('moving', 'longest')):.2f} s",
               f"{middle(results, of('moving', 'lost')):.2f} s", f"{middle(results, of('balanced', 'longest')):.2f} s",
               f"{middle(results, of('balanced', 'lost')):.2f} s",
               f"{middle(results, failed('balanced')):.0f} of {middle(results, of('balanced', 'calls')):.0f}",
               f"{middle(results, lambda r: sum(took > r['bound'] for took in r['seen']['balanced']['round']['slow'])):.0f}",
               f"≤ {middle(results, lambda r: r['flush']['round']):.2f} s",
           ] for name, results in seen.items()])
    held = {"etcdctl": "`etcdctl lease keep-alive`", "moving": "clients that fail over", "balanced": "balanced clients"}
    table([f"leases of {options.lease} s lost in all rounds, held by", *held.values()], [[
        name, *(f"{sum(result['leases'][kind] for result in results)} of {3 * len(results)}" for kind in held)
    ] for name, results in seen.items()])
    every = [result for results in seen.values() for result in results]
    table(["balanced clients", "longest wait, median", "most", "failed, in all", "slowest flush, median"], [
        ["a quiet time as long as the round", f"{middle(every, of('balanced', 'longest', 'quiet')):.3f} s",
         f"{max(map(of('balanced', 'longest', 'quiet'), every)):.3f} s", sum(map(failed("balanced", "quiet"), every)),
         f"≤ {middle(every, lambda r: r['flush']['quiet']):.2f} s"],
        ["`etcdctl move-leader`, and eight seconds", f"{middle(every, of('balanced', 'longest', 'by_hand')):.3f} s",
         f"{max(map(of('balanced', 'longest', 'by_hand'), every)):.3f} s",
         sum(map(failed("balanced", "by_hand"), every)), ""],
    ])
    peaks = [result["peak"] for result in every if result["peak"]]
    if peaks:
        print(f"Highest resident memory of a janitor in a round: {max(peaks):.1f} MiB.\n")
