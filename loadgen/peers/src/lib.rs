//! The closed loop of `beach-loadgen` against etcd: what is asked (workload), counted (recorder), and reported is the load
//! generator's own code; only the loop between them is another one, because etcd speaks gRPC.
//!
//! ```text
//!   main ──▶ driver ──▶ rpc (one gRPC call over h2) ──▶ messages (etcd's protobuf, by hand)
//!              └─▶ beach_loadgen::{args, workload, stats, report}
//! ```
//!
//! Four message kinds are needed, of two or three fields each, so they are written by hand: `etcd-client` with its generated
//! code takes 97 crates and `protoc`, `h2` (the HTTP/2 that it stands on as well) takes 13 more than the load generator has.
//! What it costs the machine stands in the report as `client_cpu`.

pub mod driver;
pub mod messages;
pub mod rpc;
