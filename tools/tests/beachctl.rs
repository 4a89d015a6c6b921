//! The real `beachctl` against a real `beachd`: output, exit codes, JSON, loading, and a crash in mid-load.

#![allow(clippy::disallowed_methods, reason = "black-box tests read files and keep time")]

mod common;

use common::{Beachd, Ran, beachctl};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const UNICODE_DATA: &str = "/usr/share/unicode/UnicodeData.txt";

fn json_lines(ran: Ran) -> Vec<Value> {
    ran.ok().lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect()
}

#[test]
fn put_get_delete_and_their_exit_codes() {
    let daemon = Beachd::start();
    assert!(daemon.ctl(&["put", "beach", "fine sand"]).ok().starts_with("OK seq="));
    assert_eq!(daemon.ctl(&["get", "beach"]).ok(), "fine sand\n");
    let with_seq = daemon.ctl(&["get", "beach", "--with-seq"]).ok();
    let (seq, value) = with_seq.split_once('\t').expect("a tab");
    assert!(seq.parse::<u64>().is_ok() && value == "fine sand\n", "{with_seq}");
    daemon.ctl(&["del", "beach"]).ok();
    let missing = daemon.ctl(&["get", "beach"]);
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(1), ""));
    assert_eq!(missing.stderr, "beachctl: key beach not found\n");
    // The value of before is still there at its own sequence number.
    assert_eq!(daemon.ctl(&["get", "beach", "--snapshot", seq]).ok(), "fine sand\n");
}

#[test]
fn a_compaction_that_is_asked_for_gives_space_back() {
    let daemon = Beachd::start();
    let value = "v".repeat(10_000);
    for round in 0..3 {
        for key in 0..30 {
            daemon.ctl(&["put", &format!("k{key:02}"), &format!("{round}{value}")]).ok();
        }
        // Into a table of its own.
        daemon.ctl(&["compact", "nothing", "nowhere"]).ok();
    }
    let engine = || {
        let stats = daemon.ctl(&["stats", "--json"]).ok();
        serde_json::from_str::<Value>(&stats).expect("JSON")["nodes"][0]["stats"]["engine"].clone()
    };
    let bytes = |engine: &Value| {
        let levels = engine["levels"].as_array().expect("levels").iter();
        levels.map(|level| level["bytes"].as_u64().expect("bytes")).sum::<u64>()
    };
    let before = bytes(&engine());
    assert!(before > 900_000, "three versions of each: {before}");
    daemon.ctl(&["delete-range", "k10", "k20"]).ok();
    let ran = daemon.ctl(&["compact"]).ok();
    assert!(ran.starts_with("OK compacted in "), "{ran}");
    let after = engine();
    // 20 keys are left, in one version.
    assert!(
        (200_000..220_000).contains(&bytes(&after)),
        "{before} before, {} after",
        bytes(&after)
    );
    assert_eq!(daemon.ctl(&["scan", "--keys-only"]).ok().lines().count(), 20);
    assert_eq!(daemon.ctl(&["get", "k05"]).ok(), format!("2{value}\n"));
    let ran = daemon.ctl(&["compact", "--json", "--hex", "6b", "6c"]).ok();
    let ran: Value = serde_json::from_str(&ran).expect("JSON");
    assert_eq!((&ran["done"], &ran["compaction_state"]), (&true.into(), &"idle".into()), "{ran}");
}

#[test]
fn bytes_go_in_and_out_unchanged() {
    let daemon = Beachd::start();
    let all: Vec<u8> = (0..=255).collect();
    let (source, copy) = (daemon.scratch().join("in"), daemon.scratch().join("out"));
    std::fs::write(&source, &all).unwrap();
    daemon.ctl(&["put", "a\\x00\\\"b", "--file", source.to_str().unwrap()]).ok();
    daemon.ctl(&["get", "a\\x00\\\"b", "--file", copy.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&copy).unwrap(), all);
    let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(daemon.ctl(&["get", "--hex", "61002262"]).ok(), format!("{hex}\n"));
    daemon.ctl(&["put", "--hex", "00ff", "0a"]).ok();
    assert_eq!(daemon.ctl(&["scan", "--prefix", "\\x00"]).ok(), "\\x00\\xff\t\\x0a\n");
    daemon.ctl_with(&["put", "stdin", "--file", "-"], b"from\nstdin").ok();
    assert_eq!(daemon.ctl(&["get", "stdin", "--file", "-"]).ok(), "from\nstdin");
    daemon.ctl(&["put", "empty", ""]).ok();
    assert_eq!(daemon.ctl(&["get", "empty"]).ok(), "\n");
}

