//! `proto-spec/beachdb.lua` in the real tshark, over every frame vector: an independent reading of the protocol.
//! Skipped, and says so, where there is no tshark.

#![allow(
    clippy::disallowed_methods,
    reason = "a test that reads the repository's files and writes a capture"
)]

use beachdb::proto::text::from_hex;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

const PORT: u16 = 7400;
const PEER_PORT: u16 = 7401;
const CLIENT_PORT: u16 = 50_000;
/// Payload bytes of one packet of the capture; longer frames are spread over several.
const SEGMENT_BYTES: usize = 1400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A capture file of raw IPv4 packets, one TCP connection a payload.
struct Capture {
    bytes: Vec<u8>,
    connections: u16,
    port: u16,
}

impl Capture {
    fn new(port: u16) -> Self {
        // Magic of microsecond pcap, version 2.4, zone 0, accuracy 0, longest packet, LINKTYPE_RAW.
        let mut bytes = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        bytes.extend([2, 0, 4, 0]);
        for word in [0u32, 0, 65_535, 101] {
            bytes.extend(word.to_le_bytes());
        }
        Self { bytes, connections: 0, port }
    }

    fn add(&mut self, payload: &[u8], from_client: bool) {
        let client = CLIENT_PORT + self.connections;
        self.connections += 1;
        let mut sequence = 1u32;
        for part in payload.chunks(SEGMENT_BYTES) {
            let (from, to) = if from_client { (client, self.port) } else { (self.port, client) };
            self.packet(from, to, sequence, part);
            sequence += part.len() as u32;
        }
    }

    fn packet(&mut self, from: u16, to: u16, sequence: u32, payload: &[u8]) {
        let length = 40 + payload.len();
        for word in [0u32, 0, length as u32, length as u32] {
            self.bytes.extend(word.to_le_bytes());
        }
        // IPv4: no options, TTL 64, TCP, no checksum, 127.0.0.1 to itself.
        self.bytes.extend([0x45, 0]);
        self.bytes.extend((length as u16).to_be_bytes());
        self.bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]);
        // TCP: PSH and ACK.
        self.bytes.extend(from.to_be_bytes());
        self.bytes.extend(to.to_be_bytes());
        self.bytes.extend(sequence.to_be_bytes());
        self.bytes.extend([0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
        self.bytes.extend(payload);
    }
}

