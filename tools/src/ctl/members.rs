//! member and transfer-leader: who belongs to the cluster, and who leads.
//!
//! `replace` is a row of these commands, each printed: remove, add, wait until it has caught up, promote. It looks at what is
//! before each step, so it can be run again after an interruption:
//!
//! ```text
//!   not a member ────────────────────────────────► add ─┐
//!   a member that the leader does not hear ─► remove ─► add ─► wait, promote ─► done
//!   a learner that the leader hears ────────────────────┘
//!   a voter that the leader hears: there is nothing to replace
//! ```
//!
//! A member is (node, incarnation): a new disk under an old number is not heard under the old incarnation.
#![allow(clippy::disallowed_methods, reason = "a tool times itself and sleeps")]

use super::Session;
use super::args::{Member, MemberAdd, Replace, TransferLeader, Wait};
use super::nodes::table;
use super::output::Failure;
use beachdb::base::{LogIndex, NodeId};
use beachdb::client::{AdminRequest, Client, ClientError, Effect, ErrorCode};
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, Instant};

/// How long one try of a promotion is repeated before the progress is looked at again.
const PROMOTE_TRY: Duration = Duration::from_millis(500);
/// Between two tries that met no leader.
const PAUSE: Duration = Duration::from_millis(200);

/// `member …`.
pub fn run(session: &mut Session, command: &Member) -> Result<(), Failure> {
    match command {
        Member::List => list(session),
        Member::Add(add) => self::add(session, add),
        Member::Promote(promote) => {
            let node = NodeId(promote.node);
            let index = self::promote(session, node, promote.wait)?;
            changed(session, node, index, "votes now")
        }
        Member::Remove(remove) => {
            let node = NodeId(remove.node);
            let index = session.client()?.admin(&AdminRequest::Remove(node))?;
            changed(session, node, index, "is no member any more")
        }
        Member::Replace(replace) => self::replace(session, replace),
    }
}

/// Reports a change that was made.
fn changed(session: &Session, node: NodeId, index: LogIndex, what: &str) -> Result<(), Failure> {
    let text = format!("OK node {node} {what} (log index {index})");
    Ok(session.out.line(&text, &json!({"node": node.0, "index": index.0}))?)
}

/// What a node says of the members: the leader, if it can be asked, for it knows more. A node that waits to be added knows
/// nothing, so each endpoint is asked until one knows a leader.
fn members(session: &mut Session) -> Result<Value, Failure> {
    let client = session.client()?;
    let (first, mut document) = (client.endpoint().to_owned(), ask(client)?);
    for endpoint in session.global.endpoints.iter().filter(|endpoint| **endpoint != first) {
        if !document["leader"].is_null() {
            break;
        }
        let options = session.options(std::slice::from_ref(endpoint));
        if let Ok(other) = Client::with_options(options).and_then(|mut client| ask(&mut client)) {
            document = other;
        }
    }
    let Some(address) = leader_elsewhere(&document) else { return Ok(document) };
    let leader = Client::with_options(session.options(&[address])).and_then(|mut c| ask(&mut c));
    match leader {
        Ok(of_leader) => Ok(of_leader),
        Err(e) => {
            let (node, leader) = (&document["node"], &document["leader"]);
            eprintln!("beachctl: as node {node} knows it; the leader, node {leader}: {e}");
            Ok(document)
        }
    }
}

fn ask(client: &mut Client) -> Result<Value, ClientError> {
    let text = client.members()?;
    serde_json::from_str(&text).map_err(|e| ClientError::Protocol {
        endpoint: client.endpoint().to_owned(),
        cause: format!("its document is not JSON: {e}"),
        effect: Effect::None,
    })
}

/// The address of the leader, if another node than the one that speaks leads.
fn leader_elsewhere(document: &Value) -> Option<String> {
    let leader = document["leader"].as_u64()?;
    if document["node"].as_u64() == Some(leader) {
        return None;
    }
    let address = member(document, NodeId(leader))?["client_address"].as_str()?;
    (!address.is_empty()).then(|| address.to_owned())
}