#[test]
fn scans_cover_ranges_prefixes_limits_and_snapshots() {
    let daemon = Beachd::start();
    for key in ["a", "b1", "b2", "b3", "c"] {
        daemon.ctl(&["put", key, &key.to_uppercase()]).ok();
    }
    assert_eq!(daemon.ctl(&["scan", "--keys-only"]).ok(), "a\nb1\nb2\nb3\nc\n");
    assert_eq!(daemon.ctl(&["scan", "b", "b3"]).ok(), "b1\tB1\nb2\tB2\n");
    assert_eq!(daemon.ctl(&["scan", "b3"]).ok(), "b3\tB3\nc\tC\n");
    assert_eq!(daemon.ctl(&["scan", "", "b"]).ok(), "a\tA\n");
    let limited = daemon.ctl(&["scan", "--prefix", "b", "--limit", "2", "--keys-only"]);
    assert!(limited.stderr.contains("there may be more from b3 on"), "{limited:?}");
    assert_eq!(limited.ok(), "b1\nb2\n");
    let documents = json_lines(daemon.ctl(&["--json", "scan", "--prefix", "b", "--limit", "1"]));
    assert_eq!(documents[0]["key"], "b1");
    assert_eq!((&documents[1]["type"], &documents[1]["count"]), (&"end".into(), &1.into()));
    assert_eq!(documents[1]["more"], "b2");
    let snapshot = documents[1]["snapshot"].to_string();
    daemon.ctl(&["del", "b1"]).ok();
    let at = ["scan", "--prefix", "b", "--keys-only", "--snapshot", &snapshot];
    assert_eq!(daemon.ctl(&at).ok(), "b1\nb2\nb3\n");
    assert_eq!(daemon.ctl(&["scan", "--prefix", "b", "--keys-only"]).ok(), "b2\nb3\n");
}

#[test]
fn a_batch_file_is_applied_atomically_or_not_at_all() {
    let daemon = Beachd::start();
    daemon.ctl(&["put", "old", "1"]).ok();
    let text = b"# a comment\nput a 1\n\n  put \"b c\" \"\\x00\"\nDEL old\n";
    assert!(daemon.ctl_with(&["batch", "-"], text).ok().contains(".."));
    assert_eq!(daemon.ctl(&["scan"]).ok(), "a\t1\nb c\t\\x00\n");
    let bad = daemon.ctl_with(&["batch", "-"], b"put z 1\nput y\n");
    assert_eq!(bad.code, Some(1));
    assert!(bad.stderr.contains("line 2") && bad.stderr.contains("nothing was sent"), "{bad:?}");
    assert_eq!(daemon.ctl(&["get", "z"]).code, Some(1));
    assert_eq!(daemon.ctl_with(&["batch", "-"], b"# nothing\n").code, Some(1));
    assert_eq!(daemon.ctl(&["batch", "/nonexistent"]).code, Some(1));
}

