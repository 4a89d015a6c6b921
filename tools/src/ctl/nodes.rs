//! status and stats: each endpoint is asked by itself, all at the same time, and for `PATIENCE` at most.
//!
//! With one endpoint, status also asks the other members of its cluster, at the addresses that it names. One of them that does not
//! answer is a row of the table and no failure of the command; a given endpoint that does not answer is.

use super::Session;
use super::output::{Failure, error_document};
use beachdb::client::{Client, ClientError};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::Duration;

/// A node that has not answered by then is shown as one that does not.
const PATIENCE: Duration = Duration::from_millis(800);

/// `status`.
pub fn status(session: &mut Session) -> Result<(), Failure> {
    let mut answers = ask(session, &session.global.endpoints, Client::status);
    let given = answers.len();
    if let [answer] = answers.as_slice()
        && let Ok(document) = &answer.document
    {
        let others = other_members(document);
        let addresses: Vec<String> = others.iter().map(|(_, address)| address.clone()).collect();
        answers.extend(ask(session, &addresses, Client::status));
        for (answer, (node, _)) in answers[given..].iter_mut().zip(others) {
            answer.node = Some(node);
        }
    }
    if session.out.json {
        return finish_json(&answers, given, "status");
    }
    let mut rows = vec![
        [
            "ENDPOINT",
            "NODE",
            "ROLE",
            "TERM",
            "LEADER",
            "COMMIT",
            "APPLIED",
            "LAG",
            "READY",
            "DISK FREE",
            "VERSION",
            "CLUSTER",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut notes = Vec::new();
    for Answer { endpoint, node, document } in &answers {
        match document {
            Ok(document) => {
                rows.push(status_row(endpoint, document));
                for field in ["not_ready_reason", "read_only"] {
                    if let Some(why) = document[field].as_str() {
                        notes.push(format!("{endpoint}: {}: {why}", field.replace('_', " ")));
                    }
                }
            }
            Err(e) => {
                let node = node.map_or_else(|| "-".to_owned(), |node| node.to_string());
                let mut row = vec![endpoint.clone(), node, "unreachable".to_owned()];
                row.resize(rows[0].len(), "-".to_owned());
                rows.push(row);
                notes.push(format!("{endpoint}: {e}"));
            }
        }
    }
    if answers.iter().any(|answer| answer.document.is_ok()) {
        table(&rows)?;
    }
    for note in notes {
        eprintln!("beachctl: {note}");
    }
    all_answered(&answers[..given])
}

/// The members beside the node that says so, with an address where clients reach them.
fn other_members(document: &Value) -> Vec<(u64, String)> {
    let members = document["members"].as_array().into_iter().flatten();
    let others = members.filter_map(|member| {
        let (node, address) = (member["node"].as_u64()?, member["client_address"].as_str()?);
        (member["node"] != document["node"] && !address.is_empty())
            .then(|| (node, address.to_owned()))
    });
    others.collect()
}

fn status_row(endpoint: &str, document: &Value) -> Vec<String> {
    let number = |field: &str| document[field].as_u64().unwrap_or_default();
    let lag = number("commit").saturating_sub(number("applied"));
    let free = document["disk_free_bytes"].as_u64().map_or_else(|| "-".to_owned(), bytes);
    vec![
        endpoint.to_owned(),
        cell(&document["node"]),
        cell(&document["role"]),
        cell(&document["term"]),
        cell(&document["leader"]),
        cell(&document["commit"]),
        cell(&document["applied"]),
        lag.to_string(),
        if document["ready"] == true { "yes" } else { "no" }.to_owned(),
        free,
        cell(&document["version"]),
        cluster(document),
    ]
}

/// Its cluster's name and uid: two clusters may have one name.
fn cluster(document: &Value) -> String {
    let name = cell(&document["cluster"]);
    match document["cluster_uid"].as_str() {
        Some(uid) => format!("{name}/{uid}"),
        None => name,
    }
}

/// `stats`.
pub fn stats(session: &mut Session) -> Result<(), Failure> {
    let answers = ask(session, &session.global.endpoints, Client::stats);
    if session.out.json {
        return finish_json(&answers, answers.len(), "stats");
    }
    let mut out = io::stdout().lock();
    for Answer { endpoint, document, .. } in &answers {
        match document {
            Ok(document) => {
                writeln!(out, "# {endpoint}")?;
                print_flat(&mut out, "", document)?;
            }
            Err(e) => eprintln!("beachctl: {endpoint}: {e}"),
        }
    }
    all_answered(&answers)
}

/// Prints a document as `path value` lines; lists of documents as one JSON line an item.
fn print_flat(out: &mut impl Write, path: &str, value: &Value) -> io::Result<()> {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                print_flat(out, &path, field)?;
            }
            Ok(())
        }
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                writeln!(out, "{:<40} {}", format!("{path}[{i}]"), cell(item))?;
            }
            Ok(())
        }
        leaf => writeln!(out, "{path:<40} {}", cell(leaf)),
    }
}

