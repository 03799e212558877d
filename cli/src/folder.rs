//! Finds journals and checkpoint logs in a folder.

use std::{collections::BTreeMap, fs, io, path::Path};

use winddown::{
    checkpoint::{self, FoundEntry, FoundLog},
    contracts::JobId,
    journal::{self, FoundRecord},
};

/// How deep to look: `state/journal`, `state/checkpoints/job/log` and one more.
const DEPTH: usize = 4;

/// What was found, ordered by path.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) records: Vec<FoundRecord>,
    pub(crate) logs: Vec<FoundLog>,
}

impl Found {
    pub(crate) fn below(dir: &Path) -> Result<Self, String> {
        let mut found = Self::default();
        found.look(dir, DEPTH).map_err(|error| format!("can't read `{}`: {error}", dir.display()))?;
        if found.records.is_empty() && found.logs.is_empty() {
            return Err(format!("expected a journal or a checkpoint log in `{}`, found none", dir.display()));
        }
        Ok(found)
    }

    fn look(&mut self, dir: &Path, depth: usize) -> io::Result<()> {
        self.records.extend(journal::inspect(dir)?);
        self.logs.extend(checkpoint::inspect(dir)?);
        if depth == 0 {
            return Ok(());
        }
        let mut below: Vec<_> = fs::read_dir(dir)?.collect::<io::Result<_>>()?;
        below.sort_by_key(fs::DirEntry::path);
        for entry in below {
            if entry.file_type()?.is_dir() {
                self.look(&entry.path(), depth - 1)?;
            }
        }
        Ok(())
    }

    /// The last entry of each job's log, if it is sound.
    pub(crate) fn last_entries(&self) -> BTreeMap<JobId, FoundEntry> {
        let last = |log: &FoundLog| Some((log.job.clone()?, log.entries.last()?.1.as_ref().ok().copied()?));
        self.logs.iter().filter_map(last).collect()
    }
}
