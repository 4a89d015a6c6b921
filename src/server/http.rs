//! The HTTP port: pages for probes, scrapers, and people. Served by the same loop as everything else.
//!
//! | page | what | status |
//! |---|---|---|
//! | `/healthz` | the process is alive and its loop turns | 200 |
//! | `/readyz` | it has a leader and has caught up; says why not | 200, 503 |
//! | `/status` | the node's status, the document of the STATUS opcode | 200 |
//! | `/metrics` | Prometheus text | 200 |
//!
//! Invariants: at most [`MAX_HTTP_CONNECTIONS`] connections, one request each (`Connection: close`), of at most
//! [`MAX_HTTP_REQUEST_BYTES`]; an exchange that is not over after [`EXCHANGE_DEADLINE`] is cut. The bytes of a request
//! are parsed by `httparse`.
//!
//! What it does not do: it changes nothing, and it is no data API. Keep the port on loopback or a private network.

use crate::base::Nanos;
use crate::limits::{MAX_HTTP_CONNECTIONS, MAX_HTTP_REQUEST_BYTES};
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};

/// What is read and dropped at most after an answer.
const MAX_LINGER_BYTES: usize = 64 << 10;
/// Connections accepted at one event; the next sweep goes on.
const ACCEPTS_PER_EVENT: usize = 256;

/// A whole exchange, in nanoseconds.
pub const EXCHANGE_DEADLINE: u64 = 5_000_000_000;
const MAX_HEADERS: usize = 64;
/// Connections above the limit that are kept until they have read that there are too many.
const MAX_REFUSED: usize = 8;

/// What the pages show.
pub trait Pages {
    /// `Err` with the reason while requests would be refused.
    fn ready(&self) -> Result<(), String>;
    /// The node's status as a JSON document.
    fn status(&self) -> String;
    /// Prometheus text.
    fn metrics(&self) -> String;
}

/// The listener and its connections.
#[derive(Debug)]
pub struct HttpPort {
    listener: TcpListener,
    /// The token of the listener; connection `i` has the one `i + 1` after it.
    token: usize,
    connections: Vec<Option<Exchange>>,
    /// Accepting failed; connections may be waiting without a further event.
    stalled: bool,
}

#[derive(Debug)]
struct Exchange {
    socket: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    /// Bytes dropped while lingering.
    lingered: usize,
    state: State,
    deadline: Nanos,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Reading,
    Writing,
    /// Everything is sent; whatever still comes is read and dropped, so that closing does not reset the connection
    /// before the answer was read.
    Lingering,
    Over,
}

impl HttpPort {
    /// Listens on `address`. Uses `token` and as many after it as there may be connections.
    pub fn bind(address: SocketAddr, token: usize, registry: &Registry) -> io::Result<Self> {
        let mut listener = TcpListener::bind(address)?;
        registry.register(&mut listener, Token(token), Interest::READABLE)?;
        let connections = (0..MAX_HTTP_CONNECTIONS + MAX_REFUSED).map(|_| None).collect();
        Ok(Self { listener, token, connections, stalled: false })
    }

    /// The address it is really on.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Whether `token` is one of ours.
    pub fn owns(&self, token: usize) -> bool {
        (self.token..=self.token + self.connections.len()).contains(&token)
    }

    /// Something happened at one of our tokens.
    pub fn on_event(&mut self, token: usize, now: Nanos, registry: &Registry, pages: &dyn Pages) {
        if token == self.token {
            self.accept_all(now, registry, pages);
        } else {
            self.drive(token - self.token - 1, pages);
        }
    }

    /// Accepting failed and should be tried again: an event at the listener's token.
    pub const fn stalled(&self) -> bool {
        self.stalled
    }

    /// Cuts what has been going on for too long. Returns whether a connection is left.
    pub fn sweep(&mut self, now: Nanos) -> bool {
        for slot in &mut self.connections {
            if slot.as_ref().is_some_and(|exchange| exchange.deadline <= now) {
                *slot = None;
            }
        }
        self.stalled || self.connections.iter().any(Option::is_some)
    }

    fn accept_all(&mut self, now: Nanos, registry: &Registry, pages: &dyn Pages) {
        self.stalled = false;
        for _ in 0..ACCEPTS_PER_EVENT {
            let socket = match self.listener.accept() {
                Ok((socket, _)) => socket,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => {
                    // Mostly: no descriptor left. The next sweep or the next attempt tries again.
                    log::warn!("http: accept failed: {e}");
                    self.stalled = true;
                    return;
                }
            };
            let Some(free) = self.connections.iter().position(Option::is_none) else {
                log::debug!("http: dropped a connection, {MAX_HTTP_CONNECTIONS} are open");
                continue;
            };
            match Exchange::new(socket, Token(self.token + 1 + free), now, registry) {
                Ok(mut exchange) => {
                    // The last places are for those who are told that there is none.
                    if free >= MAX_HTTP_CONNECTIONS {
                        exchange.refuse();
                    }
                    self.connections[free] = Some(exchange);
                }
                Err(e) => log::warn!("http: cannot register a connection: {e}"),
            }
            self.drive(free, pages);
        }
        self.stalled = true;
    }

    fn drive(&mut self, slot: usize, pages: &dyn Pages) {
        let Some(exchange) = self.connections[slot].as_mut() else { return };
        if let Err(e) = exchange.drive(pages) {
            log::debug!("http: {e}");
            exchange.state = State::Over;
        }
        if exchange.state == State::Over {
            self.connections[slot] = None;
        }
    }
}

