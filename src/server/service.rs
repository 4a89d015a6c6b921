//! What the loop asks of the node, so that the loop can be tested with a small one.

use super::counters::{append, metric};
use super::peers::Standing;
use crate::base::trace::Stage;
use crate::base::{Nanos, NodeId};
use crate::node::{Effect, Event, LinkStatus, Node, SnapshotStatus, StateMachine, Status};
use crate::raft::LogStore;

/// The sans-I/O core behind the sockets: [`Node`], or a small one in tests.
pub trait Service: Standing {
    /// One event in; its effects are appended to `effects`.
    fn step(&mut self, now: Nanos, event: Event<'_>, effects: &mut Vec<Effect>);
    /// When it next wants an [`Event::Tick`].
    fn next_wakeup(&self) -> Option<Nanos>;
    /// The replies of a turn took this long to encode and send.
    fn responded(&mut self, ns: u64);
    /// `Err` with the reason while requests would be refused.
    fn ready(&self, now: Nanos) -> Result<(), String>;
    /// Whether [`Service::ready`] is `Ok`; cheap.
    fn is_ready(&self) -> bool;
    /// Whether it is about to stop and leadership is still on its way to another node.
    fn is_handing_over(&self) -> bool;
    /// The number of the log group in flight while only a few requests wait for it.
    fn few_wait_for_log(&self) -> Option<u64>;
    /// Its Raft role, for the `ready` line.
    fn role(&self) -> &'static str;
    /// Its status as one JSON document: what the STATUS opcode answers.
    fn status(&self, now: Nanos) -> String;
    /// What its status is to show of the connections to other nodes.
    fn set_links(&mut self, links: Vec<LinkStatus>);
    /// Appends its figures as Prometheus text.
    fn metrics(&self, now: Nanos, out: &mut String);
}

impl<L: LogStore, S: StateMachine> Service for Node<L, S> {
    fn step(&mut self, now: Nanos, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.step(now, event, effects);
    }

    fn next_wakeup(&self) -> Option<Nanos> {
        self.next_wakeup()
    }

    fn responded(&mut self, ns: u64) {
        self.stages_mut().record(Stage::Respond, ns);
    }

    fn ready(&self, now: Nanos) -> Result<(), String> {
        if self.is_ready() {
            return Ok(());
        }
        Err(self.status(now).not_ready_reason.unwrap_or_else(|| "starting".into()))
    }

    fn is_ready(&self) -> bool {
        self.is_ready()
    }

    fn is_handing_over(&self) -> bool {
        self.is_handing_over()
    }

    fn few_wait_for_log(&self) -> Option<u64> {
        self.few_wait_for_log()
    }

    fn role(&self) -> &'static str {
        self.role().name()
    }

    fn status(&self, now: Nanos) -> String {
        serde_json::to_string(&self.status(now))
            .expect("the status has string keys and finite numbers")
    }

    fn set_links(&mut self, links: Vec<LinkStatus>) {
        self.set_links(links);
    }

    fn metrics(&self, now: Nanos, out: &mut String) {
        let status = self.status(now);
        state_metrics(out, &status);
        snapshot_metrics(out, &status.snapshots);
        request_metrics(out, self.stats(now).requests);
    }
}

impl<L: LogStore, S: StateMachine> Standing for Node<L, S> {
    fn is_blank(&self) -> bool {
        self.is_blank()
    }

    fn list(&self) -> u32 {
        self.list_check()
    }

    fn known(&self, node: NodeId) -> u64 {
        self.raft().membership().member(node).map_or(0, |member| member.replica.incarnation)
    }

    fn has_members(&self) -> bool {
        !self.raft().membership().is_empty()
    }

    fn each_wanted(&self, tell: &mut dyn FnMut(NodeId, &str)) {
        for (node, address) in self.wants_links() {
            tell(node, address);
        }
    }
}

