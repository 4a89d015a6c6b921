//! What is kept of a failure: everything that runs it again.

#![expect(clippy::disallowed_methods, reason = "artifacts are files of this machine")]

use super::faults::TimedFault;
use super::hooks::Violation;
use super::shape::RunOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of the document.
const SCHEMA: u32 = 1;

/// The document `DIR/seed-N-RULE.json`.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Artifact {
    /// 1.
    pub schema: u32,
    /// The version of this program.
    pub version: String,
    /// The commit it was built from, as `git describe` says where it runs; empty when git does not know.
    pub git: String,
    /// What to run.
    pub options: RunOptions,
    /// With which faults.
    pub plan: Vec<TimedFault>,
    /// What it broke.
    pub violation: Violation,
}

impl Artifact {
    /// One of this version.
    #[must_use]
    pub fn new(options: RunOptions, plan: Vec<TimedFault>, violation: Violation) -> Self {
        let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
        let git = git.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        Self {
            schema: SCHEMA,
            version: beachdb::VERSION.into(),
            git: git.unwrap_or_default(),
            options,
            plan,
            violation,
        }
    }

    /// Writes it into `dir` and says where.
    ///
    /// # Errors
    /// The file system's.
    pub fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("seed-{}-{}.json", self.options.seed, self.violation.rule));
        std::fs::write(&path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(path)
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with the file, with its name.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let artifact: Self =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        if artifact.schema != SCHEMA {
            let found = artifact.schema;
            return Err(format!("{}: schema {found}, this program reads {SCHEMA}", path.display()));
        }
        if !(1..=super::shape::MAX_NODES).contains(&artifact.options.nodes) {
            return Err(format!("{}: {} nodes", path.display(), artifact.options.nodes));
        }
        Ok(artifact)
    }
}
