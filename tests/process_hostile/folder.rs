//! State folders that others have been in, or may be.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use winddown::process::ProcessError;

use crate::{is_root, skipped, support::*};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

async fn refused(stage: &Stage) -> ProcessError {
    let error = stage.builder().open().await.unwrap_err();
    stage.nothing_is_left().await;
    error
}

#[tokio::test]
async fn b10_a_folder_that_others_may_write_to_is_refused() {
    let _alone = crate::ALONE.lock().await;
    let stage = Stage::new();
    fs::create_dir(stage.state()).unwrap();
    for mode in [0o777, 0o770, 0o702] {
        chmod(&stage.state(), mode);
        let error = refused(&stage).await;
        assert!(matches!(&error, ProcessError::Untrusted { path, .. } if path.ends_with("state")), "{error}");
        assert!(error.to_string().contains(&format!("got mode {mode:04o}: somebody could forge records")), "{error}");
    }
    chmod(&stage.state(), 0o755);
    let scheduler = stage.open().await;
    stage.end(scheduler).await;
    chmod(&stage.state().join("workers"), 0o777);
    assert!(matches!(refused(&stage).await, ProcessError::Untrusted { path, .. } if path.ends_with("workers")));
    // What an earlier version made is made its owner's alone.
    chmod(&stage.state().join("workers"), 0o755);
    let scheduler = stage.open().await;
    assert_eq!(fs::metadata(stage.state().join("workers")).unwrap().permissions().mode() & 0o777, 0o700);
    stage.end(scheduler).await;
    // Who may write above it may put another folder in its place.
    chmod(&stage.path(""), 0o777);
    assert!(matches!(refused(&stage).await, ProcessError::Untrusted { .. }));
    chmod(&stage.path(""), 0o1777);
    let scheduler = stage.open().await;
    stage.end(scheduler).await;
}

#[tokio::test]
async fn b10_a_folder_of_another_user_is_refused() {
    let _alone = crate::ALONE.lock().await;
    if !is_root() {
        return skipped("only root can give a folder away");
    }
    let stage = Stage::new();
    fs::create_dir(stage.state()).unwrap();
    chown(stage.state(), Some(65_534), None).unwrap();
    let error = refused(&stage).await;
    assert!(matches!(error, ProcessError::Untrusted { .. }), "{error}");
    assert!(error.to_string().contains("got user 65534 (this is user 0)"), "{error}");
}

#[tokio::test]
async fn b10_no_symbolic_link_is_followed() {
    let _alone = crate::ALONE.lock().await;
    for name in ["lock", "watchdog.log", "workers", "output"] {
        let stage = Stage::new();
        fs::create_dir(stage.state()).unwrap();
        let target = stage.path("target");
        let is_folder = matches!(name, "workers" | "output");
        if is_folder {
            fs::create_dir(&target).unwrap();
        } else {
            fs::write(&target, "untouched").unwrap();
        }
        symlink(&target, stage.state().join(name)).unwrap();
        let opened = stage.builder().open().await;
        let error = match opened {
            Err(error) => error,
            // It is used by a start alone.
            Ok(scheduler) => {
                assert_eq!(name, "output");
                let open = winddown::contracts::OpenRun::without_store(job(), RUN);
                let env = winddown::process::WorkerEnv::new(&open, winddown::contracts::WorkerId::new(1), "");
                let error = scheduler.start(env, stage.sh("touch up-1")).await.unwrap_err();
                stage.end(scheduler).await;
                error
            }
        };
        assert!(matches!(&error, ProcessError::State { path, .. } if path.ends_with(name)), "{name}: {error}");
        if is_folder {
            assert_eq!(files(&target), [""; 0], "{name}");
        } else {
            assert_eq!(fs::read_to_string(&target).unwrap(), "untouched", "{name}");
        }
    }
}

#[tokio::test]
async fn b10_a_named_pipe_in_the_place_of_a_file_keeps_nobody_waiting() {
    let _alone = crate::ALONE.lock().await;
    for name in ["lock", "watchdog.log"] {
        let stage = Stage::new();
        fs::create_dir(stage.state()).unwrap();
        let path = stage.state().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let error = tokio::time::timeout(SOON, stage.builder().open()).await.expect("it does not wait").unwrap_err();
        assert!(matches!(error, ProcessError::State { .. }), "{name}: {error}");
    }
}