fn member(document: &Value, node: NodeId) -> Option<&Value> {
    document["members"].as_array()?.iter().find(|member| member["node"].as_u64() == Some(node.0))
}

fn list(session: &mut Session) -> Result<(), Failure> {
    let document = members(session)?;
    if session.out.json {
        writeln!(std::io::stdout(), "{document}")?;
        return Ok(());
    }
    let head = ["NODE", "ROLE", "INCARNATION", "PEERS AT", "CLIENTS AT", "STATE", "MATCHED"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let text = |value: &Value| match value {
        Value::String(s) if s.is_empty() => "-".to_owned(),
        Value::String(s) => s.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    for member in document["members"].as_array().into_iter().flatten() {
        let progress = &member["progress"];
        let state = if member["node"] == document["leader"] {
            "leads".to_owned()
        } else if progress["recent"] == false {
            "not heard".to_owned()
        } else {
            text(&progress["state"])
        };
        let fields = ["node", "role", "incarnation", "peer_address", "client_address"];
        let mut row: Vec<String> = fields.iter().map(|field| text(&member[*field])).collect();
        row.extend([state, text(&progress["matched"])]);
        rows.push(row);
    }
    table(&rows)?;
    if rows.len() == 1 {
        eprintln!("beachctl: node {} knows no members: it waits to be added", document["node"]);
    }
    if document["committed"] == false {
        eprintln!("beachctl: the change at log index {} is not committed yet", document["index"]);
    }
    Ok(())
}

fn add(session: &mut Session, add: &MemberAdd) -> Result<(), Failure> {
    let (node, peer_address) = (NodeId(add.member.node), add.member.address.as_str());
    let index = session.client()?.admin(&AdminRequest::Add { node, peer_address })?;
    changed(session, node, index, "is a learner now; member promote lets it vote")
}

/// Makes a learner vote as soon as it has caught up.
fn promote(session: &mut Session, node: NodeId, wait: Wait) -> Result<LogIndex, Failure> {
    let until = Instant::now() + wait.wait;
    let timeout = session.global.timeout;
    let mut last_progress = String::new();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let client = session.client()?;
        client.set_timeout(PROMOTE_TRY.min(timeout).min(left.max(Duration::from_millis(1))));
        let outcome = client.admin(&AdminRequest::Promote(node));
        client.set_timeout(timeout);
        let error = match outcome {
            Ok(index) => return Ok(index),
            Err(error) => error,
        };
        let unknown = error.effect() == Effect::Unknown;
        if unknown && let Some(index) = votes_since(session, node) {
            return Ok(index);
        }
        let again = unknown || error.safe_to_retry();
        if !again || Instant::now() >= until {
            return Err(error.into());
        }
        if error.code() == Some(ErrorCode::Busy) {
            let progress = session.client()?.status().map(|text| catching_up(&text, node));
            let progress = progress.unwrap_or_default();
            if !progress.is_empty() && progress != last_progress {
                eprintln!("beachctl: {progress}");
                last_progress = progress;
            }
        } else {
            std::thread::sleep(PAUSE.min(left));
        }
    }
}

/// After an answer was lost: whether the node votes, and since which entry.
fn votes_since(session: &mut Session, node: NodeId) -> Option<LogIndex> {
    let document = members(session).ok()?;
    let votes = member(&document, node)?["role"] == "voter" && document["committed"] == true;
    votes.then(|| LogIndex(document["index"].as_u64().unwrap_or_default()))
}

/// How far a learner is, by the STATUS of the leader.
fn catching_up(status: &str, node: NodeId) -> String {
    let Ok(document) = serde_json::from_str::<Value>(status) else { return String::new() };
    let sending = document["snapshots"]["sending"].as_array().into_iter().flatten();
    if let Some(transfer) = sending.clone().find(|t| t["to"].as_u64() == Some(node.0)) {
        let (acked, bytes) = (&transfer["acked"], &transfer["bytes"]);
        return format!("node {node}: {acked} of {bytes} bytes of a snapshot");
    }
    let mut waiting = document["snapshots"]["waiting"].as_array().into_iter().flatten();
    let failed = waiting.find(|w| w["to"].as_u64() == Some(node.0));
    if let Some(reason) = failed.and_then(|w| w["reason"].as_str()) {
        return format!("node {node}: {reason}");
    }
    match member(&document, node) {
        Some(member) if member["progress"]["recent"] == true => {
            let (matched, commit) = (&member["progress"]["matched"], &document["commit"]);
            format!("node {node}: entry {matched} of {commit}")
        }
        Some(member) => format!("node {node} at {} is not heard of", member["peer_address"]),
        None => String::new(),
    }
}

/// What `replace` finds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nobody,
    Gone { peer_address: String, client_address: String, incarnation: String },
    LiveLearner,
    LiveVoter,
}

