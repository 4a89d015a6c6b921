//! The whole program against an etcd of its own, on temporary data and a port that the system chose. Skipped, with a line that
//! says so, where etcd is not installed (`apt-get install etcd-server`).
#![expect(
    clippy::disallowed_methods,
    reason = "waits for a real process, and ends it while a run goes on"
)]

use beach_loadgen::driver::Until;
use beach_loadgen::stats::Recorder;
use beach_loadgen::workload::{Mix, OpKind, Workload, WorkloadOptions};
use beach_peers::driver::{Driver, DriverOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One etcd, killed with this value.
struct Etcd {
    process: Child,
    address: SocketAddr,
    _data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.process.kill().expect("it is a child of ours");
        self.process.wait().expect("it is a child of ours");
    }
}

fn start_etcd() -> Option<Etcd> {
    let data = tempfile::tempdir().unwrap();
    // Both listen at once, so the ports differ; etcd cannot choose its own.
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [address, peer] = taken.each_ref().map(|listener| listener.local_addr().unwrap());
    drop(taken);
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(data.path()).stdout(Stdio::null()).stderr(Stdio::null());
    for (flag, value) in [
        ("--listen-client-urls", format!("http://{address}")),
        ("--advertise-client-urls", format!("http://{address}")),
        ("--listen-peer-urls", format!("http://{peer}")),
        ("--initial-advertise-peer-urls", format!("http://{peer}")),
        ("--initial-cluster", format!("default=http://{peer}")),
    ] {
        etcd.arg(flag).arg(value);
    }
    let process = match etcd.spawn() {
        Ok(process) => process,
        Err(e) => {
            // Not by `eprintln!`, which the harness hides in a test that passes.
            let mut stderr = std::io::stderr();
            writeln!(
                stderr,
                "SKIPPED: etcd does not start here ({e}); apt-get install etcd-server"
            )
            .unwrap();
            return None;
        }
    };
    let etcd = Etcd { process, address, _data: data };
    let begin = Instant::now();
    while !is_healthy(address) {
        assert!(begin.elapsed() < Duration::from_secs(60), "etcd at {address} is not healthy");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(etcd)
}

fn is_healthy(address: SocketAddr) -> bool {
    let mut answer = String::new();
    TcpStream::connect(address)
        .and_then(|mut stream| {
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut answer)
        })
        .is_ok_and(|_| answer.contains("\"health\":\"true\""))
}

fn options(address: SocketAddr, conns: usize) -> DriverOptions {
    DriverOptions {
        endpoints: vec![address],
        clients: 8,
        pipeline: 1,
        conns,
        spread: false,
        timeout: Duration::from_secs(10),
        scan_length: 10,
        progress: false,
    }
}

fn run(driver: &Driver, mix: Mix, until: Until) -> Recorder {
    let options = WorkloadOptions {
        mix,
        distribution: None,
        keys: 500,
        key_size: 16,
        value_size: 100,
        seed: 1,
        preloaded: true,
    };
    let (_, recorder, _) = driver.run(Workload::new(options).unwrap(), until).unwrap();
    assert_eq!(recorder.errors().total(), 0, "{:?}", recorder.first_error());
    recorder
}

#[test]
fn puts_arrive_and_gets_find_them() {
    let Some(etcd) = start_etcd() else { return };
    for conns in [1, 3] {
        let driver = Driver::connect(options(etcd.address, conns)).unwrap();
        let short = Until::Elapsed { warmup_ns: 0, measure_ns: 300_000_000 };
        if conns == 1 {
            let nothing = run(&driver, Mix::Get, short);
            assert_eq!(nothing.not_found(), nothing.successes(), "the store is empty");
        }
        let written = run(&driver, Mix::Put, Until::Written { keys: 500 });
        assert_eq!(written.latencies(OpKind::Put).len(), 500);
        let read = run(&driver, Mix::Get, short);
        assert!(read.successes() > 0);
        assert_eq!(read.not_found(), 0, "every key is there");
        assert!(run(&driver, Mix::Scan, short).successes() > 0);
    }
}

#[test]
fn a_server_that_ends_is_counted_and_the_run_goes_on() {
    let Some(etcd) = start_etcd() else { return };
    let driver = Driver::connect(options(etcd.address, 2)).unwrap();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        drop(etcd);
    });
    let options = WorkloadOptions {
        mix: Mix::Put,
        distribution: None,
        keys: 500,
        key_size: 16,
        value_size: 100,
        seed: 1,
        preloaded: false,
    };
    let until = Until::Elapsed { warmup_ns: 0, measure_ns: 1_500_000_000 };
    let (_, recorder, summary) = driver.run(Workload::new(options).unwrap(), until).unwrap();
    killer.join().unwrap();
    assert!(recorder.successes() > 0, "{:?}", recorder.first_error());
    let errors = recorder.errors();
    assert!(errors.conn > 0 && errors.conn == errors.total(), "{errors:?}");
    assert!(summary.reconnects > 0);
}