/// What became of asking one node.
struct Answer {
    endpoint: String,
    /// Its number, when it was not given by the user.
    node: Option<u64>,
    document: Result<Value, ClientError>,
}

fn ask(
    session: &Session,
    endpoints: &[String],
    call: fn(&mut Client) -> Result<String, ClientError>,
) -> Vec<Answer> {
    let one = |endpoint: &String| {
        let mut options = session.options(std::slice::from_ref(endpoint));
        options.timeout = options.timeout.min(PATIENCE);
        options.connect_timeout = options.connect_timeout.min(PATIENCE);
        let text = Client::with_options(options).and_then(|mut client| call(&mut client))?;
        serde_json::from_str(&text).map_err(|e| ClientError::Protocol {
            endpoint: endpoint.clone(),
            cause: format!("its document is not JSON: {e}"),
            effect: beachdb::client::Effect::None,
        })
    };
    let answer = |e: &String| Answer { endpoint: e.clone(), node: None, document: one(e) };
    // All at once: those that are down or hang take the time of one.
    std::thread::scope(|scope| {
        let asked: Vec<_> = endpoints.iter().map(|e| scope.spawn(move || answer(e))).collect();
        asked.into_iter().map(|one| one.join().expect("asking does not panic")).collect()
    })
}

/// Prints everything; what is behind the first `given` need not have answered.
fn finish_json(answers: &[Answer], given: usize, name: &str) -> Result<(), Failure> {
    let nodes: Vec<Value> = answers
        .iter()
        .map(|Answer { endpoint, node, document }| {
            let mut answer = json!({"endpoint": endpoint});
            if let Some(node) = node {
                answer["node"] = (*node).into();
            }
            match document {
                Ok(document) => answer[name] = document.clone(),
                Err(e) => answer["error"] = error_document(e),
            }
            answer
        })
        .collect();
    writeln!(io::stdout(), "{}", json!({"nodes": nodes}))?;
    for Answer { endpoint, document, .. } in answers {
        if let Err(e) = document {
            eprintln!("beachctl: {endpoint}: {e}");
        }
    }
    all_answered(&answers[..given])
}

fn all_answered(answers: &[Answer]) -> Result<(), Failure> {
    if answers.iter().all(|answer| answer.document.is_ok()) { Ok(()) } else { Err(Failure::Silent) }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn bytes(n: u64) -> String {
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter().peekable();
    let (mut value, mut unit) = (n as f64, units.next().unwrap_or("B"));
    while value >= 1024.0 && units.peek().is_some() {
        value /= 1024.0;
        unit = units.next().unwrap_or(unit);
    }
    if unit == "B" { format!("{n}B") } else { format!("{value:.1}{unit}") }
}

/// Prints rows with their columns aligned.
pub(super) fn table(rows: &[Vec<String>]) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = io::stdout().lock();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}