fn state_metrics(out: &mut String, s: &Status) {
    let gauges = [
        ("ready", "Whether reads and writes are served.", u64::from(s.ready)),
        ("leader", "Whether this node leads.", u64::from(s.leader == Some(s.node))),
        (
            "read_only",
            "Whether puts are refused for lack of space.",
            u64::from(s.read_only.is_some()),
        ),
        ("term", "The Raft term.", s.term),
        ("commit_index", "The last committed log entry.", s.commit),
        ("applied_index", "The last applied log entry.", s.applied),
        ("last_sequence", "The last sequence number given out.", s.last_seq),
        ("queue_requests", "Requests admitted and not answered.", s.queue.requests),
        ("queue_bytes", "Bytes of requests admitted and not answered.", s.queue.bytes),
        ("log_segments", "Log files in use.", s.log.segments),
        ("log_live_bytes", "Bytes of log records.", s.log.live_bytes),
        ("log_memory_bytes", "Log entries held in memory.", s.log.memory_bytes),
    ];
    for (name, help, value) in gauges {
        metric(out, name, "gauge", help, value);
    }
    if let Some(free) = s.disk_free_bytes {
        metric(out, "disk_free_bytes", "gauge", "Free disk space as last measured.", free);
    }
    metric(out, "log_syncs_total", "counter", "Log groups synced.", s.log.syncs);
    let name = "beachd_stage_seconds";
    append(out, format_args!("# HELP {name} Time of requests by stage.\n# TYPE {name} summary\n"));
    for (stage, summary) in &s.stages {
        for (quantile, us) in [("0.5", summary.p50_us), ("0.99", summary.p99_us)] {
            let seconds = us / 1e6;
            append(
                out,
                format_args!("{name}{{stage=\"{stage}\",quantile=\"{quantile}\"}} {seconds}\n"),
            );
        }
        append(out, format_args!("{name}_count{{stage=\"{stage}\"}} {}\n", summary.count));
    }
}

fn snapshot_metrics(out: &mut String, s: &SnapshotStatus) {
    let sending = s.sending.iter().map(|transfer| transfer.bytes_per_s).sum();
    let receiving = s.receiving.map_or(0, |transfer| transfer.bytes_per_s);
    let gauges = [
        ("snapshots_sending", "Snapshots on their way to followers.", s.sending.len() as u64),
        ("snapshots_waiting", "Followers that need a snapshot.", s.waiting.len() as u64),
        ("snapshot_send_bytes_per_second", "Bytes of snapshots sent in the last second.", sending),
        ("snapshot_receive_bytes_per_second", "The same of one that comes in.", receiving),
        (
            "snapshot_rate_limit",
            "Most bytes sent a second; 0: no bound.",
            s.rate_limit.unwrap_or(0),
        ),
    ];
    for (name, help, value) in gauges {
        metric(out, name, "gauge", help, value);
    }
    let counters = [
        ("snapshots_sent_total", "Snapshots that their receivers have.", s.sent.completed),
        ("snapshots_sent_failed_total", "Transfers given up or refused.", s.sent.failed),
        ("snapshot_sent_bytes_total", "Bytes of snapshots sent.", s.sent.bytes),
        ("snapshots_installed_total", "Snapshots installed here.", s.received.installed),
        ("snapshots_refused_total", "Snapshots refused here.", s.received.refused),
        ("snapshot_received_bytes_total", "Bytes of snapshots written here.", s.received.bytes),
        ("snapshot_repeated_bytes_total", "Bytes that came again.", s.received.repeated_bytes),
    ];
    for (name, help, value) in counters {
        metric(out, name, "counter", help, value);
    }
}

fn request_metrics(out: &mut String, r: crate::node::RequestCounters) {
    let name = "beachd_requests_total";
    append(out, format_args!("# HELP {name} Requests by outcome.\n# TYPE {name} counter\n"));
    for (outcome, value) in [
        ("ok", r.answered_ok),
        ("error", r.answered_error),
        ("busy", r.busy),
        ("expired_at_admission", r.expired_at_admission),
        ("expired_in_queue", r.expired_in_queue),
        ("expired_after_propose", r.expired_after_propose),
        ("no_space", r.no_space),
        ("abandoned", r.abandoned),
    ] {
        append(out, format_args!("{name}{{outcome=\"{outcome}\"}} {value}\n"));
    }
}
