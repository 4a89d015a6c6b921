//! The black-box tests' hands: start the real `beachd`, speak its protocol byte by byte, stop it or kill it.
//!
//! Every daemon has its own temporary directory and ports picked by the system, and is killed by its own handle, so
//! that tests run side by side and clean up after a failure.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]
#![allow(
    clippy::disallowed_methods,
    reason = "black-box tests use the file system, clocks, and threads"
)]

pub mod cluster;
pub mod small_disk;

use beachdb::base::SequenceNumber;
use beachdb::base::batch::{BatchRef, WriteBatch};
use beachdb::proto::frame::{self, FrameHeader};
use beachdb::proto::{
    ErrorCode, Opcode, REPLY_BIT, Request, Response, ScanEntry, ScanRange, ScanRequest,
};
use bytes::Bytes;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: generous, because CI machines stall.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running `beachd`.
pub struct Daemon {
    child: Child,
    /// The client port.
    pub listen: SocketAddr,
    /// The HTTP port.
    pub http: SocketAddr,
    /// The `ready` line.
    pub ready: String,
    log: PathBuf,
}

/// The `beachd` to test, when it is not this package's: tests of another package say where it is before they start one.
pub static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

fn beachd_program() -> &'static Path {
    PROGRAM.get_or_init(|| match option_env!("CARGO_BIN_EXE_beachd") {
        Some(own) => own.into(),
        None => panic!("a test of another package did not set PROGRAM"),
    })
}

/// `beachd` with system-picked ports, `data`, and no setting from the environment. `wrap`: a program that runs it,
/// with its arguments.
pub fn command(wrap: &[&str], data: &Path, args: &[&str]) -> Command {
    command_of(beachd_program(), wrap, data, args)
}