fn find(document: &Value, node: NodeId) -> Found {
    let Some(member) = member(document, node) else { return Found::Nobody };
    let leads = document["leader"].as_u64() == Some(node.0);
    let live = leads || member["progress"]["recent"] == true;
    let text = |field: &str| member[field].as_str().unwrap_or_default().to_owned();
    match (live, member["role"] == "voter") {
        (true, true) => Found::LiveVoter,
        (true, false) => Found::LiveLearner,
        (false, _) => Found::Gone {
            peer_address: text("peer_address"),
            client_address: text("client_address"),
            incarnation: text("incarnation"),
        },
    }
}

fn replace(session: &mut Session, args: &Replace) -> Result<(), Failure> {
    let node = NodeId(args.node);
    let document = members(session)?;
    if document["leader"].is_null() {
        return Err(Failure::Failed("no leader is elected; try again when there is one".into()));
    }
    let step = |text: String| eprintln!("beachctl: {text}");
    let add_at = match find(&document, node) {
        Found::LiveVoter => {
            let text = format!(
                "node {node} is a voter that the leader hears: there is nothing to replace. (A node with a new disk is \
                 refused under its old identity; if it was stopped only now, wait a few seconds and try again.)"
            );
            let index = document["index"].as_u64().unwrap_or_default();
            let answer = json!({"node": node.0, "index": index, "replaced": false});
            return Ok(session.out.line(&text, &answer)?);
        }
        Found::LiveLearner => {
            step(format!("node {node} was added before, and catches up"));
            None
        }
        Found::Nobody => match &args.peer {
            Some(peer) => Some(peer.clone()),
            None => {
                return Err(Failure::Usage(format!(
                    "node {node} is no member, so its address is not known: --peer HOST:PORT"
                )));
            }
        },
        Found::Gone { peer_address, client_address, incarnation } => {
            let peer = match &args.peer {
                Some(peer) => peer.clone(),
                None => {
                    check_new_life(session, node, &client_address, &incarnation)?;
                    peer_address
                }
            };
            step(format!(
                "removing node {node}, incarnation {incarnation}; if this stops here, go on with: member replace {node} --peer {peer}"
            ));
            let index = session.client()?.admin(&AdminRequest::Remove(node))?;
            step(format!("removed at log index {index}"));
            Some(peer)
        }
    };
    if let Some(peer) = add_at {
        step(format!("adding node {node} at {peer} as a learner"));
        let index = session.client()?.admin(&AdminRequest::Add { node, peer_address: &peer })?;
        step(format!("added at log index {index}; waiting until it has caught up"));
    }
    let index = promote(session, node, args.wait)?;
    let text = format!("OK node {node} is replaced and votes (log index {index})");
    let answer = json!({"node": node.0, "index": index.0, "replaced": true});
    Ok(session.out.line(&text, &answer)?)
}

