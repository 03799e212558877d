//! How many lines each worker has read, for the display: in memory, or in a file that worker
//! processes share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
#[cfg(target_os = "linux")]
use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// The length of one worker's number in the file.
#[cfg(target_os = "linux")]
const NUMBER: u32 = u64::BITS / 8;

/// Where sources tell how far they are.
#[derive(Debug)]
pub(crate) enum Meter {
    /// All workers are in this process.
    Memory(Box<[AtomicU64]>),
    /// One number after the other. An unusable file is not an error: the numbers are only for the
    /// display.
    #[cfg(target_os = "linux")]
    Shared {
        /// The file.
        file: File,
        /// How many numbers there are.
        workers: u32,
    },
}

impl Meter {
    /// Nothing is read yet.
    pub(crate) fn new(workers: u32) -> Arc<Self> {
        Arc::new(Self::Memory((0..workers).map(|_| AtomicU64::new(0)).collect()))
    }

    /// The file at `path`, as it is; a new one says that nothing is read yet.
    #[cfg(target_os = "linux")]
    pub(crate) fn shared(path: &Path, workers: u32) -> io::Result<Arc<Self>> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(u64::from(workers) * u64::from(NUMBER))?;
        Ok(Arc::new(Self::Shared { file, workers }))
    }

    /// All lines read.
    pub(crate) fn lines(&self) -> u64 {
        match self {
            Self::Memory(places) => places.iter().map(|lines| lines.load(Ordering::Relaxed)).sum(),
            #[cfg(target_os = "linux")]
            Self::Shared { file, workers } => {
                let mut all = vec![0; *workers as usize * NUMBER as usize];
                let read = file.read_at(&mut all, 0).unwrap_or(0);
                all[..read].as_chunks().0.iter().map(|number| u64::from_le_bytes(*number)).sum()
            }
        }
    }

    /// A worker has read so many lines of its share.
    pub(crate) fn set(&self, worker: u32, lines: u64) {
        match self {
            Self::Memory(places) => {
                if let Some(place) = places.get(worker as usize) {
                    place.store(lines, Ordering::Relaxed);
                }
            }
            #[cfg(target_os = "linux")]
            Self::Shared { file, .. } => {
                let _ = file.write_at(&lines.to_le_bytes(), u64::from(worker) * u64::from(NUMBER));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_add_up_in_memory() {
        let meter = Meter::new(2);
        meter.set(0, 3);
        meter.set(1, 4);
        meter.set(1, 5);
        meter.set(2, 100);
        assert_eq!(meter.lines(), 8);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn lines_add_up_over_processes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meter");
        let [controller, worker] = [(), ()].map(|()| Meter::shared(&path, 3).unwrap());
        assert_eq!(controller.lines(), 0);
        worker.set(0, 3);
        worker.set(2, 1 << 40);
        assert_eq!(controller.lines(), (1 << 40) + 3);
    }
}
