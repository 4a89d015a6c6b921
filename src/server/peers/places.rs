//! How many connections peers may have, and how much memory: members first.
//!
//! | who | connections | bytes of half-received frames |
//! |---|---|---|
//! | has not said HELLO | what is left; the oldest goes when there is no place to greet the next one | 4 KiB each (`peer_link`) |
//! | no member, while this node knows its members | [`MAX_STRANGER_CONNECTIONS`] | [`MAX_STRANGER_INPUT_BYTES`] together |
//! | a member; anybody, on a node that waits for its members | [`MAX_PEER_CONNECTIONS`], all together | [`MAX_PEER_INPUT_BYTES`], all together |
//!
//! Invariant: a member finds a place whatever others do: the oldest connection of somebody else is closed for it.
//!
//! Who is a member is looked up when it matters, not remembered from the handshake: it may have been added or removed since.
//!
//! What it does not do: keep strangers out. A node that waits to be added, and a leader of which this node has not heard yet, are
//! strangers, too; and whoever says that it is a member is taken for one (the port has no passwords).

use super::{Dialer, Kind, Peers, Socket, Standing};
use crate::base::{Nanos, ReplicaId};
use crate::limits::{
    MAX_PEER_CONNECTIONS, MAX_PEER_INPUT_BYTES, MAX_STRANGER_CONNECTIONS, MAX_STRANGER_INPUT_BYTES,
};
use crate::proto::{Effect, ErrorCode, ErrorReply};

/// Connections above the limit that are greeted, or told that there is no place.
const MAX_GREETED: usize = 64;
/// Frames below this are not counted: what one read of each connection brings.
const SMALL_BYTES: usize = 64 << 10;

fn is_member(replica: &ReplicaId, standing: &dyn Standing) -> bool {
    let known = standing.known(replica.node);
    known != 0 && known == replica.incarnation
}

impl Socket {
    /// Who dialed it, if somebody has and has said so.
    fn dialer(&self) -> Option<&Dialer> {
        match &self.kind {
            Kind::Accepted { from, .. } => from.as_ref(),
            Kind::Dialed { .. } => None,
        }
    }
}

impl Peers {
    /// Makes room for a connection that has not said who it is: at worst the oldest one of that kind goes.
    pub(super) fn make_place_to_greet(&mut self, now: Nanos) {
        let accepted = |socket: &&Socket| matches!(socket.kind, Kind::Accepted { .. });
        if self.sockets.values().filter(accepted).count() < MAX_PEER_CONNECTIONS + MAX_GREETED {
            return;
        }
        let unknown = |socket: &Socket| matches!(socket.kind, Kind::Accepted { from: None, .. });
        let oldest = self
            .sockets
            .iter()
            .filter(|(_, socket)| unknown(socket))
            .min_by_key(|(_, socket)| socket.link.since())
            .map(|(token, _)| *token);
        if let Some(token) = oldest {
            self.counts.refused += 1;
            self.close(now, token, "there is no place for so many that do not say who they are");
        }
    }

    /// Whether there is a place for this replica; for a member one is made.
    pub(super) fn find_place(
        &mut self,
        now: Nanos,
        replica: &ReplicaId,
        standing: &dyn Standing,
    ) -> Result<(), ErrorReply> {
        let full = |message: String| {
            let mut error =
                ErrorReply::new(ErrorCode::TooManyConnections, Effect::NotApplied, message);
            error.retry_after_ms = 1_000;
            Err(error)
        };
        let mut all = 0;
        let mut strangers = Vec::new();
        for (token, socket) in &self.sockets {
            let Some(dialer) = socket.dialer() else { continue };
            all += 1;
            if !is_member(&dialer.replica, standing) {
                strangers.push((socket.link.since(), *token));
            }
        }
        let member = is_member(replica, standing);
        if !member && standing.has_members() && strangers.len() >= MAX_STRANGER_CONNECTIONS {
            return full(format!(
                "{MAX_STRANGER_CONNECTIONS} connections of nodes that are no members are taken here, and this one is none either"
            ));
        }
        if all < MAX_PEER_CONNECTIONS {
            return Ok(());
        }
        match strangers.into_iter().min().filter(|_| member) {
            Some((_, token)) => {
                self.counts.refused += 1;
                self.close(now, token, "a member takes its place");
                Ok(())
            }
            None => full(format!(
                "this node has its limit of {MAX_PEER_CONNECTIONS} connections from peers"
            )),
        }
    }

    /// Looks whether half-received frames are too many bytes, after this connection was read.
    pub(super) fn check_input(&mut self, now: Nanos, token: usize, standing: &dyn Standing) {
        let held = |socket: &Socket| Some(socket.link.held()).filter(|held| *held > SMALL_BYTES);
        let Some(this) = self.sockets.get(&token).filter(|socket| held(socket).is_some()) else {
            return;
        };
        let mine = this.dialer().is_none_or(|dialer| !is_member(&dialer.replica, standing));
        let (mut all, mut of_strangers, mut largest) = (0, 0, None);
        for (token, socket) in &self.sockets {
            let (Some(held), Some(dialer)) = (held(socket), socket.dialer()) else { continue };
            all += held;
            if !is_member(&dialer.replica, standing) {
                of_strangers += held;
                largest = largest.max(Some((held, *token)));
            }
        }
        let victim = if all > MAX_PEER_INPUT_BYTES {
            largest.map_or(token, |(_, token)| token)
        } else if mine && standing.has_members() && of_strangers > MAX_STRANGER_INPUT_BYTES {
            token
        } else {
            return;
        };
        let message = format!(
            "too many bytes of frames that are not complete: {all} of all peers, {of_strangers} of nodes that are no members"
        );
        let mut error = ErrorReply::new(ErrorCode::Busy, Effect::NotApplied, message);
        error.retry_after_ms = 1_000;
        let Some(socket) = self.sockets.get_mut(&victim) else { return };
        let who = socket.dialer().map_or_else(String::new, |dialer| dialer.replica.to_string());
        let line = format!("node {who} is disconnected: it sends more than there is room for");
        socket.link.refuse(now, error);
        self.counts.refused += 1;
        self.forget_sender(victim);
        self.mark_dirty(victim);
        self.warn(now, &line);
    }
}
