//! The input: its files, their contents, and how their lines are divided among the workers.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::share::{Segment, Share, Start};

/// How much is read at once.
pub(crate) const BLOCK: usize = 256 * 1024;

/// What makes a file of the input the same file in a later run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// The name: of the file itself, or of the folder that was given and the way down from it.
    pub(crate) name: String,
    /// The length in bytes.
    pub(crate) bytes: u64,
    /// The CRC-32 of the contents.
    pub(crate) crc32: u32,
}

/// All files of the input, in the order in which they are counted.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    paths: Vec<Arc<Path>>,
    fingerprints: Vec<Fingerprint>,
    lines: u64,
}

/// Why the input can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// Something can't be read.
    #[error("input `{}` can't be read: {source}", path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither a file nor a folder.
    #[error("input `{}` is neither a file nor a folder: a run that is resumed must be able to read it again", .0.display())]
    NotAFile(PathBuf),
    /// No file at all.
    #[error("no file to count in {0}: expected at least one that is not hidden")]
    NoFile(String),
}

impl Input {
    /// Finds all files, and reads each once. Files are in the order of the arguments, those of a
    /// folder sorted by name. A file that is given twice is counted twice. `is_skipped` says which
    /// folders are not input.
    pub(crate) fn collect(inputs: &[PathBuf], is_skipped: &dyn Fn(&Path) -> bool) -> Result<Self, InputError> {
        let mut found = Vec::new();
        for input in inputs {
            let unreadable = |source| InputError::Unreadable { path: input.clone(), source };
            let full = fs::canonicalize(input).map_err(unreadable)?;
            let name = full.file_name().unwrap_or_default().to_owned();
            let kind = fs::metadata(&full).map_err(unreadable)?;
            if kind.is_dir() {
                walk(&full, &name, is_skipped, &mut found)?;
            } else if kind.is_file() {
                found.push((name, full));
            } else {
                return Err(InputError::NotAFile(input.clone()));
            }
        }
        if found.is_empty() {
            let inputs: Vec<_> = inputs.iter().map(|input| format!("`{}`", input.display())).collect();
            return Err(InputError::NoFile(inputs.join(", ")));
        }
        let mut all = Self { paths: Vec::new(), fingerprints: Vec::new(), lines: 0 };
        let mut block = vec![0; BLOCK];
        for (name, path) in found {
            let (fingerprint, lines) = scan(&name.to_string_lossy(), &path, &mut block)
                .map_err(|source| InputError::Unreadable { path: path.clone(), source })?;
            all.paths.push(path.into());
            all.fingerprints.push(fingerprint);
            all.lines += lines;
        }
        Ok(all)
    }

    /// What makes this input the same input in a later run.
    pub(crate) fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    /// How many lines there are. The last line of a file counts with or without a newline.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// How many bytes there are.
    pub(crate) fn bytes(&self) -> u64 {
        self.fingerprints.iter().map(|file| file.bytes).sum()
    }

    /// Divides the lines: the files, one after the other, are cut into as many equal parts as there
    /// are workers, and a line belongs to the part in which its first byte lies.
    pub(crate) fn shares(&self, workers: u32) -> Result<Vec<Share>, InputError> {
        let total = u128::from(self.bytes());
        let mut starts = Vec::new();
        for worker in 0..=workers {
            let cut = total * u128::from(worker) / u128::from(workers.max(1));
            // A part of a u64 is a u64.
            starts.push(self.next_line(u64::try_from(cut).unwrap_or(u64::MAX))?);
        }
        Ok(starts.windows(2).map(|ends| self.between(ends[0], ends[1])).collect())
    }

    /// The first start of a line at or behind a byte of the input as a whole.
    fn next_line(&self, mut byte: u64) -> Result<Start, InputError> {
        for (index, (file, path)) in (0_u32..).zip(self.fingerprints.iter().zip(&self.paths)) {
            if byte == 0 {
                return Ok(Start { file: index, offset: 0 });
            }
            if byte < file.bytes {
                let line = line_from(path, byte, file.bytes)
                    .map_err(|source| InputError::Unreadable { path: path.to_path_buf(), source })?;
                return Ok(line.map_or(Start { file: index + 1, offset: 0 }, |offset| Start { file: index, offset }));
            }
            byte -= file.bytes;
        }
        Ok(Start { file: u32::try_from(self.paths.len()).unwrap_or(u32::MAX), offset: 0 })
    }

    fn between(&self, start: Start, end: Start) -> Share {
        let files = (0_u32..).zip(self.paths.iter().zip(&self.fingerprints));
        let segments = files
            .map(|(file, (path, fingerprint))| Segment {
                file,
                path: Arc::clone(path),
                start: if file == start.file { start.offset } else { 0 },
                end: if file == end.file { end.offset } else { fingerprint.bytes },
            })
            .filter(|segment| segment.file >= start.file && segment.file <= end.file)
            .filter(|segment| segment.start < segment.end);
        Share::new(end, segments.collect())
    }
}

/// Adds the files under a folder, in the order of their names.
fn walk(
    folder: &Path,
    name: &OsString,
    is_skipped: &dyn Fn(&Path) -> bool,
    found: &mut Vec<(OsString, PathBuf)>,
) -> Result<(), InputError> {
    let unreadable = |source| InputError::Unreadable { path: folder.to_owned(), source };
    if is_skipped(folder) {
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        entries.push((entry.file_name(), entry.file_type().map_err(unreadable)?));
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (entry, kind) in entries {
        if entry.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(&entry);
        let mut long_name = name.clone();
        long_name.push("/");
        long_name.push(&entry);
        if kind.is_dir() && entry != "target" {
            walk(&path, &long_name, is_skipped, found)?;
        } else if kind.is_file() {
            found.push((long_name, path));
        }
    }
    Ok(())
}

/// Reads a file once: its fingerprint, and how many lines it has.
fn scan(name: &str, path: &Path, block: &mut [u8]) -> io::Result<(Fingerprint, u64)> {
    let mut file = File::open(path)?;
    let mut crc = crc32fast::Hasher::new();
    let (mut bytes, mut lines, mut last) = (0, 0, b'\n');
    loop {
        let read = match file.read(block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let Some(end) = block[..read].last() else { break };
        last = *end;
        crc.update(&block[..read]);
        bytes += read as u64;
        lines += newlines(&block[..read]);
    }
    lines += u64::from(last != b'\n');
    Ok((Fingerprint { name: name.to_owned(), bytes, crc32: crc.finalize() }, lines))
}

/// How many newlines there are.
pub(crate) fn newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// Where the first line at or behind `byte` starts; `None` if that is the end of the file. `byte`
/// is above 0: the byte before it tells whether a line starts there.
fn line_from(path: &Path, byte: u64, end: u64) -> io::Result<Option<u64>> {
    use std::io::{Seek, SeekFrom};

    let mut file = File::open(path)?;
    let mut position = byte - 1;
    file.seek(SeekFrom::Start(position))?;
    let mut block = vec![0; 4096];
    loop {
        let read = match file.read(&mut block) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(None);
        }
        if let Some(newline) = memchr::memchr(b'\n', &block[..read]) {
            let start = position + newline as u64 + 1;
            return Ok((start < end).then_some(start));
        }
        position += read as u64;
    }
}

#[cfg(test)]
mod tests;
