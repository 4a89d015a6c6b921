//! One unary gRPC call over an HTTP/2 connection that others share.
//!
//! ```text
//!   HEADERS :method POST, :path the method, content-type application/grpc, te trailers
//!   DATA    the framed request, END_STREAM            ──▶
//!                                                     ◀──  HEADERS :status 200,  DATA the framed response,
//!                                                          HEADERS grpc-status 0, END_STREAM
//! ```
//!
//! No `grpc-timeout` is sent: it would cost etcd a timer for each request, and its own benchmark tool sends none either. The
//! caller gives up by dropping the call, which resets the stream.

use beach_loadgen::stats::ErrorKind;
use beach_loadgen::workload::OpKind;
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{Method, Request, StatusCode, Uri, Version};
use std::net::SocketAddr;

/// More than this in one response is not read: a scan of the largest values that a workload can have stays below it.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// Flow-control windows, wide enough that they never hold a reply back.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;

/// gRPC's status codes that are told apart.
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNAVAILABLE: u32 = 14;

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The connection or the stream broke.
    Conn(String),
    /// The answer was not gRPC, or not of this call.
    Proto(String),
    /// etcd said so.
    Status {
        /// `grpc-status`.
        code: u32,
        /// `grpc-message`.
        message: String,
    },
    /// No answer in time.
    Timeout,
}

impl Failure {
    /// How it is counted for an operation of this kind, and in which words.
    #[must_use]
    pub fn classify(self, op: OpKind) -> (ErrorKind, String) {
        let write = op == OpKind::Put;
        match self {
            Self::Conn(message) => (ErrorKind::Conn, message),
            Self::Proto(message) => (ErrorKind::Proto, message),
            Self::Timeout => {
                let kind = if write { ErrorKind::Unknown } else { ErrorKind::Deadline };
                (kind, "no reply within the timeout".into())
            }
            Self::Status { code, message } => {
                let kind = match code {
                    DEADLINE_EXCEEDED if !write => ErrorKind::Deadline,
                    // "etcdserver: request timed out", "etcdserver: leader changed": the put may be in the log.
                    DEADLINE_EXCEEDED | UNAVAILABLE if write => ErrorKind::Unknown,
                    RESOURCE_EXHAUSTED if message.contains("too many requests") => ErrorKind::Busy,
                    _ => ErrorKind::Refused,
                };
                (kind, format!("gRPC status {code}: {message}"))
            }
        }
    }
}

impl From<h2::Error> for Failure {
    fn from(error: h2::Error) -> Self {
        Self::Conn(error.to_string())
    }
}

/// The settings of every connection.
#[must_use]
pub fn connection_settings() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// The head of every request for `method` to `server`; cloned for each.
#[must_use]
pub fn head(server: SocketAddr, method: &str) -> Request<()> {
    let uri = Uri::builder().scheme("http").authority(server.to_string()).path_and_query(method);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri.build().expect("an address and a constant path are a URI");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    request
}

/// Sends one request and waits for the whole response; returns its body.
pub async fn call(
    connection: SendRequest<Bytes>,
    head: Request<()>,
    body: Bytes,
) -> Result<Bytes, Failure> {
    let mut connection = connection.ready().await?;
    let (response, mut stream) = connection.send_request(head, false)?;
    stream.send_data(body, true)?;
    let (head, mut incoming) = response.await?.into_parts();
    if head.status != StatusCode::OK {
        return Err(Failure::Proto(format!("HTTP status {}", head.status)));
    }
    let mut whole = Bytes::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk?;
        incoming.flow_control().release_capacity(chunk.len())?;
        whole = joined(whole, chunk)?;
    }
    match incoming.trailers().await? {
        Some(trailers) => check_status(&trailers)?,
        None => check_status(&head.headers)?, // a response without a body has its status in its only headers
    }
    Ok(whole)
}

/// Responses are a single DATA frame but for large ones.
fn joined(whole: Bytes, chunk: Bytes) -> Result<Bytes, Failure> {
    if whole.is_empty() {
        return Ok(chunk);
    }
    if whole.len() + chunk.len() > MAX_RESPONSE_BYTES {
        return Err(Failure::Proto(format!("a response of over {MAX_RESPONSE_BYTES} bytes")));
    }
    let mut both = BytesMut::from(whole);
    both.extend_from_slice(&chunk);
    Ok(both.freeze())
}

/// `grpc-status` 0, or what it says instead.
fn check_status(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    match text("grpc-status").parse() {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::Status { code, message: text("grpc-message").into() }),
        Err(_) => Err(Failure::Proto("a response without a grpc-status".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_that_may_be_in_the_log_is_unknown_and_a_refusal_is_not() {
        let kind = |code, message: &str, op| {
            Failure::Status { code, message: message.into() }.classify(op).0
        };
        let (put, get) = (OpKind::Put, OpKind::Get);
        assert_eq!(kind(14, "etcdserver: request timed out", put), ErrorKind::Unknown);
        assert_eq!(kind(14, "etcdserver: request timed out", get), ErrorKind::Refused);
        assert_eq!(kind(4, "context deadline exceeded", put), ErrorKind::Unknown);
        assert_eq!(kind(4, "context deadline exceeded", get), ErrorKind::Deadline);
        assert_eq!(kind(8, "etcdserver: too many requests", put), ErrorKind::Busy);
        assert_eq!(kind(8, "etcdserver: mvcc: database space exceeded", put), ErrorKind::Refused);
        assert_eq!(kind(12, "unknown service", get), ErrorKind::Refused);
        assert_eq!(Failure::Timeout.classify(put).0, ErrorKind::Unknown);
        assert_eq!(Failure::Timeout.classify(get).0, ErrorKind::Deadline);
    }

    #[test]
    fn the_head_is_what_grpc_over_http_2_asks_for() {
        let head = head("127.0.0.1:2379".parse().unwrap(), crate::messages::PUT);
        assert_eq!(head.uri().to_string(), "http://127.0.0.1:2379/etcdserverpb.KV/Put");
        assert_eq!(head.method(), "POST");
        assert_eq!(head.headers()["content-type"], "application/grpc");
        assert_eq!(head.headers()["te"], "trailers");
    }
}