/// The same with another `beachd`, perhaps of another version.
pub fn command_of(beachd: &Path, wrap: &[&str], data: &Path, args: &[&str]) -> Command {
    let mut command = match wrap.split_first() {
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(beachd);
            command
        }
        None => Command::new(beachd),
    };
    for port in ["--listen", "--peer-listen", "--http"] {
        if !args.contains(&port) {
            command.args([port, "127.0.0.1:0"]);
        }
    }
    command.arg("--data-dir").arg(data);
    command.args(args).stdin(Stdio::null());
    if !args.contains(&"--segment-size") {
        // The smallest: less to fill with zeros for each of many daemons.
        command.args(["--segment-size", "32MiB"]);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BEACHD_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `beachd` on `data` when it is expected not to start: its exit code and what it wrote to stderr.
pub fn refused(data: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut child = command(&[], data, args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("beachd starts");
    let mut stderr = child.stderr.take().expect("piped");
    let reader = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let status = wait(&mut child, PATIENCE);
    if status.is_none() {
        child.kill().expect("ours to kill");
    }
    let text = reader.join().expect("no panic").expect("stderr is text");
    assert!(status.is_some(), "beachd {args:?} kept running; it wrote:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    (status.and_then(|s| s.code()), text)
}

fn wait(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our child") {
            return Some(status);
        }
        if begin.elapsed() > at_most {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

impl Daemon {
    /// Starts on `data` and waits for the `ready` line.
    pub fn start(data: &Path, args: &[&str]) -> Self {
        Self::start_under(&[], data, args)
    }

    /// The same, run by another program.
    pub fn start_under(wrap: &[&str], data: &Path, args: &[&str]) -> Self {
        Self::try_start(wrap, data, args)
            .unwrap_or_else(|log| panic!("beachd is not ready; its log:\n{log}"))
    }

    /// The same; `Err` with the log when it ends before it is ready.
    pub fn try_start(wrap: &[&str], data: &Path, args: &[&str]) -> Result<Self, String> {
        let (log, file) = log_file(data);
        let mut child = command(wrap, data, args)
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .expect("beachd starts");
        let stdout = child.stdout.take().expect("piped");
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // The test may have given up.
            drop(send.send(read.map(|_| line)));
        });
        let line =
            receive.recv_timeout(PATIENCE).map_or_else(|_| String::new(), |r| r.expect("text"));
        if line.is_empty() {
            child.kill().expect("ours to kill");
            child.wait().expect("our child");
            return Err(fs::read_to_string(&log).unwrap_or_default());
        }
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        assert!(line.starts_with("beachd ready node=") && line.ends_with('\n'), "{line:?}");
        let address = |name: &str| field(name).parse().expect("an address");
        Ok(Self {
            child,
            listen: address("listen="),
            http: address("http="),
            ready: line.trim_end().to_owned(),
            log,
        })
    }

    /// Starts `command`, whose ports these are, and does not wait for it to be ready. Its `ready` line is in its log.
    pub fn spawn(mut command: Command, data: &Path, listen: SocketAddr, http: SocketAddr) -> Self {
        let (log, file) = log_file(data);
        let stdout = file.try_clone().expect("a second handle");
        let child = command.stdout(stdout).stderr(file).spawn().expect("beachd starts");
        Self { child, listen, http, ready: String::new(), log }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A new connection.
    pub fn connect(&self) -> Wire {
        Wire::connect(self.listen).expect("beachd accepts connections")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
        kib << 10
    }

    /// User and system CPU time so far, in clock ticks (10 ms).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        fields[11..13].iter().map(|n| n.parse::<u64>().expect("ticks")).sum()
    }

    /// Asserts that it still runs, never panicked, and serves a fresh client.
    pub fn assert_well(&mut self) {
        assert!(
            self.child.try_wait().expect("our child").is_none(),
            "beachd died; its log:\n{}",
            self.log()
        );
        assert!(!self.log().contains("panicked"), "{}", self.log());
        let mut witness = self.connect();
        witness.put(b"witness", b"sees").written();
        assert_eq!(witness.get(b"witness").as_deref(), Some(&b"sees"[..]));
    }

    /// SIGKILL: nothing is flushed, nothing is said.
    pub fn kill(mut self) {
        self.child.kill().expect("ours to kill");
        self.child.wait().expect("our child");
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill is there");
        assert!(sent.success());
    }

    /// SIGTERM: how it ended and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.signal("TERM");
        let status = wait(&mut self.child, PATIENCE);
        let status =
            status.unwrap_or_else(|| panic!("beachd ignores SIGTERM; its log:\n{}", self.log()));
        assert!(!self.log().contains("panicked"), "{}", self.log());
        (status, begin.elapsed())
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        wait(&mut self.child, PATIENCE)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // A failing test leaves no daemon behind.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// A new file beside `data` for what a daemon says.
fn log_file(data: &Path) -> (PathBuf, fs::File) {
    let log = data.with_extension(format!("{}.log", unique()));
    let file = fs::File::create(&log).expect("the log's directory is there");
    (log, file)
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A client that says exactly what the test wants.
pub struct Wire {
    /// The socket, for tests that write bytes of their own.
    pub socket: TcpStream,
    next_id: u64,
    input: Vec<u8>,
}

/// A reply frame.
#[derive(Debug)]
pub struct Reply {
    /// Its header.
    pub header: FrameHeader,
    /// Its body, decoded; for a connection error too.
    pub response: Response,
}

impl Reply {
    /// The error's code; panics on success.
    pub fn error(&self) -> ErrorCode {
        match &self.response {
            Response::Error(error) => error.code,
            other => panic!("expected an error, got {other:?}"),
        }
    }

    /// Asserts that a write was acknowledged.
    pub fn written(&self) {
        assert!(matches!(self.response, Response::Written { .. }), "{:?}", self.response);
    }
}

/// A read that a signal does not end: a child that stops, or `SIGTERM` to the process group, may interrupt it.
pub fn read_some(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(into) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl Wire {
    /// Connects to the client port.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(to)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { socket, next_id: 0, input: Vec::new() })
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("beachd reads");
    }

    /// Sends a request; returns its id.
    pub fn send(&mut self, request: &Request<'_>) -> io::Result<u64> {
        self.next_id += 1;
        self.socket.write_all(&frame_of(request, self.next_id))?;
        Ok(self.next_id)
    }

    /// The next reply; `None` at the end of the stream, an error when the connection was reset.
    pub fn receive(&mut self) -> io::Result<Option<Reply>> {
        loop {
            match frame::decode(&self.input, frame::CrcPolicy::Required) {
                Ok(frame::Decoded::Frame { header, body, consumed }) => {
                    let body = Bytes::copy_from_slice(body);
                    self.input.drain(..consumed);
                    let response = Response::decode(&header, &body).expect("a well-formed reply");
                    return Ok(Some(Reply { header, response }));
                }
                Ok(frame::Decoded::Incomplete { .. }) => {}
                Err(e) => panic!(
                    "beachd sent {e}: {}",
                    self.input[..self.input.len().min(100)].escape_ascii()
                ),
            }
            let mut chunk = [0; 64 << 10];
            let n = read_some(&mut self.socket, &mut chunk)?;
            if n == 0 {
                assert!(self.input.is_empty(), "the stream ended inside a reply");
                return Ok(None);
            }
            self.input.extend_from_slice(&chunk[..n]);
        }
    }

    /// The next reply, which must come.
    pub fn reply(&mut self) -> Reply {
        self.receive().expect("no reset").expect("a reply, not the end of the stream")
    }

    /// Asserts that the server closes the connection and says nothing more.
    pub fn assert_closed(&mut self) {
        match self.receive() {
            Ok(None) => {}
            Ok(Some(reply)) => panic!("expected the end of the stream, got {reply:?}"),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset, "{e}"),
        }
    }

    /// One request, one reply.
    pub fn ask(&mut self, request: &Request<'_>) -> Reply {
        let id = self.send(request).expect("beachd reads");
        let reply = self.reply();
        assert_eq!(
            (reply.header.request_id, reply.header.opcode & REPLY_BIT),
            (id, REPLY_BIT),
            "{reply:?}"
        );
        reply
    }

    /// PUT.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Reply {
        let batch = batch_of(&[(key, value)]);
        self.ask(&Request::Write { opcode: Opcode::Put, batch: batch_ref(&batch) })
    }

    /// DELETE.
    pub fn delete(&mut self, key: &[u8]) -> Reply {
        let mut batch = WriteBatch::new();
        batch.delete(key).expect("a short key");
        self.ask(&Request::Write { opcode: Opcode::Delete, batch: batch_ref(&batch) })
    }

    /// GET: the value, if there is one.
    pub fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        match self.ask(&Request::Get { key, snapshot: SequenceNumber::ZERO }).response {
            Response::Value { value, .. } => Some(value.to_vec()),
            Response::NotFound { .. } => None,
            other => panic!("GET {}: {other:?}", key.escape_ascii()),
        }
    }

    /// Every entry of a range, page by page at one snapshot.
    pub fn scan(&mut self, range: ScanRange<'_>) -> Vec<ScanEntry> {
        let (mut found, mut resume, mut snapshot) = (Vec::new(), Vec::new(), SequenceNumber::ZERO);
        loop {
            let request = ScanRequest { resume: &resume, snapshot, ..ScanRequest::new(range) };
            let page = match self.ask(&Request::Scan(request)).response {
                Response::Scan(page) => page,
                other => panic!("not a page: {other:?}"),
            };
            snapshot = page.snapshot;
            found.extend(page.entries);
            match page.resume {
                Some(next) => resume = next,
                None => return found,
            }
        }
    }

    /// Everything there is.
    pub fn dump(&mut self) -> Vec<ScanEntry> {
        self.scan(ScanRange::Prefix(b""))
    }
}

/// A request as the bytes of its frame.
pub fn frame_of(request: &Request<'_>, id: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(&mut bytes, id, 0).expect("it fits");
    bytes
}

/// A batch of puts.
pub fn batch_of(pairs: &[(&[u8], &[u8])]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(key, value).expect("it fits");
    }
    batch
}

