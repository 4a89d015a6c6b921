//! What is kept of a failure: the files as the kill left them, what they should hold, and the verdict.
//!
//! ```text
//! DIR/failure-engine-SEED-CYCLE/artifact.json    this document
//!                              /files/           the data directory before any recovery touched it
//! ```

use super::cycle::KillPlan;
use super::oracle::{Oracle, Violation};
use super::process::{copy_dir, failed};
use super::{Settings, TargetKind};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// The version of the document.
const SCHEMA: u32 = 1;

/// Where in the cycle it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Before the kill.
    Run,
    /// After it: the files show the failure.
    Recovery,
}

/// The document.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Artifact {
    /// 1.
    pub schema: u32,
    /// The version of this program.
    pub version: String,
    /// What was killed.
    pub target: TargetKind,
    /// How it was run.
    pub settings: Settings,
    /// The cycle, from 0.
    pub cycle: u64,
    /// When the kill was to strike.
    pub plan: KillPlan,
    /// Where it failed.
    pub phase: Phase,
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// The directory with the files, beside this document.
    pub files: PathBuf,
    /// What the files must hold.
    pub oracle: Oracle,
}

impl Artifact {
    /// An artifact of this version.
    #[must_use]
    pub fn new(
        settings: &Settings,
        target: TargetKind,
        cycle: u64,
        plan: KillPlan,
        phase: Phase,
        oracle: Oracle,
        violations: Vec<Violation>,
    ) -> Self {
        Self {
            schema: SCHEMA,
            version: beachdb::VERSION.into(),
            target,
            settings: settings.clone(),
            cycle,
            plan,
            phase,
            violations,
            files: "files".into(),
            oracle,
        }
    }

    /// Writes it under `dir` with a copy of `files`; returns the path of the document.
    pub fn save(&self, dir: &Path, files: &Path) -> io::Result<PathBuf> {
        let name = format!("failure-{}-{}-{}", self.target.name(), self.settings.seed, self.cycle);
        let own = dir.join(name);
        std::fs::create_dir_all(&own)?;
        copy_dir(files, &own.join(&self.files))?;
        let path = own.join("artifact.json");
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)?;
        self.print();
        Ok(path)
    }

    /// Says on standard error what failed.
    pub fn print(&self) {
        let (target, cycle, plan) = (self.target.name(), self.cycle + 1, self.plan);
        eprintln!("{target} cycle {cycle} of seed {}: {plan:?}", self.settings.seed);
        self.violations.iter().for_each(|violation| eprintln!("  {violation}"));
    }
}

/// Reads a document.
pub fn load(path: &Path) -> Result<Artifact, Violation> {
    let say = |e: &dyn std::fmt::Display| failed(format!("{}: {e}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| say(&e))?;
    let artifact: Artifact = serde_json::from_slice(&bytes).map_err(|e| say(&e))?;
    if artifact.schema != SCHEMA {
        return Err(say(&format!("schema {}, this program reads {SCHEMA}", artifact.schema)));
    }
    Ok(artifact)
}
