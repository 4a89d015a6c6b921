//! The daemon as a person meets it: one command starts it, text lines work in netcat, HTTP pages tell its state, wrong
//! settings are refused with a reason, and SIGTERM ends it cleanly.

#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

mod common;

use beachdb::proto::{ErrorCode, Opcode, Request, Response};
use common::{Daemon, Wire, command, http_get, netcat, refused};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Compares with a file under `tests/golden`; `BEACH_BLESS=1` writes it instead, to be reviewed as code.
fn assert_golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("BEACH_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, actual).expect("written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(actual, expected, "{} (BEACH_BLESS=1 rewrites it)", path.display());
}

#[test]
fn the_ready_line_names_the_real_ports_and_they_answer() {
    let dir = temp();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data, &[]);
    let expected = format!(
        "beachd ready node=1 role=leader listen={} http={} data={}",
        daemon.listen,
        daemon.http,
        data.display()
    );
    assert_eq!(daemon.ready, expected);
    assert!(daemon.listen.port() != 0 && daemon.http.port() != 0);
    daemon.connect().put(b"k", b"v").written();
    assert!(http_get(daemon.http, "/healthz").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_text_session_reads_as_the_contract_says() {
    let dir = temp();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    let mut transcript = String::new();
    for line in [
        "PING",
        "GET k",
        "PUT k v",
        "GET k",
        "put \"two words\" \"a\\x00b\\n\"",
        "GET \"two words\"",
        "PUT a 1",
        "PUT b 2",
        "PUT c 3",
        "SCAN",
        "SCAN a c",
        "SCAN b LIMIT 1",
        "DEL k",
        "GET k",
        "",
        "GET",
        "FLY me to the moon",
        "GET \"open",
        "PUT \"\" empty",
        "HELP",
        "QUIT",
    ] {
        let answer = netcat(daemon.listen, format!("{line}\n").as_bytes());
        transcript += &format!("> {line}\n{}", String::from_utf8(answer).expect("text"));
    }
    assert_golden("text_session.txt", &transcript);
}

#[test]
fn piped_text_commands_are_answered_in_order() {
    let dir = temp();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    let mut input = String::new();
    for i in 0..500 {
        input += &format!("PUT k {i}\r\nGET k\r\n");
    }
    let output = String::from_utf8(netcat(daemon.listen, input.as_bytes())).expect("text");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 1_000);
    for i in 0..500 {
        assert!(lines[2 * i].starts_with("OK "), "{}", lines[2 * i]);
        assert!(lines[2 * i + 1].starts_with(&format!("VALUE {i} ")), "{}", lines[2 * i + 1]);
    }
    for (command, field) in [("STATUS", "\"role\":\"leader\""), ("STATS", "\"engine\":{")] {
        let answer = netcat(daemon.listen, format!("{command}\n").as_bytes());
        let text = String::from_utf8(answer).expect("text");
        let json: serde_json::Value = serde_json::from_str(&text).expect("one JSON document");
        assert!(json.is_object() && text.contains(field), "{text}");
    }
}

