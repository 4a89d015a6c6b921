//! status and stats: each endpoint is asked by itself.

use super::Session;
use super::output::{Failure, error_document};
use beachdb::client::{Client, ClientError};
use serde_json::{Value, json};
use std::io::{self, Write};

/// `status`.
pub fn status(session: &mut Session) -> Result<(), Failure> {
    let answers = ask(session, Client::status);
    if session.out.json {
        return finish_json(&answers, "status");
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
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    let mut notes = Vec::new();
    for (endpoint, answer) in &answers {
        match answer {
            Ok(document) => {
                rows.push(status_row(endpoint, document));
                for field in ["not_ready_reason", "read_only"] {
                    if let Some(why) = document[field].as_str() {
                        notes.push(format!("{endpoint}: {}: {why}", field.replace('_', " ")));
                    }
                }
            }
            Err(e) => notes.push(format!("{endpoint}: {e}")),
        }
    }
    if rows.len() > 1 {
        table(&rows)?;
    }
    for note in notes {
        eprintln!("beachctl: {note}");
    }
    all_answered(&answers)
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
    ]
}

/// `stats`.
pub fn stats(session: &mut Session) -> Result<(), Failure> {
    let answers = ask(session, Client::stats);
    if session.out.json {
        return finish_json(&answers, "stats");
    }
    let mut out = io::stdout().lock();
    for (endpoint, answer) in &answers {
        match answer {
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

type Answers = Vec<(String, Result<Value, ClientError>)>;

fn ask(session: &Session, call: fn(&mut Client) -> Result<String, ClientError>) -> Answers {
    let one = |endpoint: &String| {
        let text = Client::with_options(session.options(std::slice::from_ref(endpoint)))
            .and_then(|mut client| call(&mut client))?;
        serde_json::from_str(&text).map_err(|e| ClientError::Protocol {
            endpoint: endpoint.clone(),
            cause: format!("its document is not JSON: {e}"),
            effect: beachdb::client::Effect::None,
        })
    };
    session.global.endpoints.iter().map(|e| (e.clone(), one(e))).collect()
}

fn finish_json(answers: &Answers, name: &str) -> Result<(), Failure> {
    let nodes: Vec<Value> = answers
        .iter()
        .map(|(endpoint, answer)| match answer {
            Ok(document) => json!({"endpoint": endpoint, name: document}),
            Err(e) => json!({"endpoint": endpoint, "error": error_document(e)}),
        })
        .collect();
    writeln!(io::stdout(), "{}", json!({"nodes": nodes}))?;
    for (endpoint, answer) in answers {
        if let Err(e) = answer {
            eprintln!("beachctl: {endpoint}: {e}");
        }
    }
    all_answered(answers)
}

fn all_answered(answers: &Answers) -> Result<(), Failure> {
    if answers.iter().all(|(_, a)| a.is_ok()) { Ok(()) } else { Err(Failure::Silent) }
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

fn table(rows: &[Vec<String>]) -> io::Result<()> {
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