#[test]
fn wrong_usage_and_later_commands_exit_2() {
    for args in [
        &["put", "k"][..],
        &["nonsense"],
        &["get", "bad\\escape"],
        &["get", "--hex", "abc"],
        &["--timeout", "soon", "get", "k"],
        &["load", "file"],
        &["delete-range", "b", "a"],
        &["compact", "b", "a"],
        &["member", "add", "2"],
        &["member", "add", "0=h:1"],
        &["member", "promote", "0"],
        &["member", "replace", "2", "--peer", "nowhere"],
        &[],
    ] {
        let ran = beachctl(args, b"");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
    let help = beachctl(&["--help"], b"").ok();
    assert!(help.contains("Examples:") && help.contains("compact"), "{help}");
    assert!(beachctl(&["--version"], b"").ok().starts_with("beachctl "));
}

#[test]
fn errors_of_the_server_and_of_the_network_say_what_happened_to_the_write() {
    let daemon = Beachd::start();
    let reserved = daemon.ctl(&["--json", "put", "\\x00beach\\x00x", "v"]);
    assert_eq!(reserved.code, Some(1));
    let document: Value = serde_json::from_str(&reserved.stdout).unwrap();
    assert_eq!(document["error"]["effect"], "not_applied");
    let big = daemon.ctl(&["put", &"k".repeat(9000), "v"]);
    assert!(big.code == Some(1) && big.stderr.contains("8192"), "{big:?}");
    let cluster = daemon.ctl(&["--cluster", "elsewhere", "get", "k"]);
    assert!(cluster.code == Some(1) && cluster.stderr.contains("WRONG_CLUSTER"), "{cluster:?}");
    // Nobody listens on port 1.
    let nobody = beachctl(&["--endpoints", "127.0.0.1:1", "--json", "put", "k", "v"], b"");
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("is beachd running"), "{nobody:?}");
    let document: Value = serde_json::from_str(&nobody.stdout).unwrap();
    assert_eq!(
        (&document["error"]["code"], &document["error"]["effect"]),
        (&"NOT_SENT".into(), &"not_applied".into())
    );
    // The next endpoint is tried.
    let both = format!("127.0.0.1:1,{}", daemon.listen);
    assert!(beachctl(&["--endpoints", &both, "put", "k", "v"], b"").code == Some(0));
}

#[test]
fn ping_status_and_stats_name_the_node_and_what_does_not_answer() {
    let daemon = Beachd::start();
    assert!(daemon.ctl(&["ping"]).ok().starts_with("PONG from 127.0.0.1:"));
    daemon.ctl(&["put", "k", "v"]).ok();
    let status = daemon.ctl(&["status"]).ok();
    let mut lines = status.lines();
    assert!(lines.next().unwrap().starts_with("ENDPOINT"), "{status}");
    assert!(lines.next().unwrap().contains(" leader "), "{status}");
    let document = &json_lines(daemon.ctl(&["--json", "status"]))[0];
    let node = &document["nodes"][0];
    assert_eq!(node["endpoint"], daemon.listen.as_str());
    assert_eq!(
        (&node["status"]["role"], &node["status"]["ready"]),
        (&"leader".into(), &true.into())
    );
    assert!(node["status"]["last_seq"].as_u64() >= Some(1), "{document}");
    assert!(daemon.ctl(&["stats"]).ok().contains("engine."));
    assert!(
        json_lines(daemon.ctl(&["--json", "stats"]))[0]["nodes"][0]["stats"]["engine"].is_object()
    );
    let page = include_str!("../../proto-spec/client.md");
    for field in node["status"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{field}`")), "client.md does not name STATUS {field}");
    }
    let both = format!("{},127.0.0.1:1", daemon.listen);
    let half = beachctl(&["--endpoints", &both, "--json", "status"], b"");
    assert_eq!(half.code, Some(1), "one does not answer");
    let document: Value = serde_json::from_str(&half.stdout).unwrap();
    assert_eq!(document["nodes"][1]["error"]["code"], "NOT_SENT");
}

#[test]
fn stale_reads_say_how_old_they_are() {
    let daemon = Beachd::start();
    daemon.ctl(&["put", "beach", "sand"]).ok();
    let get = daemon.ctl(&["get", "--stale", "beach"]);
    assert_eq!((get.code, get.stdout.as_str()), (Some(0), "sand\n"));
    assert!(get.stderr.contains("stale: ") && get.stderr.contains(" ms ago"), "{get:?}");
    let document = &json_lines(daemon.ctl(&["--json", "get", "--stale", "beach"]))[0];
    assert!(document["applied_index"].as_u64() > Some(0), "{document}");
    assert!(document["age_ms"].as_u64() < Some(1_000), "{document}");
    let scan = daemon.ctl(&["scan", "--stale"]);
    assert_eq!(scan.stdout, "beach\tsand\n");
    assert!(scan.stderr.contains("stale: "), "{scan:?}");
    let fresh = daemon.ctl(&["get", "beach"]);
    assert_eq!(fresh.stderr, "");
}

#[test]
fn a_cluster_of_one_lists_itself_and_refuses_what_cannot_be() {
    let daemon = Beachd::start();
    let list = daemon.ctl(&["member", "list"]).ok();
    assert!(list.starts_with("NODE") && list.contains("voter") && list.contains("leads"), "{list}");
    let document = &json_lines(daemon.ctl(&["--json", "member", "list"]))[0];
    assert_eq!((&document["leader"], &document["committed"]), (&1.into(), &true.into()));
    assert_eq!(document["members"][0]["role"], "voter");
    let page = include_str!("../../proto-spec/client.md");
    for field in document.as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{field}`")), "client.md does not name MEMBERS {field}");
    }
    for (args, why) in [
        (&["member", "remove", "1"][..], "last voter"),
        (&["member", "remove", "2"], "not a member"),
        (&["member", "promote", "1"], "votes already"),
        (&["member", "add", "1=127.0.0.1:1"], "member already"),
        (&["transfer-leader", "1"], "leads"),
        (&["transfer-leader", "7"], "member"),
    ] {
        let ran = daemon.ctl(args);
        assert_eq!(ran.code, Some(1), "{args:?}: {ran:?}");
        assert!(
            ran.stderr.contains("not_applied") && ran.stderr.contains(why),
            "{args:?}: {ran:?}"
        );
    }
    let healthy = daemon.ctl(&["member", "replace", "1"]).ok();
    assert!(healthy.contains("nothing to replace"), "{healthy}");
    let unknown = daemon.ctl(&["member", "replace", "2"]);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("--peer"), "{unknown:?}");
}

