//! A small file system: a tmpfs in a mount namespace of its own, which goes away with the test. It needs root.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// See the module. Holds the mount namespace.
pub struct SmallDisk {
    holder: Child,
    at: PathBuf,
}

impl SmallDisk {
    /// Of so many MiB, mounted at a directory that is made.
    pub fn new(at: &Path, mib: u32) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        let script =
            format!("mount -t tmpfs -o size={mib}m small \"$0\" && echo mounted && exec sleep 600");
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .arg(at)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        let disk = Self { holder, at: at.to_path_buf() };
        if read.is_err() || line != "mounted\n" {
            return Err("cannot mount a tmpfs here".into());
        }
        Ok(disk)
    }

    /// Where it is mounted, for who is inside.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// `nsenter` into it: what runs a program that sees it.
    pub fn wrap(&self) -> [String; 4] {
        ["nsenter".into(), "-t".into(), self.holder.id().to_string(), "-m".into()]
    }

    /// A path on it, as seen from outside.
    pub fn outside(&self, name: &str) -> PathBuf {
        let inside = self.at.join(name);
        let relative = inside.strip_prefix("/").expect("absolute");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(relative)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