/// Before a member is removed: that a new life of it is there to be added. One that is only down keeps its place.
fn check_new_life(
    session: &Session,
    node: NodeId,
    client_address: &str,
    incarnation: &str,
) -> Result<(), Failure> {
    let options = session.options(&[client_address.to_owned()]);
    let status = Client::with_options(options).and_then(|mut client| client.status());
    let why = match status {
        Err(e) => format!("does not answer ({e})"),
        Ok(text) => {
            let document: Value = serde_json::from_str(&text).unwrap_or_default();
            let same = document["incarnation"].as_str() == Some(incarnation);
            match document["node"].as_u64() == Some(node.0) {
                true if !same => return Ok(()),
                true => "runs with the disk that the cluster knows".to_owned(),
                false => format!("is not at {client_address}: node {} is", document["node"]),
            }
        }
    };
    Err(Failure::Failed(format!(
        "node {node} {why}, so nothing was changed. Start it with an empty data directory and --join, or name where its \
         replacement listens for peers: --peer HOST:PORT"
    )))
}

/// `transfer-leader`.
pub fn transfer(session: &mut Session, args: &TransferLeader) -> Result<(), Failure> {
    let to = args.node.map(NodeId);
    session.client()?.admin(&AdminRequest::Transfer(to))?;
    // Whoever handed it over knows who leads now.
    let leader = session.client()?.members().ok().and_then(|text| {
        let document: Value = serde_json::from_str(&text).ok()?;
        document["leader"].as_u64()
    });
    let text = match leader {
        Some(leader) => format!("OK node {leader} leads"),
        None => "OK the node that led handed leadership over".to_owned(),
    };
    Ok(session.out.line(&text, &json!({"leader": leader}))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(role: &str, recent: bool) -> Value {
        json!({
            "node": 1, "leader": 1, "commit": 90, "snapshots": {"sending": []},
            "members": [
                {"node": 1, "role": "voter", "client_address": "a:1", "progress": null},
                {"node": 2, "role": role, "peer_address": "b:2", "client_address": "b:1", "incarnation": "ab",
                 "progress": {"recent": recent, "matched": 7}},
            ],
        })
    }

    #[test]
    fn replace_goes_on_where_it_was_interrupted() {
        let node = NodeId(2);
        let gone = Found::Gone {
            peer_address: "b:2".into(),
            client_address: "b:1".into(),
            incarnation: "ab".into(),
        };
        assert_eq!(find(&document("voter", false), node), gone);
        assert_eq!(find(&document("learner", false), node), gone);
        assert_eq!(find(&document("learner", true), node), Found::LiveLearner);
        assert_eq!(find(&document("voter", true), node), Found::LiveVoter);
        assert_eq!(find(&document("voter", true), NodeId(3)), Found::Nobody);
        assert_eq!(find(&document("voter", true), NodeId(1)), Found::LiveVoter, "the leader");
    }

    #[test]
    fn the_leader_is_asked_when_another_node_answers() {
        let mut document = document("voter", true);
        assert_eq!(leader_elsewhere(&document), None);
        document["node"] = 2.into();
        assert_eq!(leader_elsewhere(&document).as_deref(), Some("a:1"));
        document["leader"] = Value::Null;
        assert_eq!(leader_elsewhere(&document), None);
    }

    #[test]
    fn progress_is_entries_or_bytes_of_a_snapshot_or_silence() {
        let mut status = document("learner", true);
        assert_eq!(catching_up(&status.to_string(), NodeId(2)), "node 2: entry 7 of 90");
        status["snapshots"]["sending"] = json!([{"to": 2, "bytes": 100, "acked": 30}]);
        let shown = catching_up(&status.to_string(), NodeId(2));
        assert_eq!(shown, "node 2: 30 of 100 bytes of a snapshot");
        let reason = "the snapshot of entry 9 was refused: 5 bytes are free on the disk";
        status["snapshots"] = json!({"sending": [], "waiting": [{"to": 2, "reason": reason}]});
        let shown = catching_up(&status.to_string(), NodeId(2));
        assert_eq!(shown, format!("node 2: {reason}"));
        let silent = catching_up(&document("learner", false).to_string(), NodeId(2));
        assert_eq!(silent, "node 2 at \"b:2\" is not heard of");
    }
}
