//! Checksummed text: a header line with a format's name, its version, and the length and CRC-32 of
//! the body.
//!
//! ```text
//! winddown-log 1 <length of the body> <CRC-32 of the body>⏎
//! <body>
//! ```
//!
//! The header is ASCII and comes first, so that every version, and every person, can identify the
//! content.

use std::fmt::Write as _;

/// The maximum length of a header: the name, a version, two numbers, three spaces.
const LONGEST_HEADER: usize = 96;

/// A format's name, and the version that is written and read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    magic: &'static str,
    version: u32,
}

/// Why a body can't be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unsound {
    /// A newer winddown has written it in this version.
    Newer(u32),
    /// It is not what was written.
    Damaged(Mismatch),
}

/// What an intact object contains, and what this one contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub(crate) expected: String,
    pub(crate) got: String,
}

impl Mismatch {
    pub(crate) fn new(expected: impl Into<String>, got: impl Into<String>) -> Self {
        Self { expected: expected.into(), got: got.into() }
    }
}

impl From<Mismatch> for Unsound {
    fn from(mismatch: Mismatch) -> Self {
        Self::Damaged(mismatch)
    }
}

impl Envelope {
    pub(crate) const fn new(magic: &'static str, version: u32) -> Self {
        Self { magic, version }
    }

    /// The newest supported version.
    #[cfg(feature = "object-store")]
    pub(crate) const fn version(self) -> u32 {
        self.version
    }

    /// `body` under its header.
    pub(crate) fn seal(self, body: &[u8]) -> Vec<u8> {
        let mut sealed = self.header(body).into_bytes();
        sealed.push(b'\n');
        sealed.extend_from_slice(body);
        sealed
    }

    /// The body, after checking it against the header.
    pub(crate) fn open(self, sealed: &[u8]) -> Result<&[u8], Unsound> {
        let (got, body) = self.split(sealed)?;
        let mut fields = got.split(' ');
        if fields.next() != Some(self.magic) {
            return Err(Mismatch::new(format!("`{}` at the start", self.magic), quote(got)).into());
        }
        match fields.next().and_then(|version| version.parse::<u32>().ok()) {
            Some(version) if version == self.version => {}
            Some(version) if version > self.version => return Err(Unsound::Newer(version)),
            _ => return Err(Mismatch::new(format!("format version {}", self.version), quote(got)).into()),
        }
        if let Some(length) = fields.next().and_then(|field| field.parse::<usize>().ok())
            && length != body.len()
        {
            let expected = format!("{length} bytes after the header");
            return Err(Mismatch::new(expected, format!("{} bytes", body.len())).into());
        }
        // Compared as text, not field by field: a header that is spelled differently was not
        // written by us.
        let expected = self.header(body);
        if got == expected {
            Ok(body)
        } else {
            Err(Mismatch::new(format!("the header `{expected}`"), quote(got)).into())
        }
    }

    fn header(self, body: &[u8]) -> String {
        format!("{} {} {} {:08x}", self.magic, self.version, body.len(), crc32fast::hash(body))
    }

    /// The header line without its end, and what follows.
    fn split(self, sealed: &[u8]) -> Result<(&str, &[u8]), Mismatch> {
        let expected = || format!("a header line of `{}`", self.magic);
        let start = &sealed[..sealed.len().min(LONGEST_HEADER)];
        let Some(end) = start.iter().position(|&byte| byte == b'\n') else {
            let length = sealed.len();
            let got = if length == 0 { "an empty object".into() } else { format!("{length} bytes without one") };
            return Err(Mismatch::new(expected(), got));
        };
        match std::str::from_utf8(&start[..end]) {
            Ok(header) => Ok((header, &sealed[end + 1..])),
            Err(_) => Err(Mismatch::new(expected(), "bytes that are not ASCII")),
        }
    }
}

/// A damaged header for messages: short, and without control characters.
fn quote(header: &str) -> String {
    let mut quoted = String::from("`");
    for character in header.chars() {
        // Writing to a string can't fail.
        let _ = write!(quoted, "{}", character.escape_debug());
    }
    quoted.push('`');
    quoted
}