#[test]
fn frames_are_encoded_decoded_and_explained_without_a_server() {
    let hex = beachctl(&["frame", "encode", "--request-id", "3", "get", "beach"], b"").ok();
    assert_eq!(
        hex.trim(),
        "00000025010300000000000000000003".to_owned()
            + "00000000aa05ad99"
            + "00000000000000006265616368"
    );
    let explained = beachctl(&["frame", "explain", hex.trim()], b"").ok();
    let page = include_str!("../../proto-spec/client.md");
    assert!(page.contains(&explained), "the page shows the same:\n{explained}");
    let decoded: Value =
        serde_json::from_str(&beachctl(&["frame", "decode", "-"], hex.as_bytes()).ok()).unwrap();
    assert_eq!(decoded["request"]["key"], "beach");
    let peer =
        beachctl(&["frame", "explain", "00000018014d0000 0000000000000000 0000000046921431"], b"")
            .ok();
    let page = include_str!("../../proto-spec/peer.md");
    assert!(peer.contains("peer PING") && page.contains(&peer), "the page shows the same:\n{peer}");
    let mut flipped = hex.trim().to_owned();
    flipped.replace_range(hex.trim().len() - 1.., "9");
    let bad = beachctl(&["frame", "explain", &flipped], b"");
    assert!(bad.code == Some(1) && bad.stdout.contains("CRC32C BAD"), "{bad:?}");
    assert!(bad.stderr.contains("frame CRC32C"), "{bad:?}");
    let two = format!("{0} {0}", hex.trim());
    assert_eq!(beachctl(&["frame", "decode", &two], b"").ok().lines().count(), 2);
    assert_eq!(beachctl(&["frame", "explain", "0000"], b"").code, Some(1));
    assert_eq!(beachctl(&["frame", "explain", "xyz"], b"").code, Some(2));
}