/// Runs tshark over the capture; one line a frame that it dissected, fields separated by `|`.
fn dissect(capture: &Capture, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("frames.pcap");
    std::fs::write(&file, &capture.bytes).unwrap();
    let mut command = Command::new("tshark");
    command
        .arg("-X")
        .arg(format!("lua_script:{}", root().join("proto-spec/beachdb.lua").display()))
        .arg("-r")
        .arg(&file)
        .args(["-Y", "beachdb", "-T", "fields", "-E", "separator=|"])
        .env("HOME", dir.path());
    for field in fields {
        command.args(["-e", field]);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(e) => {
            println!("SKIPPED: tshark cannot be run ({e}); Debian: apt-get install tshark");
            return None;
        }
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark: {errors}");
    assert!(!errors.contains("Lua"), "the script failed: {errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().map(|l| l.split('|').map(str::to_owned).collect()).collect())
}

fn vectors(file: &str) -> Vec<Value> {
    let path = root().join("proto-spec/vectors").join(file);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    document["frames"].as_array().unwrap().clone()
}

fn bytes_of(vector: &Value) -> Vec<u8> {
    from_hex(vector["hex"].as_str().unwrap()).unwrap()
}

#[test]
fn the_dissector_reads_every_valid_frame_as_the_codec_does() {
    let vectors = vectors("frames.json");
    let mut capture = Capture::new(PORT);
    for vector in &vectors {
        let opcode = vector["decoded"]["opcode"].as_u64().unwrap();
        capture.add(&bytes_of(vector), opcode < 0x80);
    }
    let fields = [
        "beachdb.opcode",
        "beachdb.request_id",
        "beachdb.crc_good",
        "beachdb.malformed",
        "beachdb.key",
        "beachdb.status",
        "beachdb.deadline_ms",
        "beachdb.error.leader",
        "beachdb.stale.age_ms",
    ];
    let Some(lines) = dissect(&capture, &fields) else {
        return;
    };
    assert_eq!(lines.len(), vectors.len());
    for (line, vector) in lines.iter().zip(&vectors) {
        let [opcode, id, crc_good, malformed, key, status, deadline, leader, age] = line.as_slice()
        else {
            panic!("{line:?}");
        };
        let name = vector["name"].as_str().unwrap();
        let decoded = &vector["decoded"];
        assert_eq!(*opcode, format!("0x{:02x}", decoded["opcode"].as_u64().unwrap()), "{name}");
        assert_eq!(*id, decoded["request_id"].to_string(), "{name}");
        let expected_crc = if decoded["no_crc"] == true { "" } else { "1" };
        assert!(
            crc_good == expected_crc || (crc_good == "True" && expected_crc == "1"),
            "{name}: {line:?}"
        );
        assert_eq!(malformed, "", "{name}");
        let number = |field: &str| decoded.get(field).map_or(String::new(), Value::to_string);
        assert_eq!((status, deadline), (&number("status"), &number("deadline_ms")), "{name}");
        let expected_age = match decoded["reply"].get("age_ms") {
            Some(Value::Null) => u64::MAX.to_string(),
            age => age.map_or(String::new(), Value::to_string),
        };
        assert_eq!(*age, expected_age, "{name}");
        assert_eq!(leader, decoded["reply"]["leader"].as_str().unwrap_or_default(), "{name}");
        if let Some(expected) = decoded["request"]["key"].as_str() {
            assert_eq!(key, &expected.replace("\\\"", "\""), "{name}");
        }
        if let Some(ops) = decoded["request"]["batch"]["ops"].as_array() {
            let conditions = decoded["request"]["batch"]["conditions"].as_array();
            let keyed = conditions.into_iter().flatten().chain(ops);
            let keys: Vec<&str> = keyed.map(|item| item["key"].as_str().unwrap()).collect();
            // tshark doubles a backslash in a string field, and joins several with commas.
            assert_eq!(key.replace("\\\\", "\\"), keys.join(","), "{name}");
        }
    }
}

#[test]
fn the_dissector_reads_every_valid_frame_between_nodes_as_the_codec_does() {
    let vectors = vectors("peer-frames.json");
    let mut capture = Capture::new(PEER_PORT);
    for vector in &vectors {
        capture.add(&bytes_of(vector), true);
    }
    // What each shows, and where the codec's JSON has it; several values are separated by commas.
    let shown = [
        ("beachdb.term", "/term"),
        ("beachdb.append.session", "/peer/session"),
        ("beachdb.append.round", "/peer/round"),
        ("beachdb.append.prev_index", "/peer/prev_index"),
        ("beachdb.append.commit", "/peer/commit"),
        ("beachdb.append.matched", "/peer/matched"),
        ("beachdb.append.conflict_index", "/peer/conflict_index"),
        ("beachdb.read", "/peer/read"),
        ("beachdb.peer.wanted", "/peer/wanted"),
        ("beachdb.snapshot.transfer", "/peer/transfer"),
    ];
    let fixed = [
        "beachdb.opcode",
        "beachdb.crc_good",
        "beachdb.malformed",
        "beachdb.entry.index",
        "beachdb.peer.cluster_uid",
    ];
    let fields: Vec<&str> = fixed.into_iter().chain(shown.map(|(field, _)| field)).collect();
    let Some(lines) = dissect(&capture, &fields) else {
        return;
    };
    assert_eq!(lines.len(), vectors.len());
    for (line, vector) in lines.iter().zip(&vectors) {
        let (name, decoded) = (&vector["name"], &vector["decoded"]);
        assert_eq!(line[0], format!("0x{:02x}", decoded["opcode"].as_u64().unwrap()), "{name}");
        assert!(["1", "True"].contains(&line[1].as_str()), "{name}: {line:?}");
        assert_eq!(line[2], "", "{name} is not malformed");
        if let Some(entries) = decoded["peer"]["entries"].as_array() {
            let indexes: Vec<String> = entries.iter().map(|e| e["index"].to_string()).collect();
            assert_eq!(line[3], indexes.join(","), "{name}");
        }
        if let Some(uid) = decoded["peer"]["cluster_uid"].as_str() {
            assert_eq!(line[4], format!("0x{uid}"), "{name}");
        }
        for ((field, path), found) in shown.iter().zip(&line[fixed.len()..]) {
            if let Some(expected) = decoded.pointer(path) {
                assert_eq!(*found, expected.to_string(), "{name}: {field}");
            }
        }
    }
}

#[test]
fn the_dissector_flags_bad_checksums_and_survives_every_bad_frame() {
    let vectors = vectors("frames-reject.json");
    for (file, port) in [("frames-reject.json", PORT), ("peer-frames-reject.json", PEER_PORT)] {
        let mut capture = Capture::new(port);
        for vector in self::vectors(file).iter().filter(|v| v["hex"] != "") {
            capture.add(&bytes_of(vector), true);
        }
        assert!(dissect(&capture, &["beachdb.opcode"]).is_none_or(|lines| !lines.is_empty()));
    }
    let mut capture = Capture::new(PORT);
    let bad: Vec<&Value> = vectors.iter().filter(|v| v["error"] == "BAD_CRC").collect();
    for vector in &bad {
        capture.add(&bytes_of(vector), true);
    }
    if let Some(lines) = dissect(&capture, &["beachdb.bad_crc"]) {
        assert_eq!(lines.len(), bad.len());
        assert!(lines.iter().all(|line| !line[0].is_empty()), "{lines:?}");
    }
}

#[test]
fn text_commands_are_shown_as_text() {
    let mut capture = Capture::new(PORT);
    capture.add(b"PUT beach sand\r\n", true);
    if let Some(lines) = dissect(&capture, &["beachdb.inline"]) {
        assert!(lines[0][0].starts_with("PUT beach sand"), "{lines:?}");
    }
}

#[test]
fn the_dissector_knows_every_status_and_opcode() {
    use beachdb::proto::peer::PeerOpcode;
    use beachdb::proto::{ErrorCode, Opcode};
    let script = std::fs::read_to_string(root().join("proto-spec/beachdb.lua")).unwrap();
    for code in ErrorCode::ALL {
        let entry = format!("[{}] = \"{code}\"", code.status());
        assert!(script.contains(&entry), "beachdb.lua lacks {entry}");
    }
    for opcode in Opcode::ALL {
        let entry = format!("[{}] = \"{}\"", opcode.byte(), opcode.name());
        assert!(script.contains(&entry), "beachdb.lua lacks {entry}");
    }
    for opcode in PeerOpcode::ALL {
        let entry = format!("[0x{:02x}] = \"{}\"", opcode.byte(), opcode.name());
        assert!(script.contains(&entry), "beachdb.lua lacks {entry}");
    }
}
