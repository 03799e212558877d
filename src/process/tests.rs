//! Tests that need a program without `init`, or access to private items. Everything else is tested
//! with real workers, in `tests/`.

use super::*;

#[tokio::test]
async fn a_program_that_is_not_initialised_can_not_be_its_own_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let error = ProcessScheduler::open(folder.path()).await.unwrap_err();
    assert!(matches!(error, ProcessError::NotInitialised), "{error}");
    let error = ProcessScheduler::builder(folder.path()).watchdog(Watchdog::Off).open().await;
    assert!(error.is_ok(), "the failed attempt has let go of the folder");
}