#[test]
fn a_frame_typed_by_hand_is_answered() {
    use std::io::{Read, Write};
    let daemon = Beachd::start();
    daemon.ctl(&["put", "beach", "sand"]).ok();
    let hex = beachctl(&["frame", "encode", "--no-crc", "get", "beach"], b"").ok();
    let frame = beachdb::proto::text::from_hex(&hex).unwrap();
    let mut stream = std::net::TcpStream::connect(&daemon.listen).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&frame).unwrap();
    let mut reply = [0; 44];
    stream.read_exact(&mut reply).unwrap();
    let hex = beachdb::proto::text::to_hex(&reply);
    let decoded: Value =
        serde_json::from_str(&beachctl(&["frame", "decode", &hex], b"").ok()).unwrap();
    assert_eq!(decoded["reply"]["value"], "sand");
}

/// Runs the prompt on a terminal that util-linux's `script` makes.
#[test]
fn the_prompt_runs_the_same_commands_and_outlives_failures() {
    let daemon = Beachd::start();
    let command = format!("{} --endpoints {}", env!("CARGO_BIN_EXE_beachctl"), daemon.listen);
    let mut script = std::process::Command::new("script");
    script.args(["-q", "-e", "-c", &command, "/dev/null"]).env("TERM", "dumb");
    script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = match script.spawn() {
        Ok(child) => child,
        Err(e) => return println!("SKIPPED: script cannot be run ({e}); Debian: bsdutils"),
    };
    let mut stdin = child.stdin.take().unwrap();
    let lines =
        "put \"a key\" \"v\\x31\"\nget \"a key\"\nget nope\nget \"open\nbogus\nscan\nquit\n";
    std::io::Write::write_all(&mut stdin, lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(output.status.success(), "{shown}");
    for expected in
        ["OK seq=", "v1\n", "key nope not found", "not closed", "unrecognized", "a key\tv1\n"]
    {
        assert!(shown.contains(expected), "no {expected:?} in:\n{shown}");
    }
}

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn load_keeps_the_order_names_bad_lines_and_resumes() {
    let daemon = Beachd::start();
    // One key many times: the last line must win, however the batches are cut and pipelined.
    let text: String = (0..5000).map(|i| format!("k{}\t{i}\n", i % 7)).collect();
    let file = write(&daemon.scratch().join("many.tsv"), &text);
    let loaded =
        daemon.ctl(&["load", "--tsv", "--batch-lines", "3", "--pipeline", "64", &file]).ok();
    assert!(loaded.starts_with("loaded 5000 lines in 1667 batches"), "{loaded}");
    let mut expected = BTreeMap::new();
    for i in 0..5000 {
        expected.insert(format!("k{}", i % 7), i.to_string());
    }
    let shown: String = expected.iter().map(|(k, v)| format!("{k}\t{v}\n")).collect();
    assert_eq!(daemon.ctl(&["scan"]).ok(), shown);

    let bad = write(&daemon.scratch().join("bad.tsv"), "x1\t1\nx2\t2\nno tab here\nx4\t4\n");
    let ran = daemon.ctl(&["--json", "load", "--tsv", &bad]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("line 3: no tab"), "{ran:?}");
    assert!(ran.stderr.contains("lines 1 to 2 are acknowledged"), "{ran:?}");
    assert!(ran.stderr.contains("--resume-from 3"), "{ran:?}");
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&document["acknowledged_through"], &document["resume_from"]),
        (&2.into(), &3.into())
    );
    daemon.ctl(&["load", "--tsv", "--resume-from", "4", &bad]).ok();
    assert_eq!(daemon.ctl(&["scan", "--prefix", "x"]).ok(), "x1\t1\nx2\t2\nx4\t4\n");

    daemon.ctl_with(&["load", "--tsv", "--escapes", "-"], b"y\\x00\t\\x09\nyz\tend").ok();
    assert_eq!(daemon.ctl(&["scan", "--prefix", "y"]).ok(), "y\\x00\t\\x09\nyz\tend\n");
    assert!(daemon.ctl_with(&["load", "--tsv", "-"], b"").ok().starts_with("loaded 0 lines"));
}