/// A batch as a request carries it.
pub fn batch_ref(batch: &WriteBatch) -> BatchRef<'_> {
    BatchRef::parse(batch.as_bytes()).expect("a WriteBatch is a valid batch")
}

/// `GET path` on the HTTP port: the whole answer.
pub fn http_get(to: SocketAddr, path: &str) -> String {
    try_http_get(to, path).expect("the HTTP port answers")
}

/// The same of a node that may not be there.
pub fn try_http_get(to: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text)?;
    Ok(text)
}

/// A figure of `/metrics`.
pub fn metric(daemon: &Daemon, name: &str) -> f64 {
    let text = http_get(daemon.http, "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(name).filter(|rest| rest.starts_with(' ')));
    line.and_then(|l| l.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Waits until `done`; panics with `what` after a long time.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not happen");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A text session: sends `input`, closes our end, returns everything that was answered.
pub fn netcat(to: SocketAddr, input: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).expect("the client port accepts");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.write_all(input).expect("it reads");
    socket.shutdown(std::net::Shutdown::Write).expect("our end");
    let mut output = Vec::new();
    // A reset after the last byte is the end, too.
    drop(socket.read_to_end(&mut output));
    output
}

/// Copies a data directory.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

/// Every file below `dir`.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Says on stderr that a test could not run here, and why.
pub fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

/// Whether we may mount and change users.
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|Output { stdout, .. }| stdout == b"0\n")
}
