//! The thread that writes.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::Receiver,
    },
    time::SystemTime,
};

use super::{Entry, Line, Recorder};

/// What the thread tells.
#[derive(Debug, Default)]
pub(super) struct Shared {
    dropped: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Keeps the first problem.
    pub(super) fn note(&self, problem: &dyn fmt::Display) {
        let mut first = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            tracing::warn!(%problem, "the recorder can't write");
            *first = Some(problem.to_string());
        }
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Writes lines until no one can send any more. After a problem it goes on to take them, and drops
/// them.
pub(super) fn write(path: &Path, queue: &Receiver<Line>, shared: &Shared) {
    let mut file = open(path).map_err(|error| shared.note(&format_args!("{}: {error}", path.display()))).ok();
    let mut told = 0;
    while let Ok(line) = queue.recv() {
        let Some((file, length)) = &mut file else {
            shared.drop_one();
            continue;
        };
        match append(file, length, &line) {
            Ok(true) => {}
            Ok(false) => shared.drop_one(),
            Err(error) => {
                shared.note(&format_args!("{}: {error}", path.display()));
                shared.drop_one();
            }
        }
        let dropped = shared.dropped();
        if dropped > told {
            let at = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
            let line = Line { v: Recorder::VERSION, at, entry: Entry::Dropped { lines: dropped } };
            // At a power of two only, or a full file would be filled with this.
            if dropped.is_power_of_two() && append(file, length, &line).is_ok() {
                told = dropped;
            }
        }
    }
    if let Some((file, _)) = file
        && let Err(error) = file.sync_all()
    {
        shared.note(&format_args!("{}: {error}", path.display()));
    }
}

/// The file and its length. A line that a crash has cut off is ended, so that it loses only itself.
fn open(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    let mut length = file.metadata()?.len();
    if length > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
            length += 1;
        }
    }
    Ok((file, length))
}

/// Appends a line; `false` if there is no room for it.
fn append(file: &mut File, length: &mut u64, line: &Line) -> io::Result<bool> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let is_vital = !matches!(line.entry, Entry::Requested { .. } | Entry::Figures { .. } | Entry::Why { .. });
    let most = if is_vital { Recorder::MOST } else { Recorder::MOST - Recorder::RESERVE };
    let after = length.saturating_add(text.len() as u64);
    if after > most {
        return Ok(false);
    }
    file.write_all(&text)?;
    *length = after;
    Ok(true)
}
