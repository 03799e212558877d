//! A folder that can crash, and text that can be damaged.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tempfile::TempDir;
use winddown::testing::conformance::Damage;

/// A folder. A crash leaves what a killed program leaves: the files as they are at that moment, and
/// nothing that anybody holds.
pub(crate) struct Place(Mutex<Vec<TempDir>>);

impl Place {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(vec![tempfile::tempdir().unwrap()]))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.lock().unwrap().last().unwrap().path().to_path_buf()
    }

    /// From now on the folder is a copy of what is there. Who works on the old one does not reach
    /// the new one.
    pub(crate) fn crash(&self) {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.path(), copy.path());
        self.0.lock().unwrap().push(copy);
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy_all(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The text after the damage. All formats of this crate start with a line that ends in version,
/// length and checksum.
pub(crate) fn damaged(text: &[u8], damage: Damage) -> Vec<u8> {
    let mut text = text.to_vec();
    match damage {
        Damage::CutShort => text.truncate(text.len() * 2 / 3),
        Damage::Altered => {
            let middle = text.len() / 2;
            text[middle] ^= 1;
        }
        Damage::NewerVersion => {
            let version = text.iter().position(|byte| *byte == b' ').unwrap() + 1;
            text[version] += 1;
        }
        other => panic!("no such damage here: {other}"),
    }
    text
}

pub(crate) fn damage_file(path: &Path, damage: Damage) {
    fs::write(path, damaged(&fs::read(path).unwrap(), damage)).unwrap();
}
