//! The savepoint that a job stopped with: which one it is, and whether a job can start from it.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use crate::answers::{Checkpoint, CheckpointsAnswer};

/// The first four bytes of a `_metadata` file.
const MAGIC: [u8; 4] = 0x4960_672d_u32.to_be_bytes();

/// Where a folder that Flink calls by a URI is on this machine: `s3://bucket/savepoints` is
/// `/mnt/savepoints`.
///
/// `file:` URIs are paths of this machine, unless a mount says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// How Flink calls it.
    pub uri: String,
    /// Where it is here.
    pub folder: PathBuf,
}

/// The savepoint that a finished job has stopped with, if it is one: its last complete checkpoint,
/// taken in order to stop, and the job did not run again after it.
pub(crate) fn stopped_with(checkpoints: &CheckpointsAnswer) -> Option<&Checkpoint> {
    let latest = &checkpoints.latest;
    let savepoint = latest.savepoint.as_ref()?;
    let is_last = latest.completed.as_ref().is_none_or(|completed| completed.id <= savepoint.id);
    let ran_again =
        latest.restored.as_ref().is_some_and(|restored| restored.restore_timestamp > savepoint.latest_ack_timestamp);
    let is_it = savepoint.kind == "SYNC_SAVEPOINT" && savepoint.status == "COMPLETED";
    (is_it && is_last && !ran_again && !savepoint.discarded).then_some(savepoint)
}

/// The newest complete checkpoint that still exists.
pub(crate) fn last_complete(checkpoints: &CheckpointsAnswer) -> Option<u64> {
    let Latest { completed, savepoint } = Latest::of(checkpoints);
    completed.max(savepoint)
}

struct Latest {
    completed: Option<u64>,
    savepoint: Option<u64>,
}

impl Latest {
    fn of(checkpoints: &CheckpointsAnswer) -> Self {
        let id = |checkpoint: &Option<Checkpoint>| checkpoint.as_ref().filter(|it| !it.discarded).map(|it| it.id);
        Self { completed: id(&checkpoints.latest.completed), savepoint: id(&checkpoints.latest.savepoint) }
    }
}

/// Reads the savepoint's `_metadata`, without which no job starts from it.
///
/// # Errors
/// A sentence that says why it can't be read, and what to do.
pub(crate) fn read_metadata(location: &str, mounts: &[Mount]) -> Result<(), String> {
    let folder = folder_of(location, mounts).ok_or_else(|| {
        format!(
            "the savepoint {location} is on no file system of this machine: say where it is mounted (--mount URI=DIR)"
        )
    })?;
    let path = folder.join("_metadata");
    let mut start = [0_u8; 8];
    File::open(&path)
        .and_then(|mut file| file.read_exact(&mut start))
        .map_err(|error| format!("the savepoint {location} can't be read ({}: {error})", path.display()))?;
    if start.starts_with(&MAGIC) {
        return Ok(());
    }
    Err(format!("{} does not begin as the metadata of a savepoint does", path.display()))
}

fn folder_of(location: &str, mounts: &[Mount]) -> Option<PathBuf> {
    let mounted = mounts.iter().find_map(|Mount { uri, folder }| {
        let rest = location.strip_prefix(uri.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| folder.join(rest.trim_start_matches('/')))
    });
    mounted.or_else(|| {
        let path = location.strip_prefix("file:")?;
        let path = path.strip_prefix("//").unwrap_or(path);
        Path::new(path).is_absolute().then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoints(text: &str) -> CheckpointsAnswer {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn i3_a_savepoint_counts_if_the_job_ended_with_it() {
        let savepoint = |kind: &str| {
            format!(
                r#"{{"id":7,"status":"COMPLETED","latest_ack_timestamp":100,"checkpoint_type":"{kind}","external_path":"file:/s"}}"#
            )
        };
        let latest = |savepoint: &str, completed: &str, restored: &str| {
            checkpoints(&format!(
                r#"{{"latest":{{"savepoint":{savepoint},"completed":{completed},"restored":{restored}}}}}"#
            ))
        };
        let sync = savepoint("SYNC_SAVEPOINT");
        let older = r#"{"id":6,"status":"COMPLETED","latest_ack_timestamp":90,"checkpoint_type":"CHECKPOINT"}"#;
        let newer = older.replace('6', "8");
        assert!(stopped_with(&latest(&sync, older, r#"{"restore_timestamp":99}"#)).is_some());
        assert!(stopped_with(&latest(&savepoint("SAVEPOINT"), older, "null")).is_none(), "the job went on after it");
        assert!(stopped_with(&latest(&sync, &newer, "null")).is_none(), "a checkpoint came after it");
        assert!(stopped_with(&latest(&sync, older, r#"{"restore_timestamp":101}"#)).is_none(), "the job ran again");
        assert!(stopped_with(&latest("null", older, "null")).is_none());
        assert_eq!(last_complete(&latest("null", older, "null")), Some(6));
        assert_eq!(last_complete(&latest(&sync, older, "null")), Some(7));
    }

    #[test]
    fn metadata_is_read_where_it_is_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("savepoint-1");
        let location = format!("file:{}", here.display());
        assert!(read_metadata(&location, &[]).unwrap_err().contains("can't be read"));
        std::fs::create_dir(&here).unwrap();
        std::fs::write(here.join("_metadata"), [0_u8; 20]).unwrap();
        assert!(read_metadata(&location, &[]).unwrap_err().contains("does not begin"));
        std::fs::write(here.join("_metadata"), MAGIC).unwrap();
        assert!(read_metadata(&location, &[]).is_err(), "it is cut off");
        std::fs::write(here.join("_metadata"), [&MAGIC[..], &[0, 0, 0, 6]].concat()).unwrap();
        read_metadata(&location, &[]).unwrap();
        read_metadata(&location.replace("file:", "file://"), &[]).unwrap();
        let mount = Mount { uri: "s3://bucket/".into(), folder: folder.path().into() };
        read_metadata("s3://bucket/savepoint-1", std::slice::from_ref(&mount)).unwrap();
        assert!(read_metadata("s3://bucket2/savepoint-1", &[mount]).unwrap_err().contains("--mount"));
    }
}
