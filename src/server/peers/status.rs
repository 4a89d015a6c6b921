//! What STATUS and `/metrics` show of the other nodes.

use super::dialing::{Dial, Peer};
use super::{Counts, Kind, Peers};
use crate::base::{Nanos, NodeId};
use crate::node::LinkStatus;
use crate::proto::peer::Lane;
use crate::server::counters::{append, metric};

/// What is shown of each link.
type Figure = fn(&LinkStatus) -> u64;

/// Figures of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct PeerMetrics {
    counts: Counts,
    links: Vec<LinkStatus>,
    inbound: u64,
}

impl Peers {
    /// Every lane to every peer.
    pub fn status(&self, now: Nanos) -> Vec<LinkStatus> {
        let mut links = Vec::new();
        for (node, peer) in &self.peers {
            for lane in Lane::ALL {
                let slot = peer.slot(lane);
                let used = slot.sent > 0 || slot.dials_failed > 0 || slot.dial != Dial::Idle;
                if lane == Lane::Raft || used {
                    links.push(self.link_status(now, *node, peer, lane));
                }
            }
        }
        links
    }

    fn link_status(&self, now: Nanos, node: NodeId, peer: &Peer, lane: Lane) -> LinkStatus {
        let slot = peer.slot(lane);
        let socket = match slot.dial {
            Dial::Open(token) => self.sockets.get(&token),
            _ => None,
        };
        let state = match (slot.dial, socket) {
            (Dial::Open(_), Some(socket)) if slot.replica.is_some() && socket.link.is_up() => "up",
            (Dial::Open(_), Some(socket)) => match socket.kind {
                Kind::Dialed { connected: true, .. } => "greeting",
                _ => "connecting",
            },
            (Dial::Resolving(_), _) => "resolving",
            (Dial::Waiting(_), _) => "waiting",
            _ => "idle",
        };
        let up = socket.filter(|_| state == "up").map(|socket| &socket.link);
        let ms = |since: Nanos| now.since(since) / 1_000_000;
        LinkStatus {
            node: node.0,
            lane: lane.name(),
            address: peer.address().to_owned(),
            state,
            incarnation: slot.replica.map(|replica| format!("{:016x}", replica.incarnation)),
            connected_ms: up.map(|link| ms(link.since())),
            last_heard_ms: up.map(|link| ms(link.heard_at())),
            round_trip_us: up.and_then(|link| link.round_trip_ns()).map(|ns| ns / 1_000),
            queued_bytes: up.map_or(0, |link| link.unsent() as u64),
            slow: up.is_some_and(|link| link.is_slow(now)),
            sent: slot.sent,
            dropped: slot.dropped,
            dials_failed: slot.dials_failed,
            last_error: slot.last_error.clone(),
            inbound: peer.inbound as u64,
        }
    }

    /// Figures now.
    pub fn metrics(&self, now: Nanos) -> PeerMetrics {
        let accepted = |s: &&super::Socket| matches!(s.kind, Kind::Accepted { from: Some(_), .. });
        PeerMetrics {
            counts: self.counts,
            links: self.status(now),
            inbound: self.sockets.values().filter(accepted).count() as u64,
        }
    }
}

impl PeerMetrics {
    /// Appends them as Prometheus text.
    pub fn write(&self, out: &mut String) {
        let c = &self.counts;
        metric(out, "peer_inbound_connections", "gauge", "Connections from peers.", self.inbound);
        let counters = [
            ("peer_messages_sent_total", "Messages given to peer connections.", c.sent),
            ("peer_messages_received_total", "Messages taken from peers.", c.received),
            ("peer_bytes_out_total", "Bytes sent to peers.", c.bytes_out),
            ("peer_bytes_in_total", "Bytes read from peers.", c.bytes_in),
            ("peer_dropped_no_link_total", "Messages to peers without a link.", c.dropped_no_link),
            ("peer_dropped_full_total", "Messages to peers that do not keep up.", c.dropped_full),
            ("peer_dials_total", "Attempts to connect to peers.", c.dials),
            ("peer_dials_failed_total", "Attempts that failed.", c.dials_failed),
            ("peer_accepted_total", "Connections accepted on the peer port.", c.accepted),
            ("peer_refused_total", "Connections refused on the peer port.", c.refused),
        ];
        for (name, help, value) in counters {
            metric(out, name, "counter", help, value);
        }
        let gauges: [(&str, &str, Figure); 3] = [
            ("peer_link_up", "Whether the link to a peer is up.", |l| u64::from(l.state == "up")),
            ("peer_link_queued_bytes", "Bytes that a peer has not taken.", |l| l.queued_bytes),
            ("peer_link_slow", "Whether a peer does not keep up.", |l| u64::from(l.slow)),
        ];
        for (name, help, value) in gauges {
            append(out, format_args!("# HELP beachd_{name} {help}\n# TYPE beachd_{name} gauge\n"));
            for link in &self.links {
                let (node, lane, value) = (link.node, link.lane, value(link));
                append(
                    out,
                    format_args!("beachd_{name}{{node=\"{node}\",lane=\"{lane}\"}} {value}\n"),
                );
            }
        }
    }
}