/// The file as `load --tsv` takes it, by key: what README's `sed` makes of it.
fn unicode_data() -> Option<(String, BTreeMap<String, String>)> {
    let Ok(text) = std::fs::read_to_string(UNICODE_DATA) else {
        println!("SKIPPED: {UNICODE_DATA} is not there; Debian: apt-get install unicode-data");
        return None;
    };
    let tsv: String = text.lines().map(|l| l.replacen(';', "\t", 1) + "\n").collect();
    let rows = tsv
        .lines()
        .map(|l| l.split_once('\t').expect("two fields"))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    Some((tsv, rows))
}

fn scan_rows(daemon: &Beachd, args: &[&str]) -> BTreeMap<String, String> {
    let args = [&["--timeout", "20s", "scan"][..], args].concat();
    let text = daemon.ctl(&args).ok();
    let rows = text.lines().map(|l| l.split_once('\t').expect("a tab"));
    rows.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn unicode_data_comes_back_by_range_and_by_prefix() {
    let Some((tsv, rows)) = unicode_data() else { return };
    let daemon = Beachd::start();
    let file = write(&daemon.scratch().join("unicode.tsv"), &tsv);
    let loaded = daemon.ctl(&["--timeout", "20s", "load", "--tsv", &file]).ok();
    assert!(loaded.starts_with(&format!("loaded {} lines", rows.len())), "{loaded}");
    assert!(scan_rows(&daemon, &[]) == rows, "the whole file");
    let of = |keep: &dyn Fn(&str) -> bool| -> BTreeMap<String, String> {
        rows.iter().filter(|(k, _)| keep(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    assert!(scan_rows(&daemon, &["0041", "005B"]) == of(&|k| ("0041".."005B").contains(&k)));
    assert!(scan_rows(&daemon, &["--prefix", "1F6"]) == of(&|k| k.starts_with("1F6")));
    assert!(!of(&|k| k.starts_with("1F6")).is_empty());
    assert_eq!(daemon.ctl(&["get", "1F30A"]).ok(), format!("{}\n", rows["1F30A"]));
}

/// The last line that the acknowledgement log says is durable; whole lines only.
fn acknowledged_through(log: &Path) -> u64 {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let last = whole.lines().last().and_then(|l| l.split('\t').nth(1));
    last.map_or(0, |n| n.parse().expect("a line number"))
}

#[test]
fn every_acknowledged_line_survives_a_kill_in_mid_load() {
    let Some((tsv, rows)) = unicode_data() else { return };
    let mut daemon = Beachd::start();
    let file = write(&daemon.scratch().join("unicode.tsv"), &tsv);
    let log = daemon.scratch().join("acknowledged");
    let load = [
        "--json",
        "load",
        "--tsv",
        "--batch-lines",
        "5",
        "--pipeline",
        "16",
        "--ack-log",
        log.to_str().unwrap(),
    ];
    let child = daemon.ctl_spawn(&[&load[..], &[&file]].concat());
    let begun = Instant::now();
    while acknowledged_through(&log) < 2000 {
        assert!(begun.elapsed() < Duration::from_secs(60), "the load does not get on");
        std::thread::sleep(Duration::from_millis(2));
    }
    daemon.kill();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "the load was over before the kill: {stderr}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let acknowledged = document["acknowledged_through"].as_u64().unwrap();
    assert_eq!(acknowledged, acknowledged_through(&log), "{document}");
    assert_eq!(document["resume_from"], acknowledged + 1);
    assert!(stderr.contains(&format!("--resume-from {}", acknowledged + 1)), "{stderr}");

    daemon.restart();
    let found = scan_rows(&daemon, &[]);
    let sent = document["sent_through"].as_u64().unwrap();
    for (number, line) in (1u64..).zip(tsv.lines()) {
        let (key, value) = line.split_once('\t').unwrap();
        match found.get(key) {
            Some(there) => assert!(there == value && number <= sent, "line {number}: {there}"),
            None => assert!(number > acknowledged, "line {number} of {acknowledged} is lost"),
        }
    }
    // Batches are atomic: the lines that are there end at a batch's end.
    assert_eq!(found.len() % 5, 0, "{} lines", found.len());

    // A second recovery gives the same state.
    daemon.kill();
    daemon.restart();
    assert!(scan_rows(&daemon, &[]) == found, "the second recovery differs");

    let resume = (acknowledged + 1).to_string();
    let rest = ["--timeout", "20s", "load", "--tsv", "--resume-from", &resume, &file];
    assert!(daemon.ctl(&rest).ok().starts_with("loaded "));
    assert!(scan_rows(&daemon, &[]) == rows, "after resuming the file is complete");
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn exactly_once_writes_go_through_a_session() {
    let daemon = Beachd::start();
    let sessions = |daemon: &Beachd| {
        let stats: Value = serde_json::from_str(&daemon.ctl(&["--json", "stats"]).ok()).unwrap();
        stats["nodes"][0]["stats"]["sessions"]["open"].clone()
    };
    daemon.ctl(&["put", "k", "v"]).ok();
    assert_eq!(sessions(&daemon), 0, "a plain write has none");
    daemon.ctl(&["--exactly-once", "put", "k", "w"]).ok();
    daemon.ctl(&["del", "--exactly-once", "l"]).ok();
    assert_eq!(sessions(&daemon), 2);
    let file = write(&daemon.scratch().join("changes"), "put a 1\nput b 2\n");
    let shown = daemon.ctl(&["--exactly-once", "batch", &file]).ok();
    assert!(shown.starts_with("OK seq="), "{shown}");
    assert_eq!(daemon.ctl(&["scan"]).ok(), "a\t1\nb\t2\nk\tw\n", "its rows are nobody's data");
}

#[test]
fn a_load_exactly_once_goes_on_through_a_kill_and_applies_each_line_once() {
    let mut daemon = Beachd::start();
    let text: String = (0..6000).map(|i| format!("k{}\t{i}\n", i % 7)).collect();
    let file = write(&daemon.scratch().join("many.tsv"), &text);
    let log = daemon.scratch().join("acknowledged");
    let log_arg = log.to_str().unwrap();
    let load = ["--json", "--exactly-once", "--timeout", "60s", "load", "--tsv", &file];
    let child =
        daemon.ctl_spawn(&[&load[..], &["--batch-lines", "10", "--ack-log", log_arg]].concat());
    let begun = Instant::now();
    for kills in 1..=2 {
        while acknowledged_through(&log) < 300 * kills {
            assert!(begun.elapsed() < Duration::from_secs(60), "the load does not get on");
            std::thread::sleep(Duration::from_millis(2));
        }
        daemon.kill();
        assert!(acknowledged_through(&log) < 6000, "the load was over before the kill");
        daemon.restart();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let field = |name: &str| document[name].as_u64().unwrap();
    assert_eq!(
        (field("lines"), field("batches"), field("acknowledged_through")),
        (6000, 600, 6000)
    );
    // Every operation that is applied takes a number. Between two batches there are but the session's own rows: a batch
    // that was applied twice would have taken ten more.
    let numbers: Vec<Vec<u64>> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| line.split('\t').map(|n| n.parse().unwrap()).collect())
        .collect();
    assert_eq!(numbers.len(), 600);
    for pair in numbers.windows(2) {
        assert_eq!(pair[0][1] + 1, pair[1][0], "every line, in order");
        assert!(pair[1][2] - pair[0][3] < 10, "{pair:?}");
    }
    let last: BTreeMap<_, _> = (0..6000).map(|i| (format!("k{}", i % 7), i)).collect();
    let shown: String = last.iter().map(|(k, v)| format!("{k}\t{v}\n")).collect();
    assert_eq!(daemon.ctl(&["scan"]).ok(), shown, "the last line of each key wins");

    let bad = write(&daemon.scratch().join("bad.tsv"), "x1\t1\nno tab here\n");
    let ran = daemon.ctl(&["--exactly-once", "load", "--tsv", &bad]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("lines 1 to 1 are acknowledged"), "{ran:?}");
    assert!(ran.stderr.contains("--resume-from 2"), "{ran:?}");
    let both = daemon.ctl(&["--exactly-once", "load", "--tsv", "--pipeline", "4", &bad]);
    assert_eq!(both.code, Some(2), "{both:?}");
    assert!(both.stderr.contains("leave out --pipeline"), "{both:?}");
}