impl Exchange {
    fn new(mut socket: TcpStream, token: Token, now: Nanos, to: &Registry) -> io::Result<Self> {
        to.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            socket,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            lingered: 0,
            state: State::Reading,
            deadline: now.plus(EXCHANGE_DEADLINE),
        })
    }

    /// Answers that there are too many connections, whatever is asked.
    fn refuse(&mut self) {
        self.output = Page::text(503, "too many HTTP connections; try again\n").encode(false);
        self.state = State::Writing;
    }

    /// Goes on until the socket would block.
    fn drive(&mut self, pages: &dyn Pages) -> io::Result<()> {
        loop {
            let step = match self.state {
                State::Reading => self.read(pages),
                State::Writing => self.write(),
                State::Lingering => self.linger(),
                State::Over => return Ok(()),
            };
            match step {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn read(&mut self, pages: &dyn Pages) -> io::Result<()> {
        let mut chunk = [0; 2048];
        let n = self.socket.read(&mut chunk)?;
        if n == 0 {
            self.state = State::Over;
            return Ok(());
        }
        self.input.extend_from_slice(&chunk[..n]);
        if let Some(output) = answer(&self.input, pages) {
            self.output = output;
            self.input = Vec::new();
            self.state = State::Writing;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<()> {
        self.sent += self.socket.write(&self.output[self.sent..])?;
        if self.sent == self.output.len() {
            self.socket.shutdown(Shutdown::Write)?;
            self.state = State::Lingering;
        }
        Ok(())
    }

    /// Reads and drops what is still sent, so that the answer is not destroyed by a reset; not for ever.
    fn linger(&mut self) -> io::Result<()> {
        let n = self.socket.read(&mut [0; 2048])?;
        self.lingered += n;
        if n == 0 || self.lingered > MAX_LINGER_BYTES {
            self.state = State::Over;
        }
        Ok(())
    }
}

/// A page with its status.
struct Page {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Page {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    fn encode(&self, head_only: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let allow = if self.status == 405 { "Allow: GET, HEAD\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}\
             Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            self.status,
            self.content_type,
            self.body.len(),
        );
        let mut bytes = head.into_bytes();
        if !head_only {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}

/// The answer to a request, or `None` while it is not complete.
fn answer(input: &[u8], pages: &dyn Pages) -> Option<Vec<u8>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(input) {
        Ok(httparse::Status::Complete(_)) => {
            let method = request.method.unwrap_or_default();
            let path = request.path.unwrap_or_default();
            Some(route(method, path, pages).encode(method == "HEAD"))
        }
        Ok(httparse::Status::Partial) if input.len() <= MAX_HTTP_REQUEST_BYTES => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            let what = "the request is longer than 8 KiB or has more than 64 headers\n";
            Some(Page::text(431, what).encode(false))
        }
        Err(e) => Some(Page::text(400, format!("not an HTTP/1.1 request: {e}\n")).encode(false)),
    }
}

fn route(method: &str, path: &str, pages: &dyn Pages) -> Page {
    const INDEX: &str = "beachd\n\n/healthz\n/readyz\n/status\n/metrics\n";
    if method != "GET" && method != "HEAD" {
        return Page::text(405, "this port only answers GET and HEAD\n");
    }
    match path.split('?').next().unwrap_or_default() {
        "/" => Page::text(200, INDEX),
        "/healthz" => Page::text(200, "ok\n"),
        "/readyz" => match pages.ready() {
            Ok(()) => Page::text(200, "ready\n"),
            Err(why) => Page::text(503, format!("not ready: {why}\n")),
        },
        "/status" => {
            Page { status: 200, content_type: "application/json", body: pages.status() + "\n" }
        }
        "/metrics" => Page {
            status: 200,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: pages.metrics(),
        },
        _ => Page::text(404, "no such page; there are /healthz /readyz /status /metrics\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<(), String>);
    impl Pages for Fixed {
        fn ready(&self) -> Result<(), String> {
            self.0.clone()
        }
        fn status(&self) -> String {
            "{}".into()
        }
        fn metrics(&self) -> String {
            "beachd_up 1\n".into()
        }
    }

    fn ask(request: &str) -> Option<String> {
        answer(request.as_bytes(), &Fixed(Ok(()))).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn each_page_is_served_and_other_paths_and_methods_are_refused() {
        for (line, status, body) in [
            ("GET /healthz", 200, "ok\n"),
            ("GET /readyz?verbose", 200, "ready\n"),
            ("GET /status", 200, "{}\n"),
            ("GET /metrics", 200, "beachd_up 1\n"),
            ("HEAD /metrics", 200, ""),
            ("GET /nowhere", 404, "no such page; there are /healthz /readyz /status /metrics\n"),
            ("POST /status", 405, "this port only answers GET and HEAD\n"),
        ] {
            let reply = ask(&format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {reply}");
            assert_eq!(reply.split_once("\r\n\r\n").unwrap().1, body, "{line}");
        }
    }

    #[test]
    fn not_ready_says_why() {
        let reply =
            answer(b"GET /readyz HTTP/1.1\r\n\r\n", &Fixed(Err("no leader".into()))).unwrap();
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 503") && reply.ends_with("not ready: no leader\n"));
    }

    #[test]
    fn a_request_is_bounded_and_garbage_is_refused() {
        assert_eq!(ask("GET /status HTTP/1.1\r\nHost"), None);
        let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_HTTP_REQUEST_BYTES));
        assert!(ask(&endless).unwrap().starts_with("HTTP/1.1 431"));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(65));
        assert!(ask(&many).unwrap().starts_with("HTTP/1.1 431"));
        assert!(ask("\u{0}\u{1}\u{2}\r\n\r\n").unwrap().starts_with("HTTP/1.1 400"));
    }
}
