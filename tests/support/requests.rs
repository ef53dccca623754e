//! How much a member is asked, counted by the member itself.

use std::collections::BTreeMap;

use super::cluster::Member;
use super::scrape;

/// Messages received by gRPC method since the member's start. Messages, not
/// calls: a keepalive stream is one call and many requests.
pub async fn received(member: &Member) -> BTreeMap<String, u64> {
    let (_, text) = scrape::get(member.metrics_address(), "/metrics")
        .await
        .unwrap_or_else(|| panic!("{} does not answer", member.name));
    let mut methods = BTreeMap::new();
    for sample in scrape::samples(&text) {
        if sample.name == "grpc_server_msg_received_total"
            && let Some(method) = sample.label("grpc_method")
        {
            *methods.entry(method.to_owned()).or_default() += sample.value().unwrap_or_default() as u64;
        }
    }
    methods
}

/// What came in between two countings, methods without any left out.
pub fn between(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let rise = |(method, count): (&String, &u64)| {
        let rise = count - before.get(method).copied().unwrap_or_default();
        (rise > 0).then(|| (method.clone(), rise))
    };
    after.iter().filter_map(rise).collect()
}
