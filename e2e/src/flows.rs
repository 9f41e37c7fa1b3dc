//! TCP connections of a pod as the kernel shows them, and what a NetworkPolicy says of them.
//!
//! The local node's network enforces no NetworkPolicy (RULINGS 33), so the chart's are compared with
//! the connections that really exist.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

const ESTABLISHED: &str = "01";
const LISTENING: &str = "0A";

/// Which way a connection was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// By the other side.
    Ingress,
    /// By the pod.
    Egress,
}

/// A connection: for ingress the pod's own port, for egress the other side's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Which way it was opened.
    pub direction: Direction,
    /// The other side.
    pub peer: Ipv4Addr,
    /// The port that was called.
    pub port: u16,
}

/// The TCP connections in the network namespace of the process `/proc/<pid>`, without those within it.
pub fn of_process(process: &Path) -> Result<BTreeSet<Flow>> {
    let read = |name: &str| {
        let path = process.join("net").join(name);
        fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
    };
    Ok(parse(&format!("{}\n{}", read("tcp")?, read("tcp6")?)))
}

/// Reads the text of `/proc/net/tcp` and `/proc/net/tcp6` (proc_pid_net(5)).
fn parse(text: &str) -> BTreeSet<Flow> {
    let sockets: Vec<_> = text.lines().filter_map(socket).collect();
    let listening: BTreeSet<u16> = sockets.iter().filter(|s| s.2 == LISTENING).map(|s| s.0.1).collect();
    let connected = sockets.iter().filter(|s| s.2 == ESTABLISHED && !s.1.0.is_loopback() && s.0.0 != s.1.0);
    connected
        .map(|((_, own), (peer, port), _)| {
            if listening.contains(own) {
                Flow { direction: Direction::Ingress, peer: *peer, port: *own }
            } else {
                Flow { direction: Direction::Egress, peer: *peer, port: *port }
            }
        })
        .collect()
}

type Address = (Ipv4Addr, u16);

fn socket(line: &str) -> Option<(Address, Address, &str)> {
    let mut fields = line.split_whitespace().skip(1);
    Some((address(fields.next()?)?, address(fields.next()?)?, fields.next()?))
}

/// `0100007F:1F90`: the address as the kernel keeps it, in 32-bit words of this machine's byte order.
/// Of an IPv6 address only the last word is read: pods have IPv4 addresses, mapped or not.
fn address(text: &str) -> Option<Address> {
    let (host, port) = text.split_once(':')?;
    let word = u32::from_str_radix(host.get(host.len().checked_sub(8)?..)?, 16).ok()?;
    Some((Ipv4Addr::from(word.to_ne_bytes()), u16::from_str_radix(port, 16).ok()?))
}

/// Whether the policy has a rule for this direction, port and, where its peers are pods of the same
/// namespace, for their label `app`.
pub fn allows(policy: &Value, direction: Direction, port: u16, app: Option<&str>) -> bool {
    let (rules, side) = match direction {
        Direction::Ingress => (&policy["spec"]["ingress"], "from"),
        Direction::Egress => (&policy["spec"]["egress"], "to"),
    };
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    items(rules).iter().any(|rule| {
        let has_port = items(&rule["ports"]).iter().any(|p| p["protocol"] == "TCP" && p["port"] == port);
        let peers = items(&rule[side]);
        let has_peer = peers.iter().any(|peer| match peer.pointer("/podSelector/matchLabels/app") {
            Some(wanted) => app.is_some_and(|app| wanted == app),
            None => true,
        });
        has_port && (peers.is_empty() || has_peer)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn connections_are_told_by_who_listens() {
        let text = "  sl  local_address rem_address   st\n\
            0: 00000000:C351 00000000:0000 0A 0\n\
            1: 0500010A:C351 0900010A:B000 01 0\n\
            2: 0500010A:B001 0100600A:01BB 01 0\n\
            3: 0100007F:C351 0100007F:B002 01 0\n\
            4: 0000000000000000FFFF00000500010A:C351 0000000000000000FFFF00000A00010A:B003 01 0\n";
        let flow = |direction, peer: &str, port| Flow { direction, peer: peer.parse().unwrap(), port };
        let expected = [
            flow(Direction::Ingress, "10.1.0.9", 50001),
            flow(Direction::Ingress, "10.1.0.10", 50001),
            flow(Direction::Egress, "10.96.0.1", 443),
        ];
        assert_eq!(parse(text), BTreeSet::from(expected));
    }

    #[test]
    fn a_policy_allows_its_ports_to_its_peers_and_nothing_else() {
        let policy = json!({"spec": {
            "ingress": [{"ports": [{"protocol": "TCP", "port": 6500}], "from": [{"namespaceSelector": {}}]}],
            "egress": [{"ports": [{"protocol": "TCP", "port": 50001}],
                "to": [{"podSelector": {"matchLabels": {"app": "dapr-sentry"}}}]}],
        }});
        assert!(allows(&policy, Direction::Ingress, 6500, None));
        assert!(!allows(&policy, Direction::Ingress, 6501, None));
        assert!(!allows(&policy, Direction::Egress, 6500, None));
        assert!(allows(&policy, Direction::Egress, 50001, Some("dapr-sentry")));
        assert!(!allows(&policy, Direction::Egress, 50001, Some("dapr-operator")));
        assert!(!allows(&policy, Direction::Egress, 50001, None));
    }
}
