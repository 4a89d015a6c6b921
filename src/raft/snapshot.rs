//! Snapshots (§7), as far as raft is concerned: when a follower needs one, that its pieces pass between the two drivers
//! within one replication session, and what an installed one does to log, commit index, and membership.
//!
//! The bytes, their pace, and what to resend are the drivers' business. A leader's driver hears
//! [`Effect::SnapshotNeeded`], sends with [`Event::SendChunk`](super::Event), and sees the answers as
//! [`Effect::SnapshotAck`]; a follower's driver gets [`Effect::SnapshotChunk`] and answers with
//! [`Event::ReplyToChunk`](super::Event).

use super::context::Context;
use super::message::{Body, SnapshotChunk, SnapshotOutcome, SnapshotReply};
use super::progress::ProgressState;
use super::trace::Trace;
use super::{Effect, Raft};
use crate::base::{LogIndex, Membership, ReplicaId, Term};

impl Raft {
    /// The log no longer has what this follower needs (pitfall 28: nor does a new leader know what that is).
    pub(super) fn need_snapshot(&mut self, to: ReplicaId, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get_mut(&to) else { return };
        progress.snapshot();
        ctx.trace(|| Trace::progress(to, progress, "the log no longer has what it needs"));
        ctx.out.push(Effect::SnapshotNeeded { to, session: progress.session });
    }

    /// Tells the driver that nothing more need be sent, if anything was being sent.
    pub(super) fn snapshot_over(&mut self, to: ReplicaId, ctx: &mut Context<'_>) {
        if self.lead.followers.get(&to).is_some_and(|p| p.state == ProgressState::Snapshot) {
            ctx.out.push(Effect::SnapshotOver { to });
        }
    }

    /// The driver has a piece to send.
    pub(super) fn send_chunk(
        &mut self,
        to: ReplicaId,
        chunk: SnapshotChunk,
        ctx: &mut Context<'_>,
    ) {
        let wanted = self
            .lead
            .followers
            .get(&to)
            .is_some_and(|p| p.session == chunk.session && p.state == ProgressState::Snapshot);
        if wanted {
            self.send(to, Body::Snapshot(chunk), ctx);
        }
    }

    /// The driver gave up; the next heartbeat finds out what is needed now.
    pub(super) fn snapshot_failed(&mut self, to: ReplicaId, session: u64, ctx: &mut Context<'_>) {
        let Some(progress) = self.lead.followers.get_mut(&to) else { return };
        if progress.session == session && progress.state == ProgressState::Snapshot {
            progress.probe(progress.matched.next());
            progress.paused = true;
            ctx.trace(|| Trace::progress(to, progress, "the snapshot was given up"));
        }
    }

    /// A piece from the leader. One of a snapshot that is not newer than what is committed here is not needed
    /// (pitfall 24).
    pub(super) fn chunk_from(
        &mut self,
        from: ReplicaId,
        chunk: SnapshotChunk,
        ctx: &mut Context<'_>,
    ) {
        let (session, transfer) = (chunk.session, chunk.transfer);
        if let Some(meta) = chunk.meta.as_ref().filter(|meta| meta.index <= self.commit) {
            let outcome = SnapshotOutcome::Installed { index: meta.index };
            let reply = SnapshotReply { session, transfer, outcome };
            return self.reply_installed(from, reply, ctx);
        }
        ctx.out.push(Effect::SnapshotChunk { from, chunk });
    }

    /// "I have everything up to there" must be durable, as in the answer to an append.
    fn reply_installed(&mut self, to: ReplicaId, reply: SnapshotReply, ctx: &mut Context<'_>) {
        if self.hard_state_dirty {
            self.persist(None, Vec::new(), ctx);
        }
        let after = match reply.outcome {
            SnapshotOutcome::Installed { index } if index > self.durable => {
                self.persisting.gate_for_log(index)
            }
            _ => self.persisting.gate_for_hard_state(),
        };
        self.send_after(after, to, self.term(), Body::SnapshotReply(reply), ctx);
    }

    /// The receiver spoke.
    pub(super) fn snapshot_reply(
        &mut self,
        from: ReplicaId,
        reply: SnapshotReply,
        ctx: &mut Context<'_>,
    ) {
        let last = self.last.0;
        let Some(progress) = self.lead.followers.get_mut(&from) else { return };
        if progress.session != reply.session {
            return;
        }
        progress.heard = ctx.now;
        let installed = match &reply.outcome {
            SnapshotOutcome::Installed { index } => Some(*index),
            SnapshotOutcome::Next { .. } | SnapshotOutcome::Refused { .. } => None,
        };
        let sending = progress.state == ProgressState::Snapshot;
        if sending {
            ctx.out.push(Effect::SnapshotAck { from, reply });
        }
        let Some(index) = installed else { return };
        if index > last {
            return ctx.trace(|| Trace::Refused { from, why: "it installed what was never sent" });
        }
        progress.accepted(index);
        progress.catch_up.reached(
            ctx.now,
            progress.matched,
            last,
            self.settings.election_timeout_ns,
        );
        if sending {
            progress.probe(progress.matched.next());
            ctx.trace(|| Trace::progress(from, progress, "the snapshot is installed"));
            ctx.out.push(Effect::SnapshotOver { to: from });
        }
        self.advance_commit(ctx);
    }

    /// The state machine stands at the snapshot, and the log was reset unless it held its last entry (pitfall 23).
    pub(super) fn snapshot_installed(
        &mut self,
        snapshot: (LogIndex, Term),
        membership: (LogIndex, Membership),
        reply: Option<(ReplicaId, SnapshotReply)>,
        ctx: &mut Context<'_>,
    ) {
        let index = snapshot.0;
        // Pitfall 24: the state never goes back.
        if index > self.handed_out {
            self.install(snapshot, membership, ctx);
        }
        if let Some((to, reply)) = reply {
            self.reply_installed(to, reply, ctx);
        }
    }

    fn install(
        &mut self,
        snapshot: (LogIndex, Term),
        membership: (LogIndex, Membership),
        ctx: &mut Context<'_>,
    ) {
        let index = snapshot.0;
        let end = ctx.last_before();
        let log_kept = end.0 > index;
        if !log_kept {
            // Nothing that is on its way to the disk is in the log any more.
            self.persisting.truncated(index);
            self.last = end;
        }
        self.durable = if log_kept { self.durable.max(index) } else { index };
        self.memberships.install(index, membership, log_kept);
        self.membership_in_force("installed", ctx);
        ctx.trace(|| Trace::Installed { index, term: snapshot.1 });
        self.handed_out = index;
        self.commit_to(index.max(self.commit), ctx);
    }
}
