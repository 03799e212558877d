//! One worker's share of the input, and reading it from any position.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::input::{BLOCK, newlines};

/// Where a line starts: in which file of the input, at which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Start {
    /// The number of the file in the input.
    pub(crate) file: u32,
    /// The byte in it.
    pub(crate) offset: u64,
}

/// A part of one file, never empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Segment {
    /// The number of the file in the input.
    pub(crate) file: u32,
    /// Where it is.
    #[serde(with = "any_path")]
    pub(crate) path: Arc<Path>,
    /// The first byte.
    pub(crate) start: u64,
    /// The byte behind the last one.
    pub(crate) end: u64,
}

/// A path of any bytes: serde's own form of a path is text, and refuses the others.
pub(crate) mod any_path {
    use std::{
        ffi::{OsStr, OsString},
        path::{Path, PathBuf},
    };

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
        OsStr::serialize(path.as_ref().as_os_str(), serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, P: From<PathBuf>>(deserializer: D) -> Result<P, D::Error> {
        OsString::deserialize(deserializer).map(|path| PathBuf::from(path).into())
    }
}

/// One worker's share of the input: whole lines, one behind the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    end: Start,
    segments: Arc<[Segment]>,
}

/// How far a share has been read. It lies between words, not always between lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// The number of the file in the input.
    pub(crate) file: u32,
    /// The next byte to read in it.
    pub(crate) offset: u64,
    /// How many lines of the share have been read to their end.
    pub(crate) lines: u64,
}

/// Why a share can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The operating system says so.
    #[error("input `{}` can't be read: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it was when the job started.
    #[error("input `{}` has changed since the job started: expected {expected} bytes or more, got {got}", path.display())]
    Changed {
        /// Which file.
        path: PathBuf,
        /// The bytes that it had to have.
        expected: u64,
        /// The bytes that it has.
        got: u64,
    },
    /// A position of another share.
    #[error(
        "expected a position in the worker's share, got file {file}, byte {offset}: the checkpoint is of another input"
    )]
    Foreign {
        /// The number of the file.
        file: u32,
        /// The byte.
        offset: u64,
    },
}

impl Share {
    /// The lines that lie in `segments`; `end` is where the next share starts.
    pub(crate) fn new(end: Start, segments: Vec<Segment>) -> Self {
        Self { end, segments: segments.into() }
    }

    /// Where reading begins.
    pub(crate) fn start(&self) -> Position {
        self.segments
            .first()
            .map_or_else(|| self.end(0), |first| Position { file: first.file, offset: first.start, lines: 0 })
    }

    /// Whether everything has been read.
    pub(crate) fn is_read(&self, position: Position) -> bool {
        position == self.end(position.lines)
    }

    /// Everything has been read, which was so many lines.
    fn end(&self, lines: u64) -> Position {
        Position { file: self.end.file, offset: self.end.offset, lines }
    }

    /// The segment that a position lies in, by its number; the number of segments at the end.
    fn locate(&self, position: Position) -> Result<usize, ReadError> {
        if self.is_read(position) {
            return Ok(self.segments.len());
        }
        self.segments
            .binary_search_by_key(&position.file, |segment| segment.file)
            .ok()
            .filter(|&at| (self.segments[at].start..self.segments[at].end).contains(&position.offset))
            .ok_or(ReadError::Foreign { file: position.file, offset: position.offset })
    }
}

/// Reads a share in big blocks.
pub(crate) struct Reader {
    share: Share,
    position: Position,
    /// The segment that the position lies in.
    segment: usize,
    file: Option<File>,
    /// What has been read from the file and not yet been given away is `block[used..filled]`.
    block: Vec<u8>,
    used: usize,
    filled: usize,
}

impl Reader {
    /// Goes on at `position`. Seeks: the cost does not depend on the position.
    pub(crate) fn new(share: Share, position: Position) -> Result<Self, ReadError> {
        let segment = share.locate(position)?;
        Ok(Self { share, position, segment, file: None, block: vec![0; BLOCK], used: 0, filled: 0 })
    }

    /// How far the share has been given away.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// Whether everything has been given away.
    pub(crate) fn is_done(&self) -> bool {
        self.segment == self.share.segments.len()
    }

    /// Appends the next text to `batch`: some hundred kilobytes, and at most `lines` ends of lines.
    /// Returns how many ends of lines there were. Nothing is appended only at the end of the share.
    /// The text ends between two words.
    pub(crate) fn read(&mut self, lines: u64, batch: &mut Vec<u8>) -> Result<u64, ReadError> {
        let mut left = lines;
        while left > 0 && batch.len() < BLOCK && !self.is_done() {
            self.refill()?;
            let segment = &self.share.segments[self.segment];
            let at_end = self.position.offset + (self.filled - self.used) as u64 == segment.end;
            let text = &self.block[self.used..self.filled];
            let Some(length) = cut(text, left, at_end) else {
                // One word fills the whole block.
                self.block.resize(self.block.len() * 2, 0);
                continue;
            };
            batch.extend_from_slice(&text[..length]);
            let mut ended = newlines(&text[..length]);
            self.used += length;
            self.position.offset += length as u64;
            if self.position.offset == segment.end {
                // The end of a file ends a line.
                if batch.last().is_some_and(|&last| last != b'\n') {
                    batch.push(b'\n');
                    ended += 1;
                }
                self.next_segment();
            }
            self.position.lines += ended;
            left -= ended.min(left);
        }
        Ok(lines - left)
    }

    fn next_segment(&mut self) {
        self.segment += 1;
        self.file = None;
        (self.used, self.filled) = (0, 0);
        let lines = self.position.lines;
        self.position = match self.share.segments.get(self.segment) {
            Some(next) => Position { file: next.file, offset: next.start, lines },
            None => self.share.end(lines),
        };
    }

    /// Makes sure that the block holds all that is left of the segment, or more than one word
    /// unless the block is too small.
    fn refill(&mut self) -> Result<(), ReadError> {
        let segment = &self.share.segments[self.segment];
        let held = self.filled - self.used;
        let left = segment.end - self.position.offset;
        if held as u64 == left || self.block[self.used..self.filled].iter().any(|byte| !byte.is_ascii_alphabetic()) {
            return Ok(());
        }
        self.block.copy_within(self.used..self.filled, 0);
        (self.used, self.filled) = (0, held);
        let unreadable = |source| ReadError::Io { path: segment.path.to_path_buf(), source };
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let mut file = File::open(&segment.path).map_err(unreadable)?;
                file.seek(SeekFrom::Start(self.position.offset)).map_err(unreadable)?;
                closed.insert(file)
            }
        };
        // A segment may be larger than memory; the block is not.
        let goal = usize::try_from(left).unwrap_or(usize::MAX).min(self.block.len());
        while self.filled < goal {
            match file.read(&mut self.block[self.filled..goal]) {
                Ok(0) => {
                    let got = self.position.offset + self.filled as u64;
                    return Err(ReadError::Changed { path: segment.path.to_path_buf(), expected: segment.end, got });
                }
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(())
    }
}

/// How much of `text` may be given away: up to the end of the last of `lines` lines, else up to the
/// last byte that separates words, else all of it if the segment ends there.
fn cut(text: &[u8], lines: u64, at_end: bool) -> Option<usize> {
    let last = usize::try_from(lines).unwrap_or(usize::MAX) - 1;
    if let Some(newline) = memchr::memchr_iter(b'\n', text).nth(last) {
        return Some(newline + 1);
    }
    if at_end {
        return Some(text.len());
    }
    text.iter().rposition(|byte| !byte.is_ascii_alphabetic()).map(|separator| separator + 1)
}
