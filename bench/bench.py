#!/usr/bin/env python3
"""Measures a release build beside what people use today, on real etcd clusters on this machine.

    bench/bench.py size         fails when the binary is larger than its bound
    bench/bench.py footprint    resident memory, CPU, sizes, start, requests, scrapes
    bench/bench.py rounds       a round: the CronJob's commands, `etcdctl defrag --cluster`, ours
    bench/bench.py load         etcd-load beside a loop of `etcdctl put` and a bare loop
    bench/bench.py story        the two million keys of the load test, from fill to defrag, by both
    bench/bench.py growth       more members, more keys; writes docs/growth.svg

Prints Markdown, as in docs/benchmarks.md. Figures of a busy machine are worth little: the load average is printed with
them. Starts its own etcd members on free ports and ends them, whatever happens.
"""

import argparse
import signal
import sys

import footprint
import growth
import load
import machine
import rounds


def numbers(text):
    return [int(number) for number in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unsafe-no-fsync", action="store_true", help="spare the disk; says nothing about a real one")
    parser.add_argument("--election-timeout", type=int, metavar="MS",
                        help="etcd's; longer than its default on a machine that is slow or shared")
    ways = parser.add_subparsers(dest="what", required=True)
    ways.add_parser("size").set_defaults(act=footprint.size)
    one = ways.add_parser("footprint")
    one.add_argument("--minutes", type=float, default=5.0, help="how long it is left alone")
    one.add_argument("--settle", type=float, default=30.0, help="seconds before that")
    one.add_argument("--scrapes", type=int, default=2000)
    one.add_argument("--starts", type=int, default=9)
    one.set_defaults(act=footprint.footprint)
    one = ways.add_parser("rounds")
    one.add_argument("--keys", type=int, default=180_000)
    one.add_argument("--value-size", default="4KiB")
    one.add_argument("--again", type=float, default=0.45, help="share of the keys that is written a second time")
    one.add_argument("--pause", type=int, default=2, help="seconds between members")
    one.add_argument("--drain", default="2s")
    one.add_argument("--lease", type=int, default=5, help="seconds that a lease lives")
    one.add_argument("--only", default="", help="ways whose name has this")
    one.add_argument("--repeat", type=int, default=3)
    one.set_defaults(act=rounds.rounds)
    one = ways.add_parser("load")
    one.add_argument("--keys", type=int, default=200_000)
    one.add_argument("--loop", type=int, default=200, help="keys of the shell's loop")
    one.add_argument("--repeat", type=int, default=3)
    one.set_defaults(act=load.load)
    one = ways.add_parser("story")
    one.add_argument("--keys", type=int, default=2_000_000)
    one.add_argument("--wait", type=int, default=120, help="seconds until the round fires")
    one.set_defaults(act=load.story)
    one = ways.add_parser("growth")
    one.add_argument("--members", type=numbers, default=[1, 3, 5, 7])
    one.add_argument("--small", type=int, default=20_000, help="keys of 1 KiB a cluster of which a round is measured")
    one.add_argument("--keys", type=numbers, default=[10_000, 100_000, 1_000_000, 10_000_000])
    one.add_argument("--large", type=float, default=4.0, help="GiB of one large file; 0: none")
    one.set_defaults(act=growth.growth)
    options = parser.parse_args()
    if options.unsafe_no_fsync:
        machine.MORE.append("--unsafe-no-fsync")
    if options.election_timeout:
        machine.MORE += [f"--heartbeat-interval={options.election_timeout // 10}",
                         f"--election-timeout={options.election_timeout}"]
    # A TERM ends the members, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options.act(options)
    except RuntimeError as error:
        machine.fail(error)


if __name__ == "__main__":
    main()
