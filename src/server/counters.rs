//! What the loop counts, and how `/metrics` shows it (Prometheus text format 0.0.4).

use std::fmt::Write;

/// Why a connection ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// Either side said that it was done.
    Finished,
    /// The socket failed, or the client vanished.
    Failed,
    /// It did not take its replies.
    SlowReader,
}

impl CloseReason {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Finished, "finished"), (Self::Failed, "failed"), (Self::SlowReader, "slow_reader")];
}

/// Counts since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Turns of the loop.
    pub turns: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections turned away: too many.
    pub refused: u64,
    /// Times accepting failed, mostly for want of file descriptors.
    pub accept_failures: u64,
    /// Connections closed, by [`CloseReason`].
    pub closed: [u64; 3],
    /// Connections told that they were idle or slow.
    pub timeouts: u64,
    /// Requests given to the node.
    pub requests: u64,
    /// Replies put into the output of a connection.
    pub replies: u64,
    /// Replies whose connection was gone.
    pub late_replies: u64,
    /// Large frames skipped because too many half-received bytes were held.
    pub skipped_frames: u64,
    /// Bytes read from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
}

impl Counters {
    /// Appends them and the loop's present state.
    pub fn metrics(&self, out: &mut String, connections: usize, held: usize, unsent: usize) {
        let gauges = [
            ("connections", "Client connections open now.", connections),
            ("input_held_bytes", "Bytes of half-received requests.", held),
            ("output_unsent_bytes", "Reply bytes not yet taken by clients.", unsent),
        ];
        for (name, help, value) in gauges {
            metric(out, name, "gauge", help, value as u64);
        }
        let counters = [
            ("loop_turns_total", "Turns of the event loop.", self.turns),
            ("connections_accepted_total", "Client connections accepted.", self.accepted),
            ("connections_refused_total", "Client connections over the limit.", self.refused),
            ("accept_failures_total", "Failed accepts: no descriptors left.", self.accept_failures),
            ("connection_timeouts_total", "Connections told idle or slow.", self.timeouts),
            ("wire_requests_total", "Requests given to the node.", self.requests),
            ("wire_replies_total", "Replies given to connections.", self.replies),
            ("late_replies_total", "Replies whose connection was gone.", self.late_replies),
            ("skipped_frames_total", "Large frames skipped for memory.", self.skipped_frames),
            ("wire_bytes_in_total", "Bytes read from clients.", self.bytes_in),
            ("wire_bytes_out_total", "Bytes sent to clients.", self.bytes_out),
        ];
        for (name, help, value) in counters {
            metric(out, name, "counter", help, value);
        }
        let name = "beachd_connections_closed_total";
        append(
            out,
            format_args!("# HELP {name} Client connections closed.\n# TYPE {name} counter\n"),
        );
        for (reason, label) in CloseReason::ALL {
            let value = self.closed[reason as usize];
            append(out, format_args!("{name}{{reason=\"{label}\"}} {value}\n"));
        }
    }
}

/// Appends one metric without labels; `beachd_` is put before its name.
pub fn metric(out: &mut String, name: &str, kind: &str, help: &str, value: u64) {
    append(
        out,
        format_args!(
            "# HELP beachd_{name} {help}\n# TYPE beachd_{name} {kind}\nbeachd_{name} {value}\n"
        ),
    );
}

/// Appends formatted text.
pub fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes everything");
}
