//! Clients behind a load balancer that goes by `/etcd/readyz`: a member leaves
//! it before its defrag and is back afterwards.

use std::time::{Duration, Instant};

use crate::rounds::{PATIENCE, janitors, rounds_yaml, stretched, wasteful};
use crate::support::balancer::Balancer;
use crate::support::rounds::assert_in_turns;
use crate::support::{Recorder, due_in, eventually, records};

const DRAIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_member_leaves_the_balancer_before_its_defrag_and_is_back_after_it() {
    let cluster = wasteful(stretched(Duration::from_secs(2))).await;
    let recorder = Recorder::start(&cluster).await;
    let yaml = rounds_yaml(&due_in(12), &format!("drain: {}s", DRAIN.as_secs()));
    let janitors = janitors(&cluster, &yaml).await;
    let members = cluster.members().iter().zip(&janitors);
    let balancer = Balancer::start(members.map(|(member, j)| (member.client_address(), j.address())).collect()).await;
    let all_in = || async { cluster.voters().into_iter().all(|index| balancer.takes_clients(index)).then_some(()) };
    eventually("every member takes clients", PATIENCE, all_in).await;
    let began = Instant::now();
    let mut client = cluster.client_to(&balancer.url()).await.expect("the balancer answers");
    let (mut written, mut failed) = (0_u32, 0_u32);
    let round = loop {
        // One that was on its way when its connection was closed fails; the next one goes elsewhere.
        let put = tokio::time::timeout(Duration::from_secs(2), client.put("balanced", written.to_string(), None)).await;
        if matches!(put, Ok(Ok(_))) {
            written += 1
        } else {
            failed += 1
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        let done = cluster.voters().into_iter().all(|index| recorder.so_far().defrag_count(index) > 0);
        if done {
            break records::round_of(&cluster, 0, 3, PATIENCE).await;
        }
        assert!(began.elapsed() < PATIENCE, "not every member was defragmented");
    };
    eventually("every member takes clients again", PATIENCE, all_in).await;
    println!("{written} writes through the balancer, {failed} failed");
    assert!(round.values().all(|record| record["outcome"] == "done"), "{round:?}");
    let history = recorder.finish();
    assert_in_turns(&history);
    for index in cluster.voters() {
        let out: Vec<_> = balancer.out(index).into_iter().filter(|(from, _)| *from > began).collect();
        let defrags = history.defrags_of(index);
        assert!(!defrags.is_empty(), "{history}");
        for defrag in defrags {
            // The janitor waits for `drain` before it sends; the balancer asks a little later than that begins.
            let left =
                out.iter().any(|(from, to)| *from + DRAIN / 2 <= defrag.from && to.is_some_and(|to| to >= defrag.to));
            assert!(left, "m{index} was given clients in {defrag:?}: {out:?}");
        }
    }
    // Elections on a busy machine fail writes, too; how many are lost to a round is for the benchmark.
    assert!(written > 4 * failed, "{failed} of {written} writes failed");
}
