//! How many puts a second pass through the node alone, without sockets. A measurement, so it only runs when asked:
//! `cargo test --release -p beachdb --lib node::perf -- --ignored --nocapture`.

use super::*;
use crate::base::NodeId;
use crate::base::batch::{BatchRef, WriteBatch};
use crate::env::Completion;
use crate::env::os;
use crate::proto::Opcode;
use std::time::Duration;

const CONNECTIONS: u64 = 64;
const PIPELINE: u64 = 16;
const SECONDS: u64 = 3;

/// This thread's processor time, which the machine's other work does not change.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn puts_per_second_64_by_16() {
    let dir = tempfile::tempdir_in(".").unwrap();
    let env = os::env();
    let config = NodeConfig::new(dir.path().join("data"), "beach", NodeId(1), 7);
    let mut node = Node::open(config, env.clone()).unwrap();
    let mut out = Vec::new();
    let mut done: Vec<Completion> = Vec::new();
    let mut free: Vec<Origin> = (0..CONNECTIONS)
        .flat_map(|conn| (0..PIPELINE).map(move |request_id| Origin { conn, request_id }))
        .collect();
    let (start, mut answered, mut n) = (env.clock.now(), 0u64, 0u64);
    let mut batch = WriteBatch::new();
    let mut waiting_cpu_ns = 0;
    let cpu_start = cpu_ns();
    while env.clock.now().since(start) < SECONDS * 1_000_000_000 {
        let turn = env.clock.now();
        env.jobs.poll(&mut done);
        for completion in done.drain(..) {
            node.step(env.clock.now(), Event::JobDone(completion), &mut out);
        }
        if node.is_ready() {
            for origin in free.drain(..) {
                n += 1;
                batch.clear();
                let key = format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                batch.put(key.as_bytes(), &[b'v'; 100]).unwrap();
                let batch = BatchRef::parse(batch.as_bytes()).unwrap();
                let now = env.clock.now();
                let request = Request::Write { opcode: Opcode::Put, batch };
                let deadline = now.plus(10_000_000_000);
                let event =
                    Event::Request { origin, request, deadline, received_at: now, bytes: 200 };
                node.step(now, event, &mut out);
            }
        }
        if node.next_wakeup().is_some_and(|at| at <= turn) {
            node.step(env.clock.now(), Event::Tick, &mut out);
        }
        node.step(env.clock.now(), Event::EndOfTurn, &mut out);
        for effect in out.drain(..) {
            match effect {
                Effect::Reply { origin, response: Response::Written { .. }, .. } => {
                    answered += 1;
                    free.push(origin);
                }
                Effect::Reply { origin, response: Response::Error(e), .. } => {
                    assert_eq!(e.code, ErrorCode::Busy, "{e}");
                    free.push(origin);
                }
                other => panic!("{other:?}"),
            }
        }
        if free.is_empty() {
            let before = cpu_ns();
            env.jobs.wait(Duration::from_millis(10));
            waiting_cpu_ns += cpu_ns() - before;
        }
    }
    let seconds = env.clock.now().since(start) as f64 / 1e9;
    println!(
        "{:.0} put/s, {:.0} ns of the loop's processor time a put\n{}",
        answered as f64 / seconds,
        (cpu_ns() - cpu_start - waiting_cpu_ns) as f64 / answered as f64,
        serde_json::to_string_pretty(&node.status(env.clock.now())).unwrap()
    );
}
