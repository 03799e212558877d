//! Reads a record.

use std::{fs::File, io, io::Read as _, path::Path};

use super::{Entry, Line, Recorder};
use crate::machine::PhaseKind;

/// A record that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its sound lines, in the order in which they were written.
    pub lines: Vec<Line>,
    /// Lines that are not what was written, such as one that a crash has cut off.
    pub damaged: u32,
    /// Lines of a newer version.
    pub newer: u32,
}

impl Record {
    /// The phases, in order.
    pub fn phases(&self) -> impl Iterator<Item = PhaseKind> {
        self.lines.iter().filter_map(|line| match line.entry {
            Entry::Phase { phase, .. } => Some(phase),
            _ => None,
        })
    }

    /// How many controllers have recorded: one more than the crashes between them.
    pub fn controllers(&self) -> usize {
        self.lines.iter().filter(|line| matches!(line.entry, Entry::Opened { .. })).count()
    }
}

/// Reads the record at `path`. A damaged line loses only itself. Of a file that is longer than a
/// record can be, only as much is read.
///
/// This makes blocking file system calls.
///
/// # Errors
/// The file can't be read.
pub fn read(path: impl AsRef<Path>) -> io::Result<Record> {
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }

    let mut text = Vec::new();
    File::open(path)?.take(Recorder::MOST).read_to_end(&mut text)?;
    let mut record = Record::default();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if line.v <= Recorder::VERSION => record.lines.push(line),
            _ if serde_json::from_slice::<Version>(line).is_ok_and(|it| it.v > Recorder::VERSION) => record.newer += 1,
            _ => record.damaged += 1,
        }
    }
    Ok(record)
}
