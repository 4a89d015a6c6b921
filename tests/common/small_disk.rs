//! [`SmallDisk`]: a small file system for one daemon, which a test fills and empties.
//!
//! ```text
//!   unshare --mount ─► image file ─► ext4 on a loop device (its syncs are real)      beachd under nsenter:
//!                      or, where there are no loop devices, a tmpfs            ◄──── its directory is on it
//!                      balloon: all that the daemon shall not have
//! ```
//!
//! It is mounted in a namespace of its own, so it needs root, nobody else sees it, and it goes away with the test.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What the balloon is filled up with at the end.
const PIECE: usize = 4 << 10;

/// See the module.
pub struct SmallDisk {
    /// Keeps the namespace.
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Mounts one at a new directory; `Err` says why there can be none.
    pub fn new(at: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let image = at.with_extension("ext4");
        let script = "truncate -s \"$2\"m \"$1\" && mkfs.ext4 -q -F -m 0 \"$1\" \
                      && mount -o loop \"$1\" \"$0\" && rmdir \"$0\"/lost+found || mount -t tmpfs -o size=\"$2\"m small \"$0\" \
                      || exit 1; echo mounted; exec sleep 600";
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .args([at, &image])
            .arg(mib.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let disk = Self { holder, at: at.to_path_buf() };
        if read.is_err() || line != "mounted\n" {
            return Err("neither an ext4 image nor a tmpfs can be mounted here".into());
        }
        Ok(disk)
    }

    /// Where it is mounted, for who is inside.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// `nsenter` into it: what runs a program that sees it.
    pub fn wrap(&self) -> Vec<String> {
        ["nsenter", "-t", &self.holder.id().to_string(), "-m"].map(str::to_owned).to_vec()
    }

    /// A path on it, as seen from outside.
    pub fn outside(&self, name: &str) -> PathBuf {
        let inside = self.at.join(name);
        let relative = inside.strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(relative)
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let asked = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.outside("")).output();
        let text = String::from_utf8(asked.expect("stat is there").stdout).expect("text");
        let mut numbers = text.split_whitespace().map(|n| n.parse::<u64>().expect("a number"));
        numbers.next().expect("blocks") * numbers.next().expect("their size")
    }

    /// Takes everything but about this many bytes; with 0 really everything.
    pub fn fill(&self, but: u64) {
        let balloon = self.outside("balloon");
        let bytes = self.free().saturating_sub(but.max(1 << 20));
        let mut fallocate = Command::new("fallocate");
        let took = fallocate.args(["-l", &bytes.to_string()]).arg(&balloon).status();
        assert!(took.expect("fallocate is there").success(), "{bytes} bytes for the balloon");
        if but == 0 {
            let mut rest = fs::OpenOptions::new().append(true).open(&balloon).expect("ours");
            while rest.write_all(&[1; PIECE]).is_ok() {}
        }
    }

    /// Everything is the daemon's again.
    pub fn empty(&self) {
        fs::remove_file(self.outside("balloon")).expect("ours");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