#[test]
fn the_http_pages_tell_the_state() {
    let dir = temp();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    daemon.connect().put(b"k", b"v").written();
    let page = |path: &str| {
        let text = http_get(daemon.http, path);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
    };
    assert_eq!(page("/readyz"), ("HTTP/1.1 200 OK".into(), "ready\n".into()));
    let (_, status) = page("/status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!((status["role"].as_str(), status["ready"].as_bool()), (Some("leader"), Some(true)));
    for stage in ["parse", "queue", "append", "sync", "commit", "apply", "respond", "total"] {
        let count = &status["stages"][stage]["count"];
        assert!(count.as_u64() > Some(0), "{stage} is recorded: {count}");
    }
    let (_, metrics) = page("/metrics");
    for name in [
        "beachd_ready 1",
        "beachd_connections_accepted_total",
        "beachd_requests_total{outcome=\"ok\"}",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    // Every line is a comment or `name{labels} number`.
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a value");
        assert!(name.starts_with("beachd_") && value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(page("/nowhere").0, "HTTP/1.1 404 Not Found");
}

#[test]
fn the_http_port_is_bounded_and_says_so() {
    let dir = temp();
    let mut daemon = Daemon::start(&dir.path().join("data"), &[]);
    let connect = || std::net::TcpStream::connect(daemon.http).expect("the HTTP port accepts");
    let silent: Vec<_> = (0..beachdb::limits::MAX_HTTP_CONNECTIONS).map(|_| connect()).collect();
    assert!(http_get(daemon.http, "/healthz").starts_with("HTTP/1.1 503"));
    drop(silent);
    common::wait_until("serving HTTP again", || {
        http_get(daemon.http, "/healthz").starts_with("HTTP/1.1 200")
    });
    let garbage = netcat(daemon.http, b"\x00\x01\x02\r\n\r\n");
    assert!(garbage.starts_with(b"HTTP/1.1 400"), "{}", garbage.escape_ascii());
    daemon.assert_well();
}

#[test]
fn http_can_be_switched_off() {
    let dir = temp();
    let started = Command::new(env!("CARGO_BIN_EXE_beachd"))
        .args(["--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.path().join("data"))
        .env("BEACHD_HTTP", "off")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut off = started.expect("beachd starts");
    let mut line = String::new();
    let stdout = off.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("text");
    off.kill().expect("ours to kill");
    off.wait().expect("our child");
    assert!(line.contains(" http=off "), "{line}");
}

#[test]
fn wrong_usage_exits_2_and_says_what_is_wrong() {
    let dir = temp();
    let data = dir.path().join("data");
    let file = dir.path().join("beachd.toml");
    fs::write(&file, "node-id = 1\n\n[colour]\nblue = true\n").expect("written");
    let file = file.to_str().expect("UTF-8");
    for (args, why) in [
        (&["--config", file][..], "line 3"),
        (&["--config", file], "colour"),
        (&["--config", "/nowhere/at/all.toml"], "/nowhere/at/all.toml"),
        (&["--colour", "blue"], "--colour"),
        (&["--memtable-size", "a lot"], "a lot"),
        (&["--idle-timeout", "10"], "10"),
        (&["--node-id", "0"], "--node-id 0"),
        (&["--initial-cluster", "2=a:1,3=b:2"], "this node, --node-id 1, is not in it"),
        (&["--join", "--listen", "0.0.0.0:0"], "--advertise HOST:PORT"),
    ] {
        let (code, stderr) = refused(&data, args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
        assert!(!data.exists(), "{args:?} touched the data directory");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_beachd"))
        .args(["restore", "--from", "x", "--cluster-id", "y"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("x: no checkpoint"));
}

#[test]
fn a_damaged_log_is_refused_with_the_way_out_and_rejoin_takes_it() {
    let dir = temp();
    let data = dir.path().join("data");
    let daemon = Daemon::start(&data, &["--node-id", "3"]);
    let mut client = daemon.connect();
    for i in 0..50 {
        client.put(format!("key{i}").as_bytes(), b"value").written();
    }
    drop(client);
    assert!(daemon.terminate().0.success());
    let raft = data.join("raft");
    let segments = fs::read_dir(&raft).expect("listed").map(|e| e.expect("entry").path());
    let segment =
        segments.filter(|p| p.extension().is_some_and(|e| e == "rlog")).min().expect("one");
    let mut bytes = fs::read(&segment).expect("read");
    bytes[300] ^= 1;
    fs::write(&segment, &bytes).expect("written");
    let (code, stderr) = refused(&data, &["--node-id", "3"]);
    assert_eq!(code, Some(1), "{stderr}");
    let place = format!("raft log: {}: corrupt at offset", segment.display());
    let way_out = format!("beachd rejoin --data-dir {}", data.display());
    assert!(stderr.contains(&place) && stderr.contains(&way_out), "{stderr}");

    let rejoin = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beachd"));
        command.args(["rejoin", "--data-dir"]).arg(&data).args(args).stdin(Stdio::null());
        command.env("BEACHD_DATA_DIR", "/nowhere").output().expect("it runs")
    };
    let asked = rejoin(&[]);
    assert_eq!(asked.status.code(), Some(1), "nobody said yes");
    assert!(String::from_utf8_lossy(&asked.stderr).contains("nothing was changed"));
    let other = rejoin(&["--yes", "--node-id", "4"]);
    assert!(String::from_utf8_lossy(&other.stderr).contains("belongs to node-id 3"), "{other:?}");
    let done = rejoin(&["--yes"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let out = String::from_utf8_lossy(&done.stdout);
    let identity = fs::read_to_string(data.join("IDENTITY")).expect("read");
    let line = |name| identity.lines().find_map(|l| l.strip_prefix(name)).expect("a line");
    let said = format!("Node 3 of cluster beachdb is now incarnation {}.", line("incarnation "));
    assert!(out.contains(&said) && out.contains("beachctl member replace 3"), "{out}");
    assert_eq!(line("joining "), "yes");
    let aside = fs::read_dir(&data).expect("listed").map(|e| e.expect("entry").path());
    let aside = aside.filter(|p| p.to_string_lossy().contains("damaged-")).collect::<Vec<_>>();
    assert_eq!(aside.len(), 1);
    let kept = aside[0].join("raft").join(segment.file_name().expect("a name"));
    assert_eq!(fs::read(kept).expect("read"), bytes, "nothing is deleted");
    assert_eq!(rejoin(&["--yes"]).status.code(), Some(0), "once more does no harm");
    let (code, stderr) = refused(&data, &["--node-id", "4"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("belongs to node-id 3"), "{stderr}");
}

#[test]
fn a_recovered_node_serves_everything_under_a_new_incarnation() {
    let dir = temp();
    let data = dir.path().join("data");
    let recover = |args: &[&str], answer: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_beachd"));
        command.args(["recover", "--data-dir"]).arg(&data).args(args).stdin(Stdio::piped());
        command.env("BEACHD_DATA_DIR", "/nowhere").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that asks nothing may be gone already.
        drop(std::io::Write::write_all(&mut stdin, answer.as_bytes()));
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let forced = ["--force-new-cluster"];
    let (code, _, stderr) = recover(&forced, "beachdb\n");
    assert!(code == Some(1) && stderr.contains("no data directory of a node"), "{stderr}");
    assert!(!data.exists(), "it made nothing");
    let daemon = Daemon::start(&data, &["--node-id", "3"]);
    let mut client = daemon.connect();
    for i in 0..50 {
        client.put(format!("key{i}").as_bytes(), b"value").written();
    }
    drop(client);
    let (code, _, stderr) = recover(&["--force-new-cluster", "--yes"], "");
    assert!(code == Some(1) && stderr.contains("stop the beachd that runs"), "{stderr}");
    assert!(daemon.terminate().0.success());

    let incarnation = || {
        let identity = fs::read_to_string(data.join("IDENTITY")).expect("read");
        let line = identity.lines().find_map(|l| l.strip_prefix("incarnation "));
        line.expect("a line").to_owned()
    };
    let old = incarnation();
    for wrong in [&[][..], &["--yes"], &["--force-new-cluster", "--new-cluster-id", "a b"]] {
        let (code, _, stderr) = recover(wrong, "beachdb\n");
        assert_eq!(code, Some(2), "{wrong:?}: {stderr}");
    }
    for answer in ["", "yes\n"] {
        let (code, out, stderr) = recover(&forced, answer);
        assert!(code == Some(1) && stderr.contains("nothing was changed"), "{stderr}");
        let shown = ["Acknowledged writes can be lost", "never be started on their old data", &old];
        assert!(shown.iter().all(|part| out.contains(part)), "{out}");
    }
    assert_eq!(incarnation(), old);
    let (code, out, stderr) = recover(&forced, "beachdb\n");
    assert_eq!(code, Some(0), "{stderr}");
    let new = incarnation();
    let said = format!("Node 3 of cluster beachdb is now incarnation {new}, and the only voter.");
    assert!(new != old && out.contains(&said), "{out}");
    for round in 0..2 {
        let daemon = Daemon::start(&data, &["--node-id", "3"]);
        assert!(daemon.ready.contains("role=leader"), "{}", daemon.ready);
        let mut client = daemon.connect();
        for i in 0..50 {
            let value = client.get(format!("key{i}").as_bytes());
            assert_eq!(value.as_deref(), Some(&b"value"[..]), "key{i}, start {round}");
        }
        client.put(b"after", b"it").written();
        drop(client);
        assert!(daemon.terminate().0.success());
    }
}

#[test]
fn help_and_version_exit_0_and_help_has_examples_and_honest_words() {
    let run = |arg: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_beachd")).arg(arg).output().expect("it runs");
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8(output.stdout).expect("text")
    };
    let help = run("--help");
    for part in ["Examples:", "--data-dir", "BEACHD_DATA_DIR", "--initial-cluster", "Exit codes"] {
        assert!(help.contains(part), "{part} in\n{help}");
    }
    assert!(run("--version").starts_with("beachd "));
}

#[test]
fn the_environment_and_the_file_set_what_the_flag_does_not() {
    let dir = temp();
    let file = dir.path().join("beachd.toml");
    fs::write(&file, "max-connections = 1\nnode-id = 5\ncluster-id = \"from-the-file\"\n")
        .expect("written");
    let mut child = command(&[], &dir.path().join("data"), &["--node-id", "7"])
        .env("BEACHD_CONFIG", &file)
        .env("BEACHD_NODE_ID", "6")
        .env("BEACHD_MAX_CONNECTIONS", "2")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("beachd starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("piped");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("text");
    let field =
        |name: &str| line.split_whitespace().find_map(|w| w.strip_prefix(name)).map(str::to_owned);
    let listen = field("listen=").expect("an address").parse().expect("an address");
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::connect(listen).expect("accepts")).collect();
    assert_eq!(clients[0].ask(&Request::Ping).response, Response::Pong);
    assert_eq!(clients[1].ask(&Request::Ping).response, Response::Pong);
    assert_eq!(clients[2].reply().error(), ErrorCode::TooManyConnections);
    let status = clients[0].ask(&Request::Status).response;
    child.kill().expect("ours to kill");
    child.wait().expect("our child");
    assert_eq!(field("node=").as_deref(), Some("7"), "{line}");
    assert!(matches!(status, Response::Status(json) if json.contains("from-the-file")));
}

#[test]
fn a_port_in_use_is_an_error_and_not_a_panic() {
    let dir = temp();
    let daemon = Daemon::start(&dir.path().join("first"), &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_beachd"))
        .args([
            "--listen",
            &daemon.listen.to_string(),
            "--peer-listen",
            "127.0.0.1:0",
            "--http",
            "off",
            "--data-dir",
        ])
        .arg(dir.path().join("second"))
        .output()
        .expect("it runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&daemon.listen.to_string()) && stderr.contains("--listen"), "{stderr}");
}

#[test]
fn a_read_of_these_tests_goes_on_after_a_signal() {
    /// Two signals, then bytes, then an error.
    struct Interrupted(u32);
    impl std::io::Read for Interrupted {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 | 2 => Err(std::io::ErrorKind::Interrupted.into()),
                3 => {
                    into[0] = 7;
                    Ok(1)
                }
                _ => Err(std::io::ErrorKind::ConnectionReset.into()),
            }
        }
    }
    let (mut from, mut into) = (Interrupted(0), [0; 4]);
    assert_eq!(common::read_some(&mut from, &mut into).expect("bytes"), 1);
    assert_eq!((from.0, into[0]), (3, 7));
    let error = common::read_some(&mut from, &mut into).expect_err("a real error is told");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn sigterm_answers_what_was_admitted_and_exits_0_and_everything_is_there_again() {
    let dir = temp();
    let data = dir.path().join("data");
    for signal in ["TERM", "INT"] {
        let mut daemon = Daemon::start(&data, &[]);
        let mut client = daemon.connect();
        client.put(b"before", b"it").written();
        let (batch, mut bytes) = (common::batch_of(&[(b"last", signal.as_bytes())]), Vec::new());
        for id in 100..400 {
            let put = Request::Write { opcode: Opcode::Put, batch: common::batch_ref(&batch) };
            put.encode(&mut bytes, id, 0).expect("it fits");
        }
        client.send_raw(&bytes);
        let begin = Instant::now();
        daemon.signal(signal);
        // Each request is answered, written or refused; or it was not taken, says the last frame. Then the stream ends.
        let (mut answered, mut written) = (BTreeSet::new(), 0);
        loop {
            let reply = client.reply();
            let id = reply.header.request_id;
            match reply.response {
                Response::Written { .. } => written += 1,
                Response::Error(e) if e.code == ErrorCode::ShuttingDown => {}
                other => panic!("{other:?}"),
            }
            if id == 0 {
                break;
            }
            assert!((100..400).contains(&id) && answered.insert(id), "{id}");
        }
        assert_eq!(client.receive().expect("no reset").map(|reply| reply.header), None);
        let status = daemon.wait().expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", daemon.log());
        assert!(begin.elapsed() < Duration::from_secs(10));
        assert!(!daemon.log().contains("panicked"));
        let daemon = Daemon::start(&data, &[]);
        let mut client = daemon.connect();
        assert_eq!(client.get(b"before").as_deref(), Some(&b"it"[..]));
        if written > 0 {
            assert_eq!(client.get(b"last").as_deref(), Some(signal.as_bytes()));
        }
        let (status, _) = daemon.terminate();
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn idle_connections_do_not_hold_up_a_stop_and_new_ones_are_refused() {
    let dir = temp();
    let daemon = Daemon::start(&dir.path().join("data"), &[]);
    let mut idle: Vec<Wire> = (0..50).map(|_| daemon.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.ask(&Request::Ping).response, Response::Pong);
    }
    // Half a request is no reason to wait either.
    idle[0].send_raw(b"\x00\x00");
    let listen = daemon.listen;
    let (status, took) = daemon.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(Wire::connect(listen).is_err());
    for client in &mut idle {
        let goodbye = client.reply();
        assert_eq!(goodbye.header.request_id, 0);
        assert_eq!(goodbye.error(), ErrorCode::ShuttingDown);
        assert_eq!(client.receive().expect("no reset").map(|reply| reply.header), None);
    }
}

/// A client that goes on sending through the stop loses no reply to a reset, and knows afterwards of every write what became of
/// it: this is what its retries at another node rest on.
#[test]
fn a_client_that_sends_through_a_stop_learns_what_became_of_every_write() {
    let dir = temp();
    let data = dir.path().join("data");
    for round in 0..3 {
        let daemon = Daemon::start(&data, &[]);
        let key = |client: usize, id: u64| format!("{round}-{client}-{id}").into_bytes();
        let listen = daemon.listen;
        let written: Vec<(BTreeSet<u64>, u64)> = thread::scope(|scope| {
            let sends = |client: usize| {
                let mut wire = Wire::connect(listen).expect("it runs");
                let mut sender = wire.socket.try_clone().expect("a second handle");
                let sends = scope.spawn(move || {
                    for id in 1.. {
                        let batch = common::batch_of(&[(&key(client, id), b"v")]);
                        let batch = common::batch_ref(&batch);
                        let put = Request::Write { opcode: Opcode::Put, batch };
                        // At the end the server is gone.
                        if sender.write_all(&common::frame_of(&put, id)).is_err() {
                            return id;
                        }
                    }
                    0
                });
                let mut written = BTreeSet::new();
                let goodbye = loop {
                    let reply = wire.receive().expect("no reset before the goodbye");
                    let reply = reply.expect("a goodbye before the end of the stream");
                    match reply.response {
                        Response::Written { .. } => {
                            assert!(written.insert(reply.header.request_id));
                        }
                        Response::Error(e) if e.code == ErrorCode::ShuttingDown => {
                            assert_eq!(e.effect, beachdb::proto::Effect::NotApplied);
                            if reply.header.request_id == 0 {
                                break wire;
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                };
                drop(goodbye);
                (written, sends.join().expect("it ends with an error"))
            };
            let clients: Vec<_> = (0..4).map(|client| scope.spawn(move || sends(client))).collect();
            thread::sleep(Duration::from_millis(200));
            let (status, took) = daemon.terminate();
            assert_eq!(status.code(), Some(0));
            assert!(took < Duration::from_secs(5), "{took:?}");
            clients.into_iter().map(|client| client.join().expect("its story")).collect()
        });
        let daemon = Daemon::start(&data, &[]);
        let mut reader = daemon.connect();
        for (client, (written, sent)) in written.iter().enumerate() {
            assert!(!written.is_empty());
            let last = written.last().copied().unwrap_or_default();
            for id in (1..*sent).filter(|id| *id <= 100 || *id + 100 > last).take(1_000) {
                let found = reader.get(&key(client, id)).is_some();
                assert_eq!(
                    found,
                    written.contains(&id),
                    "round {round}, client {client}, write {id}"
                );
            }
        }
        daemon.terminate();
    }
}

#[test]
fn many_pipelining_clients_at_once_are_all_answered() {
    let dir = temp();
    let mut daemon = Daemon::start(&dir.path().join("data"), &[]);
    // Forty clients with forty requests each, all at once: every one is answered.
    let listen = daemon.listen;
    let threads: Vec<_> = (0..40_u64)
        .map(|n| {
            thread::spawn(move || {
                let mut client = Wire::connect(listen).expect("accepts");
                let mut bytes = Vec::new();
                for id in 1..=40_u64 {
                    let key = (n * 100 + id).to_be_bytes();
                    let batch = common::batch_of(&[(&key, b"value")]);
                    let put =
                        Request::Write { opcode: Opcode::Put, batch: common::batch_ref(&batch) };
                    put.encode(&mut bytes, id, 0).expect("it fits");
                }
                client.send_raw(&bytes);
                let mut ids: Vec<u64> = (0..40)
                    .map(|_| {
                        let reply = client.reply();
                        reply.written();
                        reply.header.request_id
                    })
                    .collect();
                ids.sort_unstable();
                assert_eq!(ids, (1..=40).collect::<Vec<_>>());
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    daemon.assert_well();
}
