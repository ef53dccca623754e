//! How long a defrag may take before the kubelet kills etcd for it, from etcd's own liveness probe.

use super::node::{Problem, View};

/// What a probe allows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// 0: nothing kills it.
    pub(super) seconds: u64,
    /// How that was found.
    pub(super) why: String,
}

/// The shortest time from the beginning of a defrag to the kill. A probe may begin in the same instant; it fails when
/// `timeoutSeconds` are over, and the kill comes with failure number `failureThreshold`, one `periodSeconds` after the
/// other. A command may give up before its timeout, so that it is not counted. A TCP connection is accepted throughout.
pub(super) fn budget(probe: &View<'_>) -> Result<Budget, Problem> {
    if probe.is_absent() {
        return Ok(Budget { seconds: 0, why: "no livenessProbe: nothing kills etcd in a defrag".to_owned() });
    }
    // What Kubernetes takes for a missing or zero number.
    let number = |key: &str, default: u64| -> Result<u64, Problem> {
        Ok(probe.get(key)?.number()?.filter(|number| *number > 0).unwrap_or(default))
    };
    let period = number("periodSeconds", 10)?;
    let timeout = number("timeoutSeconds", 1)?;
    let threshold = number("failureThreshold", 3)?;
    let before_last = threshold.saturating_sub(1).saturating_mul(period);
    if !probe.get("tcpSocket")?.is_absent() {
        let why = "a livenessProbe by TCP, which succeeds in a defrag: nothing kills etcd".to_owned();
        return Ok(Budget { seconds: 0, why });
    }
    let steps = format!("({threshold} - 1) × {period}s");
    let (seconds, why) = if probe.get("exec")?.is_absent() {
        (before_last.saturating_add(timeout), format!("{steps} + {timeout}s of etcd's livenessProbe"))
    } else {
        (before_last, format!("{steps} of etcd's livenessProbe, a command that may give up before its timeout"))
    };
    // The configuration takes at most a day; 0 would mean that nothing is checked.
    Ok(Budget { seconds: seconds.clamp(1, 86_400), why })
}

#[cfg(test)]
mod tests {
    use super::super::read::document;
    use super::*;

    #[test]
    fn the_budget_is_the_shortest_time_to_the_kill() {
        let check = |probe: &str, seconds: u64| {
            let node = document(probe, "probe", 1).unwrap().node.unwrap();
            assert_eq!(budget(&View::new(&node, "probe")).unwrap().seconds, seconds, "{probe}");
        };
        check("{httpGet: {path: /livez}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 3}", 25);
        check("{httpGet: {path: /livez}, periodSeconds: 10, timeoutSeconds: 15, failureThreshold: 8}", 85);
        check("{httpGet: {path: /livez}, periodSeconds: 30, timeoutSeconds: 5, failureThreshold: 5}", 125);
        check("{exec: {command: [x]}, periodSeconds: 30, timeoutSeconds: 5, failureThreshold: 5}", 120);
        check("{httpGet: {path: /livez}}", 21);
        check("{grpc: {port: 2379}, periodSeconds: 0}", 21);
        check("{exec: {command: [x]}, failureThreshold: 1}", 1);
        check("{tcpSocket: {port: 2379}}", 0);
        check("{httpGet: {}, periodSeconds: 18446744073709551615}", 86_400);
    }

    #[test]
    fn without_a_probe_nothing_kills_etcd_and_a_number_must_be_one() {
        let node = document("{a: ~}", "pod", 1).unwrap().node.unwrap();
        assert_eq!(budget(&View::new(&node, "pod").get("a").unwrap()).unwrap().seconds, 0);
        let node = document("{httpGet: {}, periodSeconds: ten}", "probe", 1).unwrap().node.unwrap();
        let problem = budget(&View::new(&node, "probe")).unwrap_err();
        assert_eq!(problem.to_string(), "probe.periodSeconds: expected a decimal number without sign, found text");
    }
}
